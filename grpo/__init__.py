"""The algorithm and its engines. Imports no other folder of this project; start reading at `grpo/loop.py`."""
