"""Alignment, token by token, on a batch that is written out."""

import pytest
import torch

from grpo.batch import collate
from grpo.types import Completion, Group
from tests.helpers.toy import example, random_batch


def completion(*ids):
    logprobs = tuple(-0.1 * place for place in range(len(ids)))
    return Completion(text="", token_ids=ids, logprobs=logprobs, finish="stop", version=0)


GROUPS = [
    Group(example=example(0), prompt_ids=(5, 6), completions=(completion(8, 9, 2), completion(2))),
    Group(example=example(1), prompt_ids=(7,), completions=(completion(0, 2), completion(4, 4))),
]


def test_collate():
    batch = collate(GROUPS, torch.tensor([[1.0, -1.0], [0.5, -0.5]]))
    assert batch.prompts == ((5, 6), (7,))
    assert batch.group_B.tolist() == [0, 0, 1, 1]
    assert batch.ids_BC.tolist() == [[8, 9, 2], [2, 0, 0], [0, 2, 0], [4, 4, 0]]
    # A learnt token 0 is not taken for padding, and the stop token is learnt.
    assert batch.learn_BC.int().tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 0]]
    assert batch.lengths_B.tolist() == [3, 1, 2, 2]
    assert batch.advantage_B.tolist() == [1.0, -1.0, 0.5, -0.5]
    assert batch.sampler_logp_BC[0].tolist() == pytest.approx([0, -0.1, -0.2])


def test_rows_keep_their_prompts_and_lose_empty_columns():
    part = collate(GROUPS, torch.zeros(2, 2)).rows([3, 1])
    assert part.prompts == ((7,), (5, 6))
    assert part.group_B.tolist() == [0, 1]
    assert part.ids_BC.tolist() == [[4, 4], [2, 0]]
    assert part.old_logp_BC is None
    empty = part.rows([])
    assert empty.ids_BC.shape == (0, 0)
    assert not empty.learn_BC.any()


def test_a_completion_without_tokens_is_refused():
    group = Group(example=example(3), prompt_ids=(5,), completions=(completion(), completion(2)))
    with pytest.raises(ValueError, match="toy-3"):
        collate([group], torch.zeros(1, 2))


def test_minibatches_keep_groups_whole_and_lose_nothing():
    batch = random_batch(prompts=(5, 9, 3), sizes=(3, 2, 2), lengths=(4, 1, 6, 2, 5, 8, 1))
    split = list(batch.minibatches(2, seed=0))
    assert sorted(prompt for part in split for prompt in part.prompts) == sorted(batch.prompts)
    assert sum(len(part.group_B) for part in split) == 7
    assert [len(part.prompts) for part in split] == [2, 1]
    assert list(batch.minibatches(1, seed=0)) == [batch]
