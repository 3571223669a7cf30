"""The number format of matrix products: float32, or bfloat16 where the device is fast in it."""

from typing import Literal

import torch

Dtype = Literal["auto", "float32", "bfloat16"]


def resolve_bf16(dtype: Dtype, device: torch.device) -> bool:
    """Whether matrix products are in bfloat16: as `dtype` says, and for "auto" if the device is faster in it.

    A CPU without the instructions emulates them, five times slower (17 against 98 GFLOP/s on two AVX2 cores).
    """
    if dtype != "auto":
        return dtype == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
