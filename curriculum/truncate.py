"""How is a long passage made short without losing its answer, or giving away that it has one?"""

import random
from collections.abc import Sequence

from grpo.data.example import Passage
from grpo.data.text import contains, normalize


def truncate_passage(
    passage: Passage, answers: tuple[str, ...], max_words: int | None, rng: random.Random
) -> Passage | None:
    """The passage within `max_words` words that hold its answer, anywhere among them; None if the answer is longer.

    A passage that holds none is cut anywhere; None for `max_words` cuts nothing.
    """
    words = passage.text.split()
    if max_words is None or len(words) <= max_words:
        return passage
    start, end = _span(words, answers) if contains(passage.text, answers) else (0, 0)
    if end - start > max_words:
        return None
    low, high = (max(0, end - max_words), min(start, len(words) - max_words)) if end else (0, len(words) - max_words)
    first = rng.randint(low, high)
    return Passage(title=passage.title, text=" ".join(words[first : first + max_words]))


def _span(words: Sequence[str], answers: tuple[str, ...]) -> tuple[int, int]:
    """The smallest range of words around the first place where an answer stands, which must be somewhere in `words`."""

    def whole(part: Sequence[str]) -> bool:
        body = f" {normalize(' '.join(part))} "
        return any(f" {normalize(answer)} " in body for answer in answers)

    def anyhow(part: Sequence[str]) -> bool:
        return contains(" ".join(part), answers)

    # "one" should be found in "one goal" before "someone"; an answer inside a word is the last resort
    holds = whole if whole(words) else anyhow
    end = next(end for end in range(1, len(words) + 1) if holds(words[:end]))
    start = next(start for start in range(end - 1, -1, -1) if holds(words[start:end]))
    return start, end
