"""How is a function of the user's own called? Found by name, in either signature, and so that it cannot hang a run.

Three forms, told apart by the names of the parameters:

    f(example, completions) -> list                 a group at a time, the type grpo.types.Reward
    f(prompts, completions, **columns) -> list      written for TRL: begins with `completions`, or names a column
    @per_answer
    f(example, completion) -> number or None        one answer at a time

A function written for TRL gets plain strings, or conversations where the recipe says `trl_conversational = true`.

Every value is a finite number, or None for "not scored". A call runs in a daemon thread of its own with a time limit.
Threads, since rewards hold models, sessions and caches, which do not go to another process; no pool, since a thread
cannot be killed: a call that hangs is abandoned, keeps its thread to itself, and cannot keep the program from ending.
(One that never gives up the interpreter's lock, in a C extension, still stops everything.) The rewards of a recipe run
side by side; a reward that was abandoned may still be running when it is called again.
"""

import importlib
import inspect
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, cast

from grpo.data.example import Example
from grpo.errors import UserError
from grpo.types import Completion, Reward

Values = list[float | None]

GRACE = 20
"""Calls before which a share means little: up to then, failures are judged as if that many calls had been made."""

FORMS = "f(example, completions) or f(prompts, completions, **columns)"


def per_answer(function: Callable[[Example, Completion], float | None]) -> Reward:
    """A reward from a function that judges one answer at a time."""

    def reward(example: Example, completions: Sequence[Completion]) -> Values:
        return [function(example, completion) for completion in completions]

    reward.__name__, reward.__doc__ = function.__name__, function.__doc__
    return reward


def trl_columns(
    example: Example, completions: Sequence[Completion], *, conversational: bool = False
) -> dict[str, list[Any]]:
    """What a function written for TRL is called with, one entry per completion, as TRL repeats its columns.

    `prompts` holds the question and `completions` the text: plain strings, or with `conversational` lists of one
    message each, the two forms that TRL has. Then `completion_ids`, and the example's `question`, `answers` (a list of
    spellings per answer), `docs` (title and text), `style` and `source`.
    """

    def said(role: str, text: str) -> Any:
        return [{"role": role, "content": text}] if conversational else text

    constant = {
        "prompts": said("user", example.question),
        "question": example.question,
        "answers": [list(spellings) for spellings in example.answers],
        "docs": [{"title": passage.title, "text": passage.text} for passage in example.passages],
        "style": example.style,
        "source": example.source,
    }
    columns: dict[str, list[Any]] = {name: [value] * len(completions) for name, value in constant.items()}
    columns["completions"] = [said("assistant", completion.text) for completion in completions]
    columns["completion_ids"] = [list(completion.token_ids) for completion in completions]
    return columns


COLUMNS = ("prompts", "completions", "completion_ids", "question", "answers", "docs", "style", "source")


@dataclass(frozen=True, slots=True)
class TrlReward:
    """A function written for TRL as a Reward: called by name with the columns that it wants."""

    function: Callable[..., Any]
    wanted: tuple[str, ...]
    conversational: bool

    def __call__(self, example: Example, completions: Sequence[Completion]) -> Values:
        columns = trl_columns(example, completions, conversational=self.conversational)
        return self.function(**{name: columns[name] for name in self.wanted})


def load_reward(path: str, *, conversational: bool = False) -> Reward:
    """The user's function at "package.module:function", as a Reward; UserError for one that cannot be had."""
    function = _find(path)
    if not callable(function) or inspect.isclass(function):
        raise UserError(f"reward {path!r} is a {type(function).__name__}, not a function")
    if inspect.iscoroutinefunction(function):
        raise UserError(f"reward {path!r} is an async function; valid: a plain one, which may call asyncio.run")
    try:
        signature = inspect.signature(function)
    except ValueError:  # a function of a C extension may have none
        return cast(Reward, function)
    parameters = list(signature.parameters.values())
    if _is_for_trl([parameter.name for parameter in parameters]):
        return TrlReward(function, _wanted(path, parameters), conversational)
    try:
        signature.bind(None, None)
    except TypeError:
        raise UserError(f"reward {path!r} takes {signature}; valid: {FORMS}") from None
    return cast(Reward, function)


def _find(path: str) -> Any:
    """What stands at "package.module:name"; the user's module may raise anything while it is imported."""
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too, of a script without a main guard
        raise UserError(f"reward {path!r} cannot be loaded: {type(error).__name__}: {_flat(error)}") from error


def _is_for_trl(names: Sequence[str]) -> bool:
    """Whether a function with these parameters is one for TRL: `f(completions, ...)`, or one that names a column."""
    return names[:1] == ["completions"] or any(name in COLUMNS for name in names if name != "completions")


def _wanted(path: str, parameters: Sequence[inspect.Parameter]) -> tuple[str, ...]:
    """The columns a function for TRL is called with: all where it takes `**columns`, else those that it names."""
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    unknown = [p.name for p in named if p.name not in COLUMNS and p.default is p.empty]
    if unknown:
        raise UserError(f"reward {path!r} asks for {', '.join(unknown)}; there are the columns {', '.join(COLUMNS)}")
    every = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return COLUMNS if every else tuple(p.name for p in named if p.name in COLUMNS)


@dataclass(frozen=True, slots=True)
class Call:
    """A call under way."""

    example: Example
    count: int  # completions
    deadline: float  # of time.monotonic, seconds
    future: Future[Values]


class Guarded:
    """A reward of the user's own: its calls are timed and checked, its failures counted.

    A call that raises, exceeds `timeout` seconds or returns something else than one finite number or None per
    completion scores nothing: None for all. UserError once more than `limit` of all calls have failed (of at least
    GRACE calls, so that the default 0.1 forgives the first two failures, and 0 none).
    """

    def __init__(self, path: str, *, timeout: float, limit: float, conversational: bool = False) -> None:
        self.path = path
        self._reward = load_reward(path, conversational=conversational)
        self._timeout, self._limit = timeout, limit
        self._calls = self._failures = self._untaken = 0
        self._first = ""

    @property
    def for_trl(self) -> bool:
        """Whether the function was written for TRL."""
        return isinstance(self._reward, TrlReward)

    def start(self, example: Example, completions: Sequence[Completion]) -> Call:
        """Begin to score a group; returns at once."""
        future: Future[Values] = Future()
        work = threading.Thread(target=self._work, args=(future, example, completions), daemon=True, name=self.path)
        call = Call(example, len(completions), time.monotonic() + self._timeout, future)
        work.start()
        return call

    def finish(self, call: Call) -> Values:
        """The values of a call, one per completion; waits until its deadline at most."""
        self._calls += 1
        try:
            error = call.future.exception(timeout=max(0.0, call.deadline - time.monotonic()))
        except TimeoutError:  # of the wait: one that the reward raised is `error`
            problem = f"no result within reward.timeout = {self._timeout:g} s"
        else:
            if error is None:
                return call.future.result()
            problem = _flat(error) if isinstance(error, BadValues) else f"{type(error).__name__}: {_flat(error)}"
            if isinstance(self._reward, TrlReward) and isinstance(error, TypeError | AttributeError | KeyError):
                form = "conversations" if self._reward.conversational else "plain strings"
                switched = str(not self._reward.conversational).lower()
                problem += f" (it was given {form}; the other form: reward.trl_conversational = {switched})"
        self._fail(f"question {call.example.id}: {problem}")
        return [None] * call.count

    def take_failures(self) -> int:
        """Failed calls since this was last asked."""
        taken, self._untaken = self._untaken, 0
        return taken

    def state_dict(self) -> dict[str, Any]:
        """What the limit is judged by: calls and failures so far, and the first failure; and what is to be taken."""
        counts = {"calls": self._calls, "failures": self._failures, "untaken": self._untaken}
        return {**counts, "first": self._first}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._calls, self._failures, self._first = state["calls"], state["failures"], state["first"]
        self._untaken = state.get("untaken", 0)  # which is not in checkpoints of before

    def _work(self, future: Future[Values], example: Example, completions: Sequence[Completion]) -> None:
        try:
            future.set_result(checked(self._reward(example, completions), len(completions)))
        except BaseException as error:  # SystemExit too: whatever ends the thread must reach the one who waits
            future.set_exception(error)

    def _fail(self, problem: str) -> None:
        self._failures += 1
        self._untaken += 1
        self._first = self._first or problem
        if self._failures > self._limit * max(self._calls, GRACE):
            raise UserError(
                f"reward {self.path!r} failed in {self._failures} of {self._calls} calls, more than "
                f"reward.failure_limit = {self._limit:g} allows (valid: 0 to 1); the first: {self._first}"
            )


class BadValues(ValueError):
    """A reward returned something that is no list of values."""


def checked(values: Any, count: int) -> Values:
    """One finite number or None per completion, as floats; BadValues otherwise.

    A number is whatever `float` takes that is no text: numpy's, and a tensor of one value too.
    """
    if not hasattr(values, "__len__"):  # a forgotten `return` gives None
        raise BadValues(f"returned a {type(values).__name__}; valid: a list of {count} numbers or None")
    if len(values) != count:
        raise BadValues(f"returned {len(values)} values for {count} completions")
    return [None if value is None else _number(value, n) for n, value in enumerate(values)]


def _number(value: Any, number: int) -> float:
    try:
        converted = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # RuntimeError: a tensor of several values
        converted = math.nan
    if not math.isfinite(converted):
        raise BadValues(f"returned {_flat(repr(value))} for completion {number}; valid: a finite number or None")
    return converted


def _flat(error: object) -> str:
    """A message as one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]
