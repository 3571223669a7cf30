"""What did the model say? Any text becomes an `Answer`: statements with their citations, the thinking, the format.

Total: no string makes it raise. The rewards and the metric read answers through this one parser, so that "a statement",
"cited" and "refused" mean the same in training and in grading. A `[1]` that was only thought is never a citation.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from grpo.data.example import Style
from grpo.data.text import CITATION, normalize, sentences, strip_citations
from rewards.refusal import is_refusal, rscore

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
NO_PASSAGE = 10**9
"""The number of a citation too long to be one: no passage has it. (Python refuses to read over 4,300 digits.)"""

_REASONED = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
_THINK = re.compile(r"<think>(.*?)(?:</think>|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing said: `Statement(text="Ali Daei scored 109 goals.", cites=(1, 2))`. The text is never empty."""

    text: str  # without its citation marks, white space collapsed
    cites: tuple[int, ...]  # as written: in order, repeats kept, whether such a passage exists or not


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion, read. `parse` makes it."""

    statements: tuple[Statement, ...]  # of the answer part
    answer_text: str  # what the user is shown: between the answer tags, or everything when the format has no tags
    think_text: str
    tags: Mapping[str, int]  # how often each of TAGS appears
    well_formed: bool
    refusal_score: float  # 0 to 1, rewards.refusal.rscore of answer_text
    refused: bool
    flaws: tuple[str, ...]  # what is wrong with the form, in words: ("missing </answer>",)


def parse(text: str, *, style: Style, reasoning: bool, finished: bool = True) -> Answer:
    """Read a completion. `finished=False` says that it was cut at the length limit, which is never well formed.

    With `reasoning` the format is `<think>...</think>`, white space, `<answer>...</answer>`, each tag once and nothing
    around them. Without it (instruct models) it is plain text without any of the four tags. Either way the answer must
    not be blank. The paper does not give its pattern.

    >>> answer = parse("<think>Is it [2]?</think><answer>It won. [1]</answer>", style="prose", reasoning=True)
    >>> answer.statements, answer.well_formed
    ((Statement(text='It won.', cites=(1,)),), True)
    """
    think, shown = _split(text) if reasoning else ("", text.strip())
    tags = {tag: text.count(tag) for tag in TAGS}
    form = _form_flaws(text, tags, shown, reasoning=reasoning, finished=finished)
    statements, stray = _statements(shown, style)
    score = rscore(shown)
    return Answer(
        statements=statements,
        answer_text=shown,
        think_text=think,
        tags=tags,
        well_formed=not form,
        refusal_score=score,
        refused=is_refusal(score),
        flaws=(*form, "citation without a statement") if stray else tuple(form),
    )


def _split(text: str) -> tuple[str, str]:
    """The thinking and the answer part of a text that should have both, also when it is malformed.

    Whatever could be thinking is: an open `<think>` runs to the end, and a lone `</think>` ends thinking that began in
    the prompt. The answer is the first `<answer>` of the rest; without that tag nothing was answered.
    """
    spans = _THINK.findall(text)
    before, _, after = _THINK.sub(" ", text).rpartition("</think>")
    answer = after.partition("<answer>")[2].partition("</answer>")[0]
    return " ".join([*spans, before]).strip(), answer.strip()


def _form_flaws(text: str, tags: Mapping[str, int], shown: str, *, reasoning: bool, finished: bool) -> list[str]:
    """What keeps the text from being well formed, in words; nothing when it is."""
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


def _statements(shown: str, style: Style) -> tuple[tuple[Statement, ...], bool]:
    """The statements of an answer part, and whether a citation stands before all of them.

    A statement is a sentence, or for lists what stands between commas (the metric's rule). A piece that
    says nothing once normalized is no statement, so that nobody asks whether nothing is true; its citations belong
    to the statement before it.
    """
    pieces = shown.rstrip().removesuffix(".").split(",") if style == "list" else sentences(shown)
    found: list[tuple[str, list[int]]] = []
    stray = False
    for piece in pieces:
        # collapse first: the pattern of strip_citations takes quadratic time on a long run of blanks
        flat = " ".join(piece.split())
        cites, said = _numbers(flat), strip_citations(flat)
        if normalize(said):
            found.append((said, [*cites]))
        elif found:
            found[-1][1].extend(cites)
        else:
            stray = stray or bool(cites)
    return tuple(Statement(said, tuple(cites)) for said, cites in found), stray


def _numbers(text: str) -> tuple[int, ...]:
    """The cited numbers in order, like grpo.data.text.cited, for digits of any length."""
    return tuple(int(digits) if len(digits) < 10 else NO_PASSAGE for digits in CITATION.findall(text))
