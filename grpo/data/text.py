"""Normalization, containment, citations and sentences of text. Prompts, rewards and metrics share them.

Normalization is the rule of SQuAD and ALCE. Standard library only.
"""

import re
import string

REFUSAL = "I apologize, but I couldn't find an answer to your question in the search results."
"""The refusal sentence of Trust-Align. Prompts ask for it, and rewards compare with it."""

STOP_WORDS = frozenset(
    ("and", "at", "by", "did", "for", "has", "have", "in", "is", "it", "its", "of", "on", "that", "to", "was", "were")
    + ("what", "when", "which", "who")
)
"""Words without content for lexical entailment (the stub of the golden Trust-Score cases)."""

CITATION = re.compile(r"\[(\d+)\]")
_ARTICLES = frozenset(("a", "an", "the"))
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ABBREVIATIONS = "Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|Gen|Col|Lt|Sgt|Capt|Rev|Hon|vs|Vol|Inc|Ltd|e\\.g|i\\.e|approx|ca"
_NO_END = re.compile(rf"(?:\b(?:{_ABBREVIATIONS})|\b[A-Z])\.$")  # "Dr." and the initial in "J. Smith" end no sentence
_END = re.compile(r"[.!?][\"')\u201d\u2019]*(?:\s*\[\d+\])*(?=\s+\S)")


def normalize(text: str) -> str:
    """Lower-case, drop ASCII punctuation and the articles, collapse white space.

    >>> normalize("The U.S. won, an A-team!  It's 1,234")
    'us won ateam its 1234'
    """
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def content_words(text: str) -> frozenset[str]:
    """The distinct words of the normalized text: frozenset(normalize(text).split()), but faster.

    A word of letters and digits is an article as a whole or not at all. Only other words, such as "a–b", need the
    pattern.

    >>> sorted(content_words("The U.S. won, an A-team; it's the–best"))
    ['ateam', 'its', 'us', 'won', '–best']
    """
    words = set(text.lower().translate(_PUNCTUATION).split())
    if not "".join(words).isalnum():
        odd = {word for word in words if not word.isalnum()}
        words = (words - odd).union(*(_ARTICLE.sub(" ", word).split() for word in odd))
    return frozenset(words - _ARTICLES)


def contains(text: str, aliases: tuple[str, ...]) -> bool:
    """Whether the normalized text contains any normalized alias. An alias that normalizes to nothing does not count.

    >>> contains("He scored 109 goals.", ("one hundred nine", "109"))
    True
    """
    body = normalize(text)
    return any((key := normalize(alias)) and key in body for alias in aliases)


def strip_citations(text: str) -> str:
    """The text without its `[n]` marks and the blanks before them.

    >>> strip_citations("Ali Daei scored 109 goals [1][2].")
    'Ali Daei scored 109 goals.'
    """
    return re.sub(r"\s?\[\d+\]", "", text).strip()


def sentences(text: str) -> list[str]:
    """Split a text into sentences, each with the citations that follow its full stop.

    >>> sentences("Dr. Moss wrote it [1]. It won. [2] J. Ode sang")
    ['Dr. Moss wrote it [1].', 'It won. [2]', 'J. Ode sang']
    """
    found, start = [], 0
    for line in re.finditer(r"[^\n]+", text):
        start = line.start()
        for end in _END.finditer(text, line.start(), line.end()):
            # looking back 12 characters covers every abbreviation and keeps the time linear
            if _NO_END.search(text[max(start, end.start() - 12) : end.start() + 1]):
                continue
            found.append(text[start : end.end()].strip())
            start = end.end()
        found.append(text[start : line.end()].strip())
    return [sentence for sentence in found if sentence]
