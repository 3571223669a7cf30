"""Plans against numbers worked by hand, verdicts that name what would fit, and the command that prints them."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from grpo.errors import UserError
from launch.config.model_size import ModelSize, count, find_size
from launch.config.recipe import Recipe, load_recipe
from launch.plan import main
from launch.planner import fit, report
from launch.planner.devices import container_limit, devices_at_hand
from launch.planner.fit import changes, shortage, suggestion, with_evaluation_split
from launch.planner.memory import GB, PHASES, Devices, Part, PlanSettings, cache_tokens, host_bytes, memory_plan, peak
from launch.planner.report import Plan, make_plan, table, verdict

ROOT = Path(__file__).resolve().parents[3]
STAGE = str(ROOT / "configs/stage1.toml")
P = 8_190_735_360  # parameters of Qwen3-8B
EIGHT = Devices(kind="gpu", per_node=8, nodes=1, memory=80 * GB)
ONE = replace(EIGHT, per_node=1)
CPU = Devices(kind="cpu", per_node=1, nodes=1, memory=16 * GB, host=16 * GB, fast_bf16=False)


@cache
def size_of(model: str) -> ModelSize:
    return count(recipe(model).model.config, model)


@pytest.fixture(autouse=True)
def _counted_once(monkeypatch):
    names = {recipe(path.stem).model.name: path.stem for path in ROOT.glob("configs/models/*.toml")}
    monkeypatch.setattr(
        report,
        "find_size",
        lambda name, config: (
            size_of(names[name]) if name in names else find_size(name, config)[0],
            "[model.config] of the recipe",
        ),
    )


def recipe(model: str = "qwen3-8b", *overrides: str) -> Recipe:
    return load_recipe([STAGE, str(ROOT / f"configs/models/{model}.toml"), *overrides])


def plan(asked: Recipe, devices: Devices) -> Plan:
    return make_plan(asked.model, asked.sampling, asked.loss, asked.policy, asked.rollout, devices)


def planned(devices: Devices, *overrides: str, model: str = "qwen3-8b") -> tuple[ModelSize, PlanSettings, Devices]:
    made = plan(recipe(model, *overrides), devices)
    return made.size, made.settings, made.devices


def lines(devices: Devices, *overrides: str, model: str = "qwen3-8b") -> dict[str, Part]:
    return {part.name: part for part in memory_plan(*planned(devices, *overrides, model=model))}


def test_qwen3_8b_with_zero_2_on_8_gpus_by_hand():
    """2 P + 4 P / 8 + 12 P / 8 of states; T = 12,288, D = A = 4,096, K = 1,024, I = 12,288, V = 151,936, c = 2.

    One layer keeps 2 x 10 D + 10 A + 8 I + 10 (A + K) = 272,384 bytes a token, 36 inputs 294,912, the widest part of
    the backward pass 73,728. Copied keys and values, 4 K for each of 8 x 4,096 tokens of a group's 11,264: 11,916. The
    head: V D = 622,329,856.
    """
    found = lines(EIGHT)
    assert found["weights"].rollout == found["weights"].backward == found["weights"].step == 16_381_470_720
    assert (found["gradients"].rollout, found["gradients"].backward) == (0, 4_095_367_680)
    assert found["optimizer"].rollout == found["optimizer"].step == 12_286_103_040
    assert found["buckets"].backward == 400_000_000
    assert found["activations"].backward == 12_288 * (272_384 + 294_912 + 73_728 + 11_916)
    assert found["head and logits"].backward == 3 * 2**26 + 10 * 622_329_856 + 16 * 4_096 * 12_288
    assert (found["vLLM"].sync, found["vLLM"].rollout, found["vLLM"].backward) == (2 * P, 36e9, 0)
    assert found["on the way"].sync == 4 * 622_329_856
    assert found["runtime"].sync == found["runtime"].step == 3e9
    total = {phase: sum(getattr(line, phase) for line in found.values()) / GB for phase in PHASES}
    by_hand = {"sync": 50.538, "rollout": 67.668, "backward": 51.416, "step": 36.163}
    assert total == pytest.approx(by_hand, abs=1e-3)
    assert peak(list(found.values()), EIGHT) / GB == pytest.approx(67.668, abs=1e-3)
    # 36 GB less 16.38 of weights and 4 of work, by 147,456 bytes a token
    assert cache_tokens(*planned(EIGHT)) == 105_919


@pytest.mark.parametrize(
    ("overrides", "weights", "gradients", "optimizer", "host"),
    [  # bytes a parameter in the backward phase, and of main memory
        (["--policy.zero_stage=1"], 2, 4 + 2, 12 / 8, 0),
        (["--policy.zero_stage=2"], 2, 4 / 8, 12 / 8, 0),
        (["--policy.zero_stage=3"], 2 / 8, 4 / 8, 12 / 8, 0),
        (["--policy.zero_stage=1", "--policy.dtype=float32"], 4, 4, 12 / 8, 0),
        (["--policy.zero_stage=2", "--policy.dtype=float32"], 4, 4 / 8, 12 / 8, 0),
        (["--policy.zero_stage=2", "--policy.offload=optimizer"], 2, 0, 0, 22 / 8),
        (["--policy.zero_stage=3", "--policy.offload=optimizer"], 2 / 8, 0, 0, 20 / 8),
        (["--policy.zero_stage=3", "--policy.offload=all"], 0, 0, 0, 22 / 8),
    ],
)
def test_what_each_stage_shards_and_offload_moves(overrides, weights, gradients, optimizer, host):
    found = lines(EIGHT, *overrides)
    gathered = 2e9 if "--policy.zero_stage=3" in overrides else 0
    assert found["weights"].backward == pytest.approx(weights * P + gathered)
    assert found["gradients"].backward == pytest.approx(gradients * P)
    assert found["optimizer"].backward == pytest.approx(optimizer * P)
    assert found.pop("checkpoint").host == 12 * P / 8  # the copy that one is written from, whatever the stage
    assert sum(line.host for line in found.values()) == pytest.approx(host * P)


def test_more_ranks_divide_what_is_sharded_and_nothing_else():
    two, sixteen = lines(replace(EIGHT, per_node=2)), lines(replace(EIGHT, nodes=2))
    assert two["optimizer"].step == 8 * sixteen["optimizer"].step == 6 * P
    assert two["weights"] == sixteen["weights"]
    assert two["activations"] == sixteen["activations"]


def test_one_process_takes_20_bytes_a_parameter_with_the_hf_engine():
    found = lines(CPU, "--rollout.engine=hf", model="smollm2-135m")
    states = [found[name].backward for name in ("weights", "gradients", "optimizer", "hf engine")]
    assert sum(states) == 20 * 134_515_008
    assert found["optimizer's work"].step == 8 * 49_152 * 576
    # 50 rows are 6 groups of a prompt of 2,008 and 8 x 40 tokens, 2 x 30 x 192 numbers of 4 bytes each
    assert found["hf cache"].rollout == 6 * (2_008 + 320) * 46_080


def test_activations_of_the_embedded_model_by_hand():
    """c = s = 4: one layer 2 x 12 D + 20 A + 16 I = 49,920 bytes a token, of D = A = 576, I = 1,536."""
    plain = lines(CPU, "--policy.token_budget=4096", "--policy.layout=padded", model="smollm2-135m")
    assert plain["activations"].backward == 4_096 * (30 * 49_920 + 18_432)
    again = ["--policy.token_budget=4096", "--policy.layout=padded", "--policy.gradient_checkpointing=true"]
    found = lines(CPU, *again, model="smollm2-135m")
    assert found["activations"].backward == 4_096 * (30 * 4 * 576 + 49_920 + 18_432)
    # The largest micro-batch has at least one completion of full length, 2,048 tokens, whatever the budget.
    small = lines(CPU, "--policy.token_budget=64", "--policy.layout=padded", model="smollm2-135m")
    assert small["activations"].backward == 2_048 * (30 * 49_920 + 18_432)


def test_a_reference_model_only_where_kl_is_above_0():
    assert "reference" not in lines(EIGHT)
    assert lines(EIGHT, "--loss.kl_coef=0.04")["reference"].rollout == 2 * P  # whole, as the weights are
    assert lines(EIGHT, "--loss.kl_coef=0.04", "--policy.zero_stage=3")["reference"].rollout == P / 4
    assert lines(EIGHT, "--loss.kl_coef=0.04", "--policy.offload=optimizer")["reference"].host == P / 4
    assert lines(CPU, "--loss.kl_coef=0.04", model="smollm2-135m")["reference"].step == 4 * 134_515_008


def test_vllm_over_several_gpus_shares_weights_and_adds_caches():
    alone = cache_tokens(*planned(EIGHT))
    four = cache_tokens(*planned(EIGHT, "--rollout.tensor_parallel=4"))
    assert four == int(4 * (36e9 - 2 * P / 4 - 4e9) / 147_456) > 7 * alone
    on_cpu = planned(CPU, "--rollout.engine=vllm", "--rollout.cpu_kv_cache_gib=1.5", model="smollm2-135m")
    assert cache_tokens(*on_cpu) == int(1.5 * 2**30 / 46_080)


def test_auto_engines_follow_the_devices():
    one, eight = (plan(recipe(), devices).settings for devices in (ONE, EIGHT))
    assert (one.zero_stage, one.dtype, one.rollout) == (0, "bfloat16", "vllm")
    assert (eight.zero_stage, eight.dtype, eight.rollout) == (2, "bfloat16", "vllm")
    assert plan(recipe("qwen3-8b", "--policy.offload=optimizer"), ONE).settings.zero_stage == 2
    assert plan(recipe(), CPU).settings.dtype == "float32"


@pytest.mark.parametrize(
    ("devices", "overrides", "nearest"),
    [
        (EIGHT, ["--policy.zero_stage=1"], "policy.zero_stage = 2"),
        (EIGHT, ["--policy.gradient_checkpointing=false"], "policy.gradient_checkpointing = true"),
        (EIGHT, ["--rollout.gpu_memory_utilization=0.7"], "rollout.gpu_memory_utilization = 0.35"),
        (EIGHT, ["--policy.token_budget=65536"], "policy.token_budget = 4096"),
        (ONE, [], 'policy.backend = "deepspeed", policy.offload = "optimizer"'),
        (
            replace(EIGHT, memory=40 * GB),
            [],
            "policy.zero_stage = 3, policy.token_budget = 4096, rollout.gpu_memory_utilization = 0.4, "
            "rollout.tensor_parallel = 2",
        ),
    ],
)
def test_a_verdict_names_the_nearest_settings_that_fit(devices, overrides, nearest):
    size, s, d = planned(devices, *overrides)
    found = suggestion(size, s, d)
    assert found is not None
    assert changes(s, found) == nearest
    assert shortage(size, found, d, completions=8) is None
    with pytest.raises(UserError, match=r"phase needs \d+\.\d GB a rank.*; nearest that fits: ") as caught:
        verdict(plan(recipe("qwen3-8b", *overrides), devices), "refuse")
    assert "\n" not in str(caught.value)


def test_an_estimate_warns_and_what_is_counted_is_refused():
    """65,536 tokens at once are an estimate; 16 P of states and more are counted."""
    estimated = plan(recipe("qwen3-8b", "--policy.token_budget=65536"), EIGHT)
    assert verdict(estimated).startswith("warning: 8 x 80 GB do not hold this: the backward phase needs ")
    with pytest.raises(UserError, match=r"or --run.plan=warn"):
        verdict(estimated, "refuse")
    with pytest.raises(
        UserError, match=r"the step phase needs 166.8 GB a rank, 163.8 of it counted .* or --run.plan=off"
    ):
        verdict(plan(recipe(), ONE))
    # On a CPU other programs may give memory back.
    busy = plan(recipe("smollm2-135m", "--rollout.engine=hf"), replace(CPU, memory=1 * GB))
    assert verdict(busy).startswith("warning: ")
    with pytest.raises(UserError, match=r"or --run.plan=off"):
        verdict(replace(busy, devices=replace(CPU, memory=1 * GB, host=2 * GB)))


def test_an_evaluation_takes_as_few_gpus_as_hold_the_weights(monkeypatch):
    """In bfloat16: 16 GB of the 8B, 66 of the 32B, 141 of the 70B, beside 4 GB of vLLM's work and a completion."""

    def split(model, devices):
        monkeypatch.setattr(fit, "devices_at_hand", lambda: devices)
        asked = recipe(model, "--rollout.gpu_memory_utilization=0.9")
        return with_evaluation_split(asked.rollout, asked.model.name, asked.model.config, width=2, context=4096)

    monkeypatch.setattr(fit, "find_size", report.find_size)
    for model, gpus in (("qwen3-8b", 1), ("qwen3-32b", 1), ("llama3.1-70b", 4)):
        assert split(model, EIGHT).tensor_parallel == gpus
    assert split("qwen3-32b", CPU).tensor_parallel == recipe("qwen3-32b").rollout.tensor_parallel == 4  # as training
    with pytest.raises(UserError, match=r"1 of 1 GPUs with 72 GB for vLLM do not hold the model: .* take 141 GB"):
        split("llama3.1-70b", ONE)


def test_nothing_is_suggested_where_nothing_fits():
    made = plan(recipe("llama3.1-70b"), replace(EIGHT, memory=4 * GB))
    with pytest.raises(UserError, match="no setting here fits: a smaller model, or more or larger devices"):
        verdict(made)


def test_main_memory_and_the_cache_can_be_what_is_short():
    offloaded = planned(replace(EIGHT, host=150 * GB), "--policy.offload=optimizer")
    assert host_bytes(memory_plan(*offloaded), offloaded[2]) == pytest.approx((22 + 12) * P)
    short = shortage(*offloaded)
    assert "main memory of 150 GB does not hold the 278 GB" in short.message
    assert short.counted
    short = shortage(*planned(EIGHT, "--rollout.gpu_memory_utilization=0.2"))
    assert "rollout.gpu_memory_utilization = 0.2 leaves vLLM a cache of 0 tokens" in short.message
    assert short.counted  # 16 GB hold no 16.4 of weights
    found = suggestion(*planned(EIGHT, "--rollout.gpu_memory_utilization=0.2"))
    assert found.gpu_memory_utilization == 0.35  # 0.3 holds 3.6 GB of cache, and a group of 8 x 4,096 tokens takes 4.8


@pytest.mark.parametrize(
    ("cache", "short", "fits"),
    [  # a token of the embedded model takes 46,080 bytes, a group of 8 x 2,048 tokens 0.703 GiB
        (
            "0.05",
            "cpu_kv_cache_gib = 0.05 leaves vLLM a cache of 1,165 tokens, and one completion may take 2,048",
            "0.71",
        ),
        ("40", "the backward phase needs 51.3 GB a rank", "0.71"),  # 42.9 GB of it are the cache
    ],
)
def test_a_cache_of_another_size_is_named_on_a_cpu(cache, short, fits):
    overrides = ["--rollout.engine=vllm", f"--rollout.cpu_kv_cache_gib={cache}", "--policy.token_budget=2048"]
    with pytest.raises(UserError) as caught:
        verdict(plan(recipe("smollm2-135m", *overrides), CPU))
    assert short in str(caught.value)
    assert f"rollout.cpu_kv_cache_gib = {fits}" in str(caught.value)


@pytest.mark.parametrize(
    ("devices", "overrides", "message"),
    [
        (
            replace(EIGHT, nodes=4),
            [],
            r"prompts_per_step = 48 cannot be shared equally by 32 ranks; valid: 64 prompts, or 24 ranks",
        ),
        (EIGHT, ["--policy.backend=torch"], r'policy.backend = "torch" is for one rank .* not for 8 ranks'),
        (ONE, ["--policy.backend=torch", "--policy.offload=optimizer"], r'not for policy.offload = "optimizer"'),
        (EIGHT, ["--rollout.tensor_parallel=3"], r"tensor_parallel = 3 must divide 8 ranks .* valid: 1, 2, 4, 8"),
    ],
)
def test_combinations_that_no_memory_makes_right(devices, overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        plan(recipe("qwen3-8b", *overrides), devices)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", ["qwen3-4b", "qwen3-8b", "llama3.1-8b", "r1-llama3.1-8b"])
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_the_papers_recipes_fit_8_gpus_of_80_gb(model, stage):
    stages = [str(ROOT / f"configs/{stage}.toml"), str(ROOT / f"configs/models/{model}.toml")]
    made = plan(load_recipe(stages), EIGHT)
    assert "fits: " in verdict(made)
    whole = made.settings.context + (made.settings.group_size - 1) * made.settings.max_tokens
    assert made.settings.token_budget >= whole  # no prompt is run twice


def test_the_machine_at_hand_has_memory():
    devices = devices_at_hand()
    assert devices.ranks >= 1
    assert devices.memory > 1 * GB
    assert devices_at_hand(per_node=1).ranks == 1
    made = plan(recipe("smollm2-135m", "--rollout.engine=hf"), replace(devices, kind="cpu", per_node=1))
    assert "total" in [str(cell) for cell in table(made).columns[0].cells]


def test_the_command_prints_a_plan(capsys):
    models = str(ROOT / "configs/models/qwen3-8b.toml")
    assert main([STAGE, models, "--gpus", "8", "--gpu-memory=80", "--policy.token_budget=16384"]) == 0
    out = capsys.readouterr().out
    assert "qwen3-8b on 8 GPUs of 80 GB: ZeRO-2, bfloat16, rollouts by vllm" in out
    assert "P = 8,190,735,360, N = 8, T = 16,384; size counted from [model.config] of the recipe" in out
    assert "105,919 tokens, 25 of 48 completions" in out
    assert main([STAGE, models, "--gpus=8", "--gpu-memory=80", "--nodes=2"]) == 0
    assert "on 2 nodes x 8 GPUs of 80 GB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "8", "--gpu-memory", "80"], "no recipe: python -m launch.plan configs/stage1.toml"),
        ([STAGE, "--gpus", "8"], "--gpus N and --gpu-memory GB together"),
        ([STAGE, "--nodes", "2"], "--gpus N and --gpu-memory GB together"),
        ([STAGE, "--gpus", "eight", "--gpu-memory", "80"], "argument --gpus: invalid int value: 'eight'"),
        ([STAGE, "--gpus", "0", "--gpu-memory", "80"], "--gpus 0: expected a number above 0"),
        ([STAGE, "--gpus", "8", "--gpu-memory", "nan"], "--gpu-memory nan: expected a number above 0"),
        ([STAGE, "--gpu", "8"], "--gpu: an override is written --section.key=value"),
        ([STAGE, "--policy.zero_stag=3", "--gpus=1", "--gpu-memory=80"], "did you mean policy.zero_stage?"),
        ([STAGE, "--model.name=nobody/no-such-model-1", "--gpus=1", "--gpu-memory=80"], "its size is unknown"),
        (
            [STAGE, str(ROOT / "configs/models/qwen3-8b.toml"), "--gpus=1", "--gpu-memory=80"],
            'nearest that fits: policy.backend = "deepspeed", policy.offload = "optimizer"',
        ),
    ],
)
def test_wrong_input_to_the_command_is_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_the_memory_of_a_container_below_the_root(tmp_path):
    own, root = tmp_path / "cgroup", tmp_path / "fs"
    job = root / "slurm/job_1"
    job.mkdir(parents=True)
    (root / "memory/pods/p").mkdir(parents=True)
    own.write_text("0::/slurm/job_1/step\n7:cpu,memory:/pods/p\n")
    assert container_limit(own, root) == float("inf")
    (job / "memory.max").write_text("max\n")
    (root / "slurm/memory.max").write_text("3000\n")
    assert container_limit(own, root) == 3000
    (root / "memory/pods/memory.limit_in_bytes").write_text("2000\n")
    assert container_limit(own, root) == 2000
    assert container_limit(tmp_path / "none", root) == float("inf")
