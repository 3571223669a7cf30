"""The process that serves rollouts to a trainer: requests in, completions out, weights as they come.

Requests are JSON over HTTP, one at a time, on loopback unless told otherwise. The client: grpo/rollout/remote.py.
"""

import errno
import hmac
import http.client
import ipaddress
import json
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from grpo.errors import EngineDied, StaleWeights, UserError
from grpo.rollout.base import RolloutEngine
from grpo.rollout.weight_transfer import Bucket, Pair, gpu, listening_store
from grpo.types import Sampling

LONG_TOKEN = 16  # characters


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens, and what a request must know to be answered there; "": nothing."""

    port: int
    host: str = "127.0.0.1"
    token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        """UserError for a host that is no single IPv4 address or name, and for a token that no header can carry."""
        ip = _ip(self.host)
        if ip is not None and (ip.version == 6 or ip.is_unspecified):
            raise UserError(
                f"rollout.host = {self.host!r}: valid: the server's IPv4 address or name, as the trainer reaches it"
            )
        if not all("!" <= character <= "~" for character in self.token):
            raise UserError("GROUND_GRPO_TOKEN: valid: ASCII letters, digits and signs, without spaces or line ends")

    @property
    def here(self) -> bool:
        """Whether only this machine can be there."""
        ip = _ip(self.host)
        return self.host == "localhost" if ip is None else ip.is_loopback

    def __str__(self) -> str:
        return f"port {self.port}" if self.here else f"{self.host}:{self.port}"


class Service:
    """What a server answers, one request at a time."""

    def __init__(
        self,
        engine: RolloutEngine,
        *,
        model: str,
        shapes: Mapping[str, tuple[int, ...]],
        folder: Path,
        host: str = "127.0.0.1",
        device: str = "cpu",
        patience: float = 600.0,
    ) -> None:
        """Serves `engine`; weights arrive as files in `folder`, or in a group that is met at `host`, on `device`."""
        self._engine, self._folder, self._host, self._patience = engine, folder, host, patience
        self._device = torch.device(device)
        self._about = {"model": model, "shapes": shapes, "folder": str(folder), "gpu": gpu(self._device)}
        self._push: Push | None = None
        self._pair: Future[Pair] | None = None

    def answer(self, what: str, body: Mapping[str, Any]) -> Any:
        """The answer to one request, as JSON takes it. StaleWeights, KeyError or TypeError where it makes no sense."""
        if what == "about":
            return self._about
        if what == "generate":
            written = self._engine.generate(body["prompts"], Sampling(**body["sampling"]), seed=body["seed"])
            return [[asdict(completion) for completion in group] for group in written]
        if what == "release":
            return self._engine.release()
        if what == "join":
            return self._join(self._device if body["nccl"] else torch.device("cpu"))
        if what == "load":
            if self._push:
                self._push.abandon()
            self._push = Push(self._engine, version=body["version"])
            return self._push.start()
        if self._push is None:
            raise EngineDied(f"{what!r}, and no push of weights is under way: the server has been started anew")
        if what == "bucket" and "file" in body:
            file = self._folder / Path(body["file"]).name  # nothing outside the folder is read
            self._push.give(lambda: load_file(file))
            return self._push.taken()
        if what == "bucket" and self._pair:  # answered before it has come: the client broadcasts when it knows
            pair = self._pair
            return self._push.give(lambda: pair.result().receive(body["tensors"]))
        if what == "taken":
            return self._push.taken()
        if what == "loaded":
            push, self._push = self._push, None
            return push.finish()
        raise KeyError(what)

    def _join(self, device: torch.device) -> int:
        """The port at which a client is awaited, in the background, as the other end of a new pair."""
        store, port = listening_store(self._host, self._patience)
        pair: Future[Pair] = Future()

        def meet() -> None:
            try:
                pair.set_result(Pair(store, 1, device=device, host=self._host, patience=self._patience))
            except RuntimeError as error:  # for whoever asks for the pair
                pair.set_exception(error)

        threading.Thread(target=meet, daemon=True, name="join").start()  # a client that never comes holds up no exit
        self._pair = pair
        return port


class Push(threading.Thread):
    """A `load` that is fed by several requests: the engine asks for weights here while the files come in."""

    def __init__(self, engine: RolloutEngine, *, version: int) -> None:
        super().__init__(daemon=True)
        self._engine, self._version = engine, version
        self._coming, self._taken = queue.Queue[Callable[[], Bucket] | None](), queue.Queue[None]()
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            self._engine.load(self._weights(), version=self._version)
        except Exception as error:  # whatever it is, it belongs to the client, whose request is answered elsewhere
            self._error = error

    def give(self, fetch: Callable[[], Bucket]) -> None:
        """The engine's thread fetches what comes next."""
        if not self.is_alive():
            self._raise()
        self._coming.put(fetch)

    def taken(self) -> None:
        """Returns when the engine has asked for what comes after the last that was given."""
        while self.is_alive():
            try:
                return self._taken.get(timeout=0.05)
            except queue.Empty:
                continue
        self._raise()

    def finish(self) -> None:
        self._coming.put(None)
        self.join()
        self._raise()

    def abandon(self) -> None:
        """End a push whose client has given up; what the engine makes of half of it is the engine's to say."""
        self._coming.put(None)
        self.join()

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        while (fetch := self._coming.get()) is not None:
            yield from fetch().items()
            self._taken.put(None)

    def _raise(self) -> None:
        if self._error:
            raise StaleWeights(str(self._error))


class Handler(BaseHTTPRequestHandler):
    """Answers with the server's service, whatever happens in it."""

    server: "Server"
    timeout = 30.0  # seconds for the bytes of a request to come: requests are taken one at a time

    def do_POST(self) -> None:
        token = self.server.address.token
        known = hmac.compare_digest(self.headers.get("Authorization", "").encode(), f"Bearer {token}".encode())
        status, reply = http.client.UNAUTHORIZED, {"error": "another token is wanted"}
        if known or not token:
            status, reply = http.client.OK, self._reply(self.rfile.read(int(self.headers["Content-Length"])))
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _reply(self, body: bytes) -> dict[str, Any]:
        try:
            return {"answer": self.server.service.answer(self.path.strip("/"), json.loads(body))}
        except EngineDied as error:
            return {"lost": str(error)}
        except Exception as error:  # one request that fails must not end the server; the client says what it was
            return {"error": str(error) if isinstance(error, StaleWeights) else repr(error)}

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing: a line a request would drown what matters."""


class Server(HTTPServer):
    """Listens from the start, so that clients wait in line; answers once it has a service."""

    service: Service

    def __init__(self, address: Address) -> None:
        """UserError where the port is in use or the host is not this machine's, and for a host that others can reach
        without a token that is hard to guess."""
        self.address = address
        if not address.here and len(address.token) < LONG_TOKEN:
            raise UserError(
                f"rollout.host = {address.host!r}: others can reach it, so GROUND_GRPO_TOKEN must be in the "
                f"environment, {LONG_TOKEN} characters or more; valid without: 127.0.0.1"
            )
        try:
            super().__init__((address.host, address.port), Handler)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UserError(f"rollout.port = {address.port}: {error.strerror}; valid: a free port") from None
            raise UserError(
                f"rollout.host = {address.host!r}: {error.strerror}; valid: an address or name of this machine"
            ) from None

    def serve(self, service: Service) -> None:
        """Answer until the process is stopped."""
        self.service = service
        self.serve_forever()


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:  # a name
        return None
