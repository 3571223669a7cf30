"""Grounded examples from question-answer pairs: retrieve hard distractors, look for the answer, make both forms.

    python -m curriculum.build QUESTIONS.json --out EXAMPLES.jsonl [--pool PASSAGES.json] [--nli NAME] ...

The questions have one of the shapes of `curriculum.datasets.qa_formats`. The pool is every passage of theirs and of
`--pool`, once;
a question's distractors are those that came with it, then those of the pool that BM25 ranks highest for it. Whether a
passage holds the answer is looked up in the text that the model will see, the gold passage included: of NQ's 2,591
usable questions 331 have an accepted answer in one of their four nearest distractors.
"""

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import floor
from pathlib import Path
from typing import Literal

from curriculum.datasets.qa_formats import Asked, read_pool, read_questions
from curriculum.jsonl import check_free, to_record, write_jsonl
from curriculum.retrieval import BM25Index, passage_key
from curriculum.truncate import truncate_passage
from curriculum.variants import Entails, Question, Variants, entailed_variants, make_variants
from grpo.data.example import Example, Passage
from grpo.data.text import contains, normalize
from grpo.errors import UserError
from grpo.telemetry.console import Console

# Normalized characters: "7" or "us" stands in most passages by accident. A question with any spelling so short is not
# used: looked up, the spelling would be found where it is not meant; left out, a passage that has only it would be
# taken for one without an answer.
MIN_ANSWER = 3
SHORT_ANSWER = f"with an answer of fewer than {MIN_ANSWER} characters"
GOLD_WITHOUT_ANSWER = "with no answer in the gold passage"
LONG_ANSWER = "with an answer longer than max_words"
ASKED_BEFORE = "asked before"
MARKED = "marked as unanswerable"
MUCH_SUPPORT = "that take more passages than an example has"
NOT_ENTAILED = "with an answer that no passage entails"
NO_FORM = "with too few passages for either form"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What became of the questions: `read` = `kept` + all `dropped`. Examples: `answerable` + `unanswerable`."""

    read: int  # 2655 questions
    kept: int  # 2591 of them
    dropped: Mapping[str, int]  # {"with an answer of fewer than 3 characters": 64, ...}: questions by reason
    short_answers: int  # 68 spellings are that short, in the questions dropped for it
    pool: int  # 2526 passages to draw distractors from
    duplicate_passages: int  # 65 more say what one of them says
    answerable: int  # 2591 examples
    unanswerable: int  # 2591 examples
    without_refusal: int  # 0 kept questions lack an unanswerable form: too few passages are free of their answer
    distractors_with_answer: int  # 263 answerable examples of which some distractor holds an answer too

    def __str__(self) -> str:
        dropped = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items()) or "none"
        share = 100 * self.distractors_with_answer / max(self.answerable, 1)
        return (
            f"{self.read} questions, {self.kept} kept (dropped: {dropped}); {self.answerable} answerable examples, "
            f"{self.distractors_with_answer} of them with an answer in a distractor ({share:.1f} %), "
            f"{self.unanswerable} unanswerable; {self.short_answers} short spellings; "
            f"{self.pool} passages in the pool, {self.duplicate_passages} duplicates"
        )


def build_from_qa(
    path: str | Path,
    *,
    passages: int = 3,
    unanswerable: float | Literal["any"] = 0.5,
    seed: int = 0,
    max_words: int | None = None,
    source: str = "nq",
    pool: str | Path | None = None,
    entails: Entails | None = None,
) -> tuple[list[Example], BuildReport]:
    """Examples of `passages` passages each; the share `unanswerable` of them, to within one example, is to be refused.

    A question's answerable form, "nq-000017" after its record number, has its gold passages at uniformly random
    places among distractors. Its unanswerable form, "nq-000017-u", has only passages in whose title and text no
    accepted answer is found. As many examples as the share allows are made: at one half, both forms of every question;
    with "any" every form that there is, for a share that is drawn later (`curriculum.mixing.mix`). The same files,
    arguments and seed give the same examples in the same order.

    `max_words` cuts each passage to that many words, around the answer where it holds the one to its own question: the
    distractors just like the gold passage, so that the cut does not give the gold passage away. `entails` is a judge,
    pairs of premise and hypothesis to probabilities: an answer is then found where it is spelled and the passage also
    entails the question with it (Trust-Align, appendix B), above 0.5.
    """
    if passages < 1 or not _is_share(unanswerable) or (max_words is not None and max_words < 1):
        raise UserError(
            f"passages = {passages}, unanswerable = {unanswerable}, max_words = {max_words}; "
            "expected passages >= 1, 0 <= unanswerable <= 1 and max_words >= 1 or none"
        )
    read = _read(path, passages, max_words, seed)
    among = _pool(read.questions, pool, max_words, seed)
    if len(among.passages) < passages:
        raise UserError(
            f"{path}: passages = {passages}, but it has {len(among.passages)} usable ones; expected at most that"
            f"{' or a larger --pool' if pool else ' or a --pool'}"
        )
    forms = [make_variants(among, question, passages, source, seed) for question in read.questions]
    if entails:
        forms, unsupported = entailed_variants(forms, entails)
        read.dropped.update({NOT_ENTAILED: unsupported} if unsupported else {})
    made = [pair for pair in forms if pair != (None, None)]
    if len(made) < len(forms):
        read.dropped[NO_FORM] += len(forms) - len(made)
    if not made:
        raise _nothing_left(path, read.dropped)
    return _chosen(made, unanswerable, seed, read, among)


def _is_share(unanswerable: float | Literal["any"]) -> bool:
    return unanswerable == "any" or 0 <= unanswerable <= 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    questions: list[Question]
    dropped: Counter[str]
    short_answers: int


def _read(path: str | Path, passages: int, max_words: int | None, seed: int) -> _Read:
    questions: list[Question] = []
    dropped: Counter[str] = Counter()
    short_answers = 0
    before: set[str] = set()
    for asked in read_questions(path):
        short = [answer for answer in asked.answers if len(normalize(answer)) < MIN_ANSWER]
        short_answers += len(short)
        key = normalize(asked.text) or asked.text
        rng = random.Random(f"{seed} cut {asked.number}")
        question = SHORT_ANSWER if short or not asked.answers else _usable(asked, passages, max_words, rng)
        if isinstance(question, str):
            dropped[question] += 1
        elif key in before:
            dropped[ASKED_BEFORE] += 1
        else:
            before.add(key)
            questions.append(question)
    if not questions:
        raise _nothing_left(path, dropped)
    return _Read(questions=questions, dropped=dropped, short_answers=short_answers)


def _nothing_left(path: str | Path, dropped: Mapping[str, int]) -> UserError:
    return UserError(
        f"{path}: no question can be used ({dict(dropped)}); expected an answer that its gold passage holds"
    )


def _usable(asked: Asked, passages: int, max_words: int | None, rng: random.Random) -> Question | str:
    """The question with its passages as they will be seen, or why it cannot be used."""
    answers = asked.answers
    if asked.marked:
        return MARKED
    if len(asked.gold) > passages:
        return MUCH_SUPPORT
    if asked.gold and not any(contains(passage.text, answers) for passage in asked.gold):
        return GOLD_WITHOUT_ANSWER
    seen: dict[str, tuple[Passage, Passage | None]] = {}  # a log may hold a passage twice
    for whole in (*asked.gold, *asked.others):
        if passage_key(whole) not in seen:
            seen[passage_key(whole)] = (whole, truncate_passage(whole, answers, max_words, rng))
    needed = {passage_key(passage) for passage in asked.gold}
    gold = [(whole, shown) for key, (whole, shown) in seen.items() if key in needed and shown]
    others = [(whole, shown) for key, (whole, shown) in seen.items() if key not in needed and shown]
    if len(gold) < len(needed) or not (gold or others):
        return LONG_ANSWER
    return Question(
        asked=replace(asked, gold=tuple(whole for whole, _ in gold), others=tuple(whole for whole, _ in others)),
        answers=answers,
        gold=tuple(shown for _, shown in gold),
        others=tuple(shown for _, shown in others),
    )


def _pool(questions: Sequence[Question], path: str | Path | None, max_words: int | None, seed: int) -> BM25Index:
    """Every passage of the questions, gold ones first, then those of a file."""
    pairs: list[tuple[Passage, Passage]] = []
    for question in questions:
        pairs += zip(question.asked.gold, question.gold, strict=True)
    for question in questions:
        pairs += zip(question.asked.others, question.others, strict=True)
    rng = random.Random(f"{seed} pool")
    for passage in read_pool(path) if path else ():
        shown = truncate_passage(passage, (), max_words, rng)
        pairs.append((passage, shown or passage))
    return BM25Index(pairs)


def _chosen(
    forms: Sequence[Variants], share: float | Literal["any"], seed: int, read: _Read, pool: BM25Index
) -> tuple[list[Example], BuildReport]:
    answerable = [place for place, (with_gold, _) in enumerate(forms) if with_gold]
    refusable = [place for place, (_, without) in enumerate(forms) if without]
    answered, refused = _choose(answerable, refusable, share, random.Random(f"{seed} forms"))
    examples: list[Example] = []
    for place, (with_gold, without) in enumerate(forms):
        examples += [with_gold] if with_gold and place in answered else []
        examples += [without] if without and place in refused else []
    return examples, BuildReport(
        read=len(forms) + read.dropped.total(),
        kept=len(forms),
        dropped=dict(read.dropped),
        short_answers=read.short_answers,
        pool=len(pool.passages),
        duplicate_passages=pool.duplicates,
        answerable=len(answered),
        unanswerable=len(refused),
        without_refusal=len(forms) - len(refusable),
        distractors_with_answer=sum(len(e.passages_with(0)) > 1 for e in examples if e.answerable),
    )


def _choose(
    answerable: Sequence[int], refusable: Sequence[int], share: float | Literal["any"], rng: random.Random
) -> tuple[set[int], set[int]]:
    """Which questions get their answerable and which their unanswerable form: as many as give the share."""
    if share == "any":
        return set(answerable), set(refusable)
    total = min(
        len(answerable) / (1 - share) if share < 1 else float("inf"),
        len(refusable) / share if share > 0 else float("inf"),
    )
    total = floor(total + 1e-9)  # 1 / (1 - 2 / 3) is a little less than 3
    refused = round(total * share)
    if total < 1:
        valid = "0, or a larger file" if answerable else "1, or questions whose passages hold the answer"
        short = "every passage holds an answer" if answerable else "no passage holds one"
        raise UserError(f"unanswerable = {share}, but {short}; expected {valid}")
    return set(rng.sample(answerable, total - refused)), set(rng.sample(refusable, refused))


def main(argv: Sequence[str]) -> int:
    """Build, write the examples and, beside them, the report as JSON."""
    parser = argparse.ArgumentParser(prog="python -m curriculum.build", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("questions", help="question-answer pairs: NQ-open-oracle, HotpotQA, MuSiQue, or a RAG log")
    parser.add_argument("--out", required=True, metavar="FILE.jsonl", help="a new file for the examples")
    parser.add_argument("--pool", metavar="FILE", help="more passages to draw distractors from (title, text)")
    parser.add_argument("--passages", type=int, default=5, help="of an example (default 5, as in the paper)")
    parser.add_argument("--unanswerable", type=float, default=0.5, metavar="SHARE", help="default 0.5")
    parser.add_argument("--max-words", type=int, metavar="N", help="cut passages to so many words")
    parser.add_argument("--source", default="qa", help="name for ids and for metrics by source (default qa)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nli", metavar="NAME", help="a judge that must agree with what is spelled, such as lexical")
    wanted = parser.parse_args(argv)
    console = Console()
    try:
        out = Path(wanted.out)
        beside = out.with_suffix(".report.json")
        check_free(out)
        if beside.exists():
            raise UserError(f"{beside} is there already and is not overwritten; give another --out")
        options = {name: getattr(wanted, name) for name in ("passages", "unanswerable", "max_words", "source", "seed")}
        examples, report = build_from_qa(
            wanted.questions, pool=wanted.pool, entails=_judge(wanted.nli, console), **options
        )
        write_jsonl(out, map(to_record, examples))
        beside.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    except UserError as error:
        console.line(f"error: {error}")
        return 2
    console.line(str(report))
    console.line(f"written      {out}, and what was dropped and why: {beside}")
    return 0


def _judge(name: str | None, console: Console) -> Entails | None:
    if name is None:
        return None
    from launch.builders.models import make_judge  # the program may load a model; the library is given a judge

    return make_judge(name, console=console).entails


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
