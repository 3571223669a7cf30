"""A server of rollouts for a trainer in another process.

Requests are JSON over HTTP, one at a time, on loopback by default. The client: grpo/rollout/remote.py.
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
from grpo.rollout.weight_transfer import Bucket, ProcessPair, create_store, gpu_uuid
from grpo.types import Sampling

MIN_TOKEN_CHARS = 16


@dataclass(frozen=True, slots=True)
class Address:
    """Address of a server, and the token that requests must carry; "" for none."""

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
    def is_local(self) -> bool:
        """Whether the address is on this machine."""
        ip = _ip(self.host)
        return self.host == "localhost" if ip is None else ip.is_loopback

    def __str__(self) -> str:
        return f"port {self.port}" if self.is_local else f"{self.host}:{self.port}"


class Service:
    """Answers the requests to a server, one at a time."""

    def __init__(
        self,
        engine: RolloutEngine,
        *,
        model: str,
        shapes: Mapping[str, tuple[int, ...]],
        folder: Path,
        host: str = "127.0.0.1",
        device: str = "cpu",
        timeout: float = 600.0,
    ) -> None:
        """`engine` gets weights as files in `folder`, or by a broadcast at `host` on `device`. `timeout`: seconds."""
        self._engine, self._folder, self._host, self._timeout = engine, folder, host, timeout
        self._device = torch.device(device)
        self._about = {"model": model, "shapes": shapes, "folder": str(folder), "gpu": gpu_uuid(self._device)}
        self._update: WeightUpdate | None = None
        self._pair: Future[ProcessPair] | None = None

    def answer(self, what: str, body: Mapping[str, Any]) -> Any:
        """The answer to one request, as JSON takes it; StaleWeights, KeyError or TypeError for an invalid request."""
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
            if self._update:
                self._update.abandon()
            self._update = WeightUpdate(self._engine, version=body["version"])
            return self._update.start()
        if self._update is None:
            raise EngineDied(f"{what!r}, and no update of weights is under way: the server has been restarted")
        if what == "bucket" and "file" in body:
            file = self._folder / Path(body["file"]).name  # nothing outside the folder is read
            self._update.give(lambda: load_file(file))
            return self._update.taken()
        if what == "bucket" and self._pair:  # answered before the bucket arrives: the client then broadcasts
            pair = self._pair
            return self._update.give(lambda: pair.result().receive(body["tensors"]))
        if what == "taken":
            return self._update.taken()
        if what == "loaded":
            update, self._update = self._update, None
            return update.finish()
        raise KeyError(what)

    def _join(self, device: torch.device) -> int:
        """The port where a client can join a new pair; the server waits for it in the background."""
        store, port = create_store(self._host, self._timeout)
        pair: Future[ProcessPair] = Future()

        def meet() -> None:
            try:
                pair.set_result(ProcessPair(store, 1, device=device, host=self._host, timeout=self._timeout))
            except RuntimeError as error:  # raised where the pair is used
                pair.set_exception(error)

        threading.Thread(target=meet, daemon=True, name="join").start()  # a client that never comes holds up no exit
        self._pair = pair
        return port


class WeightUpdate(threading.Thread):
    """A `load` of the engine, in a thread, that is fed by several requests."""

    def __init__(self, engine: RolloutEngine, *, version: int) -> None:
        super().__init__(daemon=True)
        self._engine, self._version = engine, version
        self._coming, self._taken = queue.Queue[Callable[[], Bucket] | None](), queue.Queue[None]()
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            self._engine.load(self._weights(), version=self._version)
        except Exception as error:  # any error belongs to the client, whose request another thread answers
            self._error = error

    def give(self, fetch: Callable[[], Bucket]) -> None:
        """Let the engine's thread fetch the next bucket."""
        if not self.is_alive():
            self._raise()
        self._coming.put(fetch)

    def taken(self) -> None:
        """Return when the engine has taken the last bucket."""
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
        """Abort a weight update whose client disconnected. The engine decides whether it is still usable."""
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
    """Handles a request by the server's service; errors become answers."""

    server: "Server"
    timeout = 30.0  # seconds for the bytes of a request to arrive: requests are handled one at a time

    def do_POST(self) -> None:
        token = self.server.address.token
        known = hmac.compare_digest(self.headers.get("Authorization", "").encode(), f"Bearer {token}".encode())
        status, reply = http.client.UNAUTHORIZED, {"error": "wrong token"}
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
        except Exception as error:  # a failed request must not end the server; the client reports the error
            return {"error": str(error) if isinstance(error, StaleWeights) else repr(error)}

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Do not log requests."""


class Server(HTTPServer):
    """Listens from the start, so that clients can queue; answers once `serve` is called."""

    service: Service

    def __init__(self, address: Address) -> None:
        """UserError where the port is in use or the host is not this machine's, and for a host that others can reach
        without a token that is hard to guess."""
        self.address = address
        if not address.is_local and len(address.token) < MIN_TOKEN_CHARS:
            raise UserError(
                f"rollout.host = {address.host!r}: others can reach it, so GROUND_GRPO_TOKEN must be in the "
                f"environment, {MIN_TOKEN_CHARS} characters or more; valid without: 127.0.0.1"
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
