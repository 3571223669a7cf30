"""A rollout engine that dies is made anew with the weights that it had; the run is the one that nothing happened to."""

import threading
from contextlib import suppress
from typing import ClassVar

import pytest

from grpo.distributed.communicator import Alone
from grpo.errors import EngineDied, NonFiniteError
from grpo.rollout.hf import HfRollout
from grpo.rollout.remote import ServerRollout
from grpo.rollout.restart import Restarted
from grpo.rollout.server import Address, Server, Service
from grpo.types import Sampling
from tests.faults.test_checkpoints import Kept
from tests.helpers.many_ranks import free_port, run_ranks
from tests.helpers.toy import EOS, ByteTokenizer, tiny_model

SHAPES = {name: tuple(parameter.shape) for name, parameter in tiny_model().named_parameters()}
SAMPLING = Sampling(group_size=3, max_tokens=8)
PROMPTS = [(5, 6, 7), (8, 9)]


class Mortal(HfRollout):
    """Dies at what is asked of it with these versions: one entry each time."""

    deaths: ClassVar[list[tuple[str, int]]] = []
    made = 0

    def __init__(self, *about, **settings):
        super().__init__(*about, **settings)
        Mortal.made += 1

    def load(self, weights, *, version):
        self.dies("load", version)
        super().load(weights, version=version)

    def generate(self, prompts, sampling, *, seed):
        self.dies("generate", self._version)
        return super().generate(prompts, sampling, seed=seed)

    def dies(self, at, version):
        if (at, version) in Mortal.deaths:
            Mortal.deaths.remove((at, version))
            raise EngineDied(f"it died at {at} {version}")
        if (at, -version) in Mortal.deaths:
            raise NonFiniteError(f"numbers went bad at {at} {version}")


def run(folder, deaths):
    kept, Mortal.deaths, Mortal.made = Kept(folder, every=0), list(deaths), 0

    def engine(*about, **settings):
        return Restarted(
            lambda: Mortal(*about, **settings), weights=kept.policy.export_weights, comm=Alone(), tell=kept.said.append
        )

    return kept, lambda: kept.train(engine=engine)


def test_a_run_whose_engine_dies_twice_is_the_run_where_it_lives(tmp_path, fault):
    fault("a rollout engine that dies", times=2, steps=0)
    straight = run(tmp_path / "straight", [])[1]()
    assert Mortal.made == 1
    kept, train = run(tmp_path / "mortal", [("generate", 1), ("load", 3)])
    assert train().equal(straight)
    assert (Mortal.made, Mortal.deaths) == (3, [])
    assert [text for text in kept.said if text.startswith("lost")] == [
        "lost         it died at generate 1; made anew with weights 1, once",
        "lost         it died at load 3; made anew with weights 3, once",
    ]


def test_weights_that_cost_a_second_engine_end_the_run_saved(tmp_path):
    kept, train = run(tmp_path, [("generate", 2), ("generate", 2)])
    with pytest.raises(EngineDied, match=r"it died at generate 2; saved after step 2, .*step-000002; the same command"):
        train()
    assert (Mortal.made, kept.there) == (2, [2])


class Dropping(Service):
    """Drops the connection at a request, and ends its thread, as a server that is killed."""

    at = "generate"

    def answer(self, what, body):
        if what == self.at:
            raise SystemExit
        return super().answer(what, body)


def hf():
    return HfRollout(tiny_model(seed=1), decode=ByteTokenizer().decode, eos_ids=(EOS,))


def serve(port, folder, kinds):
    """One server after another at this port, of these kinds, each until it ends."""
    services = [kind(hf(), model="tiny", shapes=SHAPES, folder=folder) for kind in kinds]

    def run():
        for service in services:
            with Server(Address(port)) as server, suppress(SystemExit):
                server.serve(service)

    threading.Thread(target=run, daemon=True).start()


class DroppingBuckets(Dropping):
    """It is killed in the middle of a push."""

    at = "bucket"


def from_a_rank(comm, port, model=None):
    """Both calls of a step on an engine whose servers die in each: the answers, and what was told."""
    told, model = [], tiny_model(seed=4) if model is None else model
    engine = Restarted(
        lambda: ServerRollout(Address(port), shapes=SHAPES, patience=60.0, comm=comm),
        weights=lambda: iter([(name, tensor.detach()) for name, tensor in model.named_parameters()]),
        comm=comm,
        tell=told.append,
    )
    engine.load(model.named_parameters(), version=7)
    engine.load(model.named_parameters(), version=8)
    written = engine.generate(comm.shard(PROMPTS), SAMPLING, seed=5)
    return written, told


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_server_that_is_killed_in_a_push_or_a_request_and_comes_back(tmp_path, ranks, fault):
    fault("a rollout server that drops its connections", times=2, steps=0)
    port, here, model = free_port(), hf(), tiny_model(seed=4)
    here.load(model.named_parameters(), version=8)
    serve(port, tmp_path, [DroppingBuckets, Dropping, Service])
    ran = [from_a_rank(Alone(), port, model)] if ranks == 1 else [r.value for r in run_ranks(from_a_rank, port)]
    assert [group for written, _ in ran for group in written] == here.generate(PROMPTS, SAMPLING, seed=5)
    for _, told in ran:
        assert [text.rpartition("; ")[2] for text in told] == [
            "made anew with weights 7, once",
            "made anew with weights 8, once",
        ]
        assert all(f"the rollout server at port {port} is lost" in text for text in told)


def where_one_dies(comm, deaths):
    """The same on an engine of each rank, of which only the second's dies. Every weight waits for both ranks, as where
    they are sharded: a rank that stopped reading them would leave the other waiting."""
    Mortal.deaths, Mortal.made = list(deaths) if comm.rank == 1 else [], 0
    told, model = [], tiny_model(seed=4)

    def weights():
        for name, tensor in model.named_parameters():
            comm.wait()
            yield name, tensor.detach()

    def make():
        return Mortal(tiny_model(seed=1), decode=ByteTokenizer().decode, eos_ids=(EOS,))

    engine = Restarted(make, weights=weights, comm=comm, tell=told.append)
    try:
        engine.load(weights(), version=7)
        engine.load(weights(), version=8)
        return engine.generate(comm.shard(PROMPTS), SAMPLING, seed=5), told, Mortal.made
    except (NonFiniteError, EngineDied) as error:
        return str(error), told, Mortal.made


def test_where_the_engine_of_one_rank_dies_all_ranks_make_another():
    here = hf()
    here.load(tiny_model(seed=4).named_parameters(), version=8)
    for rank, ran in enumerate(run_ranks(where_one_dies, [("load", 7), ("generate", 8)])):
        written, told, made = ran.value
        assert written == here.generate([PROMPTS[rank]], SAMPLING, seed=5)
        assert told == [
            "lost         it died at load 7; made anew with weights 7, once",
            "lost         it died at generate 8; made anew with weights 8, once",
        ]
        assert made == 3


def test_a_second_death_of_one_ranks_engine_ends_all_ranks():
    for ran in run_ranks(where_one_dies, [("generate", 8), ("generate", 8)]):
        written, told, made = ran.value
        assert (written, len(told), made) == ("it died at generate 8", 1, 2)
    for ran in run_ranks(where_one_dies, [("load", 8), ("load", 8)]):
        assert ran.value[0] == "it died at load 8"


def test_numbers_that_go_bad_on_one_rank_end_all_ranks():
    for at in ("load", "generate"):
        for ran in run_ranks(where_one_dies, [(at, -8)]):
            assert ran.value == (f"numbers went bad at {at} 8", [], 1)
