"""What has the step under way come to so far? So that a run can go on in the middle of one, between two updates.

A journal stands between the loop and what it calls, and keeps every answer: completions, scores, fixed
log-probabilities, the statistics of updates. In a run that goes on it gives them again, in their order, and nothing is
computed until they are used up: the loop takes the same way, and comes to where it was.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from grpo.batch import Batch
from grpo.losses import Stats
from grpo.policy.base import Delegate, Loss, PolicyEngine
from grpo.rollout.base import RolloutEngine
from grpo.types import Completion, Group, InputError, Sampling, Score, Scorer, TokenIds

T = TypeVar("T")

Call = tuple[str, Any]
"""What was called, and its answer as JSON takes it: `("update", {"loss": 0.25, "lr": 1e-06})`."""


class Journal:
    """Of one step at a time, which begins where weights are loaded. `between` is told how many updates the step has
    made, after each but its last, which is the step's end."""

    def __init__(self, *, updates: int) -> None:
        """`updates` are those of a step."""
        self.between: Callable[[int], None] = lambda update: None
        self.updates = updates
        self._calls: list[Call] = []
        self._again: deque[tuple[Call, Any]] = deque()  # with the answer itself
        self._then: Callable[[], None] = lambda: None

    @property
    def calls(self) -> list[Call]:
        """What the step has come to: a list of its own, which `repeat` takes."""
        return list(self._calls)

    @property
    def repeating(self) -> bool:
        """Whether the next answer is one from before."""
        return bool(self._again)

    def repeat(self, calls: Iterable[Sequence[Any]], then: Callable[[], None]) -> None:
        """The next step gives these answers again, and goes on by itself after `then()`. LookupError, TypeError or
        ValueError for what is no journal's."""
        self._again = deque(((kind, plain), ANSWERS[kind][1](plain)) for kind, plain in calls)
        self._then = then

    def begin(self) -> None:
        """A step begins."""
        self._calls.clear()

    def ask(self, kind: str, work: Callable[[], T]) -> T:
        """The answer from before, or else `work()`, which is kept; `kind` is one of ANSWERS."""
        if not self._again:
            answer = work()
            self._calls.append((kind, ANSWERS[kind][0](answer)))
            if kind == "update":
                self._updated()
            return answer
        call, answer = self._again.popleft()
        if call[0] != kind:
            raise InputError(
                f"the checkpoint holds the answer of {call[0]} where this program asks for {kind}; valid: the program "
                "that wrote it, or the checkpoint before it"
            )
        self._calls.append(call)
        if not self._again:
            self._then()
        return answer

    def _updated(self) -> None:
        done = sum(kind == "update" for kind, _ in self._calls)
        if done < self.updates:
            self.between(done)


class JournaledRollout:
    """`RolloutEngine` whose answers are kept, with what they answer. One that is not asked needs no weights."""

    def __init__(self, engine: RolloutEngine, journal: Journal) -> None:
        self._engine, self._journal = engine, journal

    def load(self, weights: Iterable[tuple[str, Tensor]], *, version: int) -> None:
        self._journal.begin()
        if not self._journal.repeating:
            self._engine.load(weights, version=version)

    def generate(self, prompts: Sequence[TokenIds], sampling: Sampling, *, seed: int) -> list[list[Completion]]:
        asked = hashlib.sha256(repr((list(prompts), sampling, seed)).encode()).hexdigest()
        kept, written = self._journal.ask(
            "generate", lambda: (asked, self._engine.generate(prompts, sampling, seed=seed))
        )
        if kept != asked:
            raise InputError(
                "the prompts of this step are others than those that the completions in the checkpoint were written "
                "after; valid: the questions, prompts and programs as they were, or the checkpoint before it"
            )
        return written

    def release(self) -> None:
        self._engine.release()  # also one that was not asked: a new one may be awake


class JournaledPolicy(Delegate):
    """`PolicyEngine` whose answers are kept."""

    def __init__(self, policy: PolicyEngine, journal: Journal) -> None:
        super().__init__(policy)
        self._journal = journal

    def logprobs(self, batch: Batch, *, reference: bool = False) -> Tensor:
        computed = partial(super().logprobs, batch, reference=reference)
        return self._journal.ask("logprobs", computed)

    def update(self, batch: Batch, loss: Loss) -> Stats:
        return self._journal.ask("update", partial(super().update, batch, loss))


def journaled(journal: Journal, *, policy: PolicyEngine, rollout: RolloutEngine, score: Scorer) -> dict[str, Any]:
    """What `grpo.loop.train` calls, by its own names; the answers are kept, but in steps of one update, which have no
    middle."""
    if journal.updates == 1:
        return {"policy": policy, "rollout": rollout, "score": score}

    def scored(groups: Sequence[Group]) -> Sequence[Sequence[Score]]:
        return journal.ask("score", partial(score, groups))

    return {
        "policy": JournaledPolicy(policy, journal),
        "rollout": JournaledRollout(rollout, journal),
        "score": scored,
    }


Written = tuple[str, Sequence[Sequence[Completion]]]
"""A digest of what was asked, and the completions."""


def _plain_completions(written: Written) -> dict[str, Any]:
    asked, groups = written
    # By hand: `asdict` would copy every token.
    plain = [[{name: getattr(each, name) for name in Completion.__slots__} for each in group] for group in groups]
    return {"asked": asked, "groups": plain}


def _completions(plain: Any) -> Written:
    return plain["asked"], [[Completion.of_plain(each) for each in group] for group in plain["groups"]]


def _plain_scores(groups: Sequence[Sequence[Score]]) -> list[list[dict[str, Any]]]:
    return [[{"total": score.total, "parts": dict(score.parts)} for score in group] for group in groups]


def _scores(plain: Any) -> list[list[Score]]:
    return [[Score(**score) for score in group] for group in plain]


def _plain_tensor(tensor: Tensor) -> dict[str, Any]:
    return {"shape": list(tensor.shape), "values": tensor.flatten().tolist()}  # a float32 is a double, exactly


def _tensor(plain: Any) -> Tensor:
    return torch.tensor(plain["values"], dtype=torch.float32).view(plain["shape"])


ANSWERS: Mapping[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "generate": (_plain_completions, _completions),
    "score": (_plain_scores, _scores),
    "logprobs": (_plain_tensor, _tensor),
    "update": (dict, dict),
}
"""What is asked -> its answer as JSON takes it, and back."""
