"""State of the random generators of this process: Python's, numpy's, torch's on the CPU and on this rank's GPU.

The samples of a step depend on its number and the recipe's seed alone. These states serve whatever else draws, such as
a user's reward or curriculum.
"""

import base64
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def seed_all(seed: int, *, rank: int) -> None:
    """Seed all generators of this process, on the GPU too."""
    stream = random.Random(f"{seed} {rank}")
    random.seed(stream.getrandbits(32))
    np.random.seed(stream.getrandbits(32))
    torch.manual_seed(stream.getrandbits(63))


def get_rng_state() -> dict[str, Any]:
    """The states as JSON takes them, for `set_rng_state`."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [kind, [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        "torch": _encode(torch.get_rng_state()),
        "cuda": _encode(torch.cuda.get_rng_state()) if torch.cuda.is_available() else "",
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Continue all generators from `get_rng_state`. A state of CUDA is ignored where there is no GPU."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    if len(keys) != 624 or not 0 <= position <= 624:  # numpy itself would read outside of the array
        raise ValueError(f"numpy's state has {len(keys)} words and position {position}; expected 624, and 0 to 624")
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_decode(state["torch"]))
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(_decode(state["cuda"]))


def _encode(state: Tensor) -> str:
    return base64.b64encode(bytes(state.tolist())).decode()


def _decode(text: str) -> Tensor:
    return torch.tensor(list(base64.b64decode(text)), dtype=torch.uint8)
