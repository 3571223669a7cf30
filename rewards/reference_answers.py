"""Reference answers for supervised steps, made of an example alone.

They copy and cite sentences of the passages that `found` points to, for invented and for real data alike.
"""

import re

from grpo.data.example import Example
from grpo.data.sentences import statements
from grpo.data.text import REFUSAL, STOP_WORDS, contains, drop_footnotes, words
from rewards.answer import accepted_answers
from rewards.judges.lexical import LexicalJudge

MOST_SENTENCES = 3
_FULL_STOP = re.compile(r"[.!?。！？।]+[\"')\u201d\u2019]*$")


def reference_answer(example: Example, *, refusal: str = REFUSAL) -> str:
    """The refusal sentence, or every supported answer with the citation of a passage that holds it.

    * prose copies at most three sentences: "Mara Fenwick was born in Port Alder [2]."
    * claims copy the sentences that entail them, or are written out where it takes more than one sentence
    * lists name the answers: "The Glass Orchard [1], Low Water [3]."
    * closed-book questions box their first answer: "boxed[Ali Daei]", or "boxed[Unknown]" if they have none.
    """
    if example.style == "closed":
        return f"boxed[{example.answers[0][0] if example.answers else 'Unknown'}]"
    if not example.answerable:
        return refusal
    if example.style == "list":
        return ", ".join(_list_item(example, answer) for answer in example.answerable_indices) + "."
    if example.style == "claims":
        chosen = [cited for answer in example.answerable_indices for cited in _claim_sentences(example, answer)]
    else:
        chosen = [_prose_sentence(example, answer) for answer in example.answerable_indices]
    once = list(dict.fromkeys(chosen))[: None if example.style == "claims" else MOST_SENTENCES]
    return " ".join(_cite(sentence, number) for number, sentence in once)


def reference_completion(example: Example, *, reasoning: bool, refusal: str = REFUSAL) -> str:
    """The reference answer; for reasoning models inside `<answer>`, after a `<think>`."""
    answer = reference_answer(example, refusal=refusal)
    return f"<think>\n{_thought(example)}\n</think>\n<answer>\n{answer}\n</answer>" if reasoning else answer


def _thought(example: Example) -> str:
    if example.style == "closed":
        known = "I answer from what I know." if example.answers else "I do not know the answer. I should say so."
        return f"The question has no documents. {known}"
    if not example.answerable:
        return "None of the documents holds the answer. I should say so."
    numbers = sorted({_source(example, answer) for answer in example.answerable_indices})
    if len(numbers) == 1:
        return f"Document {numbers[0]} holds the answer. I cite it."
    listed = ", ".join(str(number) for number in numbers[:-1])
    return f"Documents {listed} and {numbers[-1]} hold the answer. I cite each of them."


def _source(example: Example, answer: int) -> int:
    """The number of the passage that the reference answer cites for an answer."""
    if example.style == "list":
        return min(example.passages_with(answer))
    if example.style == "claims":
        return _claim_sentences(example, answer)[0][0]
    return _prose_sentence(example, answer)[0]


def _candidates(example: Example, answer: int) -> list[tuple[int, str]]:
    """(passage number, sentence) of all passages that hold an answer, without the citation marks of the passage."""
    return [
        (number, sentence)
        for number in sorted(example.passages_with(answer))
        for sentence, _ in statements(drop_footnotes(example.passages[number - 1].text), accepted_answers(example))[0]
    ]


def _prose_sentence(example: Example, answer: int) -> tuple[int, str]:
    """The shortest sentence with an alias, of the lowest passage number; without one, the first alias itself."""
    aliases = example.answers[answer]
    matching = [(number, text) for number, text in _candidates(example, answer) if contains(text, aliases)]
    if not matching:
        return min(example.passages_with(answer)), aliases[0]
    return min(matching, key=lambda found: (len(found[1].split()), found[0]))


def _claim_sentences(example: Example, answer: int) -> list[tuple[int, str]]:
    """The sentence that shares the most content words with a claim; of equals the shortest, then the first.

    If it does not entail the claim word by word, the sentences of the claim itself.
    """
    wording = example.answers[answer][0]
    claim = frozenset(words(" ".join(example.answers[answer])).split()) - STOP_WORDS

    def rank(found: tuple[int, str]) -> tuple[int, int, int]:
        number, text = found
        return -len(claim & frozenset(words(text).split())), len(text.split()), number

    candidates = sorted(_candidates(example, answer), key=rank)
    if candidates and LexicalJudge().entails([(candidates[0][1], wording)]) == [1.0]:
        return candidates[:1]
    return [(min(example.passages_with(answer)), text) for text, _ in statements(wording)[0]]


def _list_item(example: Example, answer: int) -> str:
    number = min(example.passages_with(answer))
    aliases = sorted(example.answers[answer], key=lambda alias: "," in alias)  # a comma would end the item
    written = next((alias for alias in aliases if alias in example.passages[number - 1].text), aliases[0])
    return f"{written} [{number}]"


def _cite(sentence: str, number: int) -> str:
    """The sentence with `[number]` before its full stop, which is added if there is none."""
    end = _FULL_STOP.search(sentence)
    if end is None:
        return f"{sentence} [{number}]."
    return f"{sentence[: end.start()]} [{number}]{end.group()}"
