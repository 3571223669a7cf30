"""Weights as the chunks of an HTTP body, for a rollout server: they travel under the token of the request.

Two chunks are one tensor: its name, dtype and shape as JSON, and its bytes. Neither side holds more than one tensor.
"""

import json
from collections.abc import Iterable, Iterator
from io import BufferedIOBase

import torch
from torch import Tensor


def weight_chunks(weights: Iterable[tuple[str, Tensor]]) -> Iterator[bytes | memoryview]:
    """Yield the chunks of some weights; http.client writes their lengths."""
    for name, tensor in weights:
        about = {"name": name, "dtype": str(tensor.dtype).removeprefix("torch."), "shape": tuple(tensor.shape)}
        yield json.dumps(about).encode()
        yield tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def read_weights(stream: BufferedIOBase) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a body, each in memory of its own. ConnectionError where the body ends too early."""
    chunks = _chunks(stream)
    for header in chunks:
        about = json.loads(header)
        tensor = torch.frombuffer(next(chunks), dtype=getattr(torch, about["dtype"]))
        yield about["name"], tensor.view(about["shape"])


def _chunks(stream: BufferedIOBase) -> Iterator[bytearray]:
    while line := stream.readline(64):
        chunk = bytearray(int(line, 16))
        if stream.readinto(chunk) < len(chunk):
            break
        stream.readline(64)
        if not chunk:
            return
        yield chunk
    raise ConnectionError("the client ended in the middle of its weights")
