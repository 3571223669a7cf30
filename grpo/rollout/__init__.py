"""Rollout engines: one file each, all behind the protocol in `base.py`."""
