"""Checkpoint folders: whole or named as damaged, byte by byte, and never taken for whole while they are written."""

import json
import random
import shutil

import numpy as np
import pytest
import torch

from grpo.checkpointing import store as snapshot
from grpo.checkpointing.rng_state import random_states, set_random_states
from grpo.checkpointing.store import Point
from grpo.errors import UserError


def write(folder, step, ranks=2, size=300):
    """A checkpoint of `ranks` ranks with one file of the policy each."""
    at = Point(step)
    assert snapshot.begin(folder, at, needed=0, reserve=0) == ""
    place = snapshot.building(folder, at)
    for rank in range(ranks):
        assert snapshot.parts_missing(place, ranks) == list(range(rank, ranks))
        data = random.Random(step * 10 + rank).randbytes(size)
        digests = {f"policy/{rank}.bin": snapshot.put(place, f"policy/{rank}.bin", data)}
        snapshot.put_own(place, rank, {"rank": rank}, digests)
    assert snapshot.newest(folder) < at
    return snapshot.seal(folder, at, ranks=ranks, shared={"step": step})


@pytest.fixture
def folder(tmp_path):
    for step in (5, 10):
        write(tmp_path, step)
    return tmp_path


def test_what_is_sealed_is_found(folder):
    found = snapshot.newest_whole(folder)
    assert (found.at.step, found.ranks) == (10, 2)
    assert (found.shared(), found.own(1), found.own(2)) == ({"step": 10}, {"rank": 1}, None)
    assert (folder / "latest").read_text() == "step-000010\n"
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "step-000005", "step-000010"]
    assert snapshot.newest_whole(folder / "none") is None


def files(path):
    return sorted(file for file in path.rglob("*") if file.is_file())


def test_every_flipped_bit_is_seen(folder):
    """One bit of every 7th byte of every file, the manifest included."""
    path = folder / "step-000010"
    tried = 0
    for file in files(path):
        whole = file.read_bytes()
        for place in range(0, len(whole), 7):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << place % 8
            file.write_bytes(flipped)
            assert snapshot.damaged(path, Point(10)), (file, place)
            tried += 1
        file.write_bytes(whole)
    assert tried > 130
    assert snapshot.damaged(path, Point(10)) == ""


def test_every_truncation_and_missing_file_is_seen(folder):
    path = folder / "step-000010"
    for file in files(path):
        whole = file.read_bytes()
        for size in range(0, len(whole), 13):
            file.write_bytes(whole[:size])
            assert snapshot.damaged(path, Point(10)), (file, size)
        file.unlink()
        assert file.name in snapshot.damaged(path, Point(10))
        file.write_bytes(whole)


def test_a_damaged_one_is_named_and_the_one_before_it_used(folder):
    file = folder / "step-000010" / "policy" / "1.bin"
    file.write_bytes(file.read_bytes()[:-1])
    said = []
    assert snapshot.newest_whole(folder, tell=said.append).at.step == 5
    assert said == [f"damaged      {folder / 'step-000010'}: policy/1.bin: has 299 bytes of 300"]
    snapshot.set_aside(folder, after=Point(5))
    assert (folder / "damaged-1-step-000010" / "policy" / "1.bin").is_file()  # nothing is lost
    assert (folder / "latest").read_text() == "step-000005\n"
    write(folder, 10)
    assert snapshot.newest_whole(folder).at.step == 10
    for step in (5, 10):
        (folder / f"step-{step:06d}" / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"step-000010: manifest.json: .* no checkpoint there is whole \(2 tried\)"):
        snapshot.newest_whole(folder)


def test_a_manifest_cannot_lead_out_of_its_folder(folder):
    path = folder / "step-000010"
    body = json.loads((path / "manifest.json").read_text())
    body.pop("hash")
    body["files"]["../latest"] = body["files"]["rank-0.json"]
    (path / "manifest.json").write_bytes(snapshot._json({**body, "hash": snapshot._hash(snapshot._json(body))}))
    assert "names ../latest, which is not inside" in snapshot.damaged(path, Point(10))


def test_one_of_a_newer_program_is_refused_and_not_called_damaged(folder):
    """The one before it is not gone on from in its place. One whose manifest is damaged may name any number."""
    path = folder / "step-000010"
    body = json.loads((path / "manifest.json").read_text())
    told = body.pop("hash")
    body["format"] = snapshot.FORMAT + 1
    newer = snapshot._json({**body, "hash": snapshot._hash(snapshot._json(body))})
    (path / "manifest.json").write_bytes(newer)
    with pytest.raises(UserError, match=r"step-000010: has format 3, and this program reads 2; valid: the program"):
        snapshot.newest_whole(folder)
    assert [at.step for at, _ in snapshot.points_in(folder)] == [10, 5]
    (path / "manifest.json").write_bytes(snapshot._json({**body, "hash": told}))
    assert snapshot.newest_whole(folder).at.step == 5


def test_one_that_is_being_written_is_no_checkpoint(folder):
    assert snapshot.begin(folder, Point(15), needed=0, reserve=0) == ""
    snapshot.put(snapshot.building(folder, Point(15)), "policy/0.bin", b"half")
    assert snapshot.newest_whole(folder).at.step == 10
    snapshot.set_aside(folder, after=Point(10))
    assert not snapshot.building(folder, Point(15)).exists()
    write(folder, 15)


def test_only_the_newest_stay(folder):
    for step in (15, 20):
        write(folder, step)
    snapshot.keep_newest(folder, 3)
    assert [at.step for at, _ in snapshot.points_in(folder)] == [20, 15, 10]


def test_a_disk_without_room_is_noticed_before_anything_is_written(folder):
    free = shutil.disk_usage(folder).free
    reason = snapshot.begin(folder, Point(15), needed=10**9, reserve=free)
    assert reason.startswith("it takes 1.00 GB, ")
    assert not snapshot.building(folder, Point(15)).exists()


def test_what_is_not_read_back_is_not_sealed(folder):
    """A file that changes under way, as a disk that lies: no checkpoint comes of it and `latest` stays."""
    snapshot.begin(folder, Point(15), needed=0, reserve=0)
    place = snapshot.building(folder, Point(15))
    digests = {"policy/0.bin": snapshot.put(place, "policy/0.bin", b"written")}
    snapshot.put_own(place, 0, {}, digests)
    (place / "policy" / "0.bin").write_bytes(b"wruttin")
    with pytest.raises(OSError, match=r"policy/0.bin: its 7 bytes are not those"):
        snapshot.seal(folder, Point(15), ranks=1, shared={})
    assert snapshot.newest(folder).step == 10
    assert (folder / "latest").read_text() == "step-000010\n"


def test_random_states_go_on(tmp_path):
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    random.gauss(0, 1)  # leaves a second number behind
    np.random.normal()

    def draw():
        return random.gauss(0, 1), float(np.random.normal()), float(torch.rand(1)), random.random()

    states = json.loads(json.dumps(random_states()))
    first = draw()
    assert draw() != first
    set_random_states(states)
    assert draw() == first
