"""What a text says: its words, the answers it contains, and its citation marks. Rewards, labels and metrics share it.

`words` is the one reading: every form of a quote, dash, digit or width is the same, and a mark in brackets is no word.
`normalize` is the rule of SQuAD and ALCE, for the field's own numbers. `grpo.data.sentences` splits texts.
"""

import re
import string
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

import regex

REFUSAL = "I apologize, but I couldn't find an answer to your question in the search results."
"""The refusal sentence of Trust-Align. Prompts ask for it, and rewards compare with it."""
REFUSALS = (REFUSAL,)
"""What counts as a refusal unless `model.refusals` says otherwise; the first is asked for."""

STOP_WORDS = frozenset(
    ("and", "at", "by", "did", "for", "has", "have", "in", "is", "it", "its", "of", "on", "that", "to", "was", "were")
    + ("what", "when", "which", "who")
)
"""Words without content for lexical entailment (the stub of the golden Trust-Score cases)."""

NO_PASSAGE = 10**9  # a citation with ten or more digits; Python refuses to read more than 4,300 of them
LONGEST_RANGE = 20  # "[1-30]" cites its two ends, and not thirty passages

_ARTICLES = frozenset(("a", "an", "the"))
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)

# "[1]", "[1, 2]", "[1-3]", "[Document 1]", "[^1]", "【1†source】", "[1](https://x.org)". Four digits are a year.
_NUMBER = r"(?:\d{1,3}|\d{5,})"
_DASH = r"[-\u2010-\u2015\u2212~〜～至]"
_JOIN = rf"(?:[ \t]*(?:[,;&，；、]|{_DASH})[ \t]*|[ \t]+(?:(?:and|or|to|und|et|y)[ \t]+)?)"
_LABEL = r"(?:(?:documents?|docs?|sources?|passages?|refs?)\.?[ \t]*#?|\^)?"
_ONE = (
    rf"(?:[\[【［〔][ \t]*{_LABEL}[ \t]*{_NUMBER}(?:{_JOIN}{_LABEL}{_NUMBER})*[ \t]*(?:†[^\]】\n]{{0,80}})?[\]】］〕]"
    rf"(?:\([^()\s]+\))?|<sup>\[?{_NUMBER}(?:{_JOIN}{_NUMBER})*\]?</sup>)"
)
_SEVERAL = rf"{_ONE}(?:{_JOIN}?{_ONE})*+"
CITATION = regex.compile(
    rf"`[^`\n]*`(*SKIP)(*FAIL)|[(（\[【][ \t]*{_SEVERAL}[ \t]*[)）\]】]|{_SEVERAL}"
    r"|(?<=[^\W\d_]{4}|[.!?,;:\"'”’)\]])[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+",  # "Paris¹", but not "km²"
    regex.IGNORECASE,
)
"""A group of citation marks: what a reader takes as one. The digits in it are never words of the text."""

_NUMBER_OR_DASH = regex.compile(rf"\d+|{_DASH}")
_FOOTNOTE = regex.compile(
    r"\[(?:[a-z]{1,2}|(?:note|nb|n|fn|(?:lower|upper)-(?:alpha|roman))[ \t]?\d{1,3}|[a-z ]{0,30}[ \t]needed"
    r"|(?:who|whom|when|where|why|which|by whom|according to whom|how)\?|edit|update|sic)\]",
    regex.IGNORECASE,
)

_QUOTE = regex.compile("[\u2018\u2019\u201a\u201b\u02bc\u02b9\u2032\u00b4`\uff07]")
_POSSESSIVE = regex.compile(r"(?<=[\p{L}\p{N}])'s(?![\p{L}\p{N}])")
_INITIALS = regex.compile(r"(?<![\p{L}\p{N}])(?:\p{L}{1,2}\.)+\p{L}{1,2}(?![\p{L}\p{N}])|\b(?:\p{L}\.[ ]?)+\p{L}\.")
_THOUSANDS = regex.compile(r"(?<!\d[.,]?)\d{1,3}(?:,\d{3})+(?![\d])")
_UNITS = (
    "km|cm|mm|nm|m|mi|ft|in|yd|kg|g|mg|lb|lbs|oz|l|ml|h|hr|hrs|min|mins|sec|ms|C|F|K|bn|mn|mph|kmh|kph|kB|MB|GB|TB"
    "|W|kW|MW|GW|V|Hz|kHz|MHz|GHz|am|pm|AM|PM|BC|AD|BCE|CE|USD|EUR|GBP|million|billion"
)
_UNIT = regex.compile(
    rf"(?<![\p{{L}}\p{{M}}])(\d)((?:{_UNITS})(?![\p{{L}}\p{{M}}\p{{N}}]))"
)  # "38km", not "38th", "5G"
# "A." and "A-team" begin with no article, and the "A" of "Vitamin A." or of "The answer is A" is none.
_DROPPED = regex.compile(r"(?<![-\p{L}\p{N}.])(?:(?:an|the)(?=[\s\"',;:!?)]|$)|a(?=[\s\"'(]+[\p{L}\p{N}]))", regex.I)
_SIGN = regex.compile(r"[\p{Han}\p{Hiragana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
_WORD = regex.compile(
    r"(?<![\p{L}\p{M}\p{N}-])-(?=\d)(?:\d+\.\d+(?![\p{N}]|\.\d)|\d+[\p{L}\p{M}]*)"  # "-5", but not "1914-1918"
    r"|(?<![\p{L}\p{N}.])\d+\.\d+(?!\p{N}|\.\d)"  # 3.5 is one word
    r"|[〇一二三四五六七八九十百千万萬億亿兆]+"  # 十一 is not 一
    r"|[\p{Katakana}ー]+"
    r"|[\p{Han}\p{Hiragana}\p{Hangul}々]"  # written without blanks: every sign is a word
    r"|[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}--\p{M}]\p{M}*"
    r"|[\p{L}\p{M}\p{N}--[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ー々]]+",
    regex.VERSION1,
)


def normalize(text: str) -> str:
    """Lower-case, drop ASCII punctuation and the articles, collapse white space: the rule of SQuAD and ALCE.

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


def clean(text: str) -> str:
    """The text in one typography: NFKC, straight quotes, "-" for every dash; no invisible signs, citations, footnotes.

    >>> clean("Ann[2] Lee’s ﬁlm, 1914–1918 [1, 2]. See［１］")
    "Ann Lee's film, 1914-1918. See"
    """
    text = drop_footnotes(text)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
        text = regex.sub(r"\p{Cf}+", "", _QUOTE.sub("'", text))
        text = regex.sub(r"[\p{Pd}\u2212]", "-", text)
        text = regex.sub(r"[^\P{Nd}0-9]", lambda digit: str(unicodedata.digit(digit[0])), text)
    return text


def drop_footnotes(text: str) -> str:
    """The text without citation marks and footnote marks of its source: "[3]", "[a]", "[note 2]", "[citation needed]".

    >>> drop_footnotes("Ann[2] Lee won.[a] She sang.[citation needed]")
    'Ann Lee won. She sang.'
    """
    if text.isascii() and "[" not in text and "<sup" not in text:
        return text
    return _FOOTNOTE.sub("", strip_citations(text))


@lru_cache(maxsize=8192)
def words(text: str, *, articles: bool = False, cased: bool = False) -> str:
    """The words of a text, joined by blanks; without articles unless `articles`, and lower-case unless `cased`.

    A sign of a script without blanks is a word of its own. Numbers keep their sign and decimals, and leave their unit.

    >>> words("The U.S. won, an A-team! It's 1,234 km², –5 and 3.5%: don’t"), words("北京是首都")
    ('us won a team it 1234 km2 -5 and 3.5 dont', '北 京 是 首 都')
    >>> words("Ann[2] Lee, 38°C in 1938 [3]")
    'ann lee 38 c in 1938'
    """
    text = _INITIALS.sub(lambda match: regex.sub(r"[. ]", "", match[0]) + " ", clean(text))
    text = _POSSESSIVE.sub("", text).replace("'", "")
    text = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), _UNIT.sub(r"\1 \2", text))
    text = text if cased else text.casefold()
    return " ".join(_WORD.findall(text if articles else _DROPPED.sub(" ", text)))


def word_count(text: str) -> float:
    """The number of words; two signs of a script without blanks count as one, about as in a translation.

    >>> word_count("The U.S. won 3.5 points"), word_count("北京是中国的首都。")
    (4.0, 4.0)
    """
    found = words(text).split()
    return len(found) - sum(_SIGN.match(word) is not None for word in found) / 2


def contains(text: str, spellings: Sequence[str]) -> bool:
    """Whether a text contains a spelling as whole words. A spelling without words is in no text.

    >>> contains("It was 38°C.", ("38",)), contains("In 1938.", ("38",)), contains("北京是首都。", ("北京",))
    (True, False, True)
    """
    return any(_contains(text, spelling) for spelling in spellings)


def spelled(text: str, answers: Iterable[Sequence[str]]) -> tuple[bool, ...]:
    """Which of some answers a text contains, each given by its spellings.

    >>> spelled("Ali Daei scored 109 goals.", [("109", "109 goals"), ("Paris",)])
    (True, False)
    """
    return tuple(contains(text, spellings) for spellings in answers)


def _contains(text: str, spelling: str) -> bool:
    articles = spelling.endswith((" A", " a"))  # "Vitamin A" is not "vitamin"
    key = words(spelling, articles=articles)
    return bool(key) and f" {key} " in f" {words(text, articles=articles)} "


def citations(group: str) -> tuple[int, ...]:
    """The numbers in a group of citation marks, in order; NO_PASSAGE for a number of ten or more digits.

    >>> citations("[1, 3]"), citations("[2]–[4]"), citations("([1](https://x.org/7), [2])"), citations("¹²")
    ((1, 3), (2, 3, 4), (1, 2), (1, 2))
    """
    if group[0] in "⁰¹²³⁴⁵⁶⁷⁸⁹":
        return tuple(unicodedata.digit(sign) for sign in group)
    found: list[int] = []
    is_range = False
    for part in _NUMBER_OR_DASH.findall(regex.sub(r"†[^\]】]*|\]\([^()\s]+\)", "", group)):
        if not part[0].isdigit():
            is_range = bool(found)
            continue
        number = int(part) if len(part) < 10 else NO_PASSAGE
        if is_range and 0 < number - found[-1] < LONGEST_RANGE:
            found += range(found[-1] + 1, number)
        found.append(number)
        is_range = False
    return tuple(found)


def strip_citations(text: str) -> str:
    """The text without its citation marks and the blank before each.

    >>> strip_citations("Ali Daei scored 109 goals [1, 2]. ([3])")
    'Ali Daei scored 109 goals.'
    """
    return regex.sub(r"[ \t]?\ue000", "", CITATION.sub("\ue000", text.replace("\ue000", ""))).strip()
