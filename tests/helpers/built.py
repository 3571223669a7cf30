"""Examples of a file of question-answer pairs, by the offline judge."""

from pathlib import Path

from curriculum.builder import BuildReport, build_examples
from curriculum.datasets import DataSpec
from curriculum.sources import read_rows
from grpo.data.example import Example
from rewards.judges.load import load_judge


def build_file(path: str | Path, spec: DataSpec | None = None, **options) -> tuple[list[Example], BuildReport]:
    """As `python -m curriculum.build` does it; `options` are those of `build_examples`."""
    rows, _, _ = read_rows(path, spec or DataSpec())
    return build_examples(rows, **{"judge": load_judge("lexical"), "source": "nq", **options})
