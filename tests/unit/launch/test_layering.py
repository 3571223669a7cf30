"""The rules of imports: who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = ("grpo", "rewards", "curriculum", "eval", "launch")
LIGHT = {"grpo.types", "grpo.errors", "grpo.data", "grpo.config"}
MAY_IMPORT = {  # of ours; a name stands for itself and what is below it
    "grpo": {"grpo"},
    "rewards": {"rewards", *LIGHT},
    "curriculum": {"curriculum", "rewards.judges", *LIGHT},
    "eval": {"eval", "curriculum", "grpo", "rewards.answer", "rewards.judges.base"},
    "launch": set(FOLDERS),
}
ONLY_IN = {  # heavy package: where it may be imported
    "vllm": {"grpo/rollout/vllm.py", "grpo/rollout/remote.py", "grpo/rollout/vllm_shared_memory.py"},
    "deepspeed": {"grpo/policy/deepspeed_backend.py"},
    "wandb": {"grpo/telemetry/wandb_logger.py"},
    "datasets": {"grpo/data/files.py"},
    "transformers": {"grpo/model/attention.py", "grpo/rollout/hf.py", "rewards/judges/nli.py"}
    | {"launch/config/model_size.py"}
    | {f"launch/builders/{n}.py" for n in ("models", "assets", "tiny_model")},
}
HEAVY = {"vllm", "deepspeed", "wandb", "datasets", "transformers"}
WITHOUT_THEM = [
    "grpo.errors",
    "grpo.types",
    "grpo.data.text",
    "grpo.config",
    "grpo.advantages",
    "grpo.batch",
    "grpo.losses",
    "grpo.model.lm_head",
    "grpo.loop",
    "grpo.distributed.communicator",
    "grpo.distributed.failure_detection",
    "grpo.checkpointing.store",
    "grpo.checkpointing.rng_state",
    "grpo.checkpointing.stop_signal",
    "grpo.distributed.watchdog",
    "grpo.policy.nonfinite",
    "grpo.policy.zero_config",
    "grpo.data.prompts",
    "grpo.data.example",
    "grpo.telemetry.throughput",
    "grpo.telemetry.run_logger",
    "grpo.data.files",
    "rewards.scorer",
    "rewards.judges.cache",
    "rewards.audit",
    "rewards.zero_variance",
    "curriculum.datasets.world",
    "curriculum.build",
    "curriculum.mixing",
    "curriculum.reference_answers",
    "curriculum.stage_end",
    "curriculum.samplers",
    "curriculum.difficulty",
    "curriculum.transforms",
    "curriculum.builder",
    "curriculum.sources",
    "curriculum.datasets.closed_book",
    "grpo.collect",
    "grpo.supervised",
    "eval.label_metrics",
    "eval.score",
    "eval.compare",
    "eval.factuality",
    "eval.report.paper_results",
    "launch.config.recipe",
    "launch.pipeline",
    "launch.config.model_size",
    "launch.planner.memory",
    "launch.planner.fit",
    "launch.plan",
    "launch.planner.report",
    "launch.planner.devices",
]


def files() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_imports_go_downhill():
    for path in files():
        folder = path.relative_to(ROOT).parts[0]
        allowed = MAY_IMPORT[folder]
        for name in imports(path):
            if name.split(".")[0] in FOLDERS:
                ours = any(name == a or name.startswith(f"{a}.") or a.startswith(f"{name}.") for a in allowed)
                assert ours, f"{path.relative_to(ROOT)} must not import {name}"


def test_heavy_packages_have_their_places():
    for path in files():
        place = str(path.relative_to(ROOT))
        for name in {name.split(".")[0] for name in imports(path)} & HEAVY:
            assert place in ONLY_IN[name], f"{place} must not import {name}"


def test_no_torch_in_rewards_and_curriculum():
    for path in files():
        place = str(path.relative_to(ROOT))
        if place.startswith(("rewards/", "curriculum/")) and place != "rewards/judges/nli.py":
            assert not any(name.split(".")[0] == "torch" for name in imports(path)), place


def test_light_modules_load_nothing_heavy():
    code = f"import sys, {', '.join(WITHOUT_THEM)}; print(sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_in_launch_shadows_a_library():
    known = (
        set(sys.stdlib_module_names)
        | HEAVY
        | {"torch", "numpy", "build", "rich", "pydantic", "tokenizers", "serve"} - {"serve"}
    )
    for path in (ROOT / "launch").glob("*.py"):
        assert path.stem not in known, path


def test_eval_is_never_imported_over_the_builtin():
    for path in files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not any(alias.name.split(".")[0] == "eval" for alias in node.names), path
