"""Judges by name: `load_judge`."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from grpo.errors import UserError
from rewards.judges.base import Judge, Pair
from rewards.judges.cache import CachedJudge
from rewards.judges.lexical import LexicalJudge, TokenSubsetJudge

WORD_JUDGES: Mapping[str, Callable[[], Judge]] = {"lexical": LexicalJudge, "token_subset": TokenSubsetJudge}
VALID = "lexical, token_subset, a folder with an NLI model, or a hub name like owner/model or owner/model@revision"


class LazyJudge:
    """A judge that `load` makes when it is first asked, since a source without sentences never asks it."""

    def __init__(self, load: Callable[[], Judge]) -> None:
        self._load = cache(load)

    def entails(self, pairs: Sequence[Pair]) -> list[float]:
        """As `Judge.entails`."""
        return self._load().entails(pairs)


def load_judge(name: str, *, cache: Path | None = None, tell: Callable[[str], None] = lambda text: None) -> Judge:
    """The judge of this name: "lexical", "token_subset", an NLI model's folder, or owner/model[@revision] on the hub.

    Verdicts of a model are kept in the file `cache` if one is given. `tell` gets a line before each long wait.
    UserError for any other name, a model that is no NLI model, or a file that cannot be a cache.
    """
    check_judge_name(name)
    if name in WORD_JUDGES:
        return WORD_JUDGES[name]()  # never cached: it is faster than a look-up
    from rewards.judges.nli import load_nli  # here, because torch and transformers take seconds to import

    judge, identity = load_nli(name, tell=tell)
    return judge if cache is None else CachedJudge(judge, cache, model=identity, tell=tell)


def check_judge_name(name: str) -> None:
    """UserError for what cannot be the name of a judge; loads nothing."""
    looks_like_hub = not name.startswith((".", "/", "~")) and name.partition("@")[0].count("/") == 1
    if name not in WORD_JUDGES and not Path(name).is_dir() and not looks_like_hub:
        raise UserError(f"unknown judge {name!r}; valid: {VALID}")
