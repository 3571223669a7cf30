"""Checkpoint folders written without a run."""

import random

from grpo.checkpointing import store


def write_checkpoint(folder, step, ranks=2, size=300):
    """A checkpoint of `ranks` ranks with one file of the policy each."""
    assert store.create(folder, step, needed=0, reserve=0) == ""
    place = store.temp_path(folder, step)
    for rank in range(ranks):
        assert store.ranks_missing(place, ranks) == list(range(rank, ranks))
        data = random.Random(step * 10 + rank).randbytes(size)
        digests = {f"policy/{rank}.bin": store.write_file(place, f"policy/{rank}.bin", data)}
        store.write_rank_state(place, rank, {"rank": rank}, digests)
    assert store.latest_step(folder) < step
    return store.commit(folder, step, ranks=ranks, shared={"step": step})
