"""The rules of the tree: who imports whom, what is loaded, how large a folder may be. Files are read, not imported."""

import ast
import sys
from functools import cache

import pytest

from tests.helpers.source_tree import FOLDERS, ROOT, files, imports

BUDGET = {"grpo": 7300, "rewards": 2900, "curriculum": 3700, "eval": 2100, "launch": 4850}  # lines
LIGHT = {"grpo.types", "grpo.errors", "grpo.data", "grpo.config"}
MAY_IMPORT = {  # of ours; a name stands for itself and all below it
    "grpo": {"grpo"},
    "rewards": {"rewards", *LIGHT},
    "curriculum": {"curriculum", "rewards.judges", *LIGHT},
    "eval": {"eval", "curriculum", "grpo", "rewards.answer", "rewards.judges"},
    "launch": set(FOLDERS),
}
ONLY_IN = {  # heavy package -> the files that may import it
    "vllm": {"grpo/rollout/vllm.py", "grpo/rollout/remote.py", "grpo/rollout/vllm_shared_memory.py"},
    "deepspeed": {"grpo/policy/deepspeed_backend.py"},
    "wandb": {"grpo/telemetry/wandb_logger.py"},
    "datasets": {"grpo/data/files.py"},
    "transformers": {"grpo/model/attention.py", "grpo/rollout/hf.py", "rewards/judges/nli.py"}
    | {f"launch/{name}.py" for name in ("config/model_size", "builders/models", "builders/assets")},
}
LOADS_NONE = (
    "grpo/loop.py",
    "grpo/collect.py",
    "rewards/",
    "curriculum/",
    "eval/",
    "launch/config/",
    "launch/planner/",
)
COMMANDS = [  # their --help loads no torch
    "launch/plan.py",
    "launch/pipeline.py",
    "launch/train.py",
    "launch/evaluate.py",
    "rewards/audit.py",
    "curriculum/build.py",
    "eval/score.py",
    "eval/compare.py",
]


@cache
def loads(place: str) -> frozenset[str]:
    """Packages of others that importing a file loads, by whatever it imports of ours."""
    found, seen, waiting = set[str](), set[str](), [place]
    while waiting:
        here = waiting.pop()
        seen.add(here)
        for name in imports(files()[here], loaded=True):
            found.add(name.split(".")[0])
            path = name.replace(".", "/")
            waiting += [
                other for other in (f"{path}.py", f"{path}/__init__.py") if other in files() and other not in seen
            ]
    return frozenset(found)


def test_imports_go_downhill():
    for place, tree in files().items():
        allowed = MAY_IMPORT[place.split("/")[0]]
        for name in imports(tree):
            if name.split(".")[0] in FOLDERS:
                ours = any(name == a or name.startswith(f"{a}.") or a.startswith(f"{name}.") for a in allowed)
                assert ours, f"{place} must not import {name}"


def test_heavy_packages_have_their_places():
    for place, tree in files().items():
        for name in {name.split(".")[0] for name in imports(tree)} & ONLY_IN.keys():
            assert place in ONLY_IN[name], f"{place} must not import {name}"
        if place.startswith(LOADS_NONE) and not any(place in places for places in ONLY_IN.values()):
            assert not loads(place) & ONLY_IN.keys(), f"{place} loads a heavy package when it is imported"


def test_no_torch_in_rewards_and_curriculum():
    for place, tree in files().items():
        if place.startswith(("rewards/", "curriculum/")) and place != "rewards/judges/nli.py":
            assert not any(name.split(".")[0] == "torch" for name in imports(tree)), place


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_no_torch(command):
    assert not loads(command) & {"torch", *ONLY_IN}


def test_no_name_hides_a_library():
    known = {*sys.stdlib_module_names, *ONLY_IN, "torch", "numpy", "build", "rich", "pydantic", "tokenizers"}
    for path in (ROOT / "launch").glob("*.py"):
        assert path.stem not in known, path
    for place, tree in files().items():
        for node in ast.walk(tree):  # `import eval` would hide the builtin
            assert not (isinstance(node, ast.Import) and any(a.name.split(".")[0] == "eval" for a in node.names)), place


def test_folders_and_functions_stay_small():
    for folder, most in BUDGET.items():
        lines = sum(
            (ROOT / place).read_text(encoding="utf-8").count("\n") for place in files() if place.startswith(folder)
        )
        assert lines <= most, f"{folder} has {lines} lines"
    folders: dict[str, int] = {}
    for place in files():
        if not place.endswith("__init__.py"):
            folders[place.rpartition("/")[0]] = folders.get(place.rpartition("/")[0], 0) + 1
    assert {folder: count for folder, count in folders.items() if count > 13} == {}
    functions = (node for tree in files().values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    long = [node.name for node in functions if (node.end_lineno or 0) - node.lineno + 1 > 50]
    assert len(long) <= 10, long
