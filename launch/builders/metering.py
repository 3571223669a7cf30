"""What are a run's updates measured against? The model's sizes and the fastest matrix product of this rank's device."""

from pathlib import Path

import torch

from grpo.telemetry.throughput import ThroughputMeter, matmul_peak
from launch.builders.precision import device, precision
from launch.config.model_size import ModelSize, UnknownModelSize, find_size
from launch.config.recipe import Recipe


def make_meter(recipe: Recipe, folder: str) -> ThroughputMeter:
    """The meter of this rank, for the model in `folder`; the product is measured here and now.

    perf/mfu is left out for a model whose parameters are not counted.
    """
    sizes = _sizes(recipe, folder)
    dtype = torch.bfloat16 if precision(recipe) == "bfloat16" else torch.float32
    peak = None if sizes is None else matmul_peak(torch.device(device()), dtype)
    return ThroughputMeter(shared=recipe.policy.layout != "padded", dims=sizes, peak=peak)


def _sizes(recipe: Recipe, folder: str) -> ModelSize | None:
    """Those of the weights that are trained where their config.json is on disk, else the recipe's."""
    try:
        return find_size(folder if Path(folder).is_dir() else recipe.model.name, recipe.model.config)[0]
    except UnknownModelSize:
        return None
