"""vLLM over two real ranks: an engine for each, or one that both share, fed by ZeRO-3's whole tensors."""

from pathlib import Path

import pytest
import torch

from grpo.batch import collate
from grpo.model.forward import completion_logprobs
from grpo.types import Completion, Group, Sampling
from tests.helpers.installed import need
from tests.helpers.many_ranks import run_ranks
from tests.helpers.toy import EOS, ByteTokenizer, deepspeed_policy, example, tiny_model

PROMPTS = [(5, 6, 7), (8, 9), (10, 11, 12, 13), (14,)]


def on_a_rank(comm, tensor_parallel, folder):
    """What this rank's engine writes for its share of the prompts, with weights that never were on the disk."""
    from grpo.policy.optimizer import AdamWConfig
    from grpo.rollout.vllm import VllmRollout, start_vllm
    from grpo.settings import PolicyConfig

    about = {"optim": AdamWConfig(), "total_updates": 1, "token_budget": 1000, "dtype": "float32"}
    model = tiny_model(seed=4, head_dim=32)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    policy = deepspeed_policy(model, zero=PolicyConfig(zero_stage=3), comm=comm, **about)
    settings = {"context": 64, "rows": 8, "dtype": "float32", "memory": 0.4, "kv_cache": 0.05}
    llm = start_vllm(str(folder), tensor_parallel=tensor_parallel, **settings)
    rollout = VllmRollout(llm, shapes=shapes, decode=ByteTokenizer().decode, eos_ids=(EOS,))
    rollout.load(policy.export_weights(), version=1)
    written = rollout.generate(comm.shard(PROMPTS), Sampling(group_size=4, max_tokens=8), seed=comm.rank)
    comm.barrier()  # where each rank has its own engine, one may be done long before the other on a busy machine
    return [[(one.token_ids, one.logprobs, one.finish) for one in group] for group in written]


@pytest.fixture
def left_by_another():
    """What vLLM itself leaves in memory that is shared, of engines over two ranks, and where an engine would trip over
    it; which of such memory there is."""
    memory = Path("/dev/shm")
    ours = [path for path in (memory / f"-tp:0-[0-1]-cpushm_{rank}" for rank in (0, 1)) if not path.exists()]
    for path in ours:
        path.touch()
    yield lambda: sorted(path.name for path in memory.glob("*cpushm*"))
    for path in ours:
        path.unlink()


@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_each_rank_gets_answers_to_its_prompts_from_the_trainers_weights(tmp_path, left_by_another, tensor_parallel):
    need("vllm")
    need("deepspeed")
    tiny_model(seed=1, head_dim=32).save_pretrained(tmp_path)
    there = left_by_another()
    ranks = run_ranks(on_a_rank, tensor_parallel, tmp_path)
    for rank in ranks:
        assert isinstance(rank.value, list), f"{rank.value!r} {rank.said}"
    assert left_by_another() == there
    groups = []
    for prompt, written in zip(PROMPTS, [group for rank in ranks for group in rank.value], strict=True):
        completions = tuple(
            Completion(text="", token_ids=ids, logprobs=logprobs, finish=finish, version=1)
            for ids, logprobs, finish in written
        )
        groups.append(Group(example=example(), prompt_ids=prompt, completions=completions))
    batch = collate(groups, torch.ones(16))
    with torch.no_grad():
        logp_BC, _ = completion_logprobs(tiny_model(seed=4, head_dim=32), batch, layout="padded")
    assert batch.learn_BC.sum() > 60
    assert float((logp_BC - batch.sampler_logp_BC)[batch.learn_BC].abs().max()) < 1e-5
