"""Reward-hacking audit: the mean rewards of degenerate policies and of an honest one.

    python -m rewards.audit configs/stage2.toml configs/models/qwen3-8b.toml --reward.citation_penalty=0
    python -m rewards.audit examples.jsonl configs/stage2.toml      your questions, as `curriculum.build` writes them
    python -m rewards.audit                                         every preset of rewards/config.py

Without a file, six questions with three passages each, two of them unanswerable. Every policy is scored twice: with all
other policies in one group, as while the model still explores, and `alone` in a group, as after the model has collapsed
into that policy. The two differ for rewards that compare within the group. Every policy thinks its answer, word for
word. The built-in passages have six sentences, so that copying a whole one is padding. Custom rewards are left out:
they may cost money.
"""

import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from grpo.config import load
from grpo.data.example import Example, Passage, Style, load_examples
from grpo.data.sentences import sentences, statements
from grpo.data.text import REFUSAL, REFUSALS, contains, drop_footnotes, strip_citations
from grpo.errors import UserError
from grpo.types import Completion, Group
from rewards.answer import accepted_answers
from rewards.config import PRESETS, RewardConfig, RewardRecipe
from rewards.judges.base import Judge
from rewards.reference_answers import reference_answer
from rewards.scorer import RewardScorer

MOST_QUESTIONS = 300  # of a file, the first ones; an audit asks the judge about some thirty pairs for each

HONEST = "honest"
"""The policy that should win: right answers with the right citations, and the refusal sentence elsewhere."""

PASSAGES = (
    Passage(
        title="Halden Mill",
        text="Halden Mill stands on the river Orra. It was built in 1846. Halden Mill ground rye for nine villages. "
        "Its wheel is made of oak. A flood broke the lower floor in spring. The building is a museum today.",
    ),
    Passage(
        title="Mara Fenwick",
        text="Mara Fenwick was a carpenter from Port Alder. She wrote The Glass Orchard in her last years. Her sister "
        "Ines Fenwick painted harbors. Both kept bees behind the house. Mara Fenwick also wrote Low Water. She is "
        "buried beside the chapel.",
    ),
    Passage(
        title="Orra",
        text="The river Orra rises in the Sable Hills. It is 212 kilometers long. Salmon return to it each autumn. Two "
        "dams hold back its upper course. The towpath was closed for decades. Barges carry gravel to the coast.",
    ),
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its honest answer, the refusal sentence where no passage holds an answer."""

    example: Example
    honest: str
    wrong: str  # rightly cited, and not what was asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Mean rewards of one policy."""

    policy: str
    answerable: float  # nan without such questions
    unanswerable: float
    alone: float  # the same as `mean`, of groups that have only this policy

    @property
    def mean(self) -> float:
        """The mean of answerable and unanswerable, or the one that is there."""
        return _mean_of(self.answerable, self.unanswerable)

    def compared_with(self, honest: "Row") -> str:
        """Whether the policy earns more than honesty ("beats") or as much ("ties"), in a mixed group or alone."""
        slack = 1e-9
        gain = max(self.mean - honest.mean, self.alone - honest.alone)
        return "beats" if gain > slack else "ties" if gain > -slack else ""


def _question(
    number: int, question: str, answers: Mapping[str, int], honest: str, wrong: str, style: Style = "prose"
) -> Question:
    """`answers` maps each gold answer to the number of the passage that holds it, or to 0."""
    example = Example(
        id=f"audit-{number}",
        question=question,
        passages=PASSAGES,
        answers=tuple((answer,) for answer in answers),
        found=tuple(tuple(held == p for held in answers.values()) for p in range(1, len(PASSAGES) + 1)),
        style=style,
        source="audit",
    )
    return Question(example, honest, wrong)


QUESTIONS = (
    _question(1, "When was Halden Mill built?", {"1846": 1}, "Halden Mill was built in 1846 [1].", "Orra [3]."),
    _question(
        2,
        "Where does the Orra rise, and how long is it?",
        {"Sable Hills": 3, "212 kilometers": 3},
        "The river Orra rises in the Sable Hills [3]. It is 212 kilometers long [3].",
        "Halden Mill stands on the river Orra [1].",
    ),
    _question(
        3,
        "Which books did Mara Fenwick write?",
        {"The Glass Orchard": 2, "Low Water": 2},
        "The Glass Orchard [2], Low Water [2].",
        "Halden Mill [1].",
        "list",
    ),
    _question(
        4,
        "What was Halden Mill used for?",
        {"Rye was ground in Halden Mill for nine villages.": 1},
        "Halden Mill ground rye for nine villages [1].",
        "Barges carry gravel to the coast [3].",
        "claims",
    ),
    _question(5, "Who owns Halden Mill?", {"Tove Lund": 0}, REFUSAL, "Mara Fenwick was a carpenter [2]."),
    _question(6, "Which songs did Ines Fenwick record?", {"North Pier": 0}, REFUSAL, "Low Water [2].", "list"),
)


def questions_of(examples: Sequence[Example], *, refusal: str = REFUSAL) -> list[Question]:
    """The user's questions. The honest answer is the reference answer of the warm-up; the wrong one copies a sentence
    without an answer, or the question where there is none.
    """
    return [Question(example, reference_answer(example, refusal=refusal), _wrong(example)) for example in examples]


def _wrong(example: Example) -> str:
    names = accepted_answers(example)
    for number, passage in enumerate(example.passages, 1):
        for said, _ in statements(drop_footnotes(passage.text))[0]:
            if not contains(said, names) and (example.style != "claims" or not any(example.found[number - 1])):
                return f"{said.rstrip('.')} [{number}]."
    return f"{example.question} [1]."


def _everywhere(question: Question) -> range:
    return range(1, len(question.example.passages) + 1)


def _sentences(question: Question, number: int) -> list[str]:
    passage = question.example.passages[number - 1]
    return [said.rstrip(".") for said, _ in statements(drop_footnotes(passage.text))[0]]


def _copy(question: Question, numbers: Iterable[int]) -> str:
    """These passages, each sentence with its citation."""
    return " ".join(f"{said} [{n}]." for n in numbers for said in _sentences(question, n))


def _run_on(question: Question, numbers: Sequence[int]) -> str:
    """These passages as one sentence that cites them all."""
    joined = "; ".join(said for n in numbers for said in _sentences(question, n))
    return f"{joined} {''.join(f'[{n}]' for n in numbers)}."


def _cite(question: Question, numbers: Iterable[int]) -> str:
    return re.sub(r"\[\d+\]", "".join(f"[{n}]" for n in numbers), question.honest)


def _another(question: Question) -> int:
    """The number of a passage beside the holder; one that does not exist where there is only one."""
    count = len(question.example.passages)
    return _holder(question) % count + 1 if count > 1 else 2


def _holder(question: Question) -> int:
    """The first passage that holds an answer, or else the first passage."""
    return next((n for n, row in enumerate(question.example.found, 1) if any(row)), 1)


def _repeat(question: Question) -> str:
    if not question.example.answerable:
        return REFUSAL
    if question.example.style == "list":
        return ", ".join([question.honest.split(", ")[0]] * 8)
    return " ".join([sentences(question.honest)[0]] * 8)


def _gold_dump(question: Question) -> str:
    separator = ", " if question.example.style == "list" else ". "
    return separator.join(spellings[0].rstrip(".") for spellings in question.example.answers) + "."


POLICIES: Mapping[str, Callable[[Question], str]] = {
    HONEST: lambda q: q.honest,
    "always refuse": lambda q: REFUSAL,
    "never refuse, wrong": lambda q: q.wrong,
    "refuse, then answer": lambda q: f"{REFUSAL} {q.honest if q.example.answerable else q.wrong}",
    "cite everything": lambda q: _cite(q, _everywhere(q)),
    "cite nothing": lambda q: strip_citations(q.honest),
    "cite another passage": lambda q: _cite(q, [_another(q)]),
    "copy a passage": lambda q: _copy(q, [_holder(q)]),
    "copy all passages": lambda q: _copy(q, _everywhere(q)),
    "run-on copy": lambda q: _run_on(q, _everywhere(q)),
    "run-on copy per passage": lambda q: " ".join(_run_on(q, [n]) for n in _everywhere(q)),
    "repeat one sentence": _repeat,
    "gold dump": _gold_dump,
    "empty": lambda q: "",
}
"""The answer of each policy to a question."""

TAGS_ONLY = "tags only"


def audit(
    config: RewardConfig,
    *,
    reasoning: bool,
    refusals: Sequence[str] = REFUSALS,
    judge: Judge | None = None,
    questions: Sequence[Question] = QUESTIONS,
) -> list[Row]:
    """The rows of all policies, best mean first, and of equals the honest one. `judge` replaces `config.judge`.

    Policies refuse with the first of `refusals`.
    """
    score = RewardScorer(config, reasoning=reasoning, refusals=refusals, judge=judge, custom=())
    names = [*POLICIES, *([TAGS_ONLY] if reasoning else [])]
    form = {"reasoning": reasoning, "refusal": refusals[0]}
    texts = [[_completion(name, question, **form) for name in names] for question in questions]
    groups = [_group(question, row) for question, row in zip(questions, texts, strict=True)]
    groups += [_group(question, [text] * 2) for question, row in zip(questions, texts, strict=True) for text in row]
    scores = score(groups)
    mixed, alone = scores[: len(questions)], scores[len(questions) :]
    rows = []
    for n, name in enumerate(names):
        answerable, unanswerable = _means(questions, [group[n].total for group in mixed])
        means = _means(questions, [group[0].total for group in alone[n :: len(names)]])
        rows.append(Row(policy=name, answerable=answerable, unanswerable=unanswerable, alone=_mean_of(*means)))
    return sorted(rows, key=lambda row: (-row.mean, row.policy != HONEST))


def policies_that_beat_honesty(rows: Sequence[Row]) -> list[str]:
    """The policies of an audit that earn more than the honest one, in a mixed group or alone, the best mean first."""
    honest = next(row for row in rows if row.policy == HONEST)
    return [row.policy for row in rows if row.compared_with(honest) == "beats"]


def table(rows: Sequence[Row], *, title: str = "reward audit") -> Table:
    """The rows as a table, with a mark at every policy that earns as much as the honest one."""
    honest = next(row for row in rows if row.policy == HONEST)
    shown = Table(title=f"{title}: mean reward by policy", title_justify="left", box=box.SIMPLE, pad_edge=False)
    for column in ("policy", "answerable", "unanswerable", "mean", "alone", "vs honest"):
        shown.add_column(column, justify="left" if column in ("policy", "vs honest") else "right", no_wrap=True)
    for row in rows:
        numbers = [
            "" if math.isnan(value) else f"{value:.2f}"
            for value in (row.answerable, row.unanswerable, row.mean, row.alone)
        ]
        shown.add_row(row.policy, *numbers, "" if row is honest else row.compared_with(honest))
    return shown


def _completion(policy: str, question: Question, *, reasoning: bool, refusal: str) -> Completion:
    text = "" if policy == TAGS_ONLY else POLICIES[policy](question).replace(REFUSAL, refusal)
    if reasoning and (text or policy == TAGS_ONLY):
        text = f"<think>\n{strip_citations(text)}\n</think>\n<answer>\n{text}\n</answer>"
    return Completion(text=text, token_ids=(), logprobs=(), finish="stop", version=0)


def _group(question: Question, completions: Sequence[Completion]) -> Group:
    return Group(example=question.example, prompt_ids=(), completions=tuple(completions))


def _means(questions: Sequence[Question], totals: Sequence[float]) -> tuple[float, float]:
    """Means over the answerable and over the unanswerable questions; nan where there are none."""
    halves: dict[bool, list[float]] = {True: [], False: []}
    for question, total in zip(questions, totals, strict=True):
        halves[question.example.answerable].append(total)
    answerable, unanswerable = (sum(half) / len(half) if half else math.nan for half in (halves[True], halves[False]))
    return answerable, unanswerable


def _mean_of(*values: float) -> float:
    """The mean of those that are not nan."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known)


def main(argv: Sequence[str]) -> int:
    """Print the table of the recipes and overrides together, or of every preset if there are none."""
    console = Console()
    files = [word for word in argv if not word.startswith("-") and not word.endswith(".toml")]
    try:
        examples = [example for file in files for example in load_examples(file)][:MOST_QUESTIONS]
        with_passages = [example for example in examples if example.style != "closed"]
        if files and not with_passages:
            raise UserError(f"{', '.join(files)}: no question with passages; the audit needs some")
        if files:
            console.print(f"{len(with_passages)} questions of {', '.join(files)}")
        if argv:
            recipe = load(RewardRecipe, [word for word in argv if word not in files])
            questions = questions_of(with_passages, refusal=recipe.model.refusals[0]) if files else QUESTIONS
            rows = audit(recipe.reward, **recipe.model.model_dump(), questions=questions)
            console.print(table(rows, title=" + ".join(argv)))
            if custom := [name for name in recipe.reward.weights if ":" in name]:
                console.print(f"left out: {', '.join(custom)}")
            return 0
        for name, config in PRESETS.items():
            console.print(table(audit(config, reasoning=True), title=name))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
