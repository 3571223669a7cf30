"""What a reward gives to answers that one already has, and why.

    python -m rewards.score RECORDS.jsonl --recipe configs/stage2.toml --out scores.jsonl
    python -m rewards.score runs/NAME --recipe other.toml --out scores.jsonl

A record has `question`, `answers`, `docs`, and `completion` or a list `completions`, which are one group. Passages
without `answers_found` are labelled: short answers by their words, claims by the judge. Every line of the output is a
completion with its total, parts, statements, citations, answers said and verdicts.

Of a run folder, the answers are those of rollouts.jsonl, whose rewards are compared with the new ones.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console

from grpo.config import load
from grpo.data.example import STYLES, Example, Flags, Passage, Style, load_examples, read_labels
from grpo.data.files import read_records, source_name, wrong_field
from grpo.data.text import spelled
from grpo.errors import UserError
from grpo.types import Completion, Group, Score
from rewards.audit import MOST_QUESTIONS, audit, questions_of, table
from rewards.config import RewardRecipe
from rewards.judges.base import ENTAILMENT_THRESHOLD, Judge, Pair, Verdicts, ask, premise
from rewards.judges.load import load_judge
from rewards.scorer import RewardScorer

EQUAL = 1e-6  # rewards of a group that differ by less have zero variance


def read_groups(path: Path, *, style: Style, judge: Judge) -> list[Group]:
    """The record of each line as a group. UserError with file and line for one that has no completion.

    The judge says, in one call, which passages entail the claims of records without `answers_found`.
    """
    read: list[tuple[Example, Sequence[Flags | None], list[str]]] = []
    for location, record in read_records(path):
        texts = record.get("completions", [record.get("completion")])
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise wrong_field(location, "completion", texts, "a string, or a list of strings in completions")
        rest = {name: value for name, value in record.items() if name not in ("completion", "completions")}
        if record.get("answers") == [] and isinstance(docs := record.get("docs"), list | str):
            rest["docs"] = _without_answers(docs)
        form = {"style": style, "source": source_name(path), "blank_answers": True}
        read.append((*read_labels(location, rest, **form), [str(text) for text in texts]))
    verdicts = ask(judge, chain.from_iterable(_claims(example, given) for example, given, _ in read))
    return [_group(labelled(example, given, verdicts), [(t, "stop") for t in texts]) for example, given, texts in read]


def labelled(example: Example, given: Sequence[Flags | None], verdicts: Verdicts) -> Example:
    """The example with its labels: those `given`, and for the rest the verdicts on claims, the words of answers."""

    def flags(passage: Passage) -> Flags:
        if example.style != "claims":
            return spelled(passage.text, example.answers)
        return tuple(verdicts[_claim(passage, spellings)] > ENTAILMENT_THRESHOLD for spellings in example.answers)

    rows = zip(example.passages, given, strict=True)
    return replace(example, found=tuple(flags(passage) if row is None else row for passage, row in rows))


def _claims(example: Example, given: Sequence[Flags | None]) -> list[Pair]:
    unlabelled = [passage for passage, row in zip(example.passages, given, strict=True) if row is None]
    return [_claim(p, s) for p in unlabelled for s in example.answers] if example.style == "claims" else []


def _claim(passage: Passage, spellings: Sequence[str]) -> Pair:
    return premise([passage]), spellings[0]


def _without_answers(docs: list[Any] | str) -> list[Any]:
    """Documents of a question without answers, whose label is `[]`, as `read_labels` asks for."""
    rows = [{"text": doc} if isinstance(doc, str) else doc for doc in ([docs] if isinstance(docs, str) else docs)]
    return [{**row, "answers_found": row.get("answers_found") or []} if isinstance(row, dict) else row for row in rows]


def read_run(folder: Path) -> tuple[list[Group], list[list[float]]]:
    """The groups of a run's rollouts, and the rewards that they got."""
    examples = {example.id: example for example in load_examples(folder / "questions.jsonl")}
    rows: dict[tuple[Any, Any], list[Mapping[str, Any]]] = {}
    for location, row in read_records(folder / "rollouts.jsonl"):
        if row.get("id") not in examples:
            raise wrong_field(location, "id", row.get("id"), "the id of a question in questions.jsonl")
        rows.setdefault((row["step"], row["id"]), []).append(row)
    groups = [_group(examples[key], [(r["text"], r["finish"]) for r in some]) for (_, key), some in rows.items()]
    return groups, [[float(row["reward"]) for row in some] for some in rows.values()]


def rows_of(groups: Sequence[Group], scores: Sequence[Sequence[Score]]) -> Iterator[dict[str, Any]]:
    """A row of the output for each completion."""
    for group, found in zip(groups, scores, strict=True):
        for completion, score in zip(group.completions, found, strict=True):
            yield {
                "id": group.example.id,
                "question": group.example.question,
                "completion": completion.text,
                "total": score.total,
                "parts": dict(score.parts),
                "answerable": group.example.answerable,
                **score.details,
            }


def changes(old: Sequence[Sequence[float]], new: Sequence[Sequence[float]]) -> dict[str, int]:
    """Counts over groups: completions whose advantage changes its sign, and groups without variance before and after.

    >>> changes([[1.0, 2.0], [1.0, 1.0]], [[2.0, 1.0], [0.0, 3.0]])
    {'completions': 4, 'signs changed': 4, 'zero-variance groups before': 1, 'after': 0, 'groups': 2}
    """
    signs = [(_signs(before), _signs(after)) for before, after in zip(old, new, strict=True)]
    return {
        "completions": sum(map(len, old)),
        "signs changed": sum(a != b for before, after in signs for a, b in zip(before, after, strict=True)),
        "zero-variance groups before": sum(not any(before) for before, _ in signs),
        "after": sum(not any(after) for _, after in signs),
        "groups": len(old),
    }


def _signs(rewards: Sequence[float]) -> list[int]:
    """The signs of the advantages; all 0 without variance."""
    mean = sum(rewards) / len(rewards)
    if max(rewards) - min(rewards) <= EQUAL:
        return [0] * len(rewards)
    return [(reward > mean + EQUAL) - (reward < mean - EQUAL) for reward in rewards]


def _group(example: Example, answers: Sequence[tuple[str, Any]]) -> Group:
    completions = tuple(Completion(text=t, token_ids=(), logprobs=(), finish=f, version=0) for t, f in answers)
    return Group(example=example, prompt_ids=(), completions=completions)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m rewards.score", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("records", type=Path, metavar="RECORDS.jsonl", help="a file of records, or a run folder")
    parser.add_argument("--recipe", nargs="+", default=[], metavar="RECIPE.toml", help="recipes, and overrides last")
    parser.add_argument("--style", default="prose", choices=STYLES, help="of records that state none")
    parser.add_argument("--out", type=Path, required=True, metavar="scores.jsonl")
    options, overrides = parser.parse_known_args(argv)
    console = Console()
    try:
        first = options.out.read_text("utf-8", "replace").partition("\n")[0] if options.out.exists() else ""
        if first and not ('"total"' in first and '"statements"' in first):  # neither records nor rollouts have both
            raise UserError(f"{options.out} is there already and holds no scores; give another --out")
        recipe = load(RewardRecipe, [*options.recipe, *overrides])
        scorer = RewardScorer(
            recipe.reward, **recipe.model.model_dump(), judge=load_judge(recipe.reward.judge, tell=print), tell=print
        )
        old: list[list[float]] = []
        if options.records.is_dir():
            groups, old = read_run(options.records)
        else:
            groups = read_groups(options.records, style=options.style, judge=scorer.judge)
        scores = scorer(groups)
        with options.out.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows_of(groups, scores))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {options.out}: {error.strerror}", file=sys.stderr)
        return 2
    totals = [score.total for found in scores for score in found]
    console.print(f"{len(totals)} answers to {len(groups)} questions, mean reward {sum(totals) / len(totals):.3f}")
    if old:
        said = changes(old, [[score.total for score in found] for found in scores])
        console.print(", ".join(f"{count} {name}" for name, count in said.items()))
        asked = list({group.example.id: group.example for group in groups if group.example.passages}.values())
        if asked:
            rows = audit(
                recipe.reward,
                **recipe.model.model_dump(),
                judge=scorer.judge,
                questions=questions_of(asked[:MOST_QUESTIONS], refusal=recipe.model.refusals[0]),
            )
            console.print(table(rows))
    console.print(f"scores: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
