"""Custom rewards: found by name, in three forms, timed, checked, and their failures counted."""

import dataclasses
import json
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from curriculum.datasets import DataSpec
from curriculum.sources import load_source
from grpo.data.example import Example, Passage, load_examples
from grpo.errors import UserError
from grpo.telemetry.run_logger import rollout_rows
from grpo.types import Completion, Group, Score
from rewards.config import RewardConfig
from rewards.custom import COLUMNS, TRAINER, BadValues, CustomReward, check_values, load_reward, per_answer
from rewards.scorer import RewardScorer

EXAMPLE = Example(
    id="asqa-1",
    question="Who scored 109 goals?",
    passages=(Passage(title="Ali Daei", text="Ali Daei scored 109 goals."),),
    answers=(("Ali Daei", "Daei"),),
    found=((True,),),
    style="prose",
    source="asqa",
)
TEXTS = ("Ali Daei scored 109 goals [1].", "Josef Bican [1].", "")  # stage 1: 3.0, 2.0, 1.0
NAME = "own_rewards:f"


def completions(texts: Sequence[str] = TEXTS) -> list[Completion]:
    return [
        Completion(text=text, token_ids=(n, 2), logprobs=(0.0, 0.0), finish="stop", version=0)
        for n, text in enumerate(texts)
    ]


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("own_rewards")
    monkeypatch.setitem(sys.modules, "own_rewards", module)
    return module


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """An event that hanging rewards wait for, set at the end, so that no test leaves a thread behind."""
    event = threading.Event()
    yield event
    event.set()


def scorer(own: types.ModuleType, function: Any, **changes: Any) -> RewardScorer:
    vars(own)["f"] = function
    return RewardScorer(RewardConfig.model_validate({"weights": {NAME: 2.0}} | changes), reasoning=False)


def score(scorer: RewardScorer) -> list[Score]:
    (found,) = scorer([Group(example=EXAMPLE, prompt_ids=(), completions=tuple(completions()))])
    return found


def totals(scores: Sequence[Score]) -> list[float]:
    return [score.total for score in scores]


def test_a_group_at_a_time(own: types.ModuleType) -> None:
    def rank(example: Example, completions: Sequence[Completion]) -> list[float]:
        longest = max(len(c.text) for c in completions)
        return [float(len(c.text) == longest) for c in completions]

    scores = score(scorer(own, rank))
    assert totals(scores) == [3.0 + 2.0, 2.0, 1.0]  # it passes no gate
    assert [score.parts[NAME] for score in scores] == [1.0, 0.0, 0.0]


def test_one_answer_at_a_time(own: types.ModuleType) -> None:
    @per_answer
    def short(example: Example, completion: Completion) -> float:
        """Pays for brevity."""
        return 1 - len(completion.text) / 40

    assert (short.__name__, short.__doc__) == ("short", "Pays for brevity.")
    assert totals(score(scorer(own, short))) == pytest.approx([3 + 2 * 0.25, 2 + 2 * 0.6, 1 + 2])


def test_none_counts_as_the_mean_of_the_scored_siblings(own: types.ModuleType) -> None:
    """A missing score is neither a penalty nor a bonus; the part itself stays missing."""
    scores = score(scorer(own, lambda example, completions: [-1.0, None, 0.5]))
    assert totals(scores) == [3 - 2, 2 - 0.5, 1 + 1]
    assert [score.parts.get(NAME) for score in scores] == [-1.0, None, 0.5]
    unscored = score(scorer(own, lambda example, completions: [None] * 3))
    assert totals(unscored) == [3.0, 2.0, 1.0]
    assert all(NAME not in score.parts for score in unscored)


def test_a_function_written_for_trl_gets_its_columns(own: types.ModuleType) -> None:
    seen = {}

    def accuracy(completions: list[str], answers: list[list[list[str]]], **kwargs: Any) -> list[float]:
        seen.update(kwargs)
        return [float(any(a in text for a in gold[0])) for text, gold in zip(completions, answers, strict=True)]

    scores = score(scorer(own, accuracy))
    assert [score.parts[NAME] for score in scores] == [1.0, 0.0, 0.0]
    assert set(seen) | {"completions", "answers"} == {*COLUMNS, *TRAINER}
    assert {len(seen[name]) for name in COLUMNS if name in seen} == {3}
    assert seen["prompts"] == seen["question"] == ["Who scored 109 goals?"] * 3
    assert seen["docs"][2] == [{"title": "Ali Daei", "text": "Ali Daei scored 109 goals."}]
    assert seen["completion_ids"] == [[0, 2], [1, 2], [2, 2]]
    assert (seen["style"], seen["source"]) == (["prose"] * 3, ["asqa"] * 3)


def lengths(prompts: list[str], completions: list[str], scale: float = 0.1) -> list[float]:
    return [scale * len(text) for text in completions]


class FromAsqa:
    def __call__(self, completions: list[str], source: list[str]) -> list[float]:
        return [float(name == "asqa") for name in source]


def grounded(question: list[str], completions: list[str]) -> list[float]:
    pairs = zip(question, completions, strict=True)
    return [float(asked == EXAMPLE.question and text.endswith("[1].")) for asked, text in pairs]


def long_asqa(q: Example, completions: Sequence[Completion]) -> list[float]:
    return [float(q.id == "asqa-1" and len(c.text) > 20) for c in completions]


@pytest.mark.parametrize(
    ("function", "values"),
    [
        (lengths, [3.0, 1.6, 0.0]),
        (FromAsqa(), [1.0, 1.0, 1.0]),
        (grounded, [1.0, 1.0, 0.0]),
        (long_asqa, [1.0, 0.0, 0.0]),  # names no column: not for TRL
    ],
)
def test_names_of_parameters_tell_the_form_and_the_columns(
    own: types.ModuleType, function: Any, values: list[float]
) -> None:
    assert [s.parts[NAME] for s in score(scorer(own, function))] == pytest.approx(values)


def talks(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    asked, said = ([messages[-1]["content"] for messages in column] for column in (prompts, completions))
    return [float(q == EXAMPLE.question and "Daei" in text) for q, text in zip(asked, said, strict=True)]


def test_a_function_for_conversations_gets_messages_where_the_recipe_says_so(own: types.ModuleType) -> None:
    scores = score(scorer(own, talks, trl_conversational=True))
    assert [score.parts[NAME] for score in scores] == [1.0, 0.0, 0.0]
    with pytest.raises(UserError, match=r"TypeError: .* \(it was given plain strings; .*trl_conversational = true\)"):
        score(scorer(own, talks, failure_limit=0))
    plain = lambda completions, **columns: [len(text.split()) for text in completions]  # noqa: E731
    with pytest.raises(UserError, match=r"it was given conversations; the other form: .*trl_conversational = false"):
        score(scorer(own, plain, failure_limit=0, trl_conversational=True))


def test_the_records_other_columns_reach_a_function_for_trl(own: types.ModuleType) -> None:
    def by_level(completions: list[str], level: list[str], **columns: Any) -> list[float]:
        assert columns["topic"] == ["goals"] * 3
        return [{"easy": 0.5}[each] for each in level]

    example = dataclasses.replace(EXAMPLE, extra={"level": "easy", "topic": "goals", "source": "hidden"})
    asked = Group(example=example, prompt_ids=(), completions=tuple(completions()))
    assert [s.parts[NAME] for s in scorer(own, by_level)([asked])[0]] == [0.5] * 3
    with pytest.raises(UserError, match=r"asks for level, which question asqa-1 does not have; it has .*, source, "):
        score(scorer(own, by_level))  # at once, whatever failure_limit forgives


def test_a_column_that_is_null_reaches_a_function_for_trl_as_none(own: types.ModuleType, tmp_path: Path) -> None:
    record = {"question": "Who?", "answers": ["Daei"], "docs": ["Daei."], "level": None}
    (tmp_path / "a.jsonl").write_text(json.dumps(record), encoding="utf-8")
    log = {"question": "Who?", "passages": ["Ali Daei won."], "answer": "Ali Daei", "level": None}
    (tmp_path / "log.jsonl").write_text(json.dumps(log), encoding="utf-8")
    examples = [*load_examples(tmp_path / "a.jsonl"), *load_source(str(tmp_path / "log.jsonl"), DataSpec())[0]]
    asked = [Group(example=example, prompt_ids=(), completions=tuple(completions())) for example in examples]
    found = scorer(own, lambda completions, level: [float(each is None) for each in level])(asked)
    assert [[score.parts[NAME] for score in group] for group in found] == [[1.0] * 3] * 2


def test_a_function_for_trl_reads_the_step_and_logs(own: types.ModuleType) -> None:
    def logs(completions: list[str], trainer_state: Any, log_extra: Any, log_metric: Any) -> list[float]:
        log_extra("first_word", [text.partition(" ")[0] for text in completions])
        log_metric("longest", max(map(len, completions)))
        return [float(trainer_state.global_step)] * 3

    logging = scorer(own, logs)
    late = [dataclasses.replace(completion, version=7) for completion in completions()]
    (found,) = logging([Group(example=EXAMPLE, prompt_ids=(), completions=tuple(late))])
    assert [s.parts[NAME] for s in found] == [7.0] * 3
    assert [s.details["log"]["first_word"] for s in found] == ["Ali", "Josef", ""]
    score(logging)
    assert logging.pop_metrics() == {"reward_failures/own_rewards:f": 0.0, "reward_log/longest": 30.0}
    short = scorer(own, lambda completions, log_extra: log_extra("x", [1]) or [0.0] * 3, failure_limit=0)
    with pytest.raises(UserError, match=r"log_extra\('x'\) has 1 values for 3 completions"):
        score(short)


def test_what_a_reward_logs_hides_no_field_of_the_row(own: types.ModuleType) -> None:
    def logs(completions: list[str], log_extra: Any) -> list[float]:
        for column in ("text", "id", "reward", "step", "statements"):
            log_extra(column, [7] * 3)
        return [0.0] * 3

    asked = Group(example=EXAMPLE, prompt_ids=(), completions=tuple(completions()))
    scored = dataclasses.replace(asked, scores=tuple(scorer(own, logs)([asked])[0]))
    row = rollout_rows(2, [scored])[0]
    assert (row["text"], row["id"], row["reward"], row["step"]) == (TEXTS[0], "asqa-1", 3.0, 2)
    assert row["statements"][0]["cites"] == [1]
    assert row["log"] == dict.fromkeys(("text", "id", "reward", "step", "statements"), 7)


@pytest.mark.parametrize("value", [numpy.float32(1), torch.tensor(1.0), float("nan"), {1, 2}])
def test_a_logged_value_that_is_no_json_is_a_failure_of_the_reward(own: types.ModuleType, value: object) -> None:
    logs = lambda completions, log_extra: log_extra("score", [value] * 3) or [0.0] * 3  # noqa: E731
    forgiving = scorer(own, logs)
    assert "log" not in score(forgiving)[0].details
    assert forgiving.pop_metrics()["reward_failures/own_rewards:f"] == 1
    with pytest.raises(UserError, match=r"log_extra\('score'\): .*; valid: plain numbers, texts and lists"):
        score(scorer(own, logs, failure_limit=0))


def test_a_reward_without_values_is_said_once(own: types.ModuleType) -> None:
    said: list[str] = []
    vars(own)["f"] = lambda example, completions: [None] * 3
    silent = RewardScorer(RewardConfig(weights={NAME: 2.0}), reasoning=False, tell=said.append)
    assert totals(score(silent)) == totals(score(silent)) == [3.0, 2.0, 1.0]
    assert said == ["warning: reward own_rewards:f scored none of the first 3 completions"]


def test_a_switch_for_trl_without_a_function_for_trl_is_refused(own: types.ModuleType) -> None:
    with pytest.raises(UserError, match=r"trl_conversational = true, and no function in reward.weights is written"):
        scorer(own, lambda example, completions: [0.0] * 3, trl_conversational=True)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("open('/nowhere/at/all')", "FileNotFoundError: "),
        ("undefined", "NameError: name 'undefined'"),
        ("def f(:", "SyntaxError: "),
    ],
)
def test_whatever_a_module_raises_while_it_is_imported_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, says: str
) -> None:
    (tmp_path / "broken_rewards.py").write_text(source + "\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=rf"reward 'broken_rewards:f' cannot be loaded: {says}") as caught:
        load_reward("broken_rewards:f")
    assert "\n" not in str(caught.value)


def test_numbers_of_other_libraries_are_numbers(own: types.ModuleType) -> None:
    for values in (torch.tensor([1.0, 0.0, 0.5]), [torch.tensor(1.0), numpy.float32(0), 0.5], numpy.array([1, 0, 0.5])):
        assert check_values(values, 3) == [1.0, 0.0, 0.5]
    for wrong in ("1.0", b"1", torch.tensor([1.0, 2.0]), numpy.nan, [1.0], 1j):
        with pytest.raises(BadValues, match="for completion 1; valid: a finite number or None"):
            check_values([0.0, wrong], 2)


async def waits(completions: list[str]) -> list[float]:
    return []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("nowhere_at_all:f", None, "'nowhere_at_all:f' cannot be loaded: ModuleNotFoundError: No module named"),
        ("own_rewards:missing", None, "cannot be loaded: .*missing"),
        (":f", None, "cannot be loaded"),
        (NAME, 3, "is a int, not a function"),
        (NAME, dict, "is a type, not a function"),
        (NAME, lambda text: 1.0, r"takes \(text\); valid: f\(example, completions\) or f\(prompts, completions"),
        (NAME, waits, "is an async function; valid: a plain one"),
    ],
)
def test_a_reward_that_cannot_be_called_is_refused_before_the_run(
    own: types.ModuleType, name: str, value: object, message: str
) -> None:
    vars(own)["f"] = value
    with pytest.raises(UserError, match=message) as caught:
        load_reward(name)
    assert "\n" not in str(caught.value)


def breaks(example: Example, completions: Sequence[Completion]) -> list[float]:
    raise ZeroDivisionError("two\nlines")


def leaves(example: Example, completions: Sequence[Completion]) -> list[float]:
    sys.exit(3)


FAILURES = [
    (breaks, "ZeroDivisionError: two lines"),
    (leaves, "SystemExit: 3"),
    (lambda e, c: [1.0], "returned 1 values for 3 completions"),
    (lambda e, c: None, "returned a NoneType; valid: a list of 3"),
    (lambda e, c: [1.0, float("nan"), 1.0], "returned nan for completion 1"),
    (lambda e, c: ["1", 1.0, 1.0], "returned '1' for completion 0"),
]


@pytest.mark.parametrize(("function", "message"), FAILURES, ids=[message for _, message in FAILURES])
def test_a_failure_is_not_scored_counted_and_named(own: types.ModuleType, function: Any, message: str) -> None:
    forgiving = scorer(own, function)
    assert totals(score(forgiving)) == [3.0, 2.0, 1.0]
    assert forgiving.pop_metrics() == {"reward_failures/own_rewards:f": 1.0}
    assert forgiving.pop_metrics() == {"reward_failures/own_rewards:f": 0.0}
    with pytest.raises(
        UserError, match=f"'own_rewards:f' failed in 1 of 1 calls.*question asqa-1: {message}"
    ) as caught:
        score(scorer(own, function, failure_limit=0.0))
    assert "\n" not in str(caught.value)


def test_the_run_stops_above_the_share(own: types.ModuleType) -> None:
    calls = []

    def every_fifth(example: Example, completions: Sequence[Completion]) -> list[float]:
        calls.append(len(completions))
        if len(calls) % 5 == 0:
            raise ValueError(f"call {len(calls)}")
        return [0.0] * len(completions)

    strict = scorer(own, every_fifth, failure_limit=0.15)
    for _ in range(19):
        score(strict)
    assert strict.pop_metrics() == {"reward_failures/own_rewards:f": 3.0}  # 3 of 20 is not above 0.15
    with pytest.raises(UserError, match=r"failed in 4 of 20 calls, more than reward.failure_limit = 0.15 .* call 5$"):
        score(strict)
    assert len(calls) == 20


def test_a_call_that_hangs_is_abandoned_and_counted(
    own: types.ModuleType, gate: threading.Event, fault: Callable[..., None]
) -> None:
    fault("a reward that hangs", steps=0)

    def hangs(example: Example, completions: Sequence[Completion]) -> list[float]:
        gate.wait()
        return [9.0] * len(completions)

    forgiving = scorer(own, hangs, timeout=0.05)
    assert totals(score(forgiving)) == [3.0, 2.0, 1.0]
    assert forgiving.pop_metrics() == {"reward_failures/own_rewards:f": 1.0}
    left = [thread for thread in threading.enumerate() if thread.name == NAME]
    assert len(left) == 1
    assert left[0].daemon  # the program can end without it
    with pytest.raises(UserError, match=r"no result within reward.timeout = 0.05 s"):
        score(scorer(own, hangs, timeout=0.05, failure_limit=0.0))


def test_a_timeout_of_its_own_is_an_error_and_not_ours(own: types.ModuleType) -> None:
    def service(example: Example, completions: Sequence[Completion]) -> list[float]:
        raise TimeoutError("the judge is busy")

    with pytest.raises(UserError, match="TimeoutError: the judge is busy"):
        score(scorer(own, service, failure_limit=0.0))


def test_the_rewards_of_a_recipe_run_side_by_side(own: types.ModuleType) -> None:
    """Each reward waits until the other has begun; one after the other, both would time out."""
    begun = {"f": threading.Event(), "g": threading.Event()}

    def meets(mine: str, other: str) -> Any:
        def reward(example: Example, completions: Sequence[Completion]) -> list[float]:
            begun[mine].set()
            return [float(begun[other].wait(10))] * len(completions)

        return reward

    vars(own)["f"], vars(own)["g"] = meets("f", "g"), meets("g", "f")
    both = RewardScorer(RewardConfig(weights={NAME: 1.0, "own_rewards:g": 1.0}, timeout=20.0), reasoning=False)
    assert totals(score(both)) == [5.0, 4.0, 3.0]
    assert both.pop_metrics() == {"reward_failures/own_rewards:f": 0.0, "reward_failures/own_rewards:g": 0.0}


def test_a_late_result_never_reaches_a_later_group(own: types.ModuleType, gate: threading.Event) -> None:
    def late(example: Example, completions: Sequence[Completion]) -> list[float]:
        if completions[0].text == "late":
            gate.wait()
        return [float(len(completions))] * len(completions)

    vars(own)["f"] = late
    hasty = CustomReward(NAME, RewardConfig(timeout=0.05, failure_limit=1.0))
    assert hasty.start(EXAMPLE, completions(["late"]))().values == [None]
    wait = CustomReward(NAME, RewardConfig(timeout=10)).start(EXAMPLE, completions(["a", "b"]))
    gate.set()
    assert wait().values == [2.0, 2.0]
