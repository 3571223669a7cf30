"""Checkpoint folders: created aside, written, committed by a rename, verified by hashes, pruned.

    checkpoints/step-000010/manifest.json    every file with its size and hash; written last
                            state.json       the state that all ranks share: counters, curriculum, log
                            rank-0.json      the state of one rank: its random generators
                            policy/          the optimizer's state (grpo/policy/optimizer_state.py)

A checkpoint is built as `.step-000010.writing` and renamed when all of it is on the disk. A folder `step-*` is
therefore complete unless the disk has damaged it, and the hashes tell that.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from grpo.errors import UserError

FORMAT = 2  # of the folder; counted up when an older program could not resume from it
MANIFEST, STATE = "manifest.json", "state.json"
NAME = re.compile(r"step-(\d{6,})")

# Errors of reading a file whose bytes are intact and whose content is not what is expected.
DAMAGE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)

Digest = tuple[int, str]
"""Size of a file in bytes, and its hash (XXH3, 128 bits: against damage, not against malice)."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint: `Checkpoint(step=10, path=Path("x/checkpoints/step-000010"), ranks=2)`."""

    step: int  # steps done, so the number of the next step
    path: Path
    ranks: int

    def shared_state(self) -> dict[str, Any]:
        """The state that all ranks have in common."""
        return json.loads((self.path / STATE).read_text(encoding="utf-8"))

    def rank_state(self, rank: int) -> dict[str, Any] | None:
        """The state of one rank; None where the checkpoint was written by fewer ranks."""
        if rank >= self.ranks:
            return None
        return json.loads((self.path / _rank_file(rank)).read_text(encoding="utf-8"))


def checkpoint_path(folder: Path, step: int) -> Path:
    """The final place of the checkpoint after `step` steps."""
    return folder / f"step-{step:06d}"


def step_of(path: Path) -> int | None:
    """The step of the checkpoint in `path`, by its name; None for any other name.

    >>> step_of(Path("checkpoints/step-000010")), step_of(Path("checkpoints/latest"))
    (10, None)
    """
    match = NAME.fullmatch(path.name)
    step = int(match[1]) if match else None
    return step if step is not None and path == checkpoint_path(path.parent, step) else None


def temp_path(folder: Path, step: int) -> Path:
    """The place where the checkpoint after `step` steps is built."""
    return folder / f".{checkpoint_path(folder, step).name}.writing"


def disk_shortage(folder: Path, needed: int, *, reserve: int) -> str:
    """Why the disk of `folder` cannot take `needed` bytes with `reserve` bytes left free; empty where it can."""
    free = shutil.disk_usage(folder).free
    if free >= needed + reserve:
        return ""
    return f"it takes {needed / 1e9:.2f} GB, {reserve / 1e9:.2f} must stay free, and {free / 1e9:.2f} are"


def create(folder: Path, step: int, *, needed: int, reserve: int) -> str:
    """Create the folder that all ranks write into. Returns the reason where the disk has no room, else ""."""
    folder.mkdir(exist_ok=True)
    if reason := disk_shortage(folder, needed, reserve=reserve):
        return reason
    place = temp_path(folder, step)
    if place.exists():
        shutil.rmtree(place)  # the leftover of a killed save; only this module makes such folders
    place.mkdir()
    (place / "policy").mkdir()
    return ""


def write_file(place: Path, name: str, *pieces: bytes | memoryview) -> Digest:
    """Write a new file of these buffers and fsync it. The digest is of the buffers in memory."""
    digest = xxhash.xxh3_128()
    with (place / name).open("xb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
        size = file.tell()
        file.flush()
        os.fsync(file.fileno())
    return size, digest.hexdigest()


def write_rank_state(place: Path, rank: int, state: Mapping[str, Any], digests: dict[str, Digest]) -> None:
    """Write this rank's state, and last the list of its files, which tells rank 0 that this rank is done."""
    digests[_rank_file(rank)] = write_file(place, _rank_file(rank), _json(state))
    listed = place / f".part-{rank}"
    write_file(place, f"{listed.name}.new", _json(digests))
    listed.with_name(f"{listed.name}.new").rename(listed)


def ranks_missing(place: Path, ranks: int) -> list[int]:
    """The ranks that have not finished writing."""
    return [rank for rank in range(ranks) if not (place / f".part-{rank}").exists()]


def commit(folder: Path, step: int, *, ranks: int, shared: Mapping[str, Any]) -> Path:
    """Complete a checkpoint that all ranks have written: add shared state and manifest, fsync, verify, rename.

    OSError where a file does not read back as it was written.
    """
    place, final = temp_path(folder, step), checkpoint_path(folder, step)
    digests: dict[str, Digest] = {}
    for rank in range(ranks):
        part = place / f".part-{rank}"
        digests |= json.loads(part.read_text(encoding="utf-8"))
        part.unlink()
    digests[STATE] = write_file(place, STATE, _json(shared))
    body = {"format": FORMAT, "step": step, "ranks": ranks, "files": dict(sorted(digests.items()))}
    write_file(place, MANIFEST, _json({**body, "hash": _hash(_json(body))}))
    for directory in (place / "policy", place):
        fsync(directory)
    if corruption := find_corruption(place, step):
        raise OSError(f"{place}: does not read back as it was written: {corruption}")
    place.rename(final)
    fsync(folder)
    return final


def find_corruption(path: Path, step: int) -> str:
    """What is wrong with the checkpoint in `path`, in a few words that begin with a file; "" where nothing is.

    UserError for a checkpoint of a newer program, which may be intact.
    """
    try:
        written = (path / MANIFEST).read_bytes()
        body = json.loads(written)
        claimed = body.pop("hash")
        if claimed != _hash(_json(body)) or written != _json({**body, "hash": claimed}) or body["step"] != step:
            return f"{MANIFEST}: is damaged"
        if body["format"] > FORMAT:
            wrote = f"has format {body['format']}, and this program reads {FORMAT}"
            raise UserError(f"{path}: {wrote}; valid: the program that wrote it")
        if body["format"] != FORMAT:
            return f"{MANIFEST}: has format {body['format']}, and this program reads {FORMAT}"
        files: Mapping[str, Digest] = body["files"]
        ranks = range(min(body["ranks"], len(files) + 1))  # more ranks than files: one of them is missing
        if lacks := [name for name in (STATE, *map(_rank_file, ranks)) if name not in files]:
            return f"{MANIFEST}: does not name {lacks[0]}"
        found = (_file_corruption(path, name, *digest) for name, digest in files.items())
        return next((corruption for corruption in found if corruption), "")
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name}: is missing"
    except UserError:
        raise
    except (OSError, *DAMAGE) as error:
        return f"{MANIFEST}: cannot be read: {error!r}"


def _file_corruption(path: Path, name: str, size: int, wanted: str) -> str:
    if not (path / name).resolve().is_relative_to(path.resolve()):
        return f"{MANIFEST}: names {name}, which is not inside"
    if not (path / name).is_file() or (path / name).is_symlink():
        return f"{name}: is missing, or no plain file"  # reading a pipe would block
    found = (path / name).stat().st_size
    if found != size:
        return f"{name}: has {found} bytes of {size}"
    if _hash_file(path / name) != wanted:
        return f"{name}: its {size} bytes are not those that were written"
    return ""


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of the checkpoints in `folder`, newest first, intact or not."""
    found = [(step_of(path), path) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(((step, path) for step, path in found if step is not None and path.is_dir()), reverse=True)


def latest_step(folder: Path) -> int:
    """The step of the newest checkpoint; 0 where there is none."""
    return max((step for step, _ in list_checkpoints(folder)), default=0)


def latest_valid(folder: Path, unusable: Callable[[Checkpoint], str] = lambda checkpoint: "") -> Checkpoint | None:
    """The newest intact checkpoint, or None where there is no checkpoint at all.

    `unusable` says why an intact checkpoint cannot be used; "" where it can. Each checkpoint that is passed over is
    logged with the reason. UserError where there are checkpoints and none can be used.
    """
    passed: list[str] = []
    for step, path in list_checkpoints(folder):
        reason = find_corruption(path, step)
        if not reason:
            body = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            checkpoint = Checkpoint(step, path, body["ranks"])
            reason = unusable(checkpoint)
            if not reason:
                return checkpoint
        passed.append(f"{path}: {reason}")
        log.warning("checkpoint passed over: %s", passed[-1])
    if passed:
        raise UserError(f"{passed[0]}; none of the {len(passed)} checkpoints can be used, so the run cannot resume")
    return None


def discard_newer(folder: Path, step: int) -> None:
    """Remove what is newer than the checkpoint of `step`, from which the run resumes, and what killed saves left."""
    for newer in (path for found, path in list_checkpoints(folder) if found > step):
        _remove(newer)
    for leftover in folder.glob(".step-*.writing"):
        shutil.rmtree(leftover)


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for _, path in list_checkpoints(folder)[keep:]:
        _remove(path)


def remove_all(folder: Path) -> None:
    """Remove the folder of checkpoints, and what an earlier removal left that was killed."""
    gone = folder.with_name(f".{folder.name}.removing")
    if gone.exists():
        shutil.rmtree(gone)
    if folder.exists():
        folder.rename(gone)  # first, so that a kill leaves no half-removed checkpoint under its name
        shutil.rmtree(gone)


def _remove(path: Path) -> None:
    gone = path.with_name(f".{path.name}.writing")  # renamed first: half a folder must not look like a checkpoint
    path.rename(gone)
    shutil.rmtree(gone)


def fsync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rank_file(rank: int) -> str:
    return f"rank-{rank}.json"


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False) + "\n").encode()


def _hash(data: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(data)


def _hash_file(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()
