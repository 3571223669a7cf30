"""What are a run's updates measured against? The model's sizes and the fastest matrix product of this rank's device."""

from pathlib import Path

import torch

from grpo.meter import Meter, matmul_peak
from grpo.policy.single import fast_bf16
from launch.assemble import device
from launch.recipe import Recipe
from launch.shapes import NotCounted, Shape, find_shape


def make_meter(recipe: Recipe, folder: str) -> Meter:
    """The meter of this rank, for the model in `folder`; the product is measured here and now.

    perf/mfu is left out for a model whose parameters are not counted.
    """
    sizes = _sizes(recipe, folder)
    where = torch.device(device())
    dtype = recipe.policy.dtype
    bf16 = dtype == "bfloat16" or (dtype == "auto" and fast_bf16(where))
    peak = None if sizes is None else matmul_peak(where, torch.bfloat16 if bf16 else torch.float32)
    return Meter(shared=recipe.policy.layout != "padded", sizes=sizes, peak=peak)


def _sizes(recipe: Recipe, folder: str) -> Shape | None:
    """Those of the weights that are trained where their config.json is on disk, else the recipe's."""
    try:
        return find_shape(folder if Path(folder).is_dir() else recipe.model.name, recipe.model.shape)[0]
    except NotCounted:
        return None
