"""What every rollout engine promises, tried on the engines that run here."""

import pytest
import torch

from grpo.batch import collate
from grpo.policy.forward import completion_logprobs
from grpo.rollout.base import sample_groups
from grpo.rollout.hf import HfRollout, _nucleus
from grpo.types import Sampling, StaleRollout
from tests.toy import EOS, ByteTokenizer, example, tiny_model

PROMPTS = [(5, 6, 7, 8, 9), (10, 11), (12, 13, 14)]


def engine(model=None, *, rows=64, eos=(EOS,)):
    rollout = HfRollout(tiny_model(seed=1), decode=ByteTokenizer().decode, eos_ids=eos, rows=rows)
    rollout.load((model or tiny_model()).named_parameters(), version=3)
    return rollout


def as_batch(written):
    from grpo.types import Group

    groups = [
        Group(example=example(i), prompt_ids=PROMPTS[i], completions=tuple(group)) for i, group in enumerate(written)
    ]
    return collate(groups, torch.ones(sum(len(g.completions) for g in groups)))


@pytest.mark.parametrize(("temperature", "rows"), [(1.0, 64), (0.7, 64), (1.0, 8)])
def test_logprobs_are_the_trainers(temperature, rows):
    model = tiny_model()
    sampling = Sampling(group_size=4, max_tokens=12, temperature=temperature)
    written = engine(model, rows=rows).generate(PROMPTS, sampling, seed=0)
    batch = as_batch(written)
    with torch.no_grad():
        logp_BC, _ = completion_logprobs(model, batch, layout="padded", temperature=temperature)
    assert batch.learn_BC.sum() > 40
    assert float((logp_BC - batch.sampler_logp_BC)[batch.learn_BC].abs().max()) < 1e-5


def test_shapes_versions_and_stops():
    """Half the vocabulary stops, so that several EOS ids are met; the stop token is kept and the rest cut off."""
    eos = tuple(range(128))
    written = engine(eos=eos).generate(PROMPTS, Sampling(group_size=4, max_tokens=3), seed=1)
    assert [len(group) for group in written] == [4, 4, 4]
    for completion in (c for group in written for c in group):
        assert completion.version == 3
        assert 1 <= len(completion.token_ids) == len(completion.logprobs) <= 3
        assert all(token not in eos for token in completion.token_ids[:-1])
        assert (completion.finish == "stop") == (completion.token_ids[-1] in eos)
    finishes = {c.finish for group in written for c in group}
    assert finishes == {"stop", "length"}


def test_same_seed_same_tokens_and_another_seed_others():
    sampling = Sampling(group_size=4, max_tokens=8)
    first, again, other = (engine().generate(PROMPTS, sampling, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_greedy_is_the_argmax():
    model = tiny_model()
    (completion,) = engine(model).generate(PROMPTS[:1], Sampling(group_size=1, max_tokens=5, temperature=0), seed=0)[0]
    ids = list(PROMPTS[0])
    for token in completion.token_ids:
        assert token == int(model(torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(token)


def test_new_weights_are_used_after_load():
    model, sampling = tiny_model(), Sampling(group_size=4, max_tokens=8)
    rollout = engine(model)
    before = rollout.generate(PROMPTS, sampling, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    rollout.load(model.named_parameters(), version=4)
    batch = as_batch(after := rollout.generate(PROMPTS, sampling, seed=0))
    assert before != after
    with torch.no_grad():
        logp_BC, _ = completion_logprobs(model, batch, layout="padded")
    assert float((logp_BC - batch.sampler_logp_BC)[batch.learn_BC].abs().max()) < 1e-5


def test_part_of_the_weights_is_refused():
    rollout = engine()
    with pytest.raises(ValueError, match="mix two versions"):
        rollout.load(list(tiny_model().named_parameters())[:-1], version=5)


def test_a_prompt_is_prefilled_once_per_group():
    """Tokens that go through the model: the prompts once, then G per step; not G times the prompts."""
    rollout = engine(eos=(255,))
    seen = []
    rollout._model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    rollout.generate(PROMPTS[:1], Sampling(group_size=8, max_tokens=2), seed=0)
    assert seen == [5, 8]


def test_wrong_version_stops_the_run():
    with pytest.raises(StaleRollout, match="weights 3, the trainer is at 4"):
        sample_groups(engine(), [example()], lambda e: (5, 6), Sampling(group_size=2, max_tokens=2), seed=0, version=4)


def test_nucleus_keeps_the_smallest_sufficient_set():
    logp = torch.tensor([[[0.5, 0.3, 0.15, 0.05]]]).log()
    assert torch.allclose(_nucleus(logp, 0.7).exp(), torch.tensor([[[0.625, 0.375, 0.0, 0.0]]]))
