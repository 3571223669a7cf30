"""Is a checkpoint whole, and which is the newest that is? Folders that are written, sealed, checked and cleared away.

    checkpoints/step-000010/manifest.json    every file with its size and hash; written last
                            state.json       what all ranks share: counters, curriculum, log
                            rank-0.json      a rank's own: its random states
                            policy/          the optimizer's state (grpo/policy/optimizer_state.py)
    checkpoints/latest                       the name of the newest that was read back and found whole

A checkpoint is built as `.step-000010.writing` and renamed when all of it is on the disk: a folder `step-*` is whole
unless the disk itself has damaged it, which its hashes tell.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from grpo.errors import UserError

FORMAT = 2  # of the folder; counted up when an older program could not go on from it
MANIFEST, STATE, LATEST = "manifest.json", "state.json", "latest"
NAME = re.compile(r"step-(\d{6,})")

# What reading a file can raise that is whole, but says something else than it should.
DAMAGE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)

Digests = Mapping[str, tuple[int, str]]
"""A file's path inside the checkpoint -> its bytes and their hash (XXH3, 128 bits: for damage, not for malice)."""


class Point(NamedTuple):
    """A place that a run can resume from. `Point(10).name` is 'step-000010', the name of its folder.

    >>> Point(10) < Point(11), str(Point(10))
    (True, 'step 10')
    """

    step: int  # steps done, so the next one's number

    @property
    def name(self) -> str:
        return f"step-{self.step:06d}"

    def __str__(self) -> str:
        return f"step {self.step}"


def point_of(name: str) -> Point | None:
    """The point whose checkpoint has this name; None for any other name.

    >>> point_of("step-000010"), point_of("latest")
    (Point(step=10), None)
    """
    match = NAME.fullmatch(name)
    at = Point(int(match[1])) if match else None
    return at if at and at.name == name else None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A checkpoint that was found whole: `Snapshot(at=Point(10), path=Path("x/checkpoints/step-000010"), ranks=2)`."""

    at: Point
    path: Path
    ranks: int

    def shared(self) -> dict[str, Any]:
        """What all ranks had in common."""
        return json.loads((self.path / STATE).read_text(encoding="utf-8"))

    def own(self, rank: int) -> dict[str, Any] | None:
        """What belonged to this rank alone; None where there was no such rank."""
        return json.loads((self.path / _own(rank)).read_text(encoding="utf-8")) if rank < self.ranks else None


def building(folder: Path, at: Point) -> Path:
    """Where the checkpoint of this point is put together before it is renamed."""
    return folder / f".{at.name}.writing"


def no_room(folder: Path, needed: int, *, reserve: int) -> str:
    """Why the disk of `folder` does not take `needed` bytes more with `reserve` beside them; empty where it does."""
    free = shutil.disk_usage(folder).free
    if free >= needed + reserve:
        return ""
    return f"it takes {needed / 1e9:.2f} GB, {reserve / 1e9:.2f} must stay free, and {free / 1e9:.2f} are"


def begin(folder: Path, at: Point, *, needed: int, reserve: int) -> str:
    """Make the folder that all ranks write into. Where the disk has no room for `needed` bytes and `reserve` beside
    them, nothing is made, and the answer is why; else it is empty."""
    folder.mkdir(exist_ok=True)
    if reason := no_room(folder, needed, reserve=reserve):
        return reason
    place = building(folder, at)
    if place.exists():
        shutil.rmtree(place)  # what a killed save left; only this module makes such folders
    place.mkdir()
    (place / "policy").mkdir()
    return ""


def put(place: Path, name: str, *pieces: bytes | memoryview) -> tuple[int, str]:
    """Write a new file, of buffers, and see it to the disk; its size and hash, of what was in memory."""
    digest = xxhash.xxh3_128()
    with (place / name).open("xb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
        size = file.tell()
        file.flush()
        os.fsync(file.fileno())
    return size, digest.hexdigest()


def put_own(place: Path, rank: int, own: Mapping[str, Any], digests: dict[str, tuple[int, str]]) -> None:
    """This rank's own state, and last of all the list of what it has written, so that rank 0 knows it is done."""
    digests[_own(rank)] = put(place, _own(rank), _json(own))
    listed = place / f".part-{rank}"
    put(place, f"{listed.name}.new", _json(digests))
    listed.with_name(f"{listed.name}.new").rename(listed)


def parts_missing(place: Path, ranks: int) -> list[int]:
    """The ranks that have not finished writing."""
    return [rank for rank in range(ranks) if not (place / f".part-{rank}").exists()]


def seal(folder: Path, at: Point, *, ranks: int, shared: Mapping[str, Any]) -> Path:
    """All ranks have written: add what they share and the manifest, see all to the disk, read all of it back, rename it
    and move `latest`. OSError where a file does not read as it was written."""
    place, final = building(folder, at), folder / at.name
    digests: dict[str, tuple[int, str]] = {}
    for rank in range(ranks):
        part = place / f".part-{rank}"
        digests |= json.loads(part.read_text(encoding="utf-8"))
        part.unlink()
    digests[STATE] = put(place, STATE, _json(shared))
    body = {"format": FORMAT, "step": at.step, "ranks": ranks, "files": dict(sorted(digests.items()))}
    put(place, MANIFEST, _json({**body, "hash": _hash(_json(body))}))
    for directory in (place / "policy", place):
        flush(directory)
    damage = damaged(place, at)
    if damage:
        raise OSError(f"{place}: not read back as it was written: {damage}")
    place.rename(final)
    flush(folder)
    _point(folder, final.name)
    return final


def damaged(path: Path, at: Point) -> str:
    """What is wrong with the checkpoint of `at` in `path`, in a few words that begin with a file; empty where it is
    whole. UserError for one of a newer program, which is whole as far as this one can tell."""
    try:
        written = (path / MANIFEST).read_bytes()
        body = json.loads(written)
        told = body.pop("hash")
        if told != _hash(_json(body)) or written != _json({**body, "hash": told}) or body["step"] != at.step:
            return f"{MANIFEST}: is damaged"
        if body["format"] > FORMAT:
            wrote = f"has format {body['format']}, and this program reads {FORMAT}"
            raise UserError(f"{path}: {wrote}; valid: the program that wrote it")
        if body["format"] != FORMAT:
            return f"{MANIFEST}: has format {body['format']}, and this program reads {FORMAT}"
        files: Digests = body["files"]
        ranks = range(min(body["ranks"], len(files) + 1))  # more ranks than files: one of them is missing
        if lacks := [name for name in (STATE, *map(_own, ranks)) if name not in files]:
            return f"{MANIFEST}: does not name {lacks[0]}"
        found = (_damaged_file(path, name, *about) for name, about in files.items())
        return next((damage for damage in found if damage), "")
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name}: is missing"
    except UserError:
        raise
    except (OSError, *DAMAGE) as error:
        return f"{MANIFEST}: cannot be read: {error!r}"


def _damaged_file(path: Path, name: str, size: int, wanted: str) -> str:
    """What is wrong with one of the files that a manifest names; empty where nothing is."""
    if not (path / name).resolve().is_relative_to(path.resolve()):
        return f"{MANIFEST}: names {name}, which is not inside"
    if not (path / name).is_file() or (path / name).is_symlink():
        return f"{name}: is missing, or no plain file"  # a pipe would be waited for
    found = (path / name).stat().st_size
    if found != size:
        return f"{name}: has {found} bytes of {size}"
    if _hash_of(path / name) != wanted:
        return f"{name}: its {size} bytes are not those that were written"
    return ""


def points_in(folder: Path) -> list[tuple[Point, Path]]:
    """The checkpoints there, newest first, whole or not."""
    found = [(point_of(path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(((at, path) for at, path in found if at and path.is_dir()), reverse=True)


def newest(folder: Path) -> Point:
    """Of the checkpoints there; where there is none, the beginning."""
    return max((at for at, _ in points_in(folder)), default=Point(0))


def newest_whole(
    folder: Path, tell: Callable[[str], None] = lambda text: None, lacks: Callable[[Snapshot], str] = lambda found: ""
) -> Snapshot | None:
    """The newest checkpoint that is whole, or None. `tell` gets a line for every damaged one that was passed over, and
    for those of which `lacks` says what is missing beside them. UserError where there are some and none is whole."""
    passed = []
    for at, path in points_in(folder):
        damage = broken = damaged(path, at)
        if not damage:
            body = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            found = Snapshot(at, path, body["ranks"])
            damage = lacks(found)
            if not damage:
                return found
        passed.append(f"{path}: {damage}")
        tell(f"{'damaged     ' if broken else 'passed over '} {passed[-1]}")
    if passed:
        raise UserError(f"{passed[0]}; no checkpoint there is whole ({len(passed)} tried), so the run cannot go on")
    return None


def set_aside(folder: Path, *, after: Point) -> None:
    """Before a run goes on from the checkpoint of `after`: newer ones, damaged or passed over, get another name; what a
    killed save left is removed."""
    for at, path in points_in(folder):
        if at > after:
            why = "damaged" if damaged(path, at) else "passed-over"
            number = next(n for n in range(1, 10_000) if not path.with_name(f"{why}-{n}-{path.name}").exists())
            path.rename(path.with_name(f"{why}-{number}-{path.name}"))
    for left in folder.glob(".step-*.writing"):
        shutil.rmtree(left)
    _point(folder, after.name)


def keep_newest(folder: Path, count: int) -> None:
    """Remove all but the newest `count` checkpoints."""
    for _, path in points_in(folder)[count:]:
        gone = path.with_name(f".{path.name}.writing")  # renamed first: half a folder must not look like a checkpoint
        path.rename(gone)
        shutil.rmtree(gone)


def remove_all(folder: Path) -> None:
    """The run is finished: no checkpoint is left, nor what a removal that was killed has left. Renamed first, or a kill
    would leave damaged ones to go on from."""
    gone = folder.with_name(f".{folder.name}.removing")
    if gone.exists():
        shutil.rmtree(gone)
    if folder.exists():
        folder.rename(gone)
        shutil.rmtree(gone)


def flush(path: Path) -> None:
    """See a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _point(folder: Path, name: str) -> None:
    new = folder / f"{LATEST}.new"
    new.write_text(name + "\n", encoding="utf-8")
    flush(new)
    new.replace(folder / LATEST)
    flush(folder)


def _own(rank: int) -> str:
    return f"rank-{rank}.json"


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False) + "\n").encode()


def _hash(data: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(data)


def _hash_of(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()
