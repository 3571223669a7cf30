"""Which file of which version is installed, on any machine? `make lock` (`python -m launch.lock`) writes it down.

What pyproject.toml pins is resolved with all that it requires, for every platform and every Python from 3.11 on, and
each package gets the hashes of all files of its version. Torch, and what exists for CUDA only, is left out: it depends
on the machine. What torch requires is there, and so is vLLM's CPU build. Versions stay as they were locked where they
still fit; with `--upgrade` they are the newest that do.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from launch.environment import VLLM_CPU, read_project
from launch.installing import LOCK, ROOT
from launch.packages import CUDA_ONLY, blocks, name_of, wanted_requirements

LEFT_OUT = ("torch", *CUDA_ONLY, "pip")  # the environment's own pip does the installing
# What a wheel for one platform requires and others do not: uv reads the metadata of one wheel only.
OF_INTEL_OPENMP = "intel-cmplr-lib-ur==2024.2.1; sys_platform == 'linux' and platform_machine == 'x86_64'"
HEAD = """\
# What `make setup` installs, with the hash of every file of each version: written by `make lock` from pyproject.toml.
# Below each package stand the parts that need it. Torch is missing on purpose: it depends on the machine.
"""


def main(argv: Sequence[str]) -> int:
    """Resolve everything together, then each part with those versions, to learn which part needs what."""
    parts = wanted()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if LOCK.exists() and "--upgrade" not in argv:
            shutil.copy(LOCK, folder / "all.lock")  # what it finds in the place of its output, it prefers
        whole = resolve("all", [line for lines in parts.values() for line in lines], folder, "--generate-hashes")
        same = f"--constraint={folder / 'all.lock'}"
        names = {
            part: frozenset(map(name_of, blocks(resolve(part, lines, folder, same)))) for part, lines in parts.items()
        }
    LOCK.write_text(HEAD + render(blocks(whole), names), encoding="utf-8")
    print(f"{LOCK.name}: {len(blocks(whole))} packages")
    return 0


def wanted() -> dict[str, list[str]]:
    """What each part of the set-up asks for by itself."""
    project = read_project()
    of_torch = wanted_requirements(metadata.requires("torch") or [], Requirement)
    libraries = [line for line in project["dependencies"] if name_of(line) != "torch"]
    return {
        "libraries": libraries + [line for line in of_torch if not name_of(line).startswith("nvidia")],
        "dev": project["dev"],
        "vllm": [VLLM_CPU, OF_INTEL_OPENMP],
        "deepspeed": project["deepspeed"],
    }


def resolve(name: str, requirements: Sequence[str], folder: Path, *options: str) -> str:
    """The requirements with all that they require, as uv writes it; ends the program where there is no solution."""
    asked, without, found = (folder / f"{name}.{ending}" for ending in ("in", "out", "lock"))
    asked.write_text("\n".join(requirements) + "\n", encoding="utf-8")
    without.write_text("\n".join(LEFT_OUT) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.11"]
    command += [f"--excludes={without}", "--no-annotate", "--no-header", "--no-cache", *options]
    done = subprocess.run([*command, str(asked), "--output-file", str(found)], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(f"error: {name} cannot be resolved, see above; {LOCK.name} is as it was")
    return found.read_text(encoding="utf-8")


def render(packages: Sequence[str], names: Mapping[str, frozenset[str]]) -> str:
    """The packages, each with the parts that need it.

    >>> render(["a==1 \\\\\\n    --hash=sha256:12\\n"], {"dev": frozenset({"a"}), "vllm": frozenset({"a"})})
    'a==1 \\\\\\n    --hash=sha256:12\\n    # for: dev, vllm\\n'
    """
    needing = [[part for part, of_part in names.items() if name_of(block) in of_part] for block in packages]
    return "".join(f"{b}    # for: {', '.join(parts)}\n" for b, parts in zip(packages, needing, strict=True))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
