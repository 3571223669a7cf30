"""What every rollout engine promises, tried on the engines that run here.

"vllm" is vLLM's CPU build or, where it finds one, a GPU; tied and untied, since the two heads take new weights in
different ways.
"""

import pytest
import torch

from grpo.batch import collate
from grpo.errors import NonFiniteError, StaleWeights
from grpo.model.forward import completion_logprobs
from grpo.rollout.base import sample_groups
from grpo.rollout.hf import HfRollout, _nucleus, sample_by_inverse_cdf
from grpo.types import Group, Sampling
from tests.helpers.installed import need, tiny_llm
from tests.helpers.toy import EOS, ByteTokenizer, example, tiny_model

PROMPTS = [(5, 6, 7, 8, 9), (10, 11), (12, 13, 14)]
ENGINES = ["hf", "vllm", "vllm untied"]


class Maker:
    """Makes engines of one kind, and the models that they can serve."""

    def __init__(self, kind):
        if kind != "hf":
            need("vllm")
        self.kind = kind

    def model(self, seed=0):
        return tiny_model(seed, tied=self.kind != "vllm untied", head_dim=32)

    def engine(self, model=None, *, rows=64, eos=(EOS,)):
        """An engine that has weights 3, of `model`; `rows` only where each engine has a limit of its own."""
        about = {"decode": ByteTokenizer().decode, "eos_ids": eos}
        if self.kind == "hf":
            rollout = HfRollout(self.model(seed=1), rows=rows, **about)
        else:
            from grpo.rollout.vllm import VllmRollout

            shapes = {name: tuple(parameter.shape) for name, parameter in self.model().named_parameters()}
            rollout = VllmRollout(tiny_llm(tied=self.kind == "vllm"), shapes=shapes, **about)
        rollout.load((model or self.model()).named_parameters(), version=3)
        return rollout


@pytest.fixture(params=ENGINES)
def make(request):
    return Maker(request.param)


def as_batch(written, prompts=PROMPTS):
    groups = [
        Group(example=example(i), prompt_ids=tuple(prompts[i]), completions=tuple(group))
        for i, group in enumerate(written)
    ]
    return collate(groups, torch.ones(sum(len(g.completions) for g in groups)))


def difference(model, written, *, temperature=1.0, prompts=PROMPTS):
    """Nats, over all tokens the largest, between the engine's log-probabilities and the trainer's."""
    batch = as_batch(written, prompts)
    with torch.no_grad():
        logp_BC, _ = completion_logprobs(model, batch, layout="padded", temperature=temperature)
    return float((logp_BC - batch.sampler_logp_BC)[batch.learn_BC].abs().max())


@pytest.mark.parametrize(("temperature", "rows"), [(1.0, 64), (0.7, 64), (1.0, 8)])
def test_logprobs_are_the_trainers(make, temperature, rows):
    model = make.model()
    sampling = Sampling(group_size=4, max_tokens=12, temperature=temperature)
    written = make.engine(model, rows=rows).generate(PROMPTS, sampling, seed=0)
    assert as_batch(written).learn_BC.sum() > 40
    assert difference(model, written, temperature=temperature) < 1e-5


def test_shapes_versions_and_stops(make):
    """Half the vocabulary stops, so that several EOS ids are met; the stop token is kept and the rest cut off."""
    eos = tuple(range(128))
    written = make.engine(eos=eos).generate(PROMPTS, Sampling(group_size=16, max_tokens=3), seed=1)
    assert [len(group) for group in written] == [16, 16, 16]
    for completion in (c for group in written for c in group):
        assert completion.version == 3
        assert 1 <= len(completion.token_ids) == len(completion.logprobs) <= 3
        assert all(token not in eos for token in completion.token_ids[:-1])
        assert (completion.finish == "stop") == (completion.token_ids[-1] in eos)
    finishes = {c.finish for group in written for c in group}
    assert finishes == {"stop", "length"}


def test_same_seed_same_tokens_and_another_seed_others(make):
    sampling = Sampling(group_size=4, max_tokens=8)
    first, again, other = (make.engine().generate(PROMPTS, sampling, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_greedy_is_the_argmax_and_certain(make):
    model, sampling = make.model(), Sampling(group_size=1, max_tokens=5, temperature=0)
    (completion,) = make.engine(model).generate(PROMPTS[:1], sampling, seed=0)[0]
    assert completion.logprobs == (0.0,) * len(completion.token_ids)
    ids = list(PROMPTS[0])
    for token in completion.token_ids:
        assert token == int(model(torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(token)


def test_new_weights_are_used_after_load(make):
    """The prompts are asked for a second time, so that a cache of the old weights would be found."""
    model, sampling = make.model(), Sampling(group_size=4, max_tokens=8)
    rollout = make.engine(model)
    before = rollout.generate(PROMPTS, sampling, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    rollout.load(model.named_parameters(), version=4)
    after = rollout.generate(PROMPTS, sampling, seed=0)
    assert before != after
    assert difference(model, after) < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w[:-1], "weights 5: [a-z_.]+ is missing .1 of "),
        (lambda w: [*w, w[0]], "weights 5: model.embed_tokens.weight came twice"),
        (lambda w: [("model.other.weight", w[0][1]), *w[1:]], "model.other.weight is no parameter of the rollout"),
        (lambda w: [(w[0][0], w[0][1].T), *w[1:]], r"tokens.weight has the shape \(32, 256\), .* \(256, 32\)"),
    ],
)
def test_other_weights_than_the_models_are_refused(make, change, message):
    rollout = make.engine()
    with pytest.raises(StaleWeights, match=message):
        rollout.load(change(list(make.model().named_parameters())), version=5)
    with pytest.raises(StaleWeights):
        sample_groups(rollout, [example()], lambda e: (5, 6), Sampling(group_size=2, max_tokens=2), seed=0, version=5)


def test_weights_go_by_name_whatever_their_order(make):
    rollout, model = make.engine(), make.model(seed=7)
    rollout.load(reversed(list(model.named_parameters())), version=6)
    assert difference(model, rollout.generate(PROMPTS, Sampling(group_size=4, max_tokens=8), seed=0)) < 1e-5


def test_a_prompt_is_prefilled_once_per_group():
    """Tokens that go through the model: the prompts once, then G per step; not G times the prompts."""
    rollout = Maker("hf").engine(eos=(255,))
    seen = []
    rollout._model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    rollout.generate(PROMPTS[:1], Sampling(group_size=8, max_tokens=2), seed=0)
    assert seen == [5, 8]


SYSTEM = tuple(range(100, 120))


def test_what_all_prompts_begin_with_is_prefilled_once_for_all(make):
    """Their log-probabilities are those of whole prompts, of the one that ends first too."""
    model, prompts = make.model(), [(*SYSTEM, *prompt) for prompt in PROMPTS]
    written = make.engine(model).generate(prompts, Sampling(group_size=4, max_tokens=12), seed=0)
    assert as_batch(written, prompts).learn_BC.sum() > 40
    assert difference(model, written, prompts=prompts) < 1e-5


def test_a_common_beginning_without_sdpa():
    """The mask of the rest is then numbers to be added."""
    model, prompts = tiny_model(attention="eager"), [(*SYSTEM, *prompt) for prompt in PROMPTS]
    engine = HfRollout(tiny_model(seed=1, attention="eager"), decode=ByteTokenizer().decode, eos_ids=(EOS,))
    engine.load(model.named_parameters(), version=0)
    written = engine.generate(prompts, Sampling(group_size=4, max_tokens=12), seed=0)
    assert difference(model, written, prompts=prompts) < 1e-5


@pytest.mark.parametrize(("beginning", "seen"), [(20, [(1, 20), (3, 5)]), (15, [(3, 20)])])
def test_a_common_beginning_is_one_row_if_it_is_long(beginning, seen):
    rollout, given = Maker("hf").engine(), []
    rollout._model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: given.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    prompts = [(*SYSTEM[:beginning], *prompt) for prompt in PROMPTS]
    rollout.generate(prompts, Sampling(group_size=2, max_tokens=1), seed=0)
    assert given == seen


def test_a_cache_is_not_copied_for_each_query_head():
    """What SDPA is given in a step: 2 key heads, and their 4 query heads of 8 samples as 16 queries of each."""
    rollout, given = Maker("hf").engine(eos=(255,)), []

    def watch(module, args, kwargs):
        given.append((kwargs["attention_mask"] is not None, module.config._attn_implementation))

    rollout._model.model.layers[0].self_attn.register_forward_pre_hook(watch, with_kwargs=True)
    with torch.profiler.profile(record_shapes=True) as profile:
        rollout.generate(PROMPTS[:1], Sampling(group_size=8, max_tokens=2), seed=0)
    assert given == [(False, "gqa_sdpa"), (True, "gqa_sdpa")]
    shapes = [e.input_shapes[:2] for e in profile.events() if e.name == "aten::scaled_dot_product_attention"]
    assert shapes[-1] == [[1, 2, 16, 32], [1, 2, 13, 32]]


def test_tokens_are_drawn_as_often_as_they_are_likely_and_impossible_ones_never():
    p_V = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.15, 0.05, 0.0])
    ids_PG = sample_by_inverse_cdf(p_V.log().expand(100, 1000, -1), torch.Generator().manual_seed(0))
    share_V = ids_PG.flatten().bincount(minlength=7) / ids_PG.numel()
    assert share_V[[0, 2, 6]].tolist() == [0, 0, 0]
    assert (share_V - p_V).abs().max() < 0.005  # three standard deviations of 100,000 draws


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_nothing_is_drawn_from_numbers_that_are_not_finite(wrong):
    with pytest.raises(NonFiniteError, match="the model's logits are not finite"):
        sample_by_inverse_cdf(torch.tensor([[[0.0, wrong]]]).log_softmax(-1), torch.Generator())


def test_wrong_version_stops_the_run(make):
    sampling = Sampling(group_size=2, max_tokens=2)
    with pytest.raises(StaleWeights, match="weights 3, the trainer is at 4"):
        sample_groups(make.engine(), [example()], lambda e: (5, 6), sampling, seed=0, version=4)


def test_nucleus_keeps_the_smallest_sufficient_set():
    logp = torch.tensor([[[0.5, 0.3, 0.15, 0.05]]]).log()
    assert torch.allclose(_nucleus(logp, 0.7).exp(), torch.tensor([[[0.625, 0.375, 0.0, 0.0]]]))


def test_hf_decodes_little_more_than_the_smallest_rectangle_that_holds_the_samples_that_go_on():
    """Half the vocabulary stops. Counted in positions that the decoder is given, step by step."""
    model, given = tiny_model(), []
    engine = HfRollout(model, decode=ByteTokenizer().decode, eos_ids=tuple(range(128)), rows=64)
    engine.load(model.named_parameters(), version=0)
    model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: given.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    written = engine.generate(PROMPTS, Sampling(group_size=16, max_tokens=20), seed=0)
    lengths = [[len(c.token_ids) for c in group] for group in written]
    steps = max(length for group in lengths for length in group) - 1
    going = [[sum(length > step for length in group) for group in lengths] for step in range(1, steps + 1)]
    needed = [sum(map(bool, counts)) * max(counts) for counts in going]
    assert given[0] == (3, 5)  # the prompts, once each
    decoded = [rows * width for rows, width in given[1:]]
    assert len(decoded) == steps
    assert steps > 4
    assert all(need <= positions < need / 0.75 for need, positions in zip(needed, decoded, strict=True))
    assert difference(model, written) < 1e-5  # whoever is left sees the same columns as before
