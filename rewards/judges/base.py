"""Does one text follow from another? One protocol for every judge, and the deterministic one that needs no model."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

from grpo.data.example import Passage
from grpo.data.text import STOP_WORDS, content_words
from grpo.errors import UserError

ENTAILED = 0.5
"""A probability above this counts as entailed."""

VALID = "lexical, a folder with an NLI model, or a hub name like owner/model or owner/model@revision"
"""What a verifier may be called."""

_tokens = lru_cache(maxsize=4096)(content_words)  # a passage is asked about many times, within a call and over calls


class Verifier(Protocol):
    """Judges pairs in one batch, so that a model can be one forward pass."""

    def entails(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The probability, 0 to 1, that each (premise, hypothesis) has its hypothesis follow from its premise."""
        ...


@runtime_checkable
class Counting(Protocol):
    """A verifier that counts what it does, for the metrics."""

    def take_counts(self) -> dict[str, float]:
        """What was counted since the last call, by name; counting starts again."""
        ...


class Lexical:
    """Entailed iff every token of normalize(hypothesis) outside STOP_WORDS is a token of normalize(premise).

    Deterministic, needs no model, and easily fooled: word order and negation mean nothing to it. It is exactly the stub
    of the golden cases, so a hypothesis of stop words alone is trivially entailed, even by nothing. The rewards never
    ask about a text that normalizes to nothing.

    >>> Lexical().entails([("Ali Daei scored 109 goals.", "Daei has 109 goals."), ("A mural.", "A wall.")])
    [1.0, 0.0]
    """

    def entails(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """1.0 or 0.0 for each pair."""
        return [1.0 if _covers(premise, hypothesis) else 0.0 for premise, hypothesis in pairs]


def make_verifier(name: str, *, cache: Path | None = None, tell: Callable[[str], None] = lambda text: None) -> Verifier:
    """The verifier of that name; its verdicts are kept in the file `cache`, when one is given.

    "lexical" is `Lexical`, never cached: it is faster than a look-up. A folder, or owner/model on the hub (at a
    revision, after an @), is an NLI model (`rewards/judges/nli.py`), loaded here. `tell` gets a line before each
    long wait.
    Raises UserError for any other name, a model that is no NLI model, or a cache that is not one.
    """
    check_name(name)
    if name == "lexical":
        return Lexical()
    # torch and transformers take seconds to import, and most runs need neither here.
    from rewards.judges.cache import Cached
    from rewards.judges.nli import load_nli

    verifier, identity = load_nli(name, tell=tell)
    return verifier if cache is None else Cached(verifier, cache, model=identity, tell=tell)


def check_name(name: str) -> None:
    """UserError for what cannot be the name of a verifier; loads nothing."""
    looks_like_hub = not name.startswith((".", "/", "~")) and name.partition("@")[0].count("/") == 1
    if name != "lexical" and not Path(name).is_dir() and not looks_like_hub:
        raise UserError(f"unknown verifier {name!r}; valid: {VALID}")


def take_counts(verifier: Verifier) -> dict[str, float]:
    """The counts of a verifier since the last call; none for one that does not count."""
    return verifier.take_counts() if isinstance(verifier, Counting) else {}


def premise(passages: Sequence[Passage]) -> str:
    """Passages as the metric shows them to a verifier: "Title: {title}\\n{text}", joined by newlines.

    >>> premise([Passage(title="Ali Daei", text="109 goals.")])
    'Title: Ali Daei\\n109 goals.'
    """
    return "\n".join(f"Title: {passage.title}\n{passage.text}" for passage in passages)


def _covers(premise: str, hypothesis: str) -> bool:
    """No token crosses a line, so that a passage shared by many premises is read once."""
    missing = _tokens(hypothesis) - STOP_WORDS
    for line in premise.split("\n"):
        if not missing:
            break
        missing -= _tokens(line)
    return not missing
