"""A server of rollouts for a trainer in another process.

Requests are JSON over HTTP, one at a time, on loopback by default. The client: grpo/rollout/remote.py.
"""

import errno
import hmac
import http.client
import ipaddress
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BufferedIOBase
from typing import Any

from grpo.errors import EngineDied, StaleWeights, UserError
from grpo.rollout.base import RolloutEngine
from grpo.rollout.weight_transfer import read_weights
from grpo.types import Sampling

MIN_TOKEN_CHARS = 16
LOAD_TIMEOUT = 600.0  # seconds between two tensors: the client's ranks gather each of them


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

    def __init__(self, engine: RolloutEngine, *, model: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """`model` and `shapes`, the engine's parameters by name, tell a trainer whether this server is its own."""
        self._engine, self._about = engine, {"model": model, "shapes": shapes}

    def answer(self, what: str, body: Mapping[str, Any]) -> Any:
        """The answer to one request, as JSON takes it; KeyError or TypeError for an invalid request."""
        if what == "about":
            return self._about
        if what == "generate":
            written = self._engine.generate(body["prompts"], Sampling(**body["sampling"]), seed=body["seed"])
            return [[asdict(completion) for completion in group] for group in written]
        if what == "release":
            return self._engine.release()
        raise KeyError(what)

    def load(self, body: BufferedIOBase, *, version: int) -> None:
        """Load the weights that a body brings. The body is read to its end, also where the engine refuses them."""
        weights = read_weights(body)
        try:
            self._engine.load(weights, version=version)
        finally:
            for _ in weights:
                pass


class Handler(BaseHTTPRequestHandler):
    """Handles a request by the server's service; errors become answers."""

    server: "Server"
    timeout = 30.0  # seconds for the bytes of a request to arrive: requests are handled one at a time

    def do_POST(self) -> None:
        token = self.server.address.token
        known = hmac.compare_digest(self.headers.get("Authorization", "").encode(), f"Bearer {token}".encode())
        status, reply = http.client.UNAUTHORIZED, {"error": "wrong token"}
        if known or not token:
            status, reply = http.client.OK, self._reply()
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _reply(self) -> dict[str, Any]:
        service, (what, _, version) = self.server.service, self.path.strip("/").partition("/")
        try:
            if what == "load":
                self.connection.settimeout(LOAD_TIMEOUT)
                return {"answer": service.load(self.rfile, version=int(version))}
            return {"answer": service.answer(what, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))}
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
        """UserError where the port is in use or the host is not this machine's.

        UserError also for a host that others can reach, without a token that is hard to guess.
        """
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
