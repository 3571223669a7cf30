"""Who may import whom, and the rules on size, as tests."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("grpo", "rewards", "curriculum", "eval", "launch")
LIGHT = {"grpo.types", "grpo.text", "grpo.data", "grpo.kept"}
PROGRAMS = {  # what a file's own command line needs, to read recipes or to load a model
    "rewards/audit.py": {"grpo.config", "launch.recipe"},
    "curriculum/filter.py": {"grpo.runlog", "launch.difficulty"},
    "eval/prompt_sweep.py": {"launch.prompt_sweep"},
    "eval/matcher_agreement.py": {"rewards.correctness"},  # both matchers are compared with human judges
    "curriculum/build.py": {"grpo.runlog", "launch.models"},
}
MAY_IMPORT = {  # of ours; a name stands for itself and what is below it
    "grpo": {"grpo"},
    "rewards": {"rewards", *LIGHT},
    "curriculum": {"curriculum", *LIGHT},
    "eval": {"eval", "grpo", "rewards.boxed", "rewards.parse", "rewards.entailment"},
    "launch": set(FOLDERS),
}
ONLY_IN = {  # heavy package: where it may be imported
    "vllm": {"grpo/rollout/vllm.py", "grpo/rollout/vllm_server.py", "grpo/rollout/vllm_shared_memory.py"},
    "deepspeed": {"grpo/policy/zero.py"},
    "wandb": {"grpo/tracking.py"},
    "datasets": {"grpo/data.py"},
    "transformers": {"grpo/policy/attention.py", "grpo/rollout/hf.py", "rewards/nli.py"}
    | {f"launch/{n}.py" for n in ("models", "embedded_model", "tiny_model")},
}
HEAVY = {"vllm", "deepspeed", "wandb", "datasets", "transformers"}
WITHOUT_THEM = [
    "grpo.types", "grpo.text", "grpo.config", "grpo.advantages", "grpo.batch", "grpo.objective", "grpo.logprobs",
    "grpo.loop", "grpo.comm", "grpo.ranks", "grpo.snapshot", "grpo.random_states", "grpo.signals", "grpo.watchdog",
    "grpo.policy.guard", "grpo.policy.zero_config", "grpo.prompts", "grpo.data",
    "grpo.flops", "grpo.meter", "grpo.speed", "grpo.kept", "grpo.record_files",
    "rewards.compose", "rewards.verdicts", "rewards.audit",
    "rewards.dead", "curriculum.world", "curriculum.build", "curriculum.sampler", "curriculum.gold",
    "curriculum.gates", "curriculum.order", "curriculum.difficulty", "curriculum.filter", "curriculum.transforms",
    "curriculum.records", "curriculum.closed_book", "grpo.dynamic", "eval.held_out", "eval.score",
    "eval.closed_book", "eval.prompt_sweep", "eval.matcher_agreement",
    "eval.compare", "eval.factuality", "eval.paper", "launch.recipe", "launch.chain",
    "launch.shapes", "launch.memory", "launch.nearest", "launch.plan", "launch.plan_table",
]  # fmt: skip
LINES, FUNCTION_LINES, PARAMETERS = 310, 50, 7


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
        allowed = MAY_IMPORT[folder] | PROGRAMS.get(str(path.relative_to(ROOT)), set())
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
        if place.startswith(("rewards/", "curriculum/")) and place != "rewards/nli.py":
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


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_sizes(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LINES or path.name == "world_facts.py"  # names and sentence templates: data
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            page = path.name == "loop.py" and node.name == "train"  # the algorithm is read from top to bottom
            assert node.end_lineno - node.lineno < (70 if page else FUNCTION_LINES), f"{node.name} is too long"
            assert len(node.args.posonlyargs) + len(node.args.args) <= PARAMETERS, (
                f"{node.name} takes too much by place"
            )
