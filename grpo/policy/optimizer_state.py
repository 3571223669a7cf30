"""What an optimizer remembers, as files: one per parameter, whole, so that any engine over any ranks can read it.

Safetensors and JSON: nothing that runs code when it is read. `state.json` says how far the schedule is; parameter 7 is
in `00007.safetensors`: "master", its float32 weights, and Adam's moments once there are any.
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
COUNTS = "state.json"


@dataclass(frozen=True, slots=True)
class ParameterState:
    """One parameter: its float32 tensors by name, and the steps that Adam has taken with it."""

    tensors: Mapping[str, Tensor]
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSnapshot:
    """One rank's share of an optimizer's state, in main memory: `(updates=7, names=("head",), pieces={0: ...})`."""

    updates: int  # of the schedule, those that were skipped included
    names: tuple[str, ...]  # of all parameters of the model, in order
    pieces: Mapping[int, ParameterState]  # those that this rank writes, by their place in `names`

    @property
    def nbytes(self) -> int:
        """Bytes of this share."""
        return sum(tensor.nbytes for piece in self.pieces.values() for tensor in piece.tensors.values())

    def files(self, *, lead: bool) -> list[str]:
        """File names of this share; the counts belong to the rank that leads."""
        return ([COUNTS] if lead else []) + [_file(number) for number in self.pieces]

    def contents(self, name: str) -> list[bytes | memoryview]:
        """The file `name` of `files`, in pieces: a header, and the tensors' own memory, of which no copy is made."""
        if name == COUNTS:
            steps = max((piece.steps for piece in self.pieces.values()), default=0)
            counts = {"updates": self.updates, "adam_steps": steps, "parameters": len(self.names)}
            return [(json.dumps(counts) + "\n").encode()]
        number = int(name.partition(".")[0])
        piece = self.pieces[number]
        about = {"name": self.names[number], "steps": str(piece.steps)}
        return [_header(piece.tensors, about), *(x.reshape(-1).numpy().data for x in piece.tensors.values())]


def _header(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> bytes:
    """What a safetensors file of these float32 tensors begins with: its length, and JSON that says where each lies.

    The library's own `save` copies every tensor, which takes as long as writing them (3.2 s for 1.6 GB).
    """
    entries: dict[str, Any] = {"__metadata__": dict(about)}
    start = 0
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise TypeError(f"{name}: the state of an optimizer is float32, got {tensor.dtype}")
        end = start + tensor.nbytes
        entries[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


class HostBuffers:
    """Main memory for one state after the other, each of which ends with the next. Memory that was given back would be
    asked of the system again, page by page, by the next copy and by the steps beside it, whose place it takes."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, str], Tensor] = {}

    def copy(self, number: int, key: str, tensor: Tensor) -> Tensor:
        """The tensor `key` of parameter `number`, which the next step does not touch."""
        if (number, key) not in self._kept:
            self._kept[number, key] = torch.empty(tensor.shape, dtype=tensor.dtype)
        return self._kept[number, key].copy_(tensor.detach())


def write(held: OptimizerSnapshot, path: Path, *, lead: bool = True) -> None:
    """This rank's share into the folder `path`, which all ranks write into."""
    path.mkdir(parents=True, exist_ok=True)
    for name in held.files(lead=lead):
        with (path / name).open("wb") as file:
            file.writelines(held.contents(name))


def read_counts(path: Path, *, parameters: int) -> tuple[int, int]:
    """(updates of the schedule, steps of Adam); UserError for the state of a model with other parameters."""
    file = path / COUNTS
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        updates, steps, found = (int(state[key]) for key in ("updates", "adam_steps", "parameters"))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read as the state of an optimizer: {error!r}") from None
    if found != parameters:
        raise UserError(f"{file}: of a model with {found} tensors, this one has {parameters}")
    return updates, steps


def read_parameter(path: Path, number: int, name: str, shape: tuple[int, ...]) -> ParameterState:
    """Parameter `number` of the state; UserError unless it is `name` with this shape, whole."""
    file = path / _file(number)
    try:
        with safe_open(file, framework="pt") as opened:
            about = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a dict)
            piece = ParameterState(tensors, int(about.get("steps", "0")))
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from None
    if about.get("name") != name or any(tuple(tensor.shape) != shape for tensor in tensors.values()):
        raise UserError(f"{file}: holds {about.get('name')}, and this model has {name} {list(shape)} here")
    if set(tensors) != {"master", *(MOMENTS if piece.steps else ())}:
        raise UserError(f"{file}: holds {', '.join(tensors)} of {name} after {piece.steps} steps")
    return piece


def _file(number: int) -> str:
    return f"{number:05d}.safetensors"
