"""User-written reward functions: loaded by name, called with a timeout, checked, and their failures counted.

Three forms, told apart by the names of the parameters:

    f(example, completions) -> list                 one group at a time, the type grpo.types.Reward
    f(prompts, completions, **columns) -> list      written for TRL: begins with `completions`, or names one of COLUMNS
    @per_answer
    f(example, completion) -> number or None        one answer at a time

Every value is a finite number, or None for "not scored". Each call runs in its own daemon thread. Rewards hold models
and sessions that cannot move to another process, and a thread cannot be killed: a call that exceeds its timeout is
abandoned, may still be running at the next call, and cannot keep the program from ending.
"""

import importlib
import inspect
import json
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from grpo.data.example import Example
from grpo.errors import UserError
from grpo.types import Completion, Reward
from rewards.config import RewardConfig

Values = list[float | None]
MIN_CALLS = 20  # below this number of calls, the share of failures is taken as if there had been as many
COLUMNS = ("prompts", "completions", "completion_ids", "question", "answers", "docs", "style", "source")
TRAINER = ("trainer_state", "log_extra", "log_metric")  # what TRL's trainer passes beside the columns


@dataclass(frozen=True, slots=True)
class TrainerState:
    """The part of transformers' TrainerState that a reward can rely on here."""

    global_step: int  # optimizer steps of the weights that wrote the completions


@dataclass(frozen=True, slots=True)
class CallLog:
    """What one call of a function written for TRL logs."""

    metrics: dict[str, list[float]] = field(default_factory=dict)
    columns: dict[str, list[Any]] = field(default_factory=dict)

    def log_metric(self, name: str, value: float) -> None:
        """Add a number to the mean of this name over the step."""
        self.metrics.setdefault(name, []).append(float(value))

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        """Write one value of JSON for each completion of the group to rollouts.jsonl, under `log`."""
        self.columns[column] = list(values)


@dataclass(frozen=True, slots=True)
class Scored:
    """The values of one call, and the columns that it logged."""

    values: Values
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)


def per_answer(function: Callable[[Example, Completion], float | None]) -> Reward:
    """A reward from a function that scores one answer at a time."""

    def reward(example: Example, completions: Sequence[Completion]) -> Values:
        return [function(example, completion) for completion in completions]

    reward.__name__, reward.__doc__ = function.__name__, function.__doc__
    return reward


def trl_columns(
    example: Example, completions: Sequence[Completion], *, conversational: bool = False
) -> dict[str, list[Any]]:
    """COLUMNS and the record's other fields for a function written for TRL, one entry per completion.

    `prompts` holds the question and `completions` the texts, as strings or with `conversational` as lists of one
    message. `answers` is a list of spellings per gold answer.
    """

    def content(role: str, text: str) -> Any:
        return [{"role": role, "content": text}] if conversational else text

    columns = {
        **example.extra,
        "prompts": content("user", example.question),
        "question": example.question,
        "answers": [list(spellings) for spellings in example.answers],
        "docs": [{"title": passage.title, "text": passage.text} for passage in example.passages],
        "style": example.style,
        "source": example.source,
    }
    return {name: [value] * len(completions) for name, value in columns.items()} | {
        "completions": [content("assistant", completion.text) for completion in completions],
        "completion_ids": [list(completion.token_ids) for completion in completions],
    }


def load_reward(path: str, *, conversational: bool = False) -> tuple[Reward, bool]:
    """The function at "package.module:function" as a `Reward`, and whether it was written for TRL.

    UserError if it cannot be loaded or called.
    """
    module, _, name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too, of a script without a main guard
        raise UserError(f"reward {path!r} cannot be loaded: {type(error).__name__}: {_one_line(error)}") from error
    if not callable(function) or inspect.isclass(function):
        raise UserError(f"reward {path!r} is a {type(function).__name__}, not a function")
    if inspect.iscoroutinefunction(function):
        raise UserError(f"reward {path!r} is an async function; valid: a plain one, which may call asyncio.run")
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    names = [parameter.name for parameter in parameters]
    if names[:1] == ["completions"] or any(name in COLUMNS for name in names if name != "completions"):
        return _trl_reward(path, function, parameters, conversational=conversational), True
    try:
        signature.bind(None, None)
    except TypeError:
        valid = "f(example, completions) or f(prompts, completions, **columns)"
        raise UserError(f"reward {path!r} takes {signature}; valid: {valid}") from None
    return cast(Reward, function), False


def _trl_reward(
    path: str, function: Callable[..., Any], parameters: Sequence[inspect.Parameter], *, conversational: bool
) -> Reward:
    """Calls a function written for TRL with all columns if it takes `**columns`, else with those that it names.

    UserError, at a call, for a column that the record does not have.
    """
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)

    def reward(example: Example, completions: Sequence[Completion], log: CallLog) -> Values:
        columns = trl_columns(example, completions, conversational=conversational)
        if missing := [p.name for p in named if p.name not in (*columns, *TRAINER) and p.default is p.empty]:
            raise UserError(
                f"reward {path!r} asks for {', '.join(missing)}, which question {example.id} does not have; "
                f"it has {', '.join((*columns, *TRAINER))}"
            )
        state = TrainerState(global_step=completions[0].version)
        given = {**columns, "trainer_state": state, "log_extra": log.log_extra, "log_metric": log.log_metric}
        wanted = given if takes_all else [p.name for p in named if p.name in given]
        return function(**{name: given[name] for name in wanted})

    return cast(Reward, reward)


def load_custom_rewards(config: RewardConfig) -> list["CustomReward"]:
    """The reward functions that `config.weights` names; UserError if one cannot be loaded."""
    paths = [name for name in config.weights if ":" in name]
    custom = [CustomReward(path, config) for path in paths]
    if config.trl_conversational and not any(reward.for_trl for reward in custom):
        raise UserError(
            "reward.trl_conversational = true, and no function in reward.weights is written for TRL; "
            "valid: false, or name one as 'package.module:function'"
        )
    return custom


class CustomReward:
    """A user-written reward function with a timeout, a check of its values, and a quota of failures.

    A call that raises, takes longer than `timeout` seconds, or does not return one finite number or None per completion
    scores nothing: None for all. UserError once more than the share `failure_limit` of all calls has failed (of at
    least MIN_CALLS, so that the default 0.1 forgives the first two failures, and 0 none).
    """

    def __init__(self, path: str, config: RewardConfig) -> None:
        self.path = path
        self._config = config  # timeout, failure_limit, trl_conversational
        self._reward, self.for_trl = load_reward(path, conversational=config.trl_conversational)
        self._state: dict[str, Any] = {"calls": 0, "failures": 0, "new_failures": 0, "first_failure": ""}
        self._metrics: dict[str, list[float]] = {}

    def start(self, example: Example, completions: Sequence[Completion]) -> Callable[[], Scored]:
        """Begin to score a group. The function that is returned waits for the values, one per completion."""
        future: Future[Scored] = Future()
        log = CallLog()
        call = partial(cast(Any, self._reward), log=log) if self.for_trl else self._reward

        def work() -> None:
            try:
                values = check_values(call(example, completions), len(completions))
                for column, logged in log.columns.items():
                    check_column(column, logged, len(values))
                future.set_result(Scored(values, log.columns))
            except BaseException as error:  # SystemExit too: whatever ends the thread must reach the caller
                future.set_exception(error)

        threading.Thread(target=work, daemon=True, name=self.path).start()
        deadline = time.monotonic() + self._config.timeout
        return partial(self._finish, future, log, deadline, example, len(completions))

    def pop_failures(self) -> int:
        """Failed calls since the last call of this method."""
        popped, self._state["new_failures"] = self._state["new_failures"], 0
        return popped

    def pop_metrics(self) -> dict[str, float]:
        """The means of what the function logged by `log_metric` since the last call of this method."""
        popped, self._metrics = self._metrics, {}
        return {name: sum(values) / len(values) for name, values in popped.items()}

    def state_dict(self) -> dict[str, Any]:
        """The counts that the quota is judged by, and the first failure."""
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._state = dict(state)

    def _finish(self, future: Future[Scored], log: CallLog, deadline: float, example: Example, count: int) -> Scored:
        state = self._state
        state["calls"] += 1
        try:
            error = future.exception(timeout=max(0.0, deadline - time.monotonic()))
        except TimeoutError:  # of the wait; a TimeoutError of the reward is returned as `error`
            problem = f"no result within reward.timeout = {self._config.timeout:g} s"
        else:
            if error is None:
                for name, values in log.metrics.items():
                    self._metrics.setdefault(name, []).extend(values)
                return future.result()
            if isinstance(error, UserError):
                raise error
            problem = self._describe(error)
        state["failures"] += 1
        state["new_failures"] += 1
        state["first_failure"] = state["first_failure"] or f"question {example.id}: {problem}"
        limit = self._config.failure_limit
        if state["failures"] > limit * max(state["calls"], MIN_CALLS):
            raise UserError(
                f"reward {self.path!r} failed in {state['failures']} of {state['calls']} calls, more than "
                f"reward.failure_limit = {limit:g} allows (valid: 0 to 1); the first: {state['first_failure']}"
            )
        return Scored([None] * count)

    def _describe(self, error: BaseException) -> str:
        problem = _one_line(error) if isinstance(error, BadValues) else f"{type(error).__name__}: {_one_line(error)}"
        if self.for_trl and isinstance(error, TypeError | AttributeError | KeyError):
            given = "conversations" if self._config.trl_conversational else "plain strings"
            other = str(not self._config.trl_conversational).lower()
            problem += f" (it was given {given}; the other form: reward.trl_conversational = {other})"
        return problem


class BadValues(ValueError):
    """A reward returned something that is no list of values."""


def check_values(values: Any, count: int) -> Values:
    """One float or None per completion; BadValues otherwise.

    A number is whatever `float` takes except text: NumPy's, and a tensor of one value too.
    """
    if not hasattr(values, "__len__"):  # a forgotten `return` gives None
        raise BadValues(f"returned a {type(values).__name__}; valid: a list of {count} numbers or None")
    if len(values) != count:
        raise BadValues(f"returned {len(values)} values for {count} completions")
    return [None if value is None else _to_float(value, n) for n, value in enumerate(values)]


def check_column(column: str, logged: Sequence[Any], count: int) -> None:
    """BadValues unless a column of `log_extra` has one value of JSON per completion."""
    if len(logged) != count:
        raise BadValues(f"log_extra({column!r}) has {len(logged)} values for {count} completions")
    try:
        json.dumps(logged, allow_nan=False)
    except (TypeError, ValueError) as error:  # such as NumPy's numbers, and tensors
        raise BadValues(f"log_extra({column!r}): {_one_line(error)}; valid: plain numbers, texts and lists") from error


def _to_float(value: Any, number: int) -> float:
    try:
        converted = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # RuntimeError: a tensor of several values
        converted = math.nan
    if not math.isfinite(converted):
        raise BadValues(f"returned {_one_line(repr(value))} for completion {number}; valid: a finite number or None")
    return converted


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:200]
