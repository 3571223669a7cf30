"""Where this process's random generators stand, as JSON: python's, numpy's, torch's on the CPU and on this rank's GPU.

What a step samples depends on its number and the recipe's seed only; this is for whatever else draws, such as a reward
or a curriculum of the user's own.
"""

import base64
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def seed_random_states(seed: int, *, rank: int) -> None:
    """Where a run begins to draw, whatever was drawn before it, such as by a model that was made for a cache."""
    stream = random.Random(f"{seed} {rank}")
    random.seed(stream.getrandbits(32))
    np.random.seed(stream.getrandbits(32))
    torch.manual_seed(stream.getrandbits(63))  # of the GPUs too


def random_states() -> dict[str, Any]:
    """The states, as `set_random_states` takes them; of CUDA only this rank's own device."""
    version, words, gauss = random.getstate()
    kind, keys, place, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [kind, [int(key) for key in keys], int(place), int(has_gauss), float(cached)],
        "torch": _text(torch.get_rng_state()),
        "cuda": _text(torch.cuda.get_rng_state()) if torch.cuda.is_available() else "",
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Go on drawing where these states were taken. A state of CUDA is left alone where there is no GPU."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, place, has_gauss, cached = states["numpy"]
    if len(keys) != 624 or not 0 <= place <= 624:  # numpy itself would draw from whatever is in memory there
        raise ValueError(f"numpy's state has {len(keys)} words and stands at {place}; expected 624, and 0 to 624")
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), place, has_gauss, cached))
    torch.set_rng_state(_tensor(states["torch"]))
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(_tensor(states["cuda"]))


def _text(state: Tensor) -> str:
    return base64.b64encode(bytes(state.tolist())).decode()


def _tensor(text: str) -> Tensor:
    return torch.tensor(list(base64.b64decode(text)), dtype=torch.uint8)
