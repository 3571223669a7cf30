"""Property tests: after any transform, `found` says which passages hold which answer."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum.datasets.world import make_world
from curriculum.mixing import mix
from curriculum.transforms import add_distractors, apply_transforms, drop_support, fit_passages, shuffle_passages
from grpo.config import load
from grpo.data.example import Example, Passage, load_examples, to_record
from grpo.data.files import write_jsonl
from grpo.data.text import contains
from grpo.errors import UserError
from grpo.telemetry.console import Console
from launch.builders.data import load_sources
from launch.config.recipe import Recipe, SFTConfig

WORDS = st.sampled_from(["Ada Quill", "109 goals", "Low Tide", "Orvale", "1911", "harbour", "was", "the"])
TEXTS = st.lists(WORDS, min_size=1, max_size=5).map(" ".join)
PASSAGES = st.lists(st.builds(Passage, title=WORDS, text=TEXTS), min_size=1, max_size=5)
ANSWERS = st.lists(st.lists(WORDS, min_size=1, max_size=2).map(tuple), min_size=1, max_size=3).map(tuple)


def true_to_text(example):
    expected = tuple(tuple(contains(p.text, spellings) for spellings in example.answers) for p in example.passages)
    return example.found == expected


@st.composite
def examples(draw):
    passages, answers = tuple(draw(PASSAGES)), draw(ANSWERS)
    found = tuple(tuple(contains(p.text, spellings) for spellings in answers) for p in passages)
    return Example(id="q", question="Who?", passages=passages, answers=answers, found=found, style="prose", source="t")


@given(example=examples(), seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_shuffling_keeps_found_true(example, seed):
    shuffled = shuffle_passages(example, random.Random(seed))
    assert true_to_text(shuffled)
    assert sorted(map(repr, shuffled.passages)) == sorted(map(repr, example.passages))
    assert shuffled.answerable is example.answerable


@given(example=examples())
@settings(max_examples=150, deadline=None)
def test_without_support_nothing_is_found(example):
    if all(any(row) for row in example.found):
        with pytest.raises(UserError, match="every passage holds an answer"):
            drop_support(example)
        return
    without = drop_support(example)
    assert true_to_text(without)
    assert not without.answerable
    assert (without.id, without.question, without.answers) == ("q-u", example.question, example.answers)


@given(example=examples(), pool=PASSAGES, count=st.integers(0, 3), seed=st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_distractors_keep_found_true_and_hold_no_answer(example, pool, count, seed):
    shown = {p for p in pool if not any(contains(f"{p.title}\n{p.text}", a) for a in example.answers)}
    free = shown - set(example.passages)
    if len(free) < count:
        with pytest.raises(UserError, match=rf"{count} distractors were asked for, and {len(free)} passages hold no"):
            add_distractors(example, pool, count, random.Random(seed))
        return
    more = add_distractors(example, pool, count, random.Random(seed))
    assert true_to_text(more)
    assert len(more.passages) == len(example.passages) + count
    assert more.answerable is example.answerable
    assert [p for p in more.passages if p in set(example.passages)] == list(example.passages)


ASKED = make_world(60, seed=5, unanswerable=0.5, passages=3, styles={"prose": 1.0})


def test_a_recipe_transforms_what_it_asks(tmp_path):
    """All three at once: two distractors more, a form to refuse behind each answerable question, another order."""
    made = apply_transforms(ASKED, distractors=2, without_support=True, shuffle=True, seed=1)
    assert apply_transforms(ASKED, distractors=2, without_support=True, shuffle=True, seed=1) == made
    answerable = sum(example.answerable for example in ASKED)
    assert len(made) == len(ASKED) + answerable
    assert sum(example.answerable for example in made) == answerable
    assert len({example.id for example in made}) == len(made)
    assert all(true_to_text(example) for example in made)
    originals = {example.id: example for example in ASKED}
    whole = [example for example in made if example.id in originals]
    assert all(len(example.passages) == 5 for example in whole)
    assert all(set(originals[example.id].passages) < set(example.passages) for example in whole)
    moved = [e.passages.index(originals[e.id].passages[0]) for e in whole]
    assert len(set(moved)) == 5
    again = apply_transforms(made, distractors=0, without_support=True, shuffle=False, seed=1)
    assert len({example.id for example in again}) == len(again)  # "q-u" is taken
    closed = replace(ASKED[0], passages=(), found=(), style="closed")
    assert apply_transforms([closed], distractors=0, without_support=True, shuffle=True, seed=1) == [closed]


def test_transforms_of_a_recipe_reach_the_run(tmp_path):
    write_jsonl(tmp_path / "all.jsonl", map(to_record, [example for example in ASKED if example.answerable]))
    recipe = load(Recipe, [f"--data.source={tmp_path / 'all.jsonl'}", "--data.without_support=true"])
    found = load_sources(recipe.data, SFTConfig(), Console())
    assert [example.answerable for example in found[:4]] == [True, False] * 2
    chosen = mix(found, count=20, unanswerable=0.5, seed=0, key="data.unanswerable")
    assert sum(not example.answerable for example in chosen) == 10
    short = load(Recipe, [f"--data.source={tmp_path / 'all.jsonl'}", "--data.distractors=500"])
    with pytest.raises(UserError, match=r"500 distractors were asked for, and \d+ passages hold no answer"):
        load_sources(short.data, SFTConfig(), Console())


def test_claims_are_not_looked_up():
    claims = make_world(20, seed=0, unanswerable=0.0, styles={"claims": 1.0})[0]
    with pytest.raises(UserError, match="claims cannot be looked up"):
        add_distractors(claims, [], 1, random.Random(0))


WORLD = make_world(60, seed=3, unanswerable=0.5)


@given(count=st.integers(1, 80), share=st.floats(0, 1), seed=st.integers(0, 9))
@settings(max_examples=200, deadline=None)
def test_the_mix_hits_its_ratio_within_one_example(count, share, seed):
    chosen = mix(WORLD, count=count, unanswerable=share, seed=seed, key="data.unanswerable")
    refused = sum(not example.answerable for example in chosen)
    assert abs(refused - share * len(chosen)) <= 1
    assert len({example.id for example in chosen}) == len(chosen) <= count
    kinds = (sum(e.answerable for e in WORLD), sum(not e.answerable for e in WORLD))
    if count <= min(kinds):
        assert len(chosen) == count


def test_written_examples_are_read_back_as_they_were(tmp_path):
    write_jsonl(tmp_path / "all.jsonl", map(to_record, WORLD))
    assert load_examples(tmp_path / "all.jsonl") == WORLD
    for name, message in [
        ("all.jsonl", "is not overwritten"),
        ("a.json", "ends in .jsonl"),
        ("x/a.jsonl", "no folder"),
    ]:
        with pytest.raises(UserError, match=message):
            write_jsonl(tmp_path / name, [])
    assert [path.name for path in tmp_path.iterdir()] == ["all.jsonl"]


def test_a_record_that_is_too_long_loses_the_passages_that_help_least():
    texts = ["Low Tide was sold.", "Ada Quill led Orvale.", "Snow fell on the hills.", "Orvale was led by nobody."]
    example = Example(
        id="q",
        question="Who led Orvale?",
        passages=tuple(Passage(title="", text=text) for text in texts),
        answers=(("Ada Quill",),),
        found=((False,), (True,), (False,), (False,)),
        style="prose",
        source="t",
    )

    def kept(most):
        cut = fit_passages(example, lambda shown: len(shown.passages) <= most)
        assert cut is None or true_to_text(cut)
        return cut and [texts.index(passage.text) for passage in cut.passages]

    assert [kept(most) for most in (4, 2, 1, 0)] == [[0, 1, 2, 3], [1, 3], [1], None]
    assert fit_passages(example, lambda shown: "Ada Quill led Orvale." not in {p.text for p in shown.passages}) is None
