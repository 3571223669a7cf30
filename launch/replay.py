"""Run a saved update again: `python -m launch.replay runs/NAME/bad/update-000012-rank-0.safetensors [WEIGHTS]`.

Micro-batch by micro-batch: loss, log-probabilities, gradient, and which of them is not finite; in the number formats of
the update. The weights are those of the run's newest checkpoint, or of a checkpoint or model folder given as a second
argument; whether they are the ones that the update ran with is said.

Nothing is written. Exit status 1 where a number was not finite again.
"""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from grpo.batch import Batch
from grpo.checkpointing.store import find_corruption, latest_valid, step_of
from grpo.config import load
from grpo.errors import UserError
from grpo.losses import make_loss
from grpo.model.forward import Layout, completion_logprobs, micro_batches, resolve_layout
from grpo.model.policy_model import disable_dropout
from grpo.policy.nonfinite import load_rows, weights_hash
from grpo.policy.optimizer_state import read_parameter
from grpo.telemetry.console import Console
from launch.builders import assemble
from launch.builders.models import load_model, locate
from launch.config.recipe import Recipe
from launch.runs.ranks import run_on_ranks
from launch.runs.resume import checkpoints_of


def main(argv: list[str]) -> int:
    argv = [argument for argument in argv if not argument.startswith("--local_rank")]  # the launcher's
    if not 1 <= len(argv) <= 2 or "-h" in argv or "--help" in argv:
        print(__doc__)
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    weights = Path(argv[1]) if len(argv) > 1 else None
    return run_on_ranks(lambda comm, console: min(replay(Path(argv[0]).resolve(), weights, console), 1))


def replay(file: Path, weights: Path | None, console: Console) -> int:
    """The number of micro-batches that were not finite. UserError where rows, run or weights are not there."""
    batch, about = load_rows(file)
    recipe = load(Recipe, [str(file.parent.parent / "recipe.toml")])
    held, autocast = _formats(file, about)
    model = _model(recipe, weights or _newest(file.parent.parent, console), console).to(held)
    same = weights_hash((name, tensor) for name, tensor in model.named_parameters()) == about["weights"]
    console.line(
        f"update {about['update']}, rank {about['rank']}: {len(batch.group_B)} rows, {len(batch.prompts)} prompts"
    )
    console.line("the weights are those of the update" if same else "the weights are OTHERS than those of the update")
    layout = resolve_layout(model, recipe.policy.layout)
    parts = micro_batches(batch, layout=layout, token_budget=recipe.policy.token_budget)
    bad = 0
    for number, index in enumerate(parts, 1):
        found = _run(model, batch.rows(index), recipe, layout, autocast=autocast)
        bad += not all(math.isfinite(value) for value in found.values())
        shown = ", ".join(f"{name} {value:.6g}" for name, value in found.items())
        console.line(f"micro-batch {number} of {len(parts)}, rows {min(index)} to {max(index)}: {shown}")
        for row in index:
            for what in _not_finite(batch.rows([row])):
                console.line(f"  row {row}: {what} is not finite as it was given")
    console.line(f"{bad} of {len(parts)} micro-batches are not finite")
    return bad


def _known(file: Path, dtype: Any) -> Any:
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"{file}: does not say in which number format the update ran; expected one of this version")
    return dtype


def _formats(file: Path, about: Mapping[str, Any]) -> tuple[torch.dtype, bool]:
    """What the update's weights were held in, and whether its products were in bfloat16 all the same (autocast)."""
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    held, dtype = _known(file, str(about.get("weights")).partition("-")[0]), _known(file, about.get("dtype"))
    return known[held], dtype == "bfloat16" and held == "float32"


def _run(model: Any, part: Batch, recipe: Recipe, layout: Layout, *, autocast: bool) -> dict[str, float]:
    """Loss, least log-probability and gradient norm of one micro-batch."""
    model.zero_grad(set_to_none=True)
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=autocast):
        logp_BC, entropy_BC = completion_logprobs(model, part, layout=layout, temperature=recipe.sampling.temperature)
    objective = assemble.loop_settings(recipe, steps=1).objective
    loss, _ = make_loss(objective)(logp_BC.float().cpu(), entropy_BC.float().cpu(), part)
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    return {
        "loss": float(loss.detach()),
        "least log-probability": float(logp_BC.detach().min()),
        "gradient norm": float(norm),
    }


def _not_finite(row: Batch) -> list[str]:
    """What of a row was bad before the model was run."""
    given = {
        "its advantage": row.advantage_B,
        "its sampler's log-probability": row.sampler_logp_BC,
        "its old log-probability": row.old_logp_BC,
        "its reference's log-probability": row.ref_logp_BC,
        "its weight": row.weight_BC,
    }
    return [name for name, value in given.items() if value is not None and not bool(torch.isfinite(value).all())]


def _newest(run: Path, console: Console) -> Path:
    """The run's newest whole checkpoint, else the model that it left."""
    found = latest_valid(checkpoints_of(run))
    path = found.path if found else run / "model"
    if not path.is_dir():
        raise UserError(f"{run}: has neither a checkpoint nor a model; give one: python -m launch.replay FILE FOLDER")
    return path


def _model(recipe: Recipe, weights: Path, console: Console) -> Any:
    """The model with the weights of a checkpoint or of a model folder, as they were saved: in float32."""
    console.line(f"weights      {weights}")
    if (weights / "config.json").is_file():
        model = load_model(str(weights), device=assemble.device())
    else:
        model = load_model(_shape_of(recipe, console), device=assemble.device())
        _check_whole(weights)
        with torch.no_grad():
            for number, (name, parameter) in enumerate(model.named_parameters()):
                tensors = read_parameter(weights / "policy", number, name, parameter, moments=False)
                parameter.copy_(tensors["master"])
    disable_dropout(model)
    return model


def _check_whole(checkpoint: Path) -> None:
    step = step_of(checkpoint)
    if damage := find_corruption(checkpoint, step) if step is not None else "is no folder of a checkpoint or a model":
        raise UserError(f"{checkpoint}: {damage}")


def _shape_of(recipe: Recipe, console: Console) -> str:
    """A folder with a model of the run's shape; its weights are not used."""
    return locate(assemble.start_folder(recipe) or recipe.model.name, console=console)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
