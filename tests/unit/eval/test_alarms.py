"""The signs of a run that goes wrong, each with the numbers at which it speaks and does not."""

import pytest

from eval.alarms import (
    WINDOW,
    Alarms,
    alignment_falls,
    answers_everything,
    never_formatted,
    refusals_flood,
    refuses_everything,
)


def steps(count: int = WINDOW, **values: float) -> list[dict[str, float]]:
    return [{name.replace("__", "/"): value for name, value in values.items()}] * count


def test_answering_everything_is_wrong_only_where_something_is_unanswerable() -> None:
    assert "50 % are unanswerable" in answers_everything(steps(trust__answered_ratio=100, trust__answerable=50))
    assert not answers_everything(steps(trust__answered_ratio=100, trust__answerable=100))
    assert not answers_everything(steps(trust__answered_ratio=99, trust__answerable=50))
    assert not answers_everything(steps(WINDOW - 1, trust__answered_ratio=100, trust__answerable=50))


def test_refusing_everything() -> None:
    assert refuses_everything(steps(trust__answered_ratio=0, trust__answerable=50))
    assert not refuses_everything(steps(trust__answered_ratio=0, trust__answerable=0))
    assert not refuses_everything(steps(trust__answered_ratio=0, trust__answerable=50)[1:] + steps(1))


def test_no_answer_has_the_format() -> None:
    assert never_formatted(steps(reward__format=0))
    assert not never_formatted(steps(4, reward__format=0) + steps(1, reward__format=0.1))


def test_refusals_flood_against_the_start() -> None:
    calm, wild = steps(trust__over_refusal=30), steps(trust__over_refusal=60)
    assert "60 % of the answerable questions, 30 % at the start" in refusals_flood(calm + wild)
    assert not refusals_flood(wild)  # it always was so
    assert not refusals_flood(calm + steps(trust__over_refusal=49))


def test_reasoning_stops_leading_to_the_answer() -> None:
    high, low = steps(trust__align=70), steps(trust__align=54)
    assert "fell from 70 to 54" in alignment_falls(high + low)
    assert not alignment_falls(low + high)
    assert not alignment_falls(high + steps(trust__align=56))
    assert not alignment_falls(steps())


def test_an_alarm_speaks_once_and_again_after_it_was_over() -> None:
    alarms = Alarms()
    said = [alarms.check({"reward/format": value}) for value in [0.0] * 7 + [1.0] + [0.0] * 5]
    assert [len(lines) for lines in said] == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("values", [{}, {"policy/nll": 1.0}])
def test_metrics_that_are_not_there_raise_no_alarm(values: dict[str, float]) -> None:
    alarms = Alarms()
    assert [alarms.check(values) for _ in range(2 * WINDOW)] == [[]] * (2 * WINDOW)
