"""The source tree as text: its files, what they import, and the recipes beside them."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("grpo", "rewards", "curriculum", "eval", "launch")
STAGES = sorted(ROOT.glob("configs/*.toml"))
MODELS = sorted(ROOT.glob("configs/models/*.toml"))


@cache
def files() -> dict[str, ast.Module]:
    """Path from the root -> its syntax tree."""
    paths = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def imports(node: ast.AST, *, loaded: bool = False) -> set[str]:
    """Dotted names that are imported anywhere below a node, or with `loaded` only those that importing it loads."""
    found: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            found |= {alias.name for alias in child.names}
        elif isinstance(child, ast.ImportFrom):
            assert child.module, "relative import"
            found |= {child.module, *(f"{child.module}.{alias.name}" for alias in child.names)}
        elif not loaded or not (
            isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
        ):
            found |= imports(child, loaded=loaded)
    return found
