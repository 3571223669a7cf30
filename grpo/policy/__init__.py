"""Policy: the one update (engine.py) over a backend, torch or DeepSpeed."""
