"""The cache of verdicts: nothing is judged twice, and a file that fails does not stop a run."""

import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from grpo.errors import UserError
from rewards.judges.base import Judge, pop_metrics
from rewards.judges.cache import WRITE_BATCH, CachedJudge
from rewards.judges.lexical import LexicalJudge

RIGHT, WRONG = ("Ali Daei scored 109 goals.", "Daei scored 109."), ("Ali Daei scored 109 goals.", "Daei scored 805.")


class Watched:
    """The lexical judge with a list of its calls; `share` scales its verdicts, to tell models apart."""

    def __init__(self, share: float = 1.0) -> None:
        self.calls: list[list[tuple[str, str]]] = []
        self._share = share

    def entails(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        self.calls.append(list(pairs))
        return [self._share * p for p in LexicalJudge().entails(pairs)]

    def pop_metrics(self) -> dict[str, float]:
        return {"cut": 3.0}


def cached(path: Path, judge: Judge | None = None, model: str = "m@1") -> CachedJudge:
    return CachedJudge(judge or Watched(), path / "verdicts.sqlite", model=model)


def test_distinct_pairs_are_asked_once_and_verdicts_keep_their_order(tmp_path: Path) -> None:
    watched = Watched(0.25)
    cache = cached(tmp_path, watched)
    assert cache.entails([WRONG, RIGHT, WRONG, RIGHT, RIGHT]) == [0.0, 0.25, 0.0, 0.25, 0.25]
    assert cache.entails([RIGHT, WRONG, ("a", "goal")]) == [0.25, 0.0, 0.0]
    assert cache.entails([]) == []
    assert watched.calls == [[WRONG, RIGHT], [("a", "goal")]]


def test_hits_are_counted_beside_the_judges_own_counts(tmp_path: Path) -> None:
    cache = cached(tmp_path)
    cache.entails([RIGHT, RIGHT, WRONG])
    cache.entails([RIGHT, ("a", "goal")])
    assert pop_metrics(cache) == {"cut": 3.0, "asked": 4.0, "hit_rate": 0.25}
    assert pop_metrics(cache) == {"cut": 3.0, "asked": 0.0}  # no rate of nothing
    assert pop_metrics(LexicalJudge()) == {}


def test_a_verdict_belongs_to_its_model_and_to_the_place_of_each_text(tmp_path: Path) -> None:
    assert cached(tmp_path, Watched(1.0)).entails([RIGHT]) == [1.0]
    assert cached(tmp_path, Watched(0.5), model="m@2").entails([RIGHT]) == [0.5]
    watched = Watched(0.5)
    cache = cached(tmp_path, watched)
    premise, hypothesis = RIGHT
    shifted = [(hypothesis, premise), (premise + hypothesis, ""), (premise[:-1], "." + hypothesis), RIGHT]
    assert cache.entails(shifted)[-1] == 1.0
    assert watched.calls == [shifted[:-1]]


def test_threads_share_one_cache(tmp_path: Path) -> None:
    cache = cached(tmp_path)

    def ask(first: int) -> None:
        for n in range(first, first + 50):
            assert cache.entails([(f"text {n}", f"text {n}"), (f"text {n}", "other")]) == [1.0, 0.0]

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(ask, (0, 25, 50)))
    assert cache.pop_metrics() == {"cut": 3.0, "asked": 300.0, "hit_rate": 1 / 3}


def test_what_was_judged_before_a_failure_is_kept(tmp_path: Path) -> None:
    class Failing(Watched):
        def entails(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
            if self.calls:
                raise RuntimeError("the model is gone")
            return super().entails(pairs)

    asked = [(f"text {n}", f"text {n}") for n in range(WRITE_BATCH + 10)]
    with pytest.raises(RuntimeError, match="the model is gone"):
        cached(tmp_path, Failing()).entails(asked)
    watched = Watched()
    assert cached(tmp_path, watched).entails(asked) == [1.0] * len(asked)
    assert watched.calls == [asked[WRITE_BATCH:]]


def test_a_cache_that_fails_in_the_middle_of_a_run_is_given_up_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rewards.judges.cache.LOCK_SECONDS", 0.1)
    watched, told = Watched(), []
    path = tmp_path / "verdicts.sqlite"
    cache = CachedJudge(watched, path, model="m@1", tell=told.append)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert [cache.entails([RIGHT, WRONG]) for _ in range(2)] == [[1.0, 0.0]] * 2
    assert watched.calls == [[RIGHT, WRONG]] * 2
    assert told == [f"warning: {path}: database is locked; verdicts are no longer kept"]
    other.execute("ROLLBACK")
    assert other.execute("SELECT count(*) FROM verdicts").fetchone() == (0,)


@pytest.mark.parametrize("what", ["text", "folder"])
def test_what_cannot_be_a_cache_is_named_and_left_as_it_is(tmp_path: Path, what: str) -> None:
    path = tmp_path / "verdicts.sqlite"
    if what == "folder":
        path.mkdir()
    else:
        path.write_text("what I measured last year\n" * 100, encoding="utf-8")
    says = rf"^{path}: cannot be a cache of verdicts: .*; valid: such a cache, or a new path$"
    with pytest.raises(UserError, match=says):
        cached(tmp_path)
    assert path.is_dir() or path.read_text(encoding="utf-8") == "what I measured last year\n" * 100


def test_an_empty_file_becomes_a_cache(tmp_path: Path) -> None:
    (tmp_path / "verdicts.sqlite").touch()
    assert cached(tmp_path).entails([RIGHT]) == [1.0]
