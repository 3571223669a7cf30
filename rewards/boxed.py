"""What is the final answer, and does it attempt the question? Boxed answers, with `Unknown` for "I do not know".

"GRPO for Factuality" asks for `boxed[...]`, and for `boxed[Unknown]` where the model is not sure. The rewards and the
metric read both through this file, like everything else that is written through `rewards.answer`.
"""

import re

from grpo.data.text import normalize, strip_citations
from rewards.answer import Answer
from rewards.refusal import is_plain, is_refusal, rscore, straight

UNKNOWN = "Unknown"

_BOX = re.compile(r"\\?boxed\s*(?:\[((?:[^\[\]]|\[[^\[\]]*\])*)\]|\{((?:[^{}]|\{[^{}]*\})*)\})")
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_SILENT = re.compile(
    r"(?:(?:im |i am )?sorry (?:but )?)?"
    r"(?:(?:answer is )?unknown|idk|(?:im |i am )?(?:not sure|unsure)"
    r"|(?:i )?(?:dont|do not|cannot|cant)(?: really)? know)"
    r"(?: (?:this|that|it|for sure|answer|(?:answer )?to (?:this|that|it|your question|(?:this|that) question)))?"
)


def final_answer(answer: Answer) -> tuple[str, str]:
    r"""The reasoning and the final answer: the last `boxed[...]` or `\boxed{...}`, or the whole answer part.

    Without think tags the text around the box is the reasoning.
    """
    boxes = list(_BOX.finditer(answer.answer_text))
    if not boxes:
        return answer.think_text, answer.answer_text
    last = boxes[-1]
    around = f"{answer.answer_text[: last.start()]} {answer.answer_text[last.end() :]}"
    inside = next(group for group in last.groups() if group is not None)
    return f"{answer.think_text} {around}", _TEXT.sub(r"\1", inside)


def is_silent(text: str) -> bool:
    """Whether a final answer attempts nothing: "Unknown", "N/A", "I don't know" in any form, or the refusal alone.

    >>> [is_silent(text) for text in ("Unknown.", "I don't know the answer.", "I don't know, perhaps Paris.")]
    [True, True, False]
    """
    plain = straight(strip_citations(" ".join(text.split())))
    if _SILENT.fullmatch(normalize(plain)) or plain.rstrip(".").lower() == "n/a":  # normalized it would be sodium
        return True
    return is_refusal(rscore(text)) and is_plain(text)
