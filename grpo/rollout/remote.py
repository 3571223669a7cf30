"""Client of a rollout server in another process.

The server: grpo/rollout/server.py, started by launch/serve.py. How it gets weights: grpo/rollout/weight_transfer.py.
"""

import http.client
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from grpo.distributed.communicator import Communicator
from grpo.errors import EngineDied, StaleWeights, UserError
from grpo.rollout.base import check_weights
from grpo.rollout.server import Address
from grpo.rollout.weight_transfer import weight_chunks
from grpo.types import Completion, Sampling, TokenIds

MAX_PAUSE = 10.0  # seconds between two tries to reach a server


class RemoteRollout:
    """`RolloutEngine` that asks a server, and waits for one that is slow or not there yet.

    All ranks call every method together; rank 0 alone talks to the server, for all of them.
    """

    def __init__(
        self,
        address: Address,
        *,
        shapes: Mapping[str, tuple[int, ...]],
        timeout: float,
        comm: Communicator,
        progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`shapes` are the trainer's parameters by name; `timeout` is in seconds, for each request.

        UserError where the server's model has other parameters and where it refuses the token; EngineDied where there
        is no server.
        """
        self._address, self._timeout, self._comm, self._progress = address, timeout, comm, progress
        self._shapes = shapes
        about = self._ask_all("about")
        if about["shapes"] != {name: list(shape) for name, shape in shapes.items()}:
            raise UserError(
                f"rollout.port = {address.port}: the server there has another model, {about['model']}; "
                "valid: start it with this run's recipes, or another port"
            )

    def load(self, weights: Iterable[tuple[str, Tensor]], *, version: int) -> None:
        mine, lost = check_weights(weights, self._shapes, version=version), ""
        if self._comm.rank == 0:
            try:
                self._request(f"load/{version}", weight_chunks(mine))
            except EngineDied as error:
                lost = str(error)
        for _ in mine:  # under ZeRO-3 each tensor is gathered by a call that all ranks make
            pass
        if lost := self._comm.on_rank0(lambda: lost):
            raise EngineDied(lost, all_ranks=True)

    def generate(self, prompts: Sequence[TokenIds], sampling: Sampling, *, seed: int) -> list[list[Completion]]:
        """Send the prompts of all ranks in one request with the seed of rank 0; each rank gets its own answers."""
        first = sum(self._comm.gather([len(prompts)])[: self._comm.rank])
        everyones = self._comm.gather(prompts)
        self._progress(f"rollout: {len(everyones)} prompts x {sampling.group_size} at the server")
        drawn = sampling.model_dump(include=set(Sampling.model_fields))
        request = {"prompts": everyones, "sampling": drawn, "seed": seed}
        written = self._ask_all("generate", **request)
        return [[Completion.from_dict(one) for one in group] for group in written[first : first + len(prompts)]]

    def release(self) -> None:
        self._ask_all("release")

    def _ask_all(self, what: str, **body: Any) -> Any:
        """Return the server's answer on every rank; EngineDied on all ranks where the server is lost."""

        def tried() -> tuple[Any, str]:
            try:
                return self._request(what, json.dumps(body)), ""
            except EngineDied as error:
                return None, str(error)

        answer, lost = self._comm.on_rank0(tried)
        if lost:
            raise EngineDied(lost, all_ranks=True)
        return answer

    def _request(self, what: str, body: str | Iterable[bytes | memoryview]) -> Any:
        """Return the answer to a request. One that was sent is not repeated: the server may have executed it."""
        connection = self._connect()
        try:
            headers = {"Authorization": f"Bearer {self._address.token}"} if self._address.token else {}
            connection.request("POST", f"/{what}", body=body, headers=headers)  # type: ignore[arg-type]
            response = connection.getresponse()
            status, answer = response.status, json.load(response)
        except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
            raise self._lost(error) from None
        finally:
            connection.close()
        if status == http.client.UNAUTHORIZED:
            raise UserError(
                f"the rollout server at {self._address} refuses the token; valid: the same GROUND_GRPO_TOKEN in the "
                "environments of both"
            )
        if "lost" in answer:
            raise EngineDied(f"the rollout server at {self._address}: {answer['lost']}")
        if "error" in answer:
            raise StaleWeights(f"the rollout server at {self._address}: {answer['error']}")
        return answer["answer"]

    def _connect(self) -> http.client.HTTPConnection:
        """Connect, and try again after pauses that double until the time is up."""
        until, pause = time.monotonic() + self._timeout, 0.1
        while True:
            connection = http.client.HTTPConnection(self._address.host, self._address.port, timeout=self._timeout)
            try:
                connection.connect()
                return connection
            except OSError as error:
                if time.monotonic() + pause > until:
                    raise self._lost(error) from None
                self._progress(f"rollout: waiting for the server at {self._address} ({error})")
                time.sleep(pause)
                pause = min(2 * pause, MAX_PAUSE)

    def _lost(self, error: Exception) -> EngineDied:
        return EngineDied(
            f"the rollout server at {self._address} is lost ({error or type(error).__name__}), waited for up to "
            f"{self._timeout:.0f} s; it is started with `python launch/serve.py RECIPES`"
        )
