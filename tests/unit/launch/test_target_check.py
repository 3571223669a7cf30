"""Gold answers as the sampler hands them over: encoded, decoded and scored before a run starts."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from curriculum.datasets.world import make_world
from grpo.data.prompts import special_tokens, stop_ids
from grpo.data.text import REFUSALS
from grpo.errors import UserError
from grpo.telemetry.console import Console
from launch.builders.prompts import PromptCodec
from launch.runs.target_check import check_judge, check_targets, spread
from rewards.answer import TAGS
from rewards.config import RewardConfig
from tests.helpers.toy import example

WORLD = make_world(24, seed=0, unanswerable=0.5, passages=3, styles={"prose": 1.0, "list": 1.0, "claims": 1.0})
STAGE_2 = RewardConfig(refusal=True)


def make_codec(*special: str, reasoning: bool = True, refusals=REFUSALS) -> PromptCodec:
    """One token per byte, and one for each of the special texts."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<end>", *special])
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>")
    return PromptCodec(
        tokenizer=made,
        render=lambda example: (1,),
        reasoning=reasoning,
        stop_ids=stop_ids(made),
        special=special_tokens(made),
        refusals=refusals,
    )


def check(codec, examples=WORLD, *, max_tokens=2000, may_lose=0.1):
    check_targets(codec, examples, STAGE_2, Console(), max_tokens=max_tokens, may_lose=may_lose)


@pytest.mark.parametrize("special", [(), TAGS])
@pytest.mark.parametrize("reasoning", [True, False])
def test_gold_answers_survive_tags_that_are_special_tokens(special, reasoning, capsys):
    check(make_codec(*special, reasoning=reasoning), may_lose=0.0)
    assert "24 of 24 gold answers survive" in capsys.readouterr().out


def test_a_citation_that_is_a_special_token_is_read_back_as_something_else():
    with pytest.raises(UserError, match=r"4 of 24 gold answers lose .*: 0 are longer than .* 4 are read back as"):
        check(make_codec("[1]", reasoning=False), may_lose=0.0)


def test_gold_answers_that_count_as_a_further_refusal_are_not_recognized(capsys):
    check(make_codec(reasoning=False, refusals=(*REFUSALS, "The record is lost.")), [example(1, "the record is lost")])
    assert "warning: exact_match is 0 for 1 of 1 gold answers" in capsys.readouterr().out


def test_a_limit_that_gold_answers_do_not_fit_into_stops_the_run(capsys):
    codec = make_codec(reasoning=False)
    with pytest.raises(UserError, match=r"^4 of 24 gold answers lose .*: 4 are longer than .* = 83 \(nine of ten fit"):
        check(codec, max_tokens=83)
    check(codec, max_tokens=83, may_lose=0.2)
    assert capsys.readouterr().out.count("lost: ") == 2 * 3


def test_a_gold_answer_that_no_reward_recognizes_is_named(capsys):
    check(make_codec(reasoning=False), [example(1, "???")])
    assert "exact_match is 0 for 1 of 1 gold answers" in capsys.readouterr().out


class NeverJudge:
    def entails(self, pairs):
        return [0.0] * len(pairs)


def test_a_judge_that_refuses_most_gold_answers_is_named(capsys):
    check_judge(make_codec(reasoning=False), WORLD, STAGE_2, NeverJudge(), Console())
    assert "finds 12 of 12 gold answers unsupported" in (out := capsys.readouterr().out)
    assert "warning: judge lexical: supports 0 of " in out


def test_examples_are_taken_at_equal_distances():
    assert spread(range(10), 4) == range(0, 10, 3)
    assert list(spread(range(3), 4)) == [0, 1, 2]
