"""What would a policy earn that games the reward? Degenerate policies and an honest one, scored before training.

    python -m rewards.audit configs/stage2.toml configs/models/qwen3-8b.toml --reward.citation_penalty=0
    python -m rewards.audit                              every preset of rewards/presets.py

Six questions with three passages each, two of them unanswerable. Every policy is scored twice: together with all
others, the honest one included, as it would be found while the model still explores; and `alone`, in a group that has
only itself, as when the model has collapsed into it. The two differ for rewards that look at the group. The passages
have six sentences, so that copying one whole is padding; of a two-sentence passage it earns what honesty earns, and the
field's metric sees no difference either. Every policy thinks what it says, word for word. Rewards of the user's own are
left out: they know their own data, and may cost money.
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from grpo.config import load
from grpo.data.example import Example, Passage, Style
from grpo.data.text import REFUSAL, sentences, strip_citations
from grpo.errors import UserError
from grpo.types import Completion
from rewards.config import RewardSettings
from rewards.judges.base import Verifier
from rewards.presets import PRESETS
from rewards.scorer import compose

HONEST = "honest"
"""The policy that should win: right answers with the citations that hold them, the refusal sentence elsewhere."""

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
    """A question with what an honest model answers; the refusal sentence where no passage holds it."""

    example: Example
    honest: str
    wrong: str  # cited rightly, and not what was asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Mean rewards of one policy."""

    policy: str
    answerable: float  # together
    unanswerable: float  # together
    mean: float  # of the two
    alone: float  # the same mean, of groups that have only this policy


def _question(
    number: int, question: str, answers: Mapping[str, int], honest: str, wrong: str, style: Style = "prose"
) -> Question:
    """`answers` maps each gold answer to the passage that holds it; 0 is none."""
    found = tuple(tuple(held == p for held in answers.values()) for p in range(1, len(PASSAGES) + 1))
    gold = tuple((answer,) for answer in answers)
    example = Example(
        id=f"audit-{number}",
        question=question,
        passages=PASSAGES,
        answers=gold,
        found=found,
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


def _copied(*numbers: int) -> str:
    """These passages whole, each sentence with its citation."""
    return " ".join(f"{s[:-1]} [{n}]." for n in numbers for s in sentences(PASSAGES[n - 1].text))


def _run_on(*numbers: int) -> str:
    """These passages whole, as one sentence that cites them all."""
    joined = "; ".join(s[:-1] for n in numbers for s in sentences(PASSAGES[n - 1].text))
    return f"{joined} {''.join(f'[{n}]' for n in numbers)}."


def _cited(question: Question, marks: str) -> str:
    return re.sub(r"\[\d+\]", marks, question.honest)


def _holder(question: Question) -> int:
    """The first passage that holds an answer; the first of all where none does."""
    return next((n for n, row in enumerate(question.example.found, 1) if any(row)), 1)


def _repeated(question: Question) -> str:
    glue = ", " if question.example.style == "list" else " "
    first = question.honest.split(", ")[0] if glue == ", " else sentences(question.honest)[0]
    return glue.join([first] * 8) if question.example.answerable else REFUSAL


def _gold_dump(question: Question) -> str:
    glue = ", " if question.example.style == "list" else ". "
    return glue.join(spellings[0].rstrip(".") for spellings in question.example.answers) + "."


POLICIES: Mapping[str, Callable[[Question], str]] = {
    HONEST: lambda q: q.honest,
    "always refuse": lambda q: REFUSAL,
    "never refuse, wrong": lambda q: q.wrong,
    "refuse, then answer": lambda q: f"{REFUSAL} {q.honest if q.example.answerable else q.wrong}",
    "cite everything": lambda q: _cited(q, "[1][2][3]"),
    "cite nothing": lambda q: strip_citations(q.honest),
    "cite another passage": lambda q: _cited(q, f"[{_holder(q) % len(PASSAGES) + 1}]"),
    "copy a passage": lambda q: _copied(_holder(q)),
    "copy all passages": lambda q: _copied(1, 2, 3),
    "run-on copy": lambda q: _run_on(1, 2, 3),
    "run-on copy per passage": lambda q: " ".join(_run_on(n) for n in (1, 2, 3)),
    "repeat one sentence": _repeated,
    "gold dump": _gold_dump,
    "empty": lambda q: "",
}
"""What each policy writes as its answer."""

TAGS_ONLY = "tags only"


def audit(settings: RewardSettings, *, reasoning: bool, verifier: Verifier | None = None) -> list[Row]:
    """What every policy earns under these settings, the best mean first; of equals the honest one.

    `verifier` overrides the settings' name with an object that is already there.
    """
    ours = {name: weight for name, weight in settings.weights.items() if ":" not in name}
    score = compose(settings.model_copy(update={"weights": ours}), reasoning=reasoning, verifier=verifier)
    names = [*POLICIES, *([TAGS_ONLY] if reasoning else [])]
    together: dict[str, list[float]] = {name: [] for name in names}
    alone: dict[str, list[float]] = {name: [] for name in names}
    for question in QUESTIONS:
        written = [_completion(name, question, reasoning=reasoning) for name in names]
        for name, text, scored in zip(names, written, score(question.example, written), strict=True):
            together[name].append(scored.total)
            alone[name].append(score(question.example, [text, text])[0].total)
    rows = [_row(name, together[name], alone[name]) for name in names]
    return sorted(rows, key=lambda row: (-row.mean, row.policy != HONEST))


def _completion(name: str, question: Question, *, reasoning: bool) -> Completion:
    said = "" if name == TAGS_ONLY else POLICIES[name](question)
    if reasoning and (said or name == TAGS_ONLY):
        said = f"<think>\n{strip_citations(said)}\n</think>\n<answer>\n{said}\n</answer>"
    return Completion(text=said, token_ids=(), logprobs=(), finish="stop", version=0)


def _row(name: str, together: Sequence[float], alone: Sequence[float]) -> Row:
    answerable, unanswerable = _halves(together)
    return Row(
        policy=name,
        answerable=answerable,
        unanswerable=unanswerable,
        mean=(answerable + unanswerable) / 2,
        alone=sum(_halves(alone)) / 2,
    )


def _halves(totals: Sequence[float]) -> tuple[float, float]:
    """Means over the answerable and over the unanswerable questions."""
    halves = [
        [total for question, total in zip(QUESTIONS, totals, strict=True) if question.example.answerable is kind]
        for kind in (True, False)
    ]
    return sum(halves[0]) / len(halves[0]), sum(halves[1]) / len(halves[1])


def table(rows: Sequence[Row], *, title: str = "reward audit") -> Table:
    """The rows as a table, with a mark at every policy that earns as much as the honest one, together or alone."""
    honest = next(row for row in rows if row.policy == HONEST)
    shown = Table(title=f"{title}: mean reward by policy", title_justify="left", box=box.SIMPLE)
    for column in ("policy", "answerable", "unanswerable", "mean", "alone", "vs honest"):
        shown.add_column(column, justify="left" if column in ("policy", "vs honest") else "right", no_wrap=True)
    for row in rows:
        numbers = [f"{value:.2f}" for value in (row.answerable, row.unanswerable, row.mean, row.alone)]
        shown.add_row(row.policy, *numbers, "" if row is honest else _mark(row, honest))
    return shown


def _mark(row: Row, honest: Row) -> str:
    slack = 1e-9
    if row.mean > honest.mean + slack or row.alone > honest.alone + slack:
        return "beats"
    return "ties" if row.mean > honest.mean - slack or row.alone > honest.alone - slack else ""


def main(argv: Sequence[str]) -> int:
    """Print the table of the recipes and overrides together, or one for each preset where none is named."""
    from launch.config.recipe import Recipe  # the program reads recipes as training does; the library above knows none

    console = Console()
    try:
        if argv:
            recipe = load(Recipe, argv)
            rows = audit(recipe.reward, reasoning=recipe.model.reasoning)
            console.print(table(rows, title=" + ".join(argv)))
            if own := [name for name in recipe.reward.weights if ":" in name]:
                console.print(f"left out: {', '.join(own)}")
            return 0
        for name, settings in PRESETS.items():
            console.print(table(audit(settings, reasoning=True), title=name))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
