"""Which other passages look as if they might answer a question? A pool of passages, each once, ranked by BM25."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import cast

import bm25s
import numpy as np

from grpo.data.example import Passage
from grpo.data.text import normalize


class BM25Index:
    """Passages by what they say: two whose whole texts normalize to the same are one, the first of them.

    A passage is given whole, which is what tells it from others, and as the model will be shown it, which is what is
    searched and looked into.
    """

    def __init__(self, pairs: Iterable[tuple[Passage, Passage]]) -> None:
        first: dict[str, Passage] = {}
        self.duplicates = 0
        for whole, shown in pairs:
            key = passage_key(whole)
            self.duplicates += key in first
            first.setdefault(key, shown)
        self.keys = tuple(first)
        self.passages = tuple(first.values())
        self._bodies = tuple(normalize(shown_text(passage)) for passage in self.passages)
        self._index = bm25s.BM25()
        self._index.index(_tokens([shown_text(passage) for passage in self.passages]), show_progress=False)

    def search(self, question: str, *, without: Collection[str]) -> Iterator[int]:
        """The places of all passages but those of these keys, the nearest first."""
        words = _tokens([question])[0]
        scores = self._index.get_scores(words) if words else np.zeros(len(self.keys))  # get_scores fails on no words
        for place in np.argsort(-scores, kind="stable").tolist():
            if self.keys[place] not in without:
                yield place

    def holds(self, place: int, answers: Sequence[str]) -> bool:
        """Whether title or text of a passage holds one of these normalized answers."""
        return any(answer in self._bodies[place] for answer in answers)


def passage_key(passage: Passage) -> str:
    """What a passage says, whatever its title and punctuation."""
    return normalize(passage.text)


def shown_text(passage: Passage) -> str:
    return f"{passage.title}\n{passage.text}"


def _tokens(texts: list[str]) -> list[list[str]]:
    return cast(list[list[str]], bm25s.tokenize(texts, return_ids=False, show_progress=False))
