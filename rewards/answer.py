"""The answer parser: completion text -> `ParsedAnswer` (statements with citations, thinking, format, final answer).

No string makes the parser raise. Rewards and evaluation share it, so that "statement", "cited" and "refused" mean the
same in training and in grading. A citation inside the thinking never counts.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grpo.data.example import Example, Style
from grpo.data.sentences import statements
from grpo.data.text import REFUSALS, STOP_WORDS, clean, normalize, words
from grpo.types import Completion
from rewards.refusal import is_pure_refusal, is_refusal, refusal_score

TAGS = ("<think>", "</think>", "<answer>", "</answer>")

_REASONED = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
_THINK = re.compile(r"<think>(.*?)(?:</think>|\Z)", re.DOTALL)
_BOX = re.compile(r"\\?boxed\s*(?:\[((?:[^\[\]]|\[[^\[\]]*\])*)\]|\{((?:[^{}]|\{[^{}]*\})*)\})")
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_ABSTENTION = re.compile(
    r"(?:(?:im |i am )?sorry (?:but )?)?"
    r"(?:(?:answer is )?unknown|idk|(?:im |i am )?(?:not sure|unsure)"
    r"|(?:i )?(?:dont|do not|cannot|cant)(?: really)? know)"
    r"(?: (?:this|that|it|for sure|answer|(?:answer )?to (?:this|that|it|your question|(?:this|that) question)))?"
)


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement with its citations: `Statement(text="Ali Daei scored 109 goals.", cites=(1, 2))`."""

    text: str  # without citation marks, white space collapsed, never empty
    cites: tuple[int, ...]  # as written: in order, with repeats, whether such a passage exists or not


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """A parsed completion, made by `parse`."""

    statements: tuple[Statement, ...]  # of the answer part
    answer_text: str  # what the user sees: the text between the answer tags, or all of it in the plain format
    think_text: str
    tags: Mapping[str, int]  # count of each of TAGS
    well_formed: bool
    refusal_score: float  # 0 to 1, rewards.refusal.refusal_score of answer_text
    refused: bool
    flaws: tuple[str, ...]  # format errors in words: ("missing </answer>",)


def parse_completion(
    example: Example, completion: Completion, *, reasoning: bool, refusals: Sequence[str] = REFUSALS
) -> ParsedAnswer:
    """Parse a completion to an example, whose accepted answers are never cut."""
    return parse(
        completion.text,
        style=example.style,
        reasoning=reasoning,
        finished=completion.finish == "stop",
        names=accepted_answers(example),
        refusals=refusals,
    )


def accepted_answers(example: Example) -> list[str]:
    """Every spelling of every answer."""
    return [spelling for spellings in example.answers for spelling in spellings]


def parse(
    text: str,
    *,
    style: Style,
    reasoning: bool,
    finished: bool = True,
    names: Sequence[str] = (),
    refusals: Sequence[str] = REFUSALS,
) -> ParsedAnswer:
    """Parse a completion. `finished=False`: it was cut at the length limit, and is malformed.

    A statement is a sentence, or in a list an item; `names` are accepted answers, which are never cut. `refusals` are
    the sentences that count as refusals (`model.refusals`).

    The format of reasoning models is `<think>...</think>`, white space, `<answer>...</answer>`, each tag once and
    nothing around them. The plain format (`reasoning=False`) has none of the four tags. In both, the answer must not be
    blank. The paper does not give its pattern.

    >>> answer = parse("<think>Is it [2]?</think><answer>It won. [1]</answer>", style="prose", reasoning=True)
    >>> answer.statements, answer.well_formed
    ((Statement(text='It won.', cites=(1,)),), True)
    """
    think, shown = _split(text) if reasoning else ("", text.strip())
    tags = {tag: text.count(tag) for tag in TAGS}
    flaws = _format_flaws(text, tags, shown, reasoning=reasoning, finished=finished)
    said, stray_citation = statements(shown, names, listed=style == "list")
    score = refusal_score(shown, refusals)
    return ParsedAnswer(
        statements=tuple(Statement(statement, cites) for statement, cites in said),
        answer_text=shown,
        think_text=think,
        tags=tags,
        well_formed=not flaws,
        refusal_score=score,
        refused=is_refusal(score),
        flaws=(*flaws, "citation without a statement") if stray_citation else tuple(flaws),
    )


def carriers(row: Sequence[Statement], spellings: Sequence[str], *, repeats: bool = False) -> set[int]:
    """Indices of the statements that together hold the words of a claim: the one with most of them, then those that
    add most; with `repeats` also the statements with the words of one of these.

    >>> row = [Statement(text, ()) for text in ("It rained.", "Ice is frozen water.", "Ice floats.", "Ice is water.")]
    >>> carriers(row, ["Ice, frozen water, floats."])
    {1, 2}
    """
    left = set(words(" ".join(spellings)).split()) - STOP_WORDS
    said = [set(words(statement.text).split()) for statement in row]
    found: set[int] = set()
    while said and (best := max(range(len(said)), key=lambda n: len(left & said[n]))) not in found:
        if found and not left & said[best]:
            break
        found.add(best)
        left -= said[best]
    return {n for n in range(len(said)) if said[n] in [said[m] for m in found]} if repeats else found


def final_answer(answer: ParsedAnswer) -> tuple[str, str]:
    r"""The reasoning and the final answer, which is the last `boxed[...]` or `\boxed{...}`, or else the answer part.

    "GRPO for Factuality" asks for this box. Text around the box counts as reasoning.
    """
    boxes = list(_BOX.finditer(answer.answer_text))
    if not boxes:
        return answer.think_text, answer.answer_text
    last = boxes[-1]
    around = f"{answer.answer_text[: last.start()]} {answer.answer_text[last.end() :]}"
    inside = next(group for group in last.groups() if group is not None)
    return f"{answer.think_text} {around}", _TEXT.sub(r"\1", inside)


def is_abstention(text: str, refusals: Sequence[str]) -> bool:
    """Whether a final answer attempts nothing: "Unknown", "N/A", forms of "I don't know", or a refusal alone.

    >>> texts = ("Unknown.", "I don't know the answer.", "I don't know, perhaps Paris.")
    >>> [is_abstention(text, REFUSALS) for text in texts]
    [True, True, False]
    """
    plain = clean(" ".join(text.split()))
    if _ABSTENTION.fullmatch(normalize(plain)) or plain.rstrip(".").lower() == "n/a":  # "na" would be sodium
        return True
    return refuses(text, refusals) and is_pure_refusal(text, refusals)


def refuses(text: str, refusals: Sequence[str]) -> bool:
    """Whether a text without tags contains one of the refusals."""
    return is_refusal(refusal_score(text, refusals))


def _split(text: str) -> tuple[str, str]:
    """The thinking and the answer part of a text in the reasoning format, also of a malformed one.

    An open `<think>` extends to the end of the text. A lone `</think>` ends thinking that began in the prompt. The
    answer is the first `<answer>` outside the thinking; without that tag there is no answer.
    """
    spans = _THINK.findall(text)
    before, _, after = _THINK.sub(" ", text).rpartition("</think>")
    answer = after.partition("<answer>")[2].partition("</answer>")[0]
    return " ".join([*spans, before]).strip(), answer.strip()


def _format_flaws(text: str, tags: Mapping[str, int], shown: str, *, reasoning: bool, finished: bool) -> list[str]:
    flaws = []
    for tag, count in tags.items():
        if reasoning and count != 1:
            flaws.append(f"repeated {tag}" if count else f"missing {tag}")
        elif count and not reasoning:
            flaws.append(f"unexpected {tag}")
    if reasoning and not flaws and not _REASONED.fullmatch(text.strip()):
        flaws.append("tags out of order or text around them")
    if not shown:
        flaws.append("empty answer")
    if not finished:
        flaws.append("cut at the length limit")
    return flaws
