"""Samplers: equal seeds give equal streams; weights by difficulty; a curriculum of the user's own."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from pydantic import ValidationError

from curriculum.datasets.world import make_world
from curriculum.samplers import CurriculumConfig, DifficultySampler, make_curriculum, passed
from grpo.errors import UserError
from grpo.types import Completion, Group, Score

WORLD = make_world(60, seed=3, unanswerable=0.5)
ANSWERABLE = [example for example in WORLD if example.answerable]
WROTE = Completion(text="", token_ids=(1,), logprobs=(0.0,), finish="stop", version=0)


def group(example, passes, of=8):
    """A group in which `passes` of `of` completions passed."""
    part = "exact_match" if example.answerable else "refusal"
    scores = tuple(Score(total=0.0, parts={part: 0.5 * (n < passes)}) for n in range(of))
    return Group(example=example, prompt_ids=(1,), completions=(WROTE,) * of, scores=scores)


def stream(curriculum, batches, count=4):
    """The ids of `batches` batches as bytes. Each batch is observed, as in training."""
    seen = []
    for _ in range(batches):
        batch = curriculum.next_batch(count)
        curriculum.observe([group(e, passes=sum(map(ord, e.id)) % 9) for e in batch])
        seen.append([e.id for e in batch])
    return json.dumps(seen).encode()


@pytest.mark.parametrize("order", ["epochs", "difficulty"])
def test_two_runs_with_one_seed_ask_the_same_byte_for_byte(order):
    settings = CurriculumConfig(order=order)
    first, again, other = (make_curriculum(settings, WORLD, seed=seed) for seed in (1, 1, 2))
    assert stream(first, 40) == stream(again, 40) != stream(other, 40)


@pytest.mark.parametrize("order", ["epochs", "difficulty"])
def test_a_run_killed_between_any_two_steps_goes_on_with_the_same_stream(order):
    settings = CurriculumConfig(order=order)
    whole = json.loads(stream(make_curriculum(settings, WORLD, seed=1), 40))
    for killed in range(40):
        before, after = (make_curriculum(settings, WORLD, seed=1) for _ in range(2))
        stream(before, killed)
        after.load_state_dict(json.loads(json.dumps(before.state_dict())))
        assert json.loads(stream(after, 3)) == whole[killed : killed + 3] or killed > 37, killed


def test_a_question_passes_by_what_it_is_for():
    refused, said = Score(total=0, parts={"refusal": 0.95}), Score(total=0, parts={"exact_match": 0.5})
    unanswerable = next(example for example in WORLD if not example.answerable)
    assert [passed(ANSWERABLE[0], score) for score in (refused, said)] == [False, True]
    assert [passed(unanswerable, score) for score in (refused, said)] == [True, False]
    fact, half = (Score(total=0, parts={"exact_match": 0.5, "fact": value}) for value in (1.0, 0.5))
    assert [passed(ANSWERABLE[0], score) for score in (fact, half)] == [True, False]
    assert passed(unanswerable, Score(total=0, parts={"caution": 1.0}))


def test_weights_are_p_times_one_minus_p():
    curriculum = DifficultySampler(ANSWERABLE, seed=0, floor=0.05)
    one, two, three, *rest = ANSWERABLE
    curriculum.observe([group(one, 2), group(two, 8), group(three, 4)])
    assert [curriculum.weight(e) for e in (one, two, three, rest[0])] == [0.25 * 0.75, 0.05, 0.25, 0.25]
    curriculum.observe([group(two, 1)])  # the last time counts
    assert curriculum.weight(two) == 1 / 8 * 7 / 8


def test_what_is_sometimes_right_is_asked_most_often():
    ten = ANSWERABLE[:10]
    curriculum = DifficultySampler(ten, seed=0, floor=0.05)
    curriculum.observe([group(e, passes=8 * (n % 2) if n > 4 else 4) for n, e in enumerate(ten)])
    asked = Counter(e.id for _ in range(1000) for e in curriculum.next_batch(1))
    share = sum(asked[e.id] for e in ten[:5]) / 1000
    assert abs(share - 5 * 0.25 / (5 * 0.25 + 5 * 0.05)) < 0.04  # 0.833


def test_a_batch_repeats_no_question_while_there_are_others():
    curriculum = DifficultySampler(ANSWERABLE[:10], seed=0)
    assert len({e.id for e in curriculum.next_batch(10)}) == 10
    assert Counter(Counter(e.id for e in curriculum.next_batch(25)).values()) == Counter({3: 5, 2: 5})


def own(examples, *, seed):
    """The hardest last: a curriculum as a user would write it."""
    return DifficultySampler(examples, seed=seed)


class Short(DifficultySampler):
    def next_batch(self, count):
        return super().next_batch(count)[:-1]


class NotJson(DifficultySampler):
    def state_dict(self):
        return {"rng": object()}


def short(examples, *, seed):
    return Short(examples, seed=seed)


def not_json(examples, *, seed):
    return NotJson(examples, seed=seed)


def nothing(examples, *, seed):
    return [replace(examples[0])]


def no_seed(examples):
    return own(examples, seed=0)


NUMBER = 3


def load(name):
    return make_curriculum(CurriculumConfig(order=f"tests.unit.curriculum.test_samplers:{name}"), ANSWERABLE, seed=1)


def test_a_curriculum_of_the_users_own_is_asked():
    assert stream(load("own"), 5) == stream(DifficultySampler(ANSWERABLE, seed=1), 5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone", r"'tests.unit.curriculum.test_samplers:gone' cannot be loaded: AttributeError"),
        ("NUMBER", r"is a int, not a function"),
        ("no_seed", r"unexpected keyword argument 'seed'; valid: function\(examples, \*, seed\)"),
        ("nothing", r"returned a list without next_batch, observe, state_dict, load_state_dict; valid: an object"),
    ],
)
def test_a_curriculum_that_cannot_be_had_is_one_line(name, message):
    with pytest.raises(UserError, match=message) as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_what_a_curriculum_returns_is_looked_at():
    with pytest.raises(UserError, match=r"next_batch\(4\) returned 3; valid: 4 examples"):
        load("short").next_batch(4)
    with pytest.raises(UserError, match=r"state_dict\(\) is not JSON"):
        load("not_json").state_dict()
    with pytest.raises(UserError, match="cannot be loaded: ModuleNotFoundError"):
        make_curriculum(CurriculumConfig(order="nowhere.at_all:f"), ANSWERABLE, seed=0)
    with pytest.raises(ValidationError, match=r"curriculum.order = 'epoch'; valid: epochs, difficulty, or 'package"):
        CurriculumConfig(order="epoch")
    for order in ("epochs", "difficulty"):
        with pytest.raises(UserError, match="no training questions are left"):
            make_curriculum(CurriculumConfig(order=order), [], seed=0)
