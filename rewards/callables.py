"""How is a function of the user's own called? Found by name, in either signature, and so that it cannot hang a run.

Three forms, told apart by the name of the first parameter:

    f(example, completions) -> list                 a group at a time, the type grpo.types.Reward
    f(prompts, completions, **columns) -> list      written for TRL: first parameter `prompts` or `completions`
    @per_answer
    f(example, completion) -> number or None        one answer at a time

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
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from numbers import Real
from typing import Any, cast

from grpo.types import Completion, Example, InputError, Reward

Values = list[float | None]

GRACE = 20
"""Calls before which a share means little: up to then, failures are judged as if that many calls had been made."""

FORMS = "f(example, completions) or f(prompts, completions, **columns)"
TRL_FIRST = ("prompts", "completions")


def per_answer(function: Callable[[Example, Completion], float | None]) -> Reward:
    """A reward from a function that judges one answer at a time."""

    def reward(example: Example, completions: Sequence[Completion]) -> Values:
        return [function(example, completion) for completion in completions]

    reward.__name__, reward.__doc__ = function.__name__, function.__doc__
    return reward


def trl_columns(example: Example, completions: Sequence[Completion]) -> dict[str, list[Any]]:
    """What a function written for TRL is called with, one entry per completion, as TRL repeats its columns.

    `prompts` holds the question and `completions` the text, both plain strings: TRL's form for prompts that are not
    conversations. Then `completion_ids`, and the example's `question`, `answers` (a list of spellings per answer),
    `docs` (title and text), `style` and `source`.
    """
    constant = {
        "prompts": example.question,
        "question": example.question,
        "answers": [list(spellings) for spellings in example.answers],
        "docs": [{"title": passage.title, "text": passage.text} for passage in example.passages],
        "style": example.style,
        "source": example.source,
    }
    columns: dict[str, list[Any]] = {name: [value] * len(completions) for name, value in constant.items()}
    columns["completions"] = [completion.text for completion in completions]
    columns["completion_ids"] = [list(completion.token_ids) for completion in completions]
    return columns


COLUMNS = ("prompts", "completions", "completion_ids", "question", "answers", "docs", "style", "source")


def load_reward(path: str) -> Reward:
    """The user's function at "package.module:function", as a Reward; InputError for one that cannot be had."""
    module, _, name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError, SyntaxError) as error:
        raise InputError(f"reward {path!r} cannot be loaded: {_flat(error)}") from error
    if not callable(function) or inspect.isclass(function):
        raise InputError(f"reward {path!r} is a {type(function).__name__}, not a function")
    if inspect.iscoroutinefunction(function):
        raise InputError(f"reward {path!r} is an async function; valid: a plain one, which may call asyncio.run")
    try:
        signature = inspect.signature(function)
    except ValueError:  # a function of a C extension may have none
        return cast(Reward, function)
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].name in TRL_FIRST:
        return _from_trl(path, function, parameters)
    try:
        signature.bind(None, None)
    except TypeError:
        raise InputError(f"reward {path!r} takes {signature}; valid: {FORMS}") from None
    return cast(Reward, function)


def _from_trl(path: str, function: Callable[..., Any], parameters: Sequence[inspect.Parameter]) -> Reward:
    """Calls by name, as TRL does, with all columns where it takes `**columns` and else those that it names."""
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    unknown = [p.name for p in named if p.name not in COLUMNS and p.default is p.empty]
    if unknown:
        raise InputError(f"reward {path!r} asks for {', '.join(unknown)}; there are the columns {', '.join(COLUMNS)}")
    every = any(p.kind is p.VAR_KEYWORD for p in parameters)
    wanted = COLUMNS if every else [p.name for p in named if p.name in COLUMNS]

    def reward(example: Example, completions: Sequence[Completion]) -> Values:
        columns = trl_columns(example, completions)
        return function(**{name: columns[name] for name in wanted})

    return reward


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
    completion scores nothing: None for all. InputError once more than `limit` of all calls have failed (of at least
    GRACE calls, so that the default 0.1 forgives the first two failures, and 0 none).
    """

    def __init__(self, path: str, *, timeout: float, limit: float) -> None:
        self.path = path
        self._reward, self._timeout, self._limit = load_reward(path), timeout, limit
        self._calls = self._failures = self._untaken = 0
        self._first = ""

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
        self._fail(f"question {call.example.id}: {problem}")
        return [None] * call.count

    def take_failures(self) -> int:
        """Failed calls since this was last asked."""
        taken, self._untaken = self._untaken, 0
        return taken

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
            raise InputError(
                f"reward {self.path!r} failed in {self._failures} of {self._calls} calls, more than "
                f"reward.failure_limit = {self._limit:g} allows (valid: 0 to 1); the first: {self._first}"
            )


class BadValues(ValueError):
    """A reward returned something that is no list of values."""


def checked(values: Any, count: int) -> Values:
    """One finite number or None per completion, as floats; BadValues otherwise."""
    if not hasattr(values, "__len__"):  # a forgotten `return` gives None
        raise BadValues(f"returned a {type(values).__name__}; valid: a list of {count} numbers or None")
    if len(values) != count:
        raise BadValues(f"returned {len(values)} values for {count} completions")
    for number, value in enumerate(values):
        if value is not None and not (isinstance(value, Real) and math.isfinite(value)):
            raise BadValues(f"returned {value!r} for completion {number}; valid: a finite number or None")
    return [None if value is None else float(value) for value in values]


def _flat(error: BaseException) -> str:
    """A message as one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]
