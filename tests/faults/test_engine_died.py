"""A rollout server that dies ends the run on all ranks together, so that they can save."""

import threading
from contextlib import suppress

import pytest

from grpo.distributed.communicator import Communicator
from grpo.errors import EngineDied
from grpo.rollout.hf import HfRollout
from grpo.rollout.remote import RemoteRollout
from grpo.rollout.server import Address, Server, Service
from grpo.types import Sampling
from tests.helpers.many_ranks import free_port, run_ranks
from tests.helpers.toy import EOS, ByteTokenizer, tiny_model

SHAPES = {name: tuple(parameter.shape) for name, parameter in tiny_model().named_parameters()}
PROMPTS = [(5, 6, 7), (8, 9)]


class Dropping(Service):
    """Drops the connection at a request and ends its thread, as a server that is killed."""

    at = ""

    def answer(self, what, body):
        if what == self.at:
            raise SystemExit
        return super().answer(what, body)

    def load(self, body, *, version):
        if self.at == "load":
            raise SystemExit
        super().load(body, version=version)


def serve(port, at):
    engine = HfRollout(tiny_model(seed=1), decode=ByteTokenizer().decode, eos_ids=(EOS,))
    service = Dropping(engine, model="tiny", shapes=SHAPES)
    service.at = at

    def run():
        with Server(Address(port)) as server, suppress(SystemExit):
            server.serve(service)

    threading.Thread(target=run, daemon=True).start()


def a_step(comm, port):
    """The calls of a step; the error that ends them."""
    model = tiny_model(seed=4)
    engine = RemoteRollout(Address(port), shapes=SHAPES, timeout=2.0, comm=comm)
    try:
        engine.load(model.named_parameters(), version=7)
        engine.generate(comm.shard(PROMPTS), Sampling(group_size=3, max_tokens=8), seed=5)
    except EngineDied as error:
        return error.all_ranks, str(error)


@pytest.mark.parametrize("at", ["load", "generate"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_server_that_is_killed_in_a_push_or_a_request(at, ranks, fault):
    fault("a rollout server that drops its connections", steps=0)
    port = free_port()
    serve(port, at)
    ended = [a_step(Communicator(), port)] if ranks == 1 else [rank.value for rank in run_ranks(a_step, port)]
    for all_ranks, message in ended:
        assert all_ranks
        assert f"the rollout server at port {port} is lost" in message
