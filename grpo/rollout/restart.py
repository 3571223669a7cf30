"""What if a rollout engine dies? It is made anew, given the weights that it had, and asked again: once."""

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from torch import Tensor

from grpo.rollout.base import RolloutEngine
from grpo.types import Completion, EngineLost, Sampling, TokenIds

T = TypeVar("T")


class Restarted:
    """`RolloutEngine` over one that `make` makes, and makes again where it is lost: once for each version of the
    weights. All ranks lose an engine together, and make the next one together."""

    def __init__(
        self,
        make: Callable[[], RolloutEngine],
        *,
        weights: Callable[[], Iterator[tuple[str, Tensor]]],
        tell: Callable[[str], None],
    ) -> None:
        """`weights` are the policy's as they stand: nothing moves them between a `load` and its `generate`."""
        self._make, self._weights, self._tell = make, weights, tell
        self._engine: RolloutEngine | None = make()
        self._version, self._restarted = -1, -1  # of the weights; the last that an engine was lost at

    def load(self, weights: Iterable[tuple[str, Tensor]], *, version: int) -> None:
        self._version = version
        _, lost = self._tried(lambda engine: engine.load(weights, version=version))
        if lost:
            self._restart(lost)

    def generate(self, prompts: Sequence[TokenIds], sampling: Sampling, *, seed: int) -> list[list[Completion]]:
        written, lost = self._tried(lambda engine: engine.generate(prompts, sampling, seed=seed))
        if written is not None:
            return written
        return self._restart(lost).generate(prompts, sampling, seed=seed)

    def release(self) -> None:
        """An engine that is lost here has nothing to give back: the next `load` finds it out, and makes another."""
        self._tried(lambda engine: engine.release())

    def _tried(self, call: Callable[[RolloutEngine], T]) -> tuple[T | None, str]:
        """What the engine answers, or how it was lost. In words: the error would keep the engine in memory."""
        if self._engine is None:
            return None, "the rollout engine could not be made anew"
        try:
            return call(self._engine), ""
        except EngineLost as error:
            return None, str(error)

    def _restart(self, lost: str) -> RolloutEngine:
        """Another engine, with the current weights. EngineLost where they have cost one already."""
        if self._restarted == self._version:
            raise EngineLost(lost)
        self._tell(f"lost         {lost}; made anew with weights {self._version}, once")
        self._restarted, self._engine = self._version, None
        gc.collect()  # there is no room for two
        engine = self._make()
        engine.load(self._weights(), version=self._version)
        self._engine = engine
        return engine
