"""Mixtures of questions: shares of sources and of unanswerable questions, and an even order."""

import random
from collections.abc import Mapping, Sequence
from typing import Literal

from grpo.data.example import Example
from grpo.errors import UserError


def spread_evenly(examples: Sequence[Example], rng: random.Random) -> list[Example]:
    """A random order in which every stretch has each kind in proportion. The kind is the first passage with an answer.

    This matters with few questions a step. A few steps in which passage 3 happens to hold no answer teach a small model
    never to cite [3], faster than it learns to read (docs/results).
    """
    kinds: dict[int, list[Example]] = {}
    for example in examples:
        kinds.setdefault(first_supporting_passage(example), []).append(example)
    placed: list[tuple[float, Example]] = []
    for _, members in sorted(kinds.items()):
        rng.shuffle(members)
        start = rng.random()
        placed += [((position + start) / len(members), example) for position, example in enumerate(members)]
    return [example for _, example in sorted(placed, key=lambda pair: pair[0])]


def first_supporting_passage(example: Example) -> int:
    """The number of the first passage that holds an answer, from 1; 0 if none does."""
    return next((number for number, row in enumerate(example.found, 1) if any(row)), 0)


def mix(
    examples: Sequence[Example],
    *,
    count: int,
    unanswerable: float | Literal["any"],
    seed: int,
    key: str,
    mixture: Mapping[str, float] | None = None,
) -> list[Example]:
    """At most `count` examples, of which the share `unanswerable`, within one example, is unanswerable.

    The share holds even if a kind runs short: there are then fewer examples. With "any", each source gives its own
    share. Sources are drawn from evenly while they last, or by the weights of `mixture`, with fewer examples if one
    source runs short. `key` is the setting that errors name.
    """
    _check_mixture(examples, mixture)
    if unanswerable == "any":
        chosen = _interleave_sources(examples, seed, mixture)[:count]
        random.Random(f"{seed}/mix").shuffle(chosen)
        return chosen
    kinds = {
        wanted: _interleave_sources([e for e in examples if e.answerable is wanted], seed, mixture)
        for wanted in (True, False)
    }
    refusals = round(count * unanswerable)
    wanted = {True: count - refusals, False: refusals}
    for kind, name in ((True, "answerable"), (False, "unanswerable")):
        if wanted[kind] and not kinds[kind]:
            raise UserError(
                f"{key} = {unanswerable}: this takes {wanted[kind]} {name} questions of {count}, and the data has none"
                f"{' of each source in data.mixture' if mixture else ''}"
            )
    fit = min([1.0, *(len(kinds[kind]) / wanted[kind] for kind in kinds if wanted[kind])])
    total = round(count * fit)
    refusals = min(round(total * unanswerable), len(kinds[False]))
    chosen = kinds[True][: total - refusals] + kinds[False][:refusals]
    random.Random(f"{seed}/mix").shuffle(chosen)
    return chosen


def _check_mixture(examples: Sequence[Example], mixture: Mapping[str, float] | None) -> None:
    there = sorted({example.source for example in examples})
    unknown = sorted(set(mixture or {}) - set(there))
    if unknown:
        raise UserError(f"data.mixture names {', '.join(unknown)}; the data has the sources {', '.join(there)}")


def _interleave_sources(examples: Sequence[Example], seed: int, mixture: Mapping[str, float] | None) -> list[Example]:
    """The examples shuffled, their sources in turn, so that any prefix has the sources in proportion to the mixture.

    With a mixture, the list ends where one of its sources does; without, sources have equal shares while they last.
    """
    by_source: dict[str, list[Example]] = {}
    for example in examples:
        by_source.setdefault(example.source, []).append(example)
    for source, members in sorted(by_source.items()):
        random.Random(f"{seed}/{source}").shuffle(members)
    weights = mixture or dict.fromkeys(by_source, 1.0)
    placed = [
        ((position + 0.5) / weights[source], source, example)
        for source, members in by_source.items()
        for position, example in enumerate(members)
        if weights.get(source)
    ]
    placed.sort(key=lambda entry: entry[:2])
    if not mixture:
        return [example for *_, example in placed]
    ends = [(len(by_source.get(source, ())), weight) for source, weight in weights.items() if weight]
    end = min((count + 0.5) / weight for count, weight in ends) if all(count for count, _ in ends) else 0.0
    return [example for position, _, example in placed if position < end]
