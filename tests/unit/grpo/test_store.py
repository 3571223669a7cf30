"""Checkpoint folders: whole or named as damaged, byte by byte, and never taken for whole while they are written."""

import json
import random
import shutil

import numpy as np
import pytest
import torch

from grpo.checkpointing import store
from grpo.checkpointing.rng_state import get_rng_state, set_rng_state
from grpo.errors import UserError
from tests.helpers.checkpoints import write_checkpoint


@pytest.fixture
def folder(tmp_path):
    for step in (5, 10):
        write_checkpoint(tmp_path, step)
    return tmp_path


def test_what_is_sealed_is_found(folder):
    found = store.latest_valid(folder)
    assert (found.step, found.ranks) == (10, 2)
    assert (found.shared_state(), found.rank_state(1), found.rank_state(2)) == ({"step": 10}, {"rank": 1}, None)
    assert sorted(path.name for path in folder.iterdir()) == ["step-000005", "step-000010"]
    assert store.latest_valid(folder / "none") is None


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
            assert store.find_corruption(path, 10), (file, place)
            tried += 1
        file.write_bytes(whole)
    assert tried > 130
    assert store.find_corruption(path, 10) == ""


def test_every_truncation_and_missing_file_is_seen(folder):
    path = folder / "step-000010"
    for file in files(path):
        whole = file.read_bytes()
        for size in range(0, len(whole), 13):
            file.write_bytes(whole[:size])
            assert store.find_corruption(path, 10), (file, size)
        file.unlink()
        assert file.name in store.find_corruption(path, 10)
        file.write_bytes(whole)


def test_a_damaged_one_is_named_and_the_one_before_it_used(folder, caplog):
    file = folder / "step-000010" / "policy" / "1.bin"
    file.write_bytes(file.read_bytes()[:-1])
    assert store.latest_valid(folder).step == 5
    assert f"checkpoint passed over: {folder / 'step-000010'}: policy/1.bin: has 299 bytes of 300" in caplog.text
    store.discard_newer(folder, 5)
    assert not (folder / "step-000010").exists()
    write_checkpoint(folder, 10)
    assert store.latest_valid(folder).step == 10
    for step in (5, 10):
        (folder / f"step-{step:06d}" / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"step-000010: manifest.json: .* none of the 2 checkpoints can be used"):
        store.latest_valid(folder)


def test_one_of_a_newer_program_is_refused_and_not_called_damaged(folder):
    """The one before it is not gone on from in its place. One whose manifest is damaged may name any number."""
    path = folder / "step-000010"
    body = json.loads((path / "manifest.json").read_text())
    told = body.pop("hash")
    body["format"] = store.FORMAT + 1
    newer = store._json({**body, "hash": store._hash(store._json(body))})
    (path / "manifest.json").write_bytes(newer)
    with pytest.raises(UserError, match=r"step-000010: has format 3, and this program reads 2; valid: the program"):
        store.latest_valid(folder)
    assert [step for step, _ in store.list_checkpoints(folder)] == [10, 5]
    (path / "manifest.json").write_bytes(store._json({**body, "hash": told}))
    assert store.latest_valid(folder).step == 5


def test_one_that_is_being_written_is_no_checkpoint(folder):
    assert store.create(folder, 15, needed=0, reserve=0) == ""
    store.write_file(store.temp_path(folder, 15), "policy/0.bin", b"half")
    assert store.latest_valid(folder).step == 10
    store.discard_newer(folder, 10)
    assert not store.temp_path(folder, 15).exists()
    write_checkpoint(folder, 15)


def test_only_the_newest_stay(folder):
    for step in (15, 20):
        write_checkpoint(folder, step)
    store.prune(folder, 3)
    assert [step for step, _ in store.list_checkpoints(folder)] == [20, 15, 10]


def test_a_disk_without_room_is_noticed_before_anything_is_written(folder):
    free = shutil.disk_usage(folder).free
    reason = store.create(folder, 15, needed=10**9, reserve=free)
    assert reason.startswith("it takes 1.00 GB, ")
    assert not store.temp_path(folder, 15).exists()


def test_what_is_not_read_back_is_not_sealed(folder):
    """A file that changes under way, as a disk that lies: no checkpoint comes of it."""
    store.create(folder, 15, needed=0, reserve=0)
    place = store.temp_path(folder, 15)
    digests = {"policy/0.bin": store.write_file(place, "policy/0.bin", b"written")}
    store.write_rank_state(place, 0, {}, digests)
    (place / "policy" / "0.bin").write_bytes(b"wruttin")
    with pytest.raises(OSError, match=r"policy/0.bin: its 7 bytes are not those"):
        store.commit(folder, 15, ranks=1, shared={})
    assert store.latest_step(folder) == 10


def test_random_states_go_on(tmp_path):
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    random.gauss(0, 1)  # leaves a second number behind
    np.random.normal()

    def draw():
        return random.gauss(0, 1), float(np.random.normal()), float(torch.rand(1)), random.random()

    states = json.loads(json.dumps(get_rng_state()))
    first = draw()
    assert draw() != first
    set_rng_state(states)
    assert draw() == first
