"""Samplers of training questions: by epochs, by difficulty as seen in training, or a class of the user's own."""

import importlib
import inspect
import json
import random
from collections.abc import Callable, Sequence
from typing import Any, cast

from pydantic import Field, FiniteFloat, model_validator

from curriculum.mixing import spread_evenly
from grpo.config import Section
from grpo.data.example import Example
from grpo.errors import UserError
from grpo.types import Curriculum, Group, Score

METHODS = ("next_batch", "observe", "state_dict", "load_state_dict")
BUILT_IN = ("epochs", "difficulty")


class CurriculumConfig(Section):
    """The order of the questions."""

    order: str = Field(
        default="epochs",
        description="epochs: every question once per epoch; difficulty: by p(1 - p) as seen in training; or your own, "
        "'package.module:function'",
    )
    floor: FiniteFloat = Field(
        default=0.05, gt=0, le=0.25, description="difficulty: the least weight of a question, of at most 0.25"
    )

    @model_validator(mode="after")
    def _names_an_order(self) -> "CurriculumConfig":
        if self.order not in BUILT_IN and ":" not in self.order:
            raise ValueError(
                f"curriculum.order = {self.order!r}; valid: {', '.join(BUILT_IN)}, or 'package.module:function'"
            )
        return self


def make_curriculum(settings: CurriculumConfig, examples: Sequence[Example], *, seed: int) -> Curriculum:
    """The curriculum that the settings name, over these examples. UserError where there are none, or where a
    curriculum of the user's own cannot be had."""
    if settings.order == "epochs":
        return EpochSampler(examples, seed=seed)
    if settings.order == "difficulty":
        return DifficultySampler(examples, seed=seed, floor=settings.floor)
    return load_curriculum(settings.order, examples, seed=seed)


def load_curriculum(path: str, examples: Sequence[Example], *, seed: int) -> Curriculum:
    """The result of the user's `function(examples, *, seed)` at "package.module:function": an object with METHODS."""
    function = find_function(path)
    try:
        inspect.signature(function).bind(list(examples), seed=seed)
    except TypeError as error:
        raise UserError(f"curriculum.order = {path!r}: {error}; valid: function(examples, *, seed)") from None
    made = function(list(examples), seed=seed)
    missing = [name for name in METHODS if not callable(getattr(made, name, None))]
    if missing:
        raise UserError(
            f"curriculum.order = {path!r} returned a {type(made).__name__} without {', '.join(missing)}; valid: an "
            f"object with {', '.join(METHODS)}"
        )
    return _CheckedCurriculum(path, cast(Curriculum, made))


def find_function(path: str) -> Callable[..., Any]:
    """The function at "package.module:function". UserError for anything that the import of the user's module raises."""
    module, _, name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # a script without a main guard may exit
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"curriculum.order = {path!r} cannot be loaded: {reason}") from error
    if not callable(function):
        raise UserError(f"curriculum.order = {path!r} is a {type(function).__name__}, not a function")
    return function


class _CheckedCurriculum:
    """A user's curriculum whose results are checked: a wrong batch would otherwise fail far from its cause."""

    def __init__(self, path: str, inner: Curriculum) -> None:
        self._path, self._inner = path, inner

    def next_batch(self, count: int) -> list[Example]:
        batch = list(self._inner.next_batch(count))
        if len(batch) != count or not all(isinstance(example, Example) for example in batch):
            raise UserError(f"{self._path}: next_batch({count}) returned {len(batch)}; valid: {count} examples")
        return batch

    def observe(self, groups: list[Group]) -> None:
        self._inner.observe(groups)

    def state_dict(self) -> dict[str, Any]:
        state = self._inner.state_dict()
        try:
            return json.loads(json.dumps(state))
        except (TypeError, ValueError) as error:
            raise UserError(f"{self._path}: state_dict() is not JSON: {error}; valid: what json.dumps takes") from None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._inner.load_state_dict(state)


def passed(example: Example, score: Score) -> bool:
    """Whether a completion has a right answer, or refuses an unanswerable question, by the parts of its score.

    The parts are `fact`, else `exact_match`, for answerable questions, and `refusal` or `caution` for the others.
    """
    if example.answerable:
        return score.parts["fact"] >= 1 if "fact" in score.parts else score.parts.get("exact_match", 0.0) > 0
    return max(score.parts.get("refusal", 0.0), score.parts.get("caution", 0.0)) > 0


class EpochSampler:
    """Every question once per epoch, in an order that depends on the seed and the epoch only."""

    def __init__(self, examples: Sequence[Example], *, seed: int, in_order: bool = False) -> None:
        """`in_order` keeps the given order in every epoch. UserError without examples."""
        self._examples, self._seed, self._in_order = _not_empty(examples), seed, in_order
        self._drawn = 0
        self._epoch, self._order = -1, self._examples

    def next_batch(self, count: int) -> list[Example]:
        batch = [self._at(position) for position in range(self._drawn, self._drawn + count)]
        self._drawn += count
        return batch

    def observe(self, groups: Sequence[Group]) -> None:
        """The order does not depend on the scores."""

    def state_dict(self) -> dict[str, int]:
        return {"drawn": self._drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._drawn = state["drawn"]

    def _at(self, position: int) -> Example:
        epoch, offset = divmod(position, len(self._examples))
        if epoch != self._epoch:
            self._epoch = epoch
            if not self._in_order:
                self._order = spread_evenly(self._examples, random.Random(f"{self._seed}/{epoch}"))
        return self._order[offset]


class DifficultySampler:
    """Questions drawn by weight: the most frequent are those that the model sometimes gets right.

    A question's weight is max(p (1 - p), floor), where p is the share of its completions that passed when it was last
    asked; 0.25 for a question that was never asked. A batch repeats no question while there are others. It depends
    only on the seed, the number of batches drawn and what was observed.
    """

    def __init__(self, examples: Sequence[Example], *, seed: int, floor: float = 0.05) -> None:
        self._examples, self._seed, self._floor = _not_empty(examples), seed, floor
        self._rates: dict[str, float] = {}
        self._batches = 0

    def weight(self, example: Example) -> float:
        rate = self._rates.get(example.id, 0.5)
        return max(self._floor, rate * (1 - rate))

    def next_batch(self, count: int) -> list[Example]:
        rng = random.Random(f"{self._seed}/batch {self._batches}")
        self._batches += 1
        batch: list[Example] = []
        while len(batch) < count:
            # the largest of u ** (1 / weight): a weighted draw without repetition (Efraimidis and Spirakis, 2006)
            keyed = [(rng.random() ** (1 / self.weight(e)), n) for n, e in enumerate(self._examples)]
            keyed.sort(reverse=True)
            batch += [self._examples[n] for _, n in keyed[: count - len(batch)]]
        return batch

    def observe(self, groups: Sequence[Group]) -> None:
        for group in groups:
            right = [passed(group.example, score) for score in group.scores]
            if right:
                self._rates[group.example.id] = sum(right) / len(right)

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self._batches, "rates": dict(self._rates)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._batches, self._rates = state["batches"], dict(state["rates"])


def _not_empty(examples: Sequence[Example]) -> list[Example]:
    if not examples:
        raise UserError(
            "no training questions are left after the split and the mix; check data.max_train and data.unanswerable"
        )
    return list(examples)
