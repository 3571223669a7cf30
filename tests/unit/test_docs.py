"""README, docs and CONTRIBUTING name only files, modules, recipe keys and links that exist."""

import importlib.util
import re
from dataclasses import is_dataclass
from pathlib import Path

import pytest

from launch.config.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def sections():
    fields = Recipe.__dataclass_fields__ if is_dataclass(Recipe) else Recipe.model_fields
    return {name: getattr(Recipe(), name) for name in fields}


def keys_of(section):
    return set(getattr(type(section), "model_fields", None) or section.__dataclass_fields__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_links_exist(page):
    text = page.read_text(encoding="utf-8")
    files = re.findall(
        r"`((?:grpo|rewards|curriculum|eval|launch|configs|docs|tests|benchmarks|scripts|examples)/[\w./-]*)`", text
    )
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    missing = [file for file in files if not (ROOT / file).exists()]
    missing += [link for link in links if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_and_scripts_exist(page):
    text = page.read_text(encoding="utf-8")
    modules = re.findall(r"python -m ((?:grpo|rewards|curriculum|eval|launch|benchmarks|tests)[\w.]*)", text)
    scripts = re.findall(r"(?:python|deepspeed[^\n`]*?) ((?:launch|examples|benchmarks)/\w+\.py)", text)
    assert all(importlib.util.find_spec(module) for module in modules)
    assert all((ROOT / script).exists() for script in scripts)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipe_keys_exist(page):
    text = page.read_text(encoding="utf-8")
    known = sections()
    named = set(re.findall(r"(?:--|[`(])(" + "|".join(known) + r")\.([a-z_0-9]+)(?=[=` ,)])", text))
    unknown = [
        f"{section}.{key}"
        for section, key in sorted(named)
        if key not in keys_of(known[section]) and key not in ("py", "jsonl")
    ]
    assert not unknown
