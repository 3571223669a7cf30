"""Run a saved update again: `python -m launch.replay runs/NAME/bad/update-000012-rank-0.safetensors [WEIGHTS]`.

Prints loss, log-probabilities and gradient of each micro-batch, in the number formats of the update, and which of them
is not finite. WEIGHTS is a checkpoint or a model folder; without it, the run's newest checkpoint. Says whether these
are the weights of the update. Nothing is written. Exit status 1 if a number is not finite again.
"""

import math
import sys
from pathlib import Path
from typing import Any

import torch

from grpo.batch import Batch
from grpo.checkpointing.store import find_corruption, latest_valid, step_of
from grpo.config import load
from grpo.errors import UserError
from grpo.losses import make_loss
from grpo.model.forward import micro_batches
from grpo.model.policy_model import PolicyModel
from grpo.policy.nonfinite import load_rows, weights_hash
from grpo.policy.optimizer_state import read_parameter
from grpo.settings import LossConfig
from grpo.telemetry.console import Console
from launch.builders.models import device, load_model, starting_weights
from launch.config.recipe import ModelConfig, Recipe
from launch.runs.ranks import run_on_ranks
from launch.runs.resume import checkpoints_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main(argv: list[str]) -> int:
    argv = [argument for argument in argv if not argument.startswith("--local_rank")]  # the launcher's
    if not 1 <= len(argv) <= 2 or "-h" in argv or "--help" in argv:
        print(__doc__)
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    weights = Path(argv[1]) if len(argv) > 1 else None
    return run_on_ranks(lambda comm, console: min(replay(Path(argv[0]).resolve(), weights, console), 1))


def replay(file: Path, weights: Path | None, console: Console) -> int:
    """Return the number of micro-batches that are not finite. UserError if rows, run or weights are missing."""
    batch, about = load_rows(file)
    recipe = load(Recipe, [str(file.parent.parent / "recipe.toml")])
    held, products = str(about.get("weights")).partition("-")[0], about.get("dtype")
    if not {held, products} <= DTYPES.keys():
        raise UserError(f"{file}: the number formats of the update are missing; valid: a file of this version")
    path = weights or _newest(file.parent.parent)
    console.line(f"weights      {path}")
    model = _load(path, recipe.model, recipe.run.folder, console).to(DTYPES[held])
    same = weights_hash(iter(model.named_parameters())) == about["weights"]
    console.line(
        f"update {about['update']}, rank {about['rank']}: {len(batch.group_B)} rows, {len(batch.prompts)} prompts"
    )
    console.line("the weights are those of the update" if same else "the weights are OTHERS than those of the update")
    policy = PolicyModel(model, layout=recipe.policy.layout, temperature=recipe.sampling.temperature)
    policy.prepare()
    parts = micro_batches(batch, layout=policy.layout, token_budget=recipe.policy.token_budget)
    bad = 0
    for number, index in enumerate(parts, 1):
        numbers = _run(policy, batch.rows(index), recipe.loss, autocast=held != products)
        bad += not all(math.isfinite(value) for value in numbers.values())
        shown = ", ".join(f"{name} {value:.6g}" for name, value in numbers.items())
        console.line(f"micro-batch {number} of {len(parts)}, rows {min(index)} to {max(index)}: {shown}")
        for row in index:
            for name in _nonfinite_inputs(batch.rows([row])):
                console.line(f"  row {row}: its {name} is not finite as it was given")
    console.line(f"{bad} of {len(parts)} micro-batches are not finite")
    return bad


def _run(policy: PolicyModel, part: Batch, loss_config: LossConfig, *, autocast: bool) -> dict[str, float]:
    """Loss, least log-probability and gradient norm of one micro-batch."""
    policy.zero_grad(set_to_none=True)
    with torch.autocast(policy.model.device.type, dtype=torch.bfloat16, enabled=autocast):
        logp_BC, entropy_BC = policy(part)
    loss, _ = make_loss(loss_config)(logp_BC.float().cpu(), entropy_BC.float().cpu(), part)
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in policy.parameters() if p.grad is not None])
    return {
        "loss": float(loss.detach()),
        "least log-probability": float(logp_BC.detach().min()),
        "gradient norm": float(norm),
    }


def _nonfinite_inputs(row: Batch) -> list[str]:
    """Names of the numbers of a row that were not finite before the model was run."""
    given = {
        "advantage": row.advantage_B,
        "sampler log-probability": row.sampler_logp_BC,
        "old log-probability": row.old_logp_BC,
        "reference log-probability": row.ref_logp_BC,
        "weight": row.weight_BC,
    }
    return [name for name, value in given.items() if value is not None and not bool(torch.isfinite(value).all())]


def _newest(run: Path) -> Path:
    """The newest whole checkpoint of a run, else its final model."""
    found = latest_valid(checkpoints_of(run))
    path = found.path if found else run / "model"
    if not path.is_dir():
        raise UserError(f"{run}: has neither a checkpoint nor a model; give one: python -m launch.replay FILE FOLDER")
    return path


def _load(weights: Path, model: ModelConfig, runs: str, console: Console) -> Any:
    """The model with the float32 weights of a checkpoint or of a model folder."""
    if (weights / "config.json").is_file():
        return load_model(str(weights), device=device())
    step = step_of(weights)
    if damage := find_corruption(weights, step) if step is not None else "is no folder of a checkpoint or a model":
        raise UserError(f"{weights}: {damage}")
    loaded = load_model(starting_weights(model, runs, console), device=device())
    with torch.no_grad():
        for number, (name, parameter) in enumerate(loaded.named_parameters()):
            tensors = read_parameter(weights / "policy", number, name, parameter, moments=False)
            parameter.copy_(tensors["master"])
    return loaded


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
