"""Examples of a source by its name: "world", a local file or folder, or `hub:NAME`.

The format of a source is the first of `READERS` whose keys its first record has. A new format is a new reader.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path

from curriculum.builder import BuildReport, build_examples
from curriculum.datasets import DataSpec, Reader, Row, closed_book, world
from curriculum.datasets.alce import ASQA, ELI5, QAMPARI
from curriculum.datasets.fields import has_path, rename
from curriculum.datasets.frameworks import READERS as FRAMEWORKS
from curriculum.datasets.grounded import CLOSED, DOCS, WRITTEN, log_reader
from curriculum.datasets.messages import MESSAGES, PROMPT
from curriculum.datasets.multihop import HOTPOTQA, MUSIQUE
from curriculum.datasets.open_qa import CTXS, MSMARCO
from curriculum.datasets.squad import ARTICLES, COLUMNS
from curriculum.retrieval import passage_key
from grpo.data.example import DATA_TYPES, Example, Style
from grpo.data.files import HUB, Record, read_records, source_name
from grpo.data.text import normalize
from grpo.errors import UserError
from rewards.judges.base import Judge
from rewards.judges.load import load_judge

READERS: tuple[Reader, ...] = (
    *(WRITTEN, ASQA, ELI5, QAMPARI, DOCS, ARTICLES, COLUMNS, MUSIQUE, HOTPOTQA, CTXS, MSMARCO),
    *FRAMEWORKS,
    *(log_reader("rag_log", name) for name in ("passages", "documents", "context", "chunks")),
    *(MESSAGES, PROMPT, CLOSED),
)
"""From the most special to the most general."""

_NAMED = re.compile(rf"(?<![a-z0-9])({'|'.join(DATA_TYPES)})(?![a-z0-9])")


def load_source(source: str, spec: DataSpec, judge: Judge | None = None) -> tuple[list[Example], str]:
    """All examples of one source, and what is to be said of it: how it was read, and what was dropped.

    `judge` is the one that `spec` names where the caller has it; else it is loaded without a cache.
    """
    if source == "world":
        return world.load(spec), ""
    _, record = next(read_records(source))
    if not spec.format and not spec.fields and not matching(record, spec) and closed_book.matches(record):
        return closed_book.load(source, spec)
    rows, reader, said = read_rows(source, spec)
    if reader.joins:
        rows, joined = join_gold(rows, spec)
        said = f"{said}; {joined}"
    judge = judge or load_judge(spec.judge)
    examples, report = build_source(
        rows, reader, spec, judge, name=data_set_name(source) if source.startswith(HUB) else source_name(source)
    )
    return examples, f"{source}: {said}; {report}"


def build_source(
    rows: Sequence[Row], reader: Reader, spec: DataSpec, judge: Judge, *, name: str
) -> tuple[list[Example], BuildReport]:
    """The examples that training may draw from: every variant of every question."""
    return build_examples(
        rows,
        source=name,
        variants=reader.variants,
        unanswerable="any",
        passages=spec.passages,
        choose=spec.choose,
        max_words=spec.max_words,
        seed=spec.seed,
        refusals=spec.refusals,
        judge=judge,
        judge_name=spec.judge,
    )


def read_rows(source: str | Path, spec: DataSpec) -> tuple[list[Row], Reader, str]:
    """The rows of a source, the reader that read them, and a line that says which one, and what else it could be.

    UserError if no reader fits the first record, or a record does not fit the reader.
    """
    rows: list[Row] = []
    reader: Reader | None = None
    said = ""
    style = spec.style or _named_style(str(source))
    for location, given in read_records(source):
        record = rename(location, given, spec.fields)
        if reader is None:
            reader, said = choose_reader(location, record, spec)
        stated = record.get("style") or record.get("data_type")
        whole = {**record, "style": style} if style and not stated and "docs" in record else record
        try:
            rows += (replace(row, style=row.style or style) for row in reader.read(location, whole))
        except UserError as error:
            raise _with_other_reader(error, reader, record) from None
    assert reader is not None  # a source without records was refused
    return rows, reader, said


def join_gold(rows: Sequence[Row], spec: DataSpec) -> tuple[list[Row], str]:
    """The rows with the accepted answers and labels that `spec.gold` has for their questions, and a line about it.

    Labels are taken over by the text of the passage. Without `spec.gold` the rows stay as they are. UserError if none
    of them is in these sources.
    """
    if not spec.gold:
        said = "accepted answers are what the assistant wrote; data.gold = ALCE's or trust_eval's files joins others"
        return list(rows), said
    gold: dict[str, Row] = {}
    for source in spec.gold:
        for row in read_rows(source, replace(spec, fields={}, format=""))[0]:
            gold.setdefault(normalize(row.question), replace(row, source=row.source or data_set_name(source)))
    joined: list[Row] = []
    for row in rows:
        if other := gold.get(normalize(row.question)):
            labels = dict(zip(map(passage_key, other.passages), other.labels, strict=False))
            labels_of_row = tuple(labels.get(passage_key(passage)) for passage in row.passages)
            joined.append(
                replace(row, answers=other.answers, style=other.style, labels=labels_of_row, source=other.source)
            )
    if not joined:
        raise UserError(
            f"{rows[0].location}: none of the {len(rows)} questions is in data.gold = {', '.join(spec.gold)}; expected "
            "the files that these records were made from, or no data.gold"
        )
    return joined, f"{len(joined)} of {len(rows)} questions have accepted answers in data.gold, the others are left out"


def is_joined(source: str, spec: DataSpec) -> bool:
    """Whether accepted answers of other sources are joined to the records of this one."""
    if source == "world":
        return False
    location, record = next(read_records(source))
    found = matching(rename(location, record, spec.fields), spec)
    return bool(found) and found[0].joins


def data_set_name(source: str) -> str:
    """The name of a source for metrics: that of a data set of the paper if it is in the name, "asqa"."""
    found = set(_NAMED.findall(source_name(source).lower().replace("_", " ")))
    return found.pop() if len(found) == 1 else source_name(source)


def choose_reader(location: str, record: Record, spec: DataSpec) -> tuple[Reader, str]:
    """The reader of a first record, and a line that says so. UserError where none fits, with the nearest."""
    found = matching(record, spec)
    if not found:
        has = ", ".join(map(str, record)) or "no fields"
        near = max(READERS, key=lambda reader: _likeness(record, reader))
        raise UserError(
            f"{location}: unknown format (the record has {has}); nearest: {near.name}, which has "
            f"{', '.join(near.keys)}; expected a format of docs/data-and-rewards.md, or names of its fields: "
            '--data.fields=\'{question="FIELD", passages="FIELD", answer="FIELD"}\''
        )
    others = [reader.name for reader in found[1:] if reader.name != found[0].name]
    also = f" (it could be {', '.join(dict.fromkeys(others))}: --data.format)" if others else ""
    return found[0], f"read as {found[0].name}{also}"


def _likeness(record: Record, reader: Reader) -> float:
    """How near the names of a record's fields are to the keys of a reader, 0 to 1."""
    heads = [key.partition(".")[0] for key in reader.keys]
    near = [max((SequenceMatcher(None, head, str(name)).ratio() for name in record), default=0.0) for head in heads]
    return sum(near) / len(near)


def matching(record: Record, spec: DataSpec) -> list[Reader]:
    """All readers whose keys a record has; those of the name `spec.format` if one is given."""
    known = [reader for reader in READERS if spec.format in ("", reader.name)]
    if not known:
        names = ", ".join(dict.fromkeys(reader.name for reader in READERS))
        raise UserError(f"data.format = {spec.format!r}; valid: {names}")
    return [r for r in known if all(has_path(record, key) for key in r.keys) and r.where(record)]


def _with_other_reader(error: UserError, reader: Reader, record: Record) -> UserError:
    """The error of a record, with the reader that it looks like if it is not like the first."""
    if all(has_path(record, key) for key in reader.keys):
        return error
    other = next((r.name for r in READERS if all(has_path(record, key) for key in r.keys) and r.where(record)), None)
    alike = f"; this record looks like {other}" if other else ""
    return UserError(f"{error}; the first record is read as {reader.name}{alike}")


def _named_style(source: str) -> Style | None:
    """The style of a data set of the paper, by its name in that of the file or split: "qampari_eval" is a list."""
    return DATA_TYPES.get(data_set_name(source))
