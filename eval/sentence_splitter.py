"""Where does a sentence end? NLTK's punkt, the field's own splitter, where its data is present; else sentencex.

`make setup` puts punkt's English data into `.venv/nltk_data`, one of the places where NLTK looks. The two splitters
disagree now and then ("[1]" after a full stop begins a sentence for punkt and ends one for sentencex), so every score
says which of them read the text.
"""

from collections.abc import Callable
from dataclasses import dataclass

PUNKT = "nltk punkt_tab"


@dataclass(frozen=True, slots=True)
class Splitter:
    """`Splitter("nltk punkt_tab", split)`: `split` takes a text and gives its sentences, none of them blank."""

    name: str
    split: Callable[[str], list[str]]


def make_splitter() -> Splitter:
    """Punkt for English, or the rule-based sentencex where punkt's data is not there."""
    from nltk.tokenize.punkt import PunktTokenizer  # a second of imports, which only scoring should pay

    try:
        punkt = PunktTokenizer("english")
    except LookupError:
        return rule_based()
    return Splitter(PUNKT, punkt.tokenize)


def rule_based() -> Splitter:
    """sentencex, whose rules for English come with the package."""
    from sentencex import segment  # pyright: ignore[reportAttributeAccessIssue] (compiled, without stubs)

    def split(text: str) -> list[str]:
        whole = text.encode(errors="replace").decode()  # it takes UTF-8 only, so no half of a surrogate pair
        return [piece.strip() for piece in segment("en", whole) if piece.strip()]

    return Splitter("sentencex", split)
