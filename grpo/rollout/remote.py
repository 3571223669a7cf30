"""Rollouts with vLLM in a process of its own: the engine that is its client.

The server: grpo/rollout/server.py, started by launch/serve.py. How weights travel: grpo/rollout/weight_transfer.py.
"""

import http.client
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grpo.distributed.communicator import Comm
from grpo.errors import EngineDied, StaleWeights, UserError
from grpo.rollout.base import checked
from grpo.rollout.server import Address
from grpo.rollout.weight_transfer import (
    Broadcast,
    Carrier,
    Files,
    Pair,
    Transfer,
    buckets,
    gpu,
    one_line,
    reached_store,
)
from grpo.types import Completion, Sampling, TokenIds

LONGEST_PAUSE = 10.0  # seconds between two tries to reach a server


class ServerRollout:
    """`RolloutEngine` that asks a server; one that is slow, or not there yet, is waited for.

    Of several ranks, which call every method together, rank 0 alone speaks to it, for all of them.
    """

    def __init__(
        self,
        address: Address,
        *,
        shapes: Mapping[str, tuple[int, ...]],
        patience: float,
        comm: Comm,
        transfer: Transfer = "auto",
        device: str = "cpu",
        progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`shapes` are the trainer's parameters by name; `patience` is in seconds, for each request; `device` is where
        the trainer's weights are.

        UserError where the server's model has other parameters, where it wants another token, and for "files" to
        another machine; EngineDied where there is no server.
        """
        self._address, self._patience, self._comm, self._progress = address, patience, comm, progress
        self._shapes, self._at, self._carrier = shapes, "127.0.0.1", None
        if transfer == "files" and not address.here:
            raise UserError(
                f'rollout.weight_transfer = "files": {address} is another machine; valid here: "broadcast", or "auto"'
            )
        about = self._together("about")
        if about["shapes"] != {name: list(shape) for name, shape in shapes.items()}:
            raise UserError(
                f"rollout.port = {address.port}: the server there has another model, {about['model']}; "
                "valid: start it with this run's recipes, or another port"
            )
        self._led(lambda: self._meet(about, transfer, torch.device(device)))

    def load(self, weights: Iterable[tuple[str, Tensor]], *, version: int) -> None:
        mine, lost = checked(weights, self._shapes, version=version), ""
        if self._carrier is not None:
            try:
                self._ask("load", version=version)
                for bucket in buckets(mine, device=self._carrier.device):
                    self._carrier.send(bucket, self._ask)
                self._ask("loaded")
            except EngineDied as error:
                lost = str(error)
        for _ in mine:  # under ZeRO-3 each tensor is gathered by a call that all ranks make
            pass
        if lost := self._comm.lead(lambda: lost):
            raise EngineDied(lost)

    def generate(self, prompts: Sequence[TokenIds], sampling: Sampling, *, seed: int) -> list[list[Completion]]:
        """The prompts of all ranks are one request, with the seed of rank 0; each rank gets its own answers."""
        first = sum(self._comm.gather([len(prompts)])[: self._comm.rank])
        everyones = self._comm.gather(prompts)
        self._progress(f"rollout: {len(everyones)} prompts x {sampling.group_size} at the server")
        request = {"prompts": everyones, "sampling": asdict(sampling), "seed": seed}
        written = self._together("generate", **request)
        return [[Completion.from_dict(one) for one in group] for group in written[first : first + len(prompts)]]

    def release(self) -> None:
        self._together("release")

    def _together(self, what: str, **body: Any) -> Any:
        return self._led(lambda: self._ask(what, **body))

    def _led(self, call: Callable[[], Any]) -> Any:
        """What rank 0 gets, on every rank. Where the server is lost, all of them raise EngineDied."""

        def tried() -> tuple[Any, str]:
            try:
                return call(), ""
            except EngineDied as error:
                return None, str(error)

        answer, lost = self._comm.lead(tried)
        if lost:
            raise EngineDied(lost)
        return answer

    def _meet(self, about: Mapping[str, Any], transfer: Transfer, device: torch.device) -> None:
        """Settle with the server how weights will come."""
        if transfer == "files" or (transfer == "auto" and self._address.here):
            self._carrier: Carrier | None = Files(Path(about["folder"]))
            return
        # Two GPUs can be one NCCL group, and one that both use cannot.
        nccl = bool(about["gpu"] and gpu(device)) and about["gpu"] != gpu(device)
        port = self._ask("join", nccl=nccl)
        try:
            store = reached_store(self._address.host, port, self._patience)
            at = device if nccl else torch.device("cpu")
            self._carrier = Broadcast(Pair(store, 0, device=at, host=self._at, patience=self._patience))
        except RuntimeError as error:  # torch's word for whatever goes wrong there
            raise EngineDied(
                f"the rollout server at {self._address} answers, but no group could be made with it, from port {port} "
                f"on ({one_line(error)}); valid: ports that are open between both"
            ) from None

    def _ask(self, what: str, **body: Any) -> Any:
        """The answer. Where nobody listens, again, after pauses that double; a request that was taken is not repeated,
        since the server may have done it."""
        until, pause = time.monotonic() + self._patience, 0.1
        while True:
            connection = http.client.HTTPConnection(self._address.host, self._address.port, timeout=self._patience)
            try:
                connection.connect()
                break
            except OSError as error:
                if time.monotonic() + pause > until:
                    raise self._lost(error) from None
                self._progress(f"rollout: waiting for the server at {self._address} ({error})")
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        try:
            self._at = connection.sock.getsockname()[0]
            headers = {"Authorization": f"Bearer {self._address.token}"} if self._address.token else {}
            connection.request("POST", f"/{what}", body=json.dumps(body), headers=headers)
            response = connection.getresponse()
            status, answer = response.status, json.load(response)
        except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
            raise self._lost(error) from None
        finally:
            connection.close()
        if status == http.client.UNAUTHORIZED:
            raise UserError(
                f"the rollout server at {self._address} wants another token; valid: the same GROUND_GRPO_TOKEN in the "
                "environments of both"
            )
        if "lost" in answer:
            raise EngineDied(f"the rollout server at {self._address}: {answer['lost']}")
        if "error" in answer:
            raise StaleWeights(f"the rollout server at {self._address}: {answer['error']}")
        return answer["answer"]

    def _lost(self, error: Exception) -> EngineDied:
        return EngineDied(
            f"the rollout server at {self._address} is lost ({error or type(error).__name__}), waited for up to "
            f"{self._patience:.0f} s; it is started with `python launch/serve.py RECIPES`"
        )
