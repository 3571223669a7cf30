"""On what, and in which number format, does this machine run models? How far may sampler and trainer then differ?

The only place where "auto" becomes a format: policy engines and vLLM are told what came out.
"""

import math
from typing import Literal

from launch.config.recipe import Recipe

# Nats per token that rounding may explain. In float32 the embedded model's engines agree to 2e-5, and a tied head that
# is stale is off by 0.029, which the limit of bfloat16 would let pass.
ROUNDING = {"float32": 0.005, "bfloat16": 0.05}


def device() -> str:
    """Where models are put: "cuda" where there is one, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def precision(recipe: Recipe) -> Literal["float32", "bfloat16"]:
    """What policy.dtype comes to here: the trainer and vLLM both run in it. The hf engine is float32 always."""
    import torch

    from grpo.policy.base import resolve_bf16

    return "bfloat16" if resolve_bf16(recipe.policy.dtype, torch.device(device())) else "float32"


def max_logprob_gap(recipe: Recipe) -> float:
    """Nats per token, on average over an update, by which sampler and trainer may differ: above it the run stops."""
    wanted = recipe.loss.max_logprob_gap
    limit = ROUNDING[precision(recipe)] if wanted == "auto" else wanted
    # A nucleus renormalizes the sampler's probabilities: each is higher than the trainer's by up to 1 / top_p.
    return limit - math.log(recipe.sampling.top_p)
