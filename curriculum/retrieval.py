"""Retrieval of distractors: passages, each once, ranked by BM25."""

import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import cast

import bm25s
import numpy as np

from grpo.data.example import Passage
from grpo.data.text import normalize, words


class BM25Index:
    """Passages without duplicates: of several whose whole texts normalize to the same, the first is kept.

    A passage is given as a pair: whole, to tell it from others, and as the model will see it, to be searched.
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
        self._bodies = tuple(f" {words(shown_text(passage))} " for passage in self.passages)
        self._index = bm25s.BM25()
        self._index.index(_tokens([shown_text(passage) for passage in self.passages]), show_progress=False)

    def search(self, question: str, *, without: Collection[str]) -> Iterator[int]:
        """The positions of all passages except those with these keys, best match first."""
        asked = _tokens([question])[0]
        scores = self._index.get_scores(asked) if asked else np.zeros(len(self.keys))  # get_scores fails on no words
        for position in np.argsort(-scores, kind="stable").tolist():
            if self.keys[position] not in without:
                yield position

    def holds(self, position: int, answers: Sequence[str]) -> bool:
        """Whether the title or text of a passage spells one of these answers, given as `words` of it."""
        return any(f" {answer} " in self._bodies[position] for answer in answers if answer)


def rank(question: str, passages: Sequence[Passage], useful: Sequence[bool], rng: random.Random) -> list[int]:
    """The positions of a few passages: useful ones first, then the best match by BM25, equals in a random order."""
    index = bm25s.BM25()
    index.index(_tokens([shown_text(passage) for passage in passages]), show_progress=False)
    asked = _tokens([question])[0]
    scores = index.get_scores(asked) if asked else np.zeros(len(passages))
    order = rng.sample(range(len(passages)), len(passages))
    return sorted(order, key=lambda position: (not useful[position], -float(scores[position])))


def passage_key(passage: Passage) -> str:
    """The normalized text, by which duplicates are found."""
    return normalize(passage.text)


def shown_text(passage: Passage) -> str:
    return f"{passage.title}\n{passage.text}"


def _tokens(texts: list[str]) -> list[list[str]]:
    return cast(list[list[str]], bm25s.tokenize(texts, return_ids=False, show_progress=False))
