"""requirements/*.txt have what pyproject.toml pins and all that it requires, with hashes."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = {"base": PROJECT["project"]["dependencies"], **PROJECT["dependency-groups"]}
BY_MACHINE = {"torch", "torchvision", "torchaudio", "torchcodec", "pip"}  # scripts/lock.sh leaves them out


def packages(part: str) -> dict[str, str]:
    """Name -> version and hashes, as uv writes them."""
    text = (ROOT / f"requirements/{part}.txt").read_text(encoding="utf-8")
    assert "://" not in text
    blocks = re.findall(r"^([a-z0-9-]+)(?:\[.+?\])?==(\S+.*\n(?:[ ].*\n)+)", text, flags=re.MULTILINE)
    return dict(blocks)


@pytest.mark.parametrize("part", PINS)
def test_what_is_pinned_is_listed_with_hashes(part):
    listed = packages(part)
    for pin in map(Requirement, PINS[part]):
        if pin.name != "torch":
            assert listed[canonicalize_name(pin.name)].startswith(str(pin.specifier).removeprefix("==")), "make lock"
    for name, block in listed.items():
        hashes = block.splitlines()[1:]
        assert all(re.fullmatch(r" {4}--hash=sha256:[0-9a-f]{64}( \\)?", line) for line in hashes), name
    assert "torch" not in listed
    assert part == "vllm-cuda" or not BY_MACHINE & listed.keys()


@pytest.mark.parametrize("part", ["base", "dev", "deepspeed", "vllm-cpu"])
def test_a_file_is_complete(part):
    """pip installs nothing but what is listed, so what a package requires on this machine must be listed too."""
    listed = packages(part).keys()
    here = {canonicalize_name(distribution.name) for distribution in metadata.distributions()}
    for name in sorted(listed & here):
        for needed in map(Requirement, metadata.requires(name) or []):
            if needed.name not in BY_MACHINE and (not needed.marker or needed.marker.evaluate({"extra": ""})):
                assert canonicalize_name(needed.name) in listed, f"{name} requires {needed.name}"
    assert len(listed & here) > 10
