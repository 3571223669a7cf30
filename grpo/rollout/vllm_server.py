"""Rollouts with vLLM in a process of its own on this machine: the server, and the engine that is its client.

Requests are JSON over loopback. Weights go as safetensors files in memory, a bucket at a time: the client writes one
into the server's folder, names it, and removes it when the server has taken it.
"""

import http.client
import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from grpo.comm import Comm
from grpo.rollout.base import RolloutEngine, checked
from grpo.types import Completion, EngineLost, InputError, Sampling, StaleRollout, TokenIds

BUCKET = 256 * 2**20  # bytes of weights in one file; a larger tensor has a file of its own
LONGEST_PAUSE = 10.0  # seconds between two tries to reach a server


class ServerRollout:
    """`RolloutEngine` that asks a server on this machine; one that is slow, or not there yet, is waited for.

    Of several ranks, which call every method together, rank 0 alone speaks to it, for all of them.
    """

    def __init__(
        self,
        port: int,
        *,
        shapes: Mapping[str, tuple[int, ...]],
        patience: float,
        comm: Comm,
        progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`shapes` are the trainer's parameters by name; `patience` is in seconds, for each request.

        InputError where the server's model has other parameters, EngineLost where there is no server.
        """
        self._port, self._patience, self._comm, self._progress = port, patience, comm, progress
        about = self._together("about")
        if about["shapes"] != {name: list(shape) for name, shape in shapes.items()}:
            raise InputError(
                f"rollout.port = {port}: the server there has another model, {about['model']}; "
                "valid: start it with this run's recipes, or another port"
            )
        self._shapes, self._folder = shapes, Path(about["folder"])

    def load(self, weights: Iterable[tuple[str, Tensor]], *, version: int) -> None:
        mine, lost = checked(weights, self._shapes, version=version), ""
        if self._comm.rank == 0:
            try:
                self._push(mine, version)
            except EngineLost as error:
                lost = str(error)
        for _ in mine:  # under ZeRO-3 each tensor is gathered by a call that all ranks make
            pass
        if lost := self._comm.lead(lambda: lost):
            raise EngineLost(lost)

    def generate(self, prompts: Sequence[TokenIds], sampling: Sampling, *, seed: int) -> list[list[Completion]]:
        """The prompts of all ranks are one request, with the seed of rank 0; each rank gets its own answers."""
        first = sum(self._comm.gather([len(prompts)])[: self._comm.rank])
        everyones = self._comm.gather(prompts)
        self._progress(f"rollout: {len(everyones)} prompts x {sampling.group_size} at the server")
        request = {"prompts": everyones, "sampling": asdict(sampling), "seed": seed}
        written = self._together("generate", **request)
        return [[_completion(one) for one in group] for group in written[first : first + len(prompts)]]

    def release(self) -> None:
        self._together("release")

    def _together(self, what: str, **body: Any) -> Any:
        """The answer that rank 0 gets, on every rank. Where the server is lost, all of them raise EngineLost."""

        def ask() -> tuple[Any, str]:
            try:
                return self._ask(what, **body), ""
            except EngineLost as error:
                return None, str(error)

        answer, lost = self._comm.lead(ask)
        if lost:
            raise EngineLost(lost)
        return answer

    def _push(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        self._ask("load", version=version)
        for number, bucket in enumerate(buckets(weights)):
            file = self._folder / f"{number}.safetensors"
            try:
                save_file(bucket, file)
                self._ask("bucket", file=file.name)
            finally:
                file.unlink(missing_ok=True)
        self._ask("loaded")

    def _ask(self, what: str, **body: Any) -> Any:
        """The answer. Where nobody listens, again, after pauses that double; a request that was taken is not repeated,
        since the server may have done it."""
        until, pause = time.monotonic() + self._patience, 0.1
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._patience)
            try:
                connection.connect()
                break
            except OSError as error:
                if time.monotonic() + pause > until:
                    raise self._lost(error) from None
                self._progress(f"rollout: waiting for the server at port {self._port} ({error})")
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        try:
            connection.request("POST", f"/{what}", body=json.dumps(body))
            answer = json.load(connection.getresponse())
        except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
            raise self._lost(error) from None
        finally:
            connection.close()
        if "error" in answer:
            raise StaleRollout(f"the rollout server at port {self._port}: {answer['error']}")
        return answer["answer"]

    def _lost(self, error: Exception) -> EngineLost:
        return EngineLost(
            f"the rollout server at port {self._port} is lost ({error or type(error).__name__}), waited for up to "
            f"{self._patience:.0f} s; it is started with `python launch/serve.py RECIPES`"
        )


def buckets(weights: Iterable[tuple[str, Tensor]], size: int = BUCKET) -> Iterator[dict[str, Tensor]]:
    """The weights in order, as many at a time as `size` bytes hold, at least one. They are held until the next."""
    bucket: dict[str, Tensor] = {}
    for name, tensor in weights:
        if bucket and sum(held.nbytes for held in bucket.values()) + tensor.nbytes > size:
            yield bucket
            bucket = {}
        bucket[name] = tensor.cpu().contiguous()
    if bucket:
        yield bucket


class Service:
    """What a server answers, one request at a time."""

    def __init__(
        self, engine: RolloutEngine, *, model: str, shapes: Mapping[str, tuple[int, ...]], folder: Path
    ) -> None:
        """Serves `engine`; files of weights arrive in `folder`."""
        self._engine, self._folder = engine, folder
        self._about = {"model": model, "shapes": shapes, "folder": str(folder)}
        self._push: Push | None = None

    def answer(self, what: str, body: Mapping[str, Any]) -> Any:
        """The answer to one request, as JSON takes it. StaleRollout, KeyError or TypeError where it makes no sense."""
        if what == "about":
            return self._about
        if what == "generate":
            written = self._engine.generate(body["prompts"], Sampling(**body["sampling"]), seed=body["seed"])
            return [[asdict(completion) for completion in group] for group in written]
        if what == "release":
            return self._engine.release()
        if what == "load":
            if self._push:
                self._push.abandon()
            self._push = Push(self._engine, version=body["version"])
            return self._push.start()
        if self._push is None:
            raise StaleRollout(f"{what!r}, and no push of weights is under way: the server has been started anew")
        if what == "bucket":
            return self._push.take(self._folder / Path(body["file"]).name)  # nothing outside the folder is read
        if what == "loaded":
            push, self._push = self._push, None
            return push.finish()
        raise KeyError(what)


class Push(threading.Thread):
    """A `load` that is fed by several requests: the engine asks for weights here while the files come in."""

    def __init__(self, engine: RolloutEngine, *, version: int) -> None:
        super().__init__(daemon=True)
        self._engine, self._version = engine, version
        self._files, self._taken = queue.Queue[Path | None](), queue.Queue[None]()
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            self._engine.load(self._weights(), version=self._version)
        except Exception as error:  # whatever it is, it belongs to the client, whose request is answered elsewhere
            self._error = error

    def take(self, file: Path) -> None:
        """Returns when the engine has asked for what comes after this file."""
        self._files.put(file)
        while self.is_alive():
            try:
                return self._taken.get(timeout=0.05)
            except queue.Empty:
                continue
        self._raise()

    def finish(self) -> None:
        self._files.put(None)
        self.join()
        self._raise()

    def abandon(self) -> None:
        """End a push whose client has given up; what the engine makes of half of it is the engine's to say."""
        self._files.put(None)
        self.join()

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        while (file := self._files.get()) is not None:
            yield from load_file(file).items()
            self._taken.put(None)

    def _raise(self) -> None:
        if self._error:
            raise StaleRollout(str(self._error))


class Handler(BaseHTTPRequestHandler):
    """Answers with the server's service, whatever happens in it."""

    server: "Server"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            reply = {"answer": self.server.service.answer(self.path.strip("/"), json.loads(body))}
        except Exception as error:  # one request that fails must not end the server; the client says what it was
            reply = {"error": str(error) if isinstance(error, StaleRollout) else repr(error)}
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing: a line a request would drown what matters."""


class Server(HTTPServer):
    """Listens on loopback from the start, so that clients wait in line; answers once it has a service."""

    service: Service

    def __init__(self, port: int) -> None:
        """InputError where the port is in use."""
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except OSError as error:
            raise InputError(f"rollout.port = {port}: {error.strerror}; valid: a free port") from None

    def serve(self, service: Service) -> None:
        """Answer until the process is stopped."""
        self.service = service
        self.serve_forever()


def _completion(one: Mapping[str, Any]) -> Completion:
    return Completion(**{**one, "token_ids": tuple(one["token_ids"]), "logprobs": tuple(one["logprobs"])})
