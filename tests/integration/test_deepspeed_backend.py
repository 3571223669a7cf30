"""ZeRO over two real ranks: the same steps as one process, whole tensors out, and a state that any layout goes on from.

What every engine promises on one rank is in test_policy_contract.py.
"""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from grpo.distributed.communicator import Communicator
from grpo.errors import UserError
from grpo.losses import make_loss, with_token_weights
from grpo.policy.optimizer import AdamWConfig
from grpo.policy.torch_backend import torch_policy
from grpo.policy.zero_config import reference_config, zero_config
from grpo.settings import LossConfig, PolicyConfig
from launch.builders.models import load_model
from tests.helpers.installed import need
from tests.helpers.many_ranks import run_ranks
from tests.helpers.toy import deepspeed_policy, random_batch, tiny_model, write_state

OPTIM = AdamWConfig(lr=2e-3, schedule="linear", warmup_ratio=0.0)
KINDS = {
    "zero-1": PolicyConfig(zero_stage=1),
    "zero-2": PolicyConfig(zero_stage=2),
    "zero-3": PolicyConfig(zero_stage=3),
    "zero-3, all offloaded": PolicyConfig(zero_stage=3, offload="all"),
}
# Token budgets, and how many of the four groups rank 0 has: rank 1 idles through some micro-batches, or through all.
CUTS = ((1000, 2), (20, 3), (20, 4))


def loss(logp, entropy, batch):
    return make_loss(LossConfig(importance_cap=0.0))(logp, entropy, batch)


def step_batch(seed):
    batch = random_batch(prompts=(5, 9, 3, 7), sizes=(3, 2, 2, 1), lengths=(4, 1, 6, 2, 5, 3, 2, 4), seed=seed)
    return with_token_weights(batch, LossConfig(aggregation="sequence"), total=lambda _: (27, 8))


def share(batch, comm, cut):
    """Groups below `cut` for rank 0, the others for rank 1."""
    if comm.world == 1:
        return batch
    return batch.rows([b for b, group in enumerate(batch.group_B.tolist()) if (group < cut) == (comm.rank == 0)])


def flat(policy):
    return torch.cat([tensor.detach().flatten().clone() for _, tensor in policy.export_weights()])


def zero_policy(zero, comm, *, budget=1000, seed=0, **more):
    more = {"dtype": "float32", "optim": OPTIM, **more}
    return deepspeed_policy(tiny_model(seed), zero=zero, comm=comm, total_updates=6, token_budget=budget, **more)


def oracle(steps=3):
    policy = torch_policy(
        tiny_model(), optim=OPTIM, total_updates=6, token_budget=1000, dtype="float32", layout="padded"
    )
    stats = [policy.update(step_batch(seed), loss) for seed in range(steps)]
    return flat(policy), stats[-1]


def first_moments(policy):
    """After one step Adam remembers a tenth of the gradient itself."""
    from deepspeed.utils import safe_get_full_optimizer_state

    kept = [safe_get_full_optimizer_state(parameter, "exp_avg") for parameter in policy._backend.model.parameters()]
    return torch.cat([tensor.flatten() for tensor in kept])


def on_a_rank(comm, zero, folder):
    """Everything that is asked of an engine over two ranks, in one go: ranks take seconds to start."""
    out = {}
    for budget, cut in CUTS:
        more = {"gradient_checkpointing": True, "reference": tiny_model()} if budget == 20 else {}
        policy = zero_policy(zero, comm, budget=budget, **more)
        stats = [policy.update(share(step_batch(seed), comm, cut), loss) for seed in range(1)]
        out["gradient", budget] = first_moments(policy).numpy()
        stats += [policy.update(share(step_batch(seed), comm, cut), loss) for seed in (1, 2)]
        out[budget, cut] = flat(policy).numpy(), stats[-1]
    rows = share(step_batch(0), comm, 3)
    out["reference"] = policy.logprobs(rows, reference=True).numpy()
    out["logprobs"] = policy.logprobs(rows).numpy()
    out["nothing teaches"] = policy.update(step_batch(0).rows([]), loss), flat(policy).numpy()
    policy.save(folder / "model")
    write_state(policy.snapshot_state(), folder / "state", lead=comm.rank == 0)
    comm.barrier()
    later = zero_policy(zero, comm, seed=5)
    later.load_state(folder / "written by one")
    out["resumed"] = later.update(share(step_batch(7), comm, 2), loss), flat(later).numpy()
    return out


@pytest.fixture(scope="module", params=list(KINDS))
def ran(request, tmp_path_factory):
    """(settings, what each rank found, the folder that they wrote)."""
    need("deepspeed")
    zero, folder = KINDS[request.param], tmp_path_factory.mktemp("ranks")
    other = PolicyConfig(zero_stage=1 if zero.zero_stage == 3 else 3)  # a state does not depend on ranks or stage
    policy = zero_policy(other, Communicator())
    for seed in range(3):
        policy.update(step_batch(seed), loss)
    write_state(policy.snapshot_state(), folder / "written by one")
    ranks = run_ranks(on_a_rank, zero, folder)
    for rank in ranks:
        assert isinstance(rank.value, dict), f"{rank.value!r} {rank.said}"
    return zero, [rank.value for rank in ranks], folder


def distance(a, b):
    return float((torch.as_tensor(a) - torch.as_tensor(b)).abs().max())


@pytest.mark.parametrize(("budget", "cut"), CUTS)
def test_two_ranks_step_as_one_process(ran, budget, cut):
    weights, stats = oracle()
    for rank in ran[1]:
        theirs, theirs_stats = rank[budget, cut]
        assert distance(theirs, weights) < 1e-5
        assert theirs_stats["skipped"] == 0.0
        for name in ("tokens", "loss", "ratio", "entropy", "grad_norm", "lr", "mismatch_max"):  # of all ranks' rows
            assert theirs_stats[name] == pytest.approx(stats[name], rel=1e-5), name
    assert distance(oracle(steps=2)[0], weights) > 1e-4  # a step less would show


@pytest.mark.parametrize("budget", [1000, 20])
def test_the_gradient_of_packed_groups_is_that_of_repeated_prompts(ran, budget):
    """Two ranks and the shared layout, at 20 checkpointed, against one process and the padded one."""
    one = torch_policy(tiny_model(), optim=OPTIM, total_updates=6, token_budget=1000, dtype="float32", layout="padded")
    one.update(step_batch(0), loss)
    wanted = torch.cat([one._backend._optimizer.state[p]["exp_avg"].flatten() for p in one._backend.model.parameters()])
    for rank in ran[1]:
        assert float((torch.as_tensor(rank["gradient", budget]) - wanted).norm() / wanted.norm()) < 3e-6


def test_each_rank_scores_its_own_rows(ran):
    weights = tiny_model()
    single = torch_policy(weights, optim=OPTIM, total_updates=6, token_budget=1000, dtype="float32")
    everything = torch.cat([single.logprobs(step_batch(0).rows([b])).flatten() for b in range(8)])
    found = [rank["reference"] for rank in ran[1]]
    assert [len(rows) for rows in found] == [7, 1]
    pooled = torch.cat([torch.as_tensor(rows).flatten() for rows in found])
    assert distance(pooled[pooled != 0], everything[everything != 0]) < 1e-5
    assert distance(ran[1][0]["logprobs"], found[0]) > 1e-3  # the policy has moved, the reference has not


def test_nothing_moves_when_no_rank_has_rows(ran):
    for rank in ran[1]:
        stats, weights = rank["nothing teaches"]
        assert stats["skipped"] == 1.0
        assert distance(weights, rank[CUTS[-1]][0]) == 0.0


def test_the_saved_folder_is_whole(ran):
    loaded = AutoModelForCausalLM.from_pretrained(ran[2] / "model")
    weights = torch.cat([parameter.detach().flatten() for parameter in loaded.parameters()])
    assert distance(weights, ran[1][0][CUTS[-1]][0]) == 0.0


def test_two_ranks_go_on_from_what_one_wrote_at_another_stage(ran):
    one = torch_policy(tiny_model(), optim=OPTIM, total_updates=6, token_budget=1000, dtype="float32")
    for seed in (0, 1, 2, 7):
        stats = one.update(step_batch(seed), loss)
    for rank in ran[1]:
        assert rank["resumed"][0]["lr"] == stats["lr"]  # the schedule goes on too
        assert distance(rank["resumed"][1], flat(one)) < 1e-5


def test_one_rank_goes_on_from_what_two_wrote(ran):
    _, ranks, folder = ran
    policy = zero_policy(PolicyConfig(zero_stage=2), Communicator(), seed=5)
    policy.load_state(folder / "state")
    assert distance(flat(policy), ranks[0][CUTS[-1]][0]) == 0.0
    policy.update(step_batch(7), loss)
    one = torch_policy(tiny_model(), optim=OPTIM, total_updates=6, token_budget=1000, dtype="float32")
    for seed in (0, 1, 2):
        one.update(step_batch(seed), loss)
    one.update(step_batch(0).rows([]), loss)  # what no rank had rows for moves the schedule, not Adam
    one.update(step_batch(7), loss)
    assert distance(flat(policy), flat(one)) < 1e-5


def from_shares(comm, folder):
    """The model is sharded as it is read: (numbers held after loading, weights after three steps)."""
    from grpo.policy.deepspeed_backend import init_deepspeed

    init_deepspeed()
    zero = PolicyConfig(zero_stage=3)
    config = zero_config(zero, OPTIM, bf16=False, world=comm.world)
    model = load_model(str(folder), device="cpu", sharding=config)
    held = sum(parameter.ds_tensor.numel() for parameter in model.parameters())
    settings = {"optim": OPTIM, "total_updates": 6, "token_budget": 20, "dtype": "float32", "comm": comm}
    policy = deepspeed_policy(model, zero=zero, **settings)
    for seed in range(3):
        policy.update(share(step_batch(seed), comm, 2), loss)
    return held, flat(policy).numpy()


def test_a_model_that_no_rank_has_room_for(tmp_path):
    need("deepspeed")
    tiny_model().save_pretrained(tmp_path)
    numbers = sum(parameter.numel() for parameter in tiny_model().parameters())
    for rank in run_ranks(from_shares, tmp_path):
        assert isinstance(rank.value, tuple), f"{rank.value!r} {rank.said}"
        held, weights = rank.value
        assert held == numbers // 2
        assert distance(weights, oracle()[0]) < 1e-5


def test_a_state_that_is_damaged_or_of_another_model(tmp_path):
    need("deepspeed")
    policy = zero_policy(PolicyConfig(zero_stage=2), Communicator())
    with pytest.raises(UserError, match=r"state.json: cannot be read as the state of an optimizer: FileNotFoundError"):
        policy.load_state(tmp_path)
    policy.update(step_batch(0), loss)
    write_state(policy.snapshot_state(), tmp_path / "state")
    (tmp_path / "state" / "00003.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"00003.safetensors: cannot be read"):
        policy.load_state(tmp_path / "state")
    assert set(load_file(tmp_path / "state" / "00000.safetensors")) == {"master", "exp_avg", "exp_avg_sq"}

    other = {"optim": OPTIM, "total_updates": 6, "token_budget": 9, "dtype": "float32", "comm": Communicator()}
    with pytest.raises(UserError, match="of a model with 20 tensors, this one has 11"):
        deepspeed_policy(tiny_model(layers=1), zero=PolicyConfig(zero_stage=2), **other).load_state(tmp_path / "state")
    with pytest.raises(UserError, match=r"holds .*, and this model has model.embed_tokens.weight \[256, 64\]"):
        deepspeed_policy(tiny_model(width=64), zero=PolicyConfig(zero_stage=2), **other).load_state(tmp_path / "state")


def test_the_configuration_written_out():
    """Without DeepSpeed: what decides the memory, and nothing that divides by a count of micro-batches."""
    config = zero_config(PolicyConfig(zero_stage=2), AdamWConfig(lr=1e-5, max_grad_norm=0.5), bf16=True, world=8)
    assert config["zero_optimization"]["stage"] == 2
    assert (config["train_batch_size"], config["gradient_accumulation_steps"]) == (8, 1)
    assert config["gradient_clipping"] == 0.5
    assert config["optimizer"]["params"]["torch_adam"] is True
    assert config["bf16"] == {"enabled": True, "check_grad_overflow": True}
    assert config["data_types"]["grad_accum_dtype"] == config["communication_data_type"] == "fp32"
    assert not {"offload_optimizer", "offload_param"} & set(config["zero_optimization"])
    single = zero_config(PolicyConfig(zero_stage=3, offload="all"), AdamWConfig(), bf16=False, world=1)[
        "zero_optimization"
    ]
    assert single["offload_optimizer"]["device"] == single["offload_param"]["device"] == "cpu"
    some = zero_config(PolicyConfig(zero_stage=3, offload="optimizer"), AdamWConfig(), bf16=False, world=1)
    assert "offload_param" not in some["zero_optimization"]
    reference = reference_config(PolicyConfig(zero_stage=2, offload="optimizer"), bf16=True, world=2)
    assert "optimizer" not in reference
    assert reference["zero_optimization"]["offload_param"]["device"] == "cpu"
