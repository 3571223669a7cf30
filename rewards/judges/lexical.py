"""Judges that compare words, and need no model: `lexical`, the offline default, and `token_subset`."""

import re
from collections.abc import Sequence
from functools import lru_cache

import regex

from grpo.data.text import STOP_WORDS, content_words, words
from rewards.judges.base import Pair

COVERAGE = 0.8  # share of the content words that must be in the premise; docs/data-and-rewards.md has the measurement
UNCLEAR = 0.4  # from this share on, words alone cannot tell a paraphrase from something else

NEGATIONS = frozenset(
    re.findall(
        r"\w+",
        "no not never none neither nor nobody nothing without cannot cant dont doesnt didnt isnt arent wasnt werent"
        " wont wouldnt couldnt hasnt havent hadnt",
    )
)
FUNCTION_WORDS = STOP_WORDS.union(
    re.findall(
        r"\w+",
        "a about above after again also am an any are as be because been before being below between both but can could"
        " do does done during each either few from had having he her here him his how i if into just may me might more"
        " most must my off once only or other our out over own same shall she should so some such than the their them"
        " then there these they this those through too under until up us very we while whom why will with within would"
        " you your 的 了 是 在 和 与 也",
    )
)

_content_words = lru_cache(maxsize=4096)(content_words)  # a passage is part of many premises
_SIGN = r"[\p{Han}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_IS_SIGN = regex.compile(rf"{_SIGN}\p{{M}}*")
_IS_KANA = regex.compile(r"\p{Hiragana}")
_NEEDED = regex.compile(r"[^\s]*\p{N}[^\s]*|\p{Han}|\p{Hangul}|\p{Katakana}+")  # as a whole word


class TokenSubsetJudge:
    """Entailed iff every token of normalize(hypothesis) outside STOP_WORDS is a token of normalize(premise).

    It is exactly the stub of the golden Trust-Score cases, so that anything entails a hypothesis of stop words.

    >>> TokenSubsetJudge().entails([("Ali Daei scored 109 goals.", "Daei has 109 goals."), ("A mural.", "A wall.")])
    [1.0, 0.0]
    """

    def entails(self, pairs: Sequence[Pair]) -> list[float]:
        """1.0 or 0.0 for each pair."""
        return [1.0 if _covers(premise, hypothesis) else 0.0 for premise, hypothesis in pairs]


class LexicalJudge:
    """A verdict from the share of the content words of a hypothesis that its premise has.

    1.0 needs 80 % of them. 0.5, which is neither entailed nor a wrong citation, needs 40 %. Both need every number and
    name. Anything else is 0.0.

    Inflections of English count as the same word. Names are capitalized words but the first. A negation must be in the
    premise too. Of scripts without blanks, pairs of neighboring signs are the words, and no sign may be missing. A
    hypothesis of function words must stand in the premise as it is. Word order has no effect.

    >>> passage = "Ann Lee kept three bees behind her old house in Rome."
    >>> said = ["Three bees were kept behind the house.", "She kept 4 bees behind the old house.", "Bees lived there."]
    >>> LexicalJudge().entails([(passage, hypothesis) for hypothesis in said])
    [1.0, 0.0, 0.5]
    """

    def entails(self, pairs: Sequence[Pair]) -> list[float]:
        """1.0, 0.5 or 0.0 for each pair."""
        return [_support(premise, hypothesis) for premise, hypothesis in pairs]


def _support(premise: str, hypothesis: str) -> float:
    lines = premise.split("\n")
    content = _units(hypothesis)
    if not content:
        said = f" {words(hypothesis)} "
        return float(any(said in f" {words(line)} " for line in lines))
    missing, absent = set(_needed(hypothesis)), set(content)
    for line in lines:
        there = _word_set(line)
        missing -= there
        absent -= _units(line)
    negated = NEGATIONS.intersection(missing)
    if negated and any(NEGATIONS & _word_set(line) for line in lines):
        missing -= negated
    covered = 1 - len(absent) / len(content) + 1e-9
    if missing or covered < UNCLEAR:
        return 0.0
    return 1.0 if covered >= COVERAGE else 0.5


@lru_cache(maxsize=8192)
def _word_set(text: str) -> frozenset[str]:
    return frozenset(words(text).split())


@lru_cache(maxsize=8192)
def _units(text: str) -> frozenset[str]:
    """The content of a text: stems of words, and pairs of neighboring signs."""
    found: set[str] = set()
    said = [word for word in words(text).split() if word not in FUNCTION_WORDS and not _IS_KANA.match(word)]
    for before, word, after in zip(["", *said], said, [*said[1:], ""], strict=False):
        if not _IS_SIGN.fullmatch(word):
            found.add(_stem(word))
        elif _IS_SIGN.fullmatch(after):
            found.add(word + after)
        elif not _IS_SIGN.fullmatch(before):
            found.add(word)
    return frozenset(found)


@lru_cache(maxsize=8192)
def _needed(text: str) -> frozenset[str]:
    """The words that may not be missing: numbers, names, negations, and signs that are words."""
    said, cased = words(text).split(), words(text, cased=True).split()
    capital = [word[0].isupper() for word in cased]
    if capital[1:2] != [True]:
        capital[:1] = [False]  # the capital of a sentence makes no name, but that of "Ann Lee" does
    found = {word for word in said if _NEEDED.fullmatch(word) or word in NEGATIONS}
    found.update(word for word, is_name in zip(said, capital, strict=False) if is_name)
    return frozenset(found - FUNCTION_WORDS)


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    """The Snowball stem of an English word; other words stay nearly as they are."""
    return _stemmer().stem(word)


@lru_cache(maxsize=1)
def _stemmer():
    from nltk.stem.snowball import EnglishStemmer  # here, because the import takes more than a second

    return EnglishStemmer()


def _covers(premise: str, hypothesis: str) -> bool:
    """Whether all content tokens are there. Read line by line, so that a passage of many premises is read once."""
    missing = _content_words(hypothesis) - STOP_WORDS
    for line in premise.split("\n"):
        if not missing:
            break
        missing -= _content_words(line)
    return not missing
