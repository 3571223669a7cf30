"""The optimizer state as files: one per parameter, whole, so that any backend over any ranks can read it.

Safetensors and JSON: nothing that runs code when it is read. `state.json` holds the counters; parameter 7 is in
`00007.safetensors`: "master", its float32 weights, and Adam's moments once there are any.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from grpo.errors import UserError

MOMENTS = ("exp_avg", "exp_avg_sq")
COUNTERS = "state.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSnapshot:
    """One rank's share of the optimizer state, in CPU memory: `num_updates=7, names=("head",), tensors={0: {...}}`."""

    num_updates: int  # place in the schedule, skipped updates included
    num_steps_applied: int  # steps of Adam
    num_nonfinite: int  # skipped updates in a row that were not finite
    names: tuple[str, ...]  # of all parameters of the model, in order
    tensors: Mapping[int, Mapping[str, Tensor]]  # of the parameters that this rank writes, by their place in `names`

    @property
    def nbytes(self) -> int:
        """Bytes of this share."""
        return sum(tensor.nbytes for state in self.tensors.values() for tensor in state.values())

    def files(self, *, lead: bool) -> list[str]:
        """File names of this share; the rank that leads writes the counters."""
        return ([COUNTERS] if lead else []) + [_file(number) for number in self.tensors]

    def contents(self, name: str) -> list[bytes | memoryview]:
        """The file `name` of `files` in parts: a header, and the memory of the tensors, which is not copied."""
        if name == COUNTERS:
            counters = {
                "updates": self.num_updates,
                "adam_steps": self.num_steps_applied,
                "nonfinite": self.num_nonfinite,
                "parameters": len(self.names),
            }
            return [(json.dumps(counters) + "\n").encode()]
        number = int(name.partition(".")[0])
        tensors = self.tensors[number]
        return [_header(tensors, self.names[number]), *(x.reshape(-1).numpy().data for x in tensors.values())]


def _header(tensors: Mapping[str, Tensor], name: str) -> bytes:
    """The beginning of a safetensors file of float32 tensors: its length, and JSON with the place of each.

    The library's own `save` copies every tensor, which takes as long as writing them (3.2 s for 1.6 GB).
    """
    entries: dict[str, Any] = {"__metadata__": {"name": name}}
    start = 0
    for key, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise TypeError(f"{name}: the state of an optimizer is float32, got {tensor.dtype}")
        end = start + tensor.nbytes
        entries[key] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


class HostBuffers:
    """CPU memory that snapshots reuse: each overwrites the one before. Fresh memory costs page faults every time."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[int, str], Tensor] = {}

    def copy(self, number: int, key: str, tensor: Tensor) -> Tensor:
        """Copy the tensor `key` of parameter `number`."""
        if (number, key) not in self._buffers:
            self._buffers[number, key] = torch.empty(tensor.shape, dtype=tensor.dtype)
        return self._buffers[number, key].copy_(tensor.detach())


def read_counters(path: Path, *, parameters: int) -> tuple[int, int, int]:
    """(updates, steps of Adam, updates in a row that were not finite). UserError for a model of other parameters."""
    file = path / COUNTERS
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        updates, steps, nonfinite, found = (
            int(state[key]) for key in ("updates", "adam_steps", "nonfinite", "parameters")
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read as the state of an optimizer: {error!r}") from None
    if found != parameters:
        raise UserError(f"{file}: of a model with {found} tensors, this one has {parameters}")
    return updates, steps, nonfinite


def read_parameter(path: Path, number: int, name: str, parameter: Any, *, moments: bool) -> dict[str, Tensor]:
    """Whole tensors of parameter `number`. UserError unless the file is of `name` with its shape, and `moments`."""
    file, shape = path / _file(number), whole_shape(parameter)
    try:
        with safe_open(file, framework="pt") as opened:
            found = (opened.metadata() or {}).get("name")
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from None
    if found != name or any(tuple(tensor.shape) != shape for tensor in tensors.values()):
        raise UserError(f"{file}: holds {found}, and this model has {name} {list(shape)} here")
    if not {"master", *(MOMENTS if moments else ())} <= tensors.keys():
        raise UserError(f"{file}: holds only {', '.join(tensors)} of {name}")
    return tensors


def whole_shape(parameter: Any) -> tuple[int, ...]:
    """The shape of a parameter that may be sharded: a shard under ZeRO-3 itself has the shape [0]."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _file(number: int) -> str:
    return f"{number:05d}.safetensors"
