"""One judge, many groups: how often it is asked, in which order, and what happens when somebody fails."""

import threading

import pytest

from grpo.data.example import Example, Passage
from grpo.types import Completion, Group
from rewards.judges.base import Lexical
from rewards.judges.batching import ask_together
from rewards.scorer import RewardSettings, compose


class Judge:
    """Entailed by as much as the hypothesis is long, in hundredths; remembers what it was asked, and by whom."""

    def __init__(self, broken_at=None):
        self.asked, self.threads, self._broken_at = [], set(), broken_at

    def entails(self, pairs):
        self.asked.append(list(pairs))
        self.threads.add(threading.current_thread())
        if len(self.asked) == self._broken_at:
            raise RuntimeError("out of memory")
        return [len(hypothesis) / 100 for _, hypothesis in pairs]


def chain(name, length):
    """A task that asks `length` times, each question made of the answer before it."""

    def task(verifier):
        answers = []
        for number in range(length):
            so_far = "x" * round(100 * sum(answers))
            answers += verifier.entails([(name, f"{so_far}{number}")])
        return answers

    return task


def test_a_judge_is_asked_as_often_as_the_longest_task_asks_and_everyone_gets_their_own_answers():
    judge = Judge()
    tasks = [chain("a", 1), chain("b", 3), chain("c", 0), chain("d", 2)]
    assert ask_together(tasks, judge) == [[0.01], [0.01, 0.02, 0.04], [], [0.01, 0.02]]
    names = [[premise for premise, _ in asked] for asked in judge.asked]
    assert names == [["a", "b", "d"], ["b", "d"], ["b"]]
    assert judge.threads == {threading.main_thread()}


def test_an_error_of_the_judge_reaches_every_task_that_waits_and_then_the_caller():
    caught = []

    def careful(verifier):
        try:
            return chain("a", 3)(verifier)
        except RuntimeError as error:
            caught.append(str(error))
            return "gave up"

    with pytest.raises(RuntimeError, match="out of memory"):
        ask_together([careful, chain("b", 3)], Judge(broken_at=2))
    assert caught == ["out of memory"]


def test_an_error_of_one_task_lets_the_others_end_and_leaves_no_thread():
    def broken(verifier):
        verifier.entails([("p", "h")])
        raise ValueError("a task")

    before, judge = threading.active_count(), Judge()
    with pytest.raises(ValueError, match="a task"):
        ask_together([chain("a", 3), broken], judge)
    assert [len(asked) for asked in judge.asked] == [2, 1, 1]
    assert threading.active_count() == before


class Counted(Lexical):
    calls = 0

    def entails(self, pairs):
        self.calls += 1
        return super().entails(pairs)


def group(number, *texts):
    passage = Passage(title="Ali Daei", text=f"Ali Daei scored {number} goals.")
    example = Example(
        id=str(number),
        question="How many goals?",
        passages=(passage, Passage(title="Else", text="Nothing of it.")),
        answers=((str(number),),),
        found=((True,), (False,)),
        style="prose",
        source="test",
    )
    made = [Completion(token_ids=(1,), logprobs=(0.0,), text=text, finish="stop", version=0) for text in texts]
    return Group(example=example, prompt_ids=(), completions=tuple(made))


def test_scoring_a_step_asks_the_judge_no_more_often_than_its_hardest_group_and_scores_alike():
    sayings = ("Ali Daei scored {} goals [1].", "He scored {} goals [2].", "It was 5 [1].")
    groups = [group(number, *(text.format(number) for text in sayings)) for number in (109, 7)]
    groups.append(group(38, "I do not know."))
    settings = RewardSettings(refusal=True)
    alone, pooled = Counted(), Counted()
    one_by_one = [compose(settings, reasoning=False, verifier=alone)(g.example, g.completions) for g in groups]
    together = compose(settings, reasoning=False, verifier=pooled).step(groups)
    assert together == one_by_one
    assert [round(score.total, 2) for score in together[0]] == [3.5, 2.5, 2.5]
    assert (alone.calls, pooled.calls) == (2, 1)
