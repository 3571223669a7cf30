"""What if a rollout engine dies? It is made anew, given the weights that it had, and asked again: once."""

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from torch import Tensor

from grpo.distributed.communicator import Comm
from grpo.errors import EngineDied, NonFiniteError
from grpo.rollout.base import RolloutEngine
from grpo.types import Completion, Sampling, TokenIds

T = TypeVar("T")


class Restarted:
    """`RolloutEngine` over one that `make` makes, and makes again where it is lost: once for each version of the
    weights. Where one rank's is lost, all ranks make another together."""

    def __init__(
        self,
        make: Callable[[], RolloutEngine],
        *,
        weights: Callable[[], Iterator[tuple[str, Tensor]]],
        comm: Comm,
        tell: Callable[[str], None],
    ) -> None:
        """`weights` are the policy's as they stand: nothing moves them between a `load` and its `generate`."""
        self._make, self._weights, self._comm, self._tell = make, weights, comm, tell
        self._engine: RolloutEngine | None = make()
        self._version, self._restarted = -1, -1  # of the weights; the last that an engine was lost at

    def load(self, weights: Iterable[tuple[str, Tensor]], *, version: int) -> None:
        self._version = version
        if lost := self._load(weights):
            self._restart(lost)

    def generate(self, prompts: Sequence[TokenIds], sampling: Sampling, *, seed: int) -> list[list[Completion]]:
        def written(engine: RolloutEngine) -> list[list[Completion]]:
            return engine.generate(prompts, sampling, seed=seed)

        groups, lost = self._together(written)
        if lost:
            self._restart(lost)
            groups, lost = self._together(written)
        if groups is None or lost:
            raise EngineDied(lost)
        return groups

    def release(self) -> None:
        """An engine that is lost here has nothing to give back: the next `load` finds it out, and makes another."""
        self._tried(lambda engine: engine.release())

    def _load(self, weights: Iterable[tuple[str, Tensor]]) -> str:
        """How an engine was lost, of any rank."""
        left = iter(weights)

        def loaded(engine: RolloutEngine) -> None:
            try:
                engine.load(left, version=self._version)
            except (NonFiniteError, EngineDied):
                for _ in left:  # the other ranks gather sharded weights, and wait for this one at each
                    pass
                raise

        return self._together(loaded)[1]

    def _together(self, call: Callable[[RolloutEngine], T]) -> tuple[T | None, str]:
        """What this rank's engine answers, and how that of any rank was lost, which all of them are told.
        NonFiniteError on all of them where one has met any."""
        answer, lost, bad = None, "", ""
        try:
            answer, lost = self._tried(call)
        except NonFiniteError as error:
            bad = str(error)
        said = self._comm.gather([(lost, bad)])
        if bad := next((each for _, each in said if each), ""):
            raise NonFiniteError(bad)
        return answer, next((each for each, _ in said if each), "")

    def _tried(self, call: Callable[[RolloutEngine], T]) -> tuple[T | None, str]:
        """What the engine answers, or how it was lost. In words: the error would keep the engine in memory."""
        if self._engine is None:
            return None, "the rollout engine could not be made anew"
        try:
            return call(self._engine), ""
        except EngineDied as error:
            return None, str(error)

    def _restart(self, lost: str) -> None:
        """Another engine, with the current weights. EngineDied where they have cost one already."""
        if self._restarted == self._version:
            raise EngineDied(lost)
        self._tell(f"lost         {lost}; made anew with weights {self._version}, once")
        self._restarted, self._engine = self._version, None
        gc.collect()  # there is no room for two
        self._engine = self._make()
        if lost := self._load(self._weights()):
            self._engine = None
            raise EngineDied(lost)
