"""Grounded examples from rows of any format: labels are made, distractors retrieved, and both variants of a question.

A record's own passages are what its system has found: they are shown as they are. NQ, SQuAD and HotpotQA mark the
passages that it takes to answer. Their distractors are the record's other passages, then those that BM25 ranks highest.

Whether a passage holds the answer is looked up in the text that the model will see. Where the answer is a sentence, a
judge is asked (`curriculum.labels`). A question whose answer no passage supports is dropped and counted, unless the
record says that nothing answers it.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor
from pathlib import Path
from typing import Any, Literal

from curriculum.datasets import Flags, Row
from curriculum.datasets.fields import passages_of
from curriculum.labels import (
    Agreement,
    Question,
    claims_of,
    compare,
    free_of,
    is_refusal,
    is_sentence,
    items_of,
    label,
)
from curriculum.retrieval import BM25Index, passage_key, rank, shown_text
from curriculum.transforms import truncate_passage
from grpo.data.example import Example, Passage, Style, make_id, with_unique_id
from grpo.data.files import read_records
from grpo.data.sentences import sentences
from grpo.data.text import normalize, spelled, words
from grpo.errors import UserError
from rewards.judges.base import Judge

# Characters. "7" or "us" is in most passages by accident, so that looking it up says nothing; without such a spelling,
# a passage that has only this one would count as one without an answer. The question is dropped instead. Numbers of two
# digits and words of one Chinese sign are no accident.
MIN_ANSWER = 3
DEFAULT_PASSAGES = 3
CANDIDATES = 3  # passages of other questions that are looked at, for each that is needed
MOST_CANDIDATES = 50

WITHOUT_PASSAGES = "without passages"
SHORT_ANSWER = f"with an answer of fewer than {MIN_ANSWER} characters"
NO_SPELLING = "with an empty answer, or one of punctuation and articles"
GOLD_WITHOUT_ANSWER = "with no answer in the gold passage"
NOT_SUPPORTED = "with an answer that no passage supports"
CONTRADICTED = "marked as unanswerable, though a passage holds the answer"
LONG_ANSWER = "with an answer longer than max_words"
ASKED_BEFORE = "asked before"
MUCH_SUPPORT = "that take more passages than an example has"
NO_VARIANT = "with too few passages for either variant"

Share = float | Literal["any"]
Choice = Literal["found", "first"]

Variants = tuple[Example | None, Example | None]
"""A question with what answers it, and without; None if the passages do not suffice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What became of the questions: `read` = `kept` + all `dropped`. Examples: `answerable` + `unanswerable`."""

    read: int  # 2655 questions
    kept: int  # 2626 of them
    dropped: Mapping[str, int]  # {"with an answer of fewer than 3 characters": 29, ...}: questions by reason
    short_answers: int  # 29 spellings are that short, in the questions dropped for it
    pool: int  # 2559 passages to draw distractors from
    duplicate_passages: int  # 67 more have the text of one of them
    answerable: int  # 2626 examples
    unanswerable: int  # 2626 examples
    natural: int  # 100 of them are unanswerable as the source has them: marked, labelled or refused there
    empty_answers: int  # 40 of these have an empty answer and no mark
    without_refusal: int  # 0 kept questions lack an unanswerable variant: too few passages are free of their answer
    distractors_with_answer: int  # 328 answerable examples of which some distractor holds an answer too
    cut: int  # 12 questions have more passages than are shown
    passages: int | None  # 3 in each example whose distractors are retrieved; fewer if the source has no more
    by_judge: int  # 160 questions have sentences as answers, which a judge has labelled
    judge: str  # "lexical"
    agreement: Agreement | None = None  # with the labels of the file, where a judge was asked for new ones

    def __str__(self) -> str:
        dropped = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items()) or "none"
        text = f"{self.read} questions, {self.kept} kept (dropped: {dropped}); {self.answerable} answerable examples"
        if self.distractors_with_answer:
            share = 100 * self.distractors_with_answer / max(self.answerable, 1)
            text += f", {self.distractors_with_answer} of them with an answer in a distractor ({share:.1f} %)"
        text += f", {self.unanswerable} unanswerable"
        text += f" ({self.natural} as the source has them)" if self.natural else ""
        text += f"; {self.empty_answers} empty answers count as none" if self.empty_answers else ""
        text += f"; {self.short_answers} short spellings" if self.short_answers else ""
        text += f"; {self.cut} with more passages than are shown" if self.cut else ""
        text += f"; {self.passages} passages each" if self.passages else ""
        text += f"; {self.by_judge} answers are sentences, labelled by the judge {self.judge}" if self.by_judge else ""
        return f"{text}; {self.pool} passages in the pool, {self.duplicate_passages} duplicates" if self.pool else text


def build_examples(
    rows: Sequence[Row],
    *,
    judge: Judge,
    judge_name: str = "lexical",
    relabel: bool = False,
    passages: int | None = None,
    default_passages: int = DEFAULT_PASSAGES,
    choose: Choice = "found",
    variants: bool = True,
    unanswerable: Share = 0.5,
    seed: int = 0,
    max_words: int | None = None,
    source: str = "qa",
    pool: str | Path | None = None,
    refusals: Sequence[str] = (),
) -> tuple[list[Example], BuildReport]:
    """Examples of at most `passages` passages; the share `unanswerable` of them, within one example, is to be refused.

    A record's own passages are kept in their order. Of more than `passages` those are shown that hold an answer, then
    those that BM25 ranks highest; or the first ones, with `choose`. Marked gold passages stand at random positions
    among retrieved ones, `default_passages` together.

    With `variants` a question is also made into one to refuse: its own passages without an answer, then others in whose
    title and text no answer is found. As many examples as the share allows are made; with "any" all of them, for a
    share that is drawn later (`curriculum.mixing.mix`). `max_words` truncates passages around the answer. `relabel`
    asks the judge about every answer, also where the file has labels.
    """
    _check_arguments(passages, unanswerable, max_words)
    dropped: Counter[str] = Counter()
    maker = _Maker(
        passages=passages,
        size=passages or default_passages,
        choose=choose,
        variants=variants,
        max_words=max_words,
        seed=seed,
        source=source,
    )
    short_answers, usable = maker.usable(rows, refusals, dropped)
    labelled = label(usable, judge, relabel=relabel)
    supported: list[Question] = []
    for question in labelled:
        reason = _unsupported(question)
        dropped.update([reason] if reason else [])
        supported += [] if reason else [_without_refusal(question) if question.refused else question]
    if not supported:
        raise _nothing_usable(rows, dropped, judge_name)
    index = maker.index(labelled, pool) if variants or any(q.needed is not None for q in supported) else None
    if index:
        maker = replace(maker, size=min(maker.size, len(index.passages)))
    made = maker.variants_of(supported, index, judge)
    kept = [pair for pair in made if pair != (None, None)]
    dropped.update({NO_VARIANT: len(made) - len(kept)} if len(kept) < len(made) else {})
    if not kept:
        raise _nothing_usable(rows, dropped, judge_name)
    chosen = _choose(kept, unanswerable if variants else "any", random.Random(f"{seed} forms"))
    examples = _with_unique_ids(chosen)
    return examples, BuildReport(
        read=len(rows),
        kept=len(kept),
        dropped=dict(dropped),
        short_answers=short_answers,
        judge=judge_name,
        agreement=compare(labelled) if relabel else None,
        **_counts(maker, supported, kept, chosen, index),
    )


def _counts(
    maker: "_Maker",
    supported: Sequence[Question],
    kept: Sequence[Variants],
    chosen: Sequence[Example],
    index: BM25Index | None,
) -> dict[str, Any]:
    """The fields of the report that count the supported questions, their variants, and the examples chosen of them."""
    as_they_are = {id(without) for whole, without in kept if whole is None}
    answerable = [example for example in chosen if example.answerable]
    natural = [question for question in supported if not question.supported]
    own = [question for question in supported if question.needed is None]
    return {
        "pool": len(index.passages) if index else 0,
        "duplicate_passages": index.duplicates if index else 0,
        "answerable": len(answerable),
        "unanswerable": len(chosen) - len(answerable),
        "natural": sum(id(example) in as_they_are for example in chosen),
        "empty_answers": sum(not q.row.answers and not q.row.unanswerable and None in q.labels for q in natural),
        "without_refusal": sum(without is None for _, without in kept) if maker.variants else 0,
        "distractors_with_answer": sum(len(example.passages_with(0)) > 1 for example in answerable) if index else 0,
        "cut": sum(len(q.shown) > maker.passages for q in own) if maker.passages else 0,
        "passages": maker.size if len(own) < len(supported) else None,
        "by_judge": sum(question.style == "claims" and None in question.labels for question in supported),
    }


def read_pool(path: str | Path) -> list[Passage]:
    """The passages of a file of `{"title", "text"}` records."""
    return [
        passage
        for location, record in read_records(path)
        for passage in passages_of(location, {"passage": [record]}, "passage")
    ]


def _check_arguments(passages: int | None, unanswerable: Share, max_words: int | None) -> None:
    is_share = unanswerable == "any" or 0 <= unanswerable <= 1
    if (passages is not None and passages < 1) or not is_share or (max_words is not None and max_words < 1):
        raise UserError(
            f"passages = {passages}, unanswerable = {unanswerable}, max_words = {max_words}; "
            "expected passages >= 1, 0 <= unanswerable <= 1 and max_words >= 1 or none"
        )


def _unsupported(question: Question) -> str | None:
    """Why a labelled question is dropped; None if it is kept."""
    if question.row.unanswerable:
        return CONTRADICTED if question.supported else None
    if question.needed and not any(any(question.found[place]) for place in question.needed):
        return GOLD_WITHOUT_ANSWER
    if not question.answers or question.supported:
        return None
    return NOT_SUPPORTED if None in question.labels else None


def _nothing_usable(rows: Sequence[Row], dropped: Mapping[str, int], judge: str) -> UserError:
    where = rows[0].location if rows else "the source"
    valid = "an answer that a passage holds"
    if dropped.get(NOT_SUPPORTED):
        valid += f", or another judge than {judge} for sentences: --data.label_with, in curriculum.build --label-with"
    if dropped.get(WITHOUT_PASSAGES):
        valid += "; questions without passages are closed-book: style closed"
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
    return UserError(f"{where}: no question can be used ({reasons}); expected {valid}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Maker:
    """The settings by which questions and examples are made."""

    passages: int | None
    size: int  # passages of a question whose distractors are retrieved
    choose: Choice
    variants: bool
    max_words: int | None
    seed: int
    source: str

    def usable(self, rows: Sequence[Row], refusals: Sequence[str], dropped: Counter[str]) -> tuple[int, list[Question]]:
        """How many spellings are too short, and the usable questions. The others are counted in `dropped` by reason."""
        questions: list[Question] = []
        short_answers = 0
        seen: set[str] = set()
        for number, given in enumerate(rows, 1):
            refusal = _refusal_of(given, refusals)
            row = refusal or given
            short = sum(map(_is_short, row.answers[0])) if not refusal and _is_looked_up(row) else 0
            short_answers += short
            question = SHORT_ANSWER if short else self._question(row, number, refused=refusal is not None)
            key = normalize(row.question) or row.question
            if isinstance(question, str):
                dropped[question] += 1
            elif self.variants and key in seen:
                dropped[ASKED_BEFORE] += 1
            else:
                seen.add(key)
                questions.append(question)
        return short_answers, questions

    def _question(self, row: Row, number: int, *, refused: bool) -> Question | str:
        """The question with its passages as the model will see them, or the reason why it cannot be used."""
        if row.needed is not None and len(row.needed) > self.size:
            return MUCH_SUPPORT
        if not row.passages and row.style != "closed":
            return WITHOUT_PASSAGES
        if row.answers and not any(normalize(text) for spellings in row.answers for text in spellings):
            return NO_SPELLING
        answers, style = _answers_and_style(replace(row, style=None) if refused else row)
        kept: dict[str, tuple[int, Passage]] = {}  # by key, since a log may hold a passage twice
        rng = random.Random(f"{self.seed} cut {number}")
        labelled = any(label is not None for label in row.labels)
        limit = None if labelled else self.max_words  # a label is true of the whole passage only
        for place, passage in enumerate(row.passages):
            key = passage_key(passage) if self.variants else str(place)
            if key in kept:
                continue
            targets = _longest_sentence(passage, answers, limit) if style == "claims" else answers
            shown = truncate_passage(passage, tuple(s for spellings in targets for s in spellings), limit, rng)
            if shown:
                kept[key] = (place, shown)
        needed = row.needed
        places = [place for place, _ in kept.values()]
        if (not kept and row.style != "closed") or (needed is not None and not needed <= set(places)):
            return LONG_ANSWER
        labels = row.labels or (None,) * len(row.passages)
        return Question(
            row=row,
            number=number,
            refused=refused,
            answers=answers,
            style=style,
            whole=tuple(row.passages[place] for place in places),
            shown=tuple(shown for _, shown in kept.values()),
            needed=None if needed is None else frozenset(n for n, place in enumerate(places) if place in needed),
            labels=tuple(_fitting(labels[place], len(answers)) for place in places),
        )

    def index(self, questions: Sequence[Question], pool: str | Path | None) -> BM25Index:
        """Every passage of the questions, gold passages first, then those of a file."""
        gold: list[tuple[Passage, Passage]] = []
        others: list[tuple[Passage, Passage]] = []
        for question in questions:
            for place, pair in enumerate(zip(question.whole, question.shown, strict=True)):
                (gold if place in (question.needed or ()) else others).append(pair)
        rng = random.Random(f"{self.seed} pool")
        more = [(p, truncate_passage(p, (), self.max_words, rng) or p) for p in (read_pool(pool) if pool else ())]
        return BM25Index([*gold, *others, *more])

    def variants_of(self, questions: Sequence[Question], index: BM25Index | None, judge: Judge) -> list[Variants]:
        """Each question as it can be answered, if it can, and as one to refuse, if there are passages for that."""
        nearest = [self._nearest(question, index) if index else [] for question in questions]
        asked = [
            (question, index.passages[place])
            for question, places in zip(questions, nearest, strict=True)
            for place in places
            if index and question.style == "claims"
        ]
        free = {(q.number, passage): ok for (q, passage), ok in zip(asked, free_of(asked, judge), strict=True)}
        made: list[Variants] = []
        for question, places in zip(questions, nearest, strict=True):
            others = [index.passages[place] for place in places] if index else []
            if question.style == "claims":
                unheld = [passage for passage in others if free[question.number, passage]]
            else:
                keys = [words(spelling) for spellings in question.answers for spelling in spellings]
                unheld = [index.passages[p] for p in places if not index.holds(p, keys)] if index else []
            made.append(self._pair(question, others, unheld))
        return made

    def _nearest(self, question: Question, index: BM25Index) -> list[int]:
        """Places in the index of the passages of others that BM25 ranks highest; for SQuAD's unanswerable questions
        those with another title, since nobody has looked for their answer in the rest of the article."""
        own = {*map(passage_key, question.whole), *map(passage_key, question.shown)}
        titles = {p.title for p in question.shown if p.title} if question.row.unanswerable and question.needed else ()
        found: list[int] = []
        free = 0
        keys = [words(spelling) for spellings in question.answers for spelling in spellings]
        for place in index.search(question.row.question, without=own):
            if free >= CANDIDATES * self._count(question) or len(found) >= MOST_CANDIDATES:
                break
            if index.passages[place].title not in titles:
                found.append(place)
                free += question.style == "claims" or not index.holds(place, keys)
        return found

    def _count(self, question: Question) -> int:
        """How many passages its examples have."""
        return (
            self.size if question.needed is not None else min(self.passages or len(question.shown), len(question.shown))
        )

    def _pair(self, question: Question, others: Sequence[Passage], unheld: Sequence[Passage]) -> Variants:
        count = self._count(question)
        rng = random.Random(f"{self.seed} {question.number}")
        if question.needed is None:
            places = self._places(question, range(len(question.shown)), count)
            own = self._example(question, "", [(question.shown[p], question.found[p]) for p in places])
            if not question.supported or not own.answerable:
                return None, own
            return own, self._refusal(question, count, unheld, rng) if self.variants else None
        rest = [place for place in range(len(question.shown)) if place not in question.needed]
        shown = [(question.shown[place], question.found[place]) for place in rest]
        shown += [(passage, spelled(passage.text, question.answers)) for passage in others]
        shown = shown[: count - len(question.needed)]
        rng.shuffle(shown)  # else the nearest distractor would always come first
        for place in sorted(question.needed):
            shown.insert(rng.randrange(len(shown) + 1), (question.shown[place], question.found[place]))
        if question.row.unanswerable:
            return None, self._example(question, "", shown)
        whole = self._example(question, "", shown) if len(shown) == count else None
        return whole, self._refusal(question, count, unheld, rng)

    def _places(self, question: Question, places: Sequence[int], count: int) -> list[int]:
        """The places that are shown, in the record's order, so that a position tells nothing."""
        if self.choose == "first" or len(places) <= count:
            return list(places)[:count]
        rng = random.Random(f"{self.seed} equals {question.number}")
        shown = [question.shown[place] for place in places]
        order = rank(question.row.question, shown, [any(question.found[place]) for place in places], rng)
        return sorted(places[position] for position in order[:count])

    def _refusal(self, question: Question, count: int, unheld: Sequence[Passage], rng: random.Random) -> Example | None:
        """The question with passages that hold no answer. Own ones only if a look-up is enough to know that."""
        own = [
            place
            for place, passage in enumerate(question.shown)
            if question.style != "claims"
            and place not in (question.needed or ())
            and not any(spelled(shown_text(passage), question.answers))
            and not any(question.found[place])
        ]
        passages = [question.shown[place] for place in self._places(question, own, count)]
        passages += unheld[: count - len(passages)]
        if len(passages) < count:
            return None
        rng.shuffle(passages)
        none = (False,) * len(question.answers)
        return self._example(question, "-u", [(passage, none) for passage in passages])

    def _example(self, question: Question, suffix: str, shown: Sequence[tuple[Passage, Flags]]) -> Example:
        row = question.row
        source = row.source or self.source
        name = f"{source}-{question.number:06d}" if self.variants else make_id(source, row.question, question.answers)
        return Example(
            id=f"{row.id or name}{suffix}",
            question=row.question,
            passages=tuple(passage for passage, _ in shown),
            answers=question.answers,
            found=tuple(flags for _, flags in shown),
            style=question.style,
            source=source,
            extra=row.extra,
        )


def _refusal_of(row: Row, wordings: Sequence[str]) -> Row | None:
    """The row of a log whose answer refuses, with the sentence that does so as the answer; None for any other row.

    Labelling asks the passages for this sentence, since "No evidence of fraud was found." may be a fact in them. Data
    sets with gold passages are no logs: "Unknown" is a film there.
    """
    is_log = row.passages and not row.labels and row.needed is None
    one = row.answers[0] if is_log and len(row.answers) == 1 else ()
    if not one or not all(is_refusal(text, wordings) for text in one):
        return None
    said = sentences(one[0])[0]
    return replace(row, unanswerable=True, answers=((said,),), extra={**row.extra, "answer": one[0]})


def _without_refusal(question: Question) -> Question:
    """The question of a log that was refused, without an answer."""
    style = question.row.style or "prose"
    return replace(question, answers=(), style=style, found=((),) * len(question.found))


def _answers_and_style(row: Row) -> tuple[tuple[tuple[str, ...], ...], Style]:
    """The answers as rewards take them: of a sentence its claims, where the record does not say its style."""
    one = row.answers[0][0] if len(row.answers) == 1 and len(row.answers[0]) == 1 else ""
    if one and row.style == "list" and not any(row.labels):
        return tuple((item,) for item in items_of(one)), "list"
    if one and row.style == "claims" and not any(row.labels):
        return tuple((claim,) for claim in claims_of(one)), "claims"
    if row.style is None and len(row.answers) == 1 and all(map(is_sentence, row.answers[0])):
        return tuple((claim,) for claim in claims_of(row.answers[0][0])), "claims"
    return row.answers, row.style or "prose"


def _fitting(flags: Flags | None, answers: int) -> Flags | None:
    """The label of a whole answer, for each of its claims."""
    return flags if flags is None or len(flags) == answers else flags * answers


def _is_looked_up(row: Row) -> bool:
    """Whether the answer is one that is looked up in passages, so that it must not be in any of them by accident."""
    return not row.labels and row.style in (None, "prose") and len(row.answers) == 1


def _is_short(answer: str) -> bool:
    key = words(answer)
    return len(key) < MIN_ANSWER and key.isascii() and not (key.isdigit() and len(key) > 1)


def _longest_sentence(
    passage: Passage, claims: Sequence[tuple[str, ...]], max_words: int | None
) -> list[tuple[str, ...]]:
    """The sentence with the most words of the claims, which a truncated passage keeps, as a spelling of an answer."""
    if max_words is None:
        return []
    said = {word for claim, *_ in claims for word in normalize(claim).split()}
    parts = sentences(passage.text)
    best = max(parts, key=lambda part: len(said & set(normalize(part).split())), default="")
    return [(" ".join(best.split()[:max_words]),)]


def _with_unique_ids(examples: Sequence[Example]) -> list[Example]:
    seen: set[str] = set()
    made: list[Example] = []
    for example in examples:
        made.append(with_unique_id(example, seen) if example.id in seen else example)
        seen.add(made[-1].id)
    return made


def _choose(variants: Sequence[Variants], share: Share, rng: random.Random) -> list[Example]:
    """As many variants as give the share of unanswerable ones, in order."""
    answerable = [n for n, (with_gold, _) in enumerate(variants) if with_gold]
    refusable = [n for n, (_, without) in enumerate(variants) if without]
    if share != "any":
        total = min(
            len(answerable) / (1 - share) if share < 1 else float("inf"),
            len(refusable) / share if share > 0 else float("inf"),
        )
        total = floor(total + 1e-9)  # 1 / (1 - 2 / 3) is a little less than 3
        refused = round(total * share)
        if total < 1:
            valid = "0, a larger file or a --pool" if answerable else "1, or questions whose passages hold the answer"
            short = "too few passages hold no answer" if answerable else "no passage holds one"
            raise UserError(f"unanswerable = {share}, but {short}; expected {valid}")
        answerable, refusable = rng.sample(answerable, total - refused), rng.sample(refusable, refused)
    kept = ({*answerable}, {*refusable})
    return [
        example
        for n, pair in enumerate(variants)
        for example, chosen in zip(pair, kept, strict=True)
        if example and n in chosen
    ]
