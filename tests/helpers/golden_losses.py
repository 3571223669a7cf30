"""`python -m tests.helpers.golden_losses FILE`: our losses and gradients against an oracle's, case by case.

FILE has the shape of tests/data/loss_golden.json: fixtures of log-probabilities, advantages and lengths, and for each
named case the loss and its gradient with respect to `logp_new`. Exits 1 when a difference is above 1e-5, or when a case
has a name that nothing here computes.
"""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from grpo.batch import Batch
from grpo.losses import Aggregation, make_loss, with_token_weights
from grpo.settings import LossConfig

TOLERANCE = 1e-5
NUMBER = r"([0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?)"


@dataclass(frozen=True)
class Difference:
    case: str
    loss: float
    gradient: float

    @property
    def ok(self) -> bool:
        return max(self.loss, self.gradient) <= TOLERANCE  # NaN compares false, so it is not ok


def read_case(name: str, fixture: dict) -> tuple[LossConfig, Aggregation, int]:
    """Case name -> (objective, aggregation, max_tokens); ValueError for a name that nothing here computes."""
    objective = LossConfig(clip_low=fixture["clip_low"], clip_high=fixture["clip_high"], importance_cap=0.0)
    aggregation: Aggregation = "token"
    max_tokens = 1
    if "sequence_mean" in name:
        aggregation = "sequence"
    elif "constant" in name:
        aggregation = "constant"
        max_tokens = int(_number(r"max_tokens=", name))
    elif "token_mean" not in name and not name.startswith(("dual clip", "sapo", "gspo", "cispo")):
        raise ValueError(f"case {name!r}: no aggregation recognized (token_mean, sequence_mean, constant)")
    if name.startswith("gspo"):
        objective = objective.replace(type="gspo")
    elif name.startswith("cispo"):
        objective = objective.replace(type="cispo", cispo_clip=_number("cap ", name))
    elif name.startswith("sapo"):
        aggregation = "sequence"  # TRL averages SAPO as it does GRPO
        temperatures = re.search(rf"{NUMBER}/{NUMBER}", name)
        if temperatures is None:
            raise ValueError(f"case {name!r}: no temperatures like 1.0/1.05")
        objective = objective.replace(type="sapo", sapo_temperatures=tuple(map(float, temperatures.groups())))
    elif name.startswith("dual clip"):
        objective = objective.replace(dual_clip=_number("dual clip ", name))
    if "kl=" in name:
        estimator = re.search(r"\b(k[123])\b", name)
        kind = estimator.group(1) if estimator else "k3"
        objective = objective.replace(kl_coef=_number("kl=", name), kl_estimator=kind)  # type: ignore[arg-type]
    if "TIS" in name:
        objective = objective.replace(importance_cap=_number("cap ", name))
    return objective, aggregation, max_tokens


def compare(fixture: dict, name: str, *, split: tuple[int, ...] = ()) -> Difference:
    """One case; `split` cuts the rows into micro-batches of these sizes, which must not change anything."""
    objective, aggregation, max_tokens = read_case(name, fixture)
    logp_BC = torch.tensor(fixture["logp_new"])
    learn_BC = torch.arange(logp_BC.shape[1]) < torch.tensor(fixture["lengths"])[:, None]
    rows = len(logp_BC)
    batch = Batch(
        prompts=((1,),) * rows,
        group_B=torch.arange(rows),
        ids_BC=torch.zeros_like(logp_BC, dtype=torch.long),
        learn_BC=learn_BC,
        advantage_B=torch.tensor(fixture["advantages"]),
        sampler_logp_BC=torch.tensor(fixture["logp_sampler"]),
        old_logp_BC=torch.tensor(fixture["logp_old"]),
        ref_logp_BC=torch.tensor(fixture["logp_ref"]),
    )
    batch = with_token_weights(batch, LossConfig(aggregation=aggregation, kl_coef=1.0), max_tokens=max_tokens)
    sizes = split or (rows,)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    total, gradient_BC = 0.0, torch.zeros_like(logp_BC)
    for start, size in zip(starts, sizes, strict=True):
        part = batch.rows(range(start, start + size))
        width = part.ids_BC.shape[1]
        part_logp_BC = logp_BC[start : start + size, :width].clone().requires_grad_(True)
        loss, _ = make_loss(objective)(part_logp_BC, torch.zeros_like(part_logp_BC), part)
        loss.backward()
        assert part_logp_BC.grad is not None
        gradient_BC[start : start + size, :width] += part_logp_BC.grad
        total += float(loss.detach())
    golden = fixture["cases"][name]
    return Difference(
        case=name,
        loss=abs(total - golden["loss"]),
        gradient=float((gradient_BC - torch.tensor(golden["grad"])).abs().max()),
    )


def compare_file(path: Path) -> list[Difference]:
    fixtures = json.loads(path.read_text(encoding="utf-8"))["fixtures"]
    return [compare(fixture, name) for fixture in fixtures for name in fixture["cases"]]


def main(argv: list[str]) -> int:
    if len(argv) != 1:
        print("usage: python -m tests.helpers.golden_losses FILE", file=sys.stderr)
        return 2
    try:
        differences = compare_file(Path(argv[0]))
    except (OSError, ValueError, KeyError) as error:  # json's own error is a ValueError
        print(f"error: {argv[0]}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"{'case':52} {'loss':>9} {'gradient':>9}   (largest absolute difference)")
    for d in differences:
        print(f"{d.case:52} {d.loss:9.2e} {d.gradient:9.2e}   {'' if d.ok else f'ABOVE {TOLERANCE}'}")
    return 0 if differences and all(d.ok for d in differences) else 1


def _number(before: str, name: str) -> float:
    match = re.search(before + NUMBER, name)
    if match is None:
        raise ValueError(f"case {name!r}: no number after {before!r}")
    return float(match.group(1))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
