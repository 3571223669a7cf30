"""The devices and the memory of this machine."""

from pathlib import Path

import psutil

from grpo.errors import UserError
from launch.planner.memory import Devices

CGROUPS = Path("/sys/fs/cgroup")


def devices_at_hand(*, per_node: int | None = None, nodes: int = 1) -> Devices:
    """This machine's GPUs, or its CPU: `per_node` ranks of it, by default all GPUs or one process. Imports torch."""
    import torch

    from grpo.policy.precision import resolve_bf16

    memory = psutil.virtual_memory()
    total = min(memory.total, container_limit())
    if torch.cuda.is_available():
        found = torch.cuda.device_count()
        if per_node is not None and per_node > found:
            raise UserError(f"{per_node} ranks on a node with {found} GPUs; at most one rank a GPU")
        least = min(torch.cuda.get_device_properties(i).total_memory for i in range(found))
        fast = resolve_bf16("auto", torch.device("cuda"))
        return Devices(kind="gpu", per_node=per_node or found, nodes=nodes, memory=least, host=total, fast_bf16=fast)
    ranks, available = per_node or 1, min(memory.available, total)
    fast = resolve_bf16("auto", torch.device("cpu"))
    return Devices(kind="cpu", per_node=ranks, nodes=nodes, memory=available / ranks, host=total, fast_bf16=fast)


def container_limit(own: Path = Path("/proc/self/cgroup"), root: Path = CGROUPS) -> float:
    """Bytes that the control groups of this process allow, which may be set below the root (Slurm); inf: no limit.

    A line of `own` is `0::/slurm/job_1` (version 2) or `7:memory:/slurm/job_1` (version 1).
    """
    limits = [float("inf")]
    for line in own.read_text(encoding="utf-8").splitlines() if own.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            file = folder / name
            if file.is_file() and (limit := file.read_text(encoding="ascii").strip()) != "max":
                limits.append(float(limit))
            if folder == base:
                break
    return min(limits)
