"""vLLM in a process of its own: the same answers, weights in one request, and one line when it is lost."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from grpo.distributed.communicator import Communicator
from grpo.errors import EngineDied, StaleWeights, UserError
from grpo.rollout.hf import HfRollout
from grpo.rollout.remote import RemoteRollout
from grpo.rollout.server import Address, Handler, Server, Service
from grpo.rollout.weight_transfer import weight_chunks
from grpo.types import Sampling
from tests.helpers.forked import run_program
from tests.helpers.installed import need
from tests.helpers.many_ranks import free_port, run_ranks
from tests.helpers.toy import EOS, ByteTokenizer, deepspeed_policy, tiny_model

ROOT = Path(__file__).resolve().parents[2]
SHAPES = {name: tuple(parameter.shape) for name, parameter in tiny_model().named_parameters()}
SAMPLING = Sampling(group_size=3, max_tokens=8)
PROMPTS = [(5, 6, 7), (8, 9)]
THREE = [*PROMPTS, (10, 11, 12, 13)]


def hf():
    return HfRollout(tiny_model(seed=1), decode=ByteTokenizer().decode, eos_ids=(EOS,))


@pytest.fixture
def port():
    """A server of this process, over the engine that starts at once: what is tested is the way there and back."""
    port = free_port()
    with Server(Address(port)) as server:
        service = Service(hf(), model="tiny", shapes=SHAPES)
        thread = threading.Thread(target=server.serve, args=(service,), daemon=True)
        thread.start()
        yield port
        server.shutdown()
        thread.join()


def client(port, *, shapes=SHAPES, timeout=5.0, token=""):
    address = Address(port, token=token)
    return RemoteRollout(address, shapes=shapes, timeout=timeout, comm=Communicator())


def test_the_server_answers_as_the_engine_in_it_would(port):
    """Weights come in two formats, in any order."""
    model, here, there = tiny_model(seed=4), hf(), client(port)
    for version in (3, 4):
        weights = [(name, p.bfloat16() if "norm" in name else p) for name, p in model.named_parameters()]
        for engine in (here, there):
            engine.load(reversed(weights), version=version)
        assert there.generate(PROMPTS, SAMPLING, seed=1) == here.generate(PROMPTS, SAMPLING, seed=1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
    there.release()


def test_half_a_push_is_refused_and_the_next_one_taken(port):
    model, there = tiny_model(), client(port)
    with pytest.raises(StaleWeights, match=r"weights 5: model.norm.weight is missing"):
        there.load(list(model.named_parameters())[:-1], version=5)
    there.load(model.named_parameters(), version=6)
    assert there.generate(PROMPTS, SAMPLING, seed=0)[0][0].version == 6


def test_what_the_engine_refuses_is_the_clients_error_once_all_of_it_was_sent(port):
    there = client(port)
    twice = [*tiny_model().named_parameters(), *tiny_model().named_parameters()]
    with pytest.raises(StaleWeights, match=rf"server at port {port}: weights 5: model.embed_tokens.weight came twice"):
        there._request("load/5", weight_chunks(twice))


def test_a_server_with_another_model_is_refused(port):
    with pytest.raises(UserError, match=f"rollout.port = {port}: the server there has another model, tiny"):
        client(port, shapes={"w": (2, 2)})


def test_a_request_without_the_token_is_refused():
    port = free_port()
    with Server(Address(port, token="a-token-of-some-length")) as server:
        service = Service(hf(), model="tiny", shapes=SHAPES)
        thread = threading.Thread(target=server.serve, args=(service,), daemon=True)
        thread.start()
        for token in ("", "another-token-as-long"):
            with pytest.raises(UserError, match=f"server at port {port} refuses the token; .*GROUND_GRPO_TOKEN in"):
                client(port, token=token)
        client(port, token="a-token-of-some-length").load(tiny_model().named_parameters(), version=1)
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::1", "2001:db8::1"])
def test_an_address_that_a_trainer_cannot_reach_is_refused(host):
    with pytest.raises(UserError, match=r"rollout.host = '.*': valid: the server's IPv4 address or name, as the tra"):
        Address(8011, host)


@pytest.mark.parametrize("token", ["sixteen characters\n", "with a blank in it", "Schlüssel-des-Servers"])
def test_a_token_that_no_header_carries_is_refused_and_not_shown(token):
    with pytest.raises(UserError, match="GROUND_GRPO_TOKEN: valid: ASCII letters, digits and signs") as refused:
        Address(8011, token=token)
    assert token.strip() not in str(refused.value)


def test_a_host_of_another_machine_is_named():
    with pytest.raises(UserError, match=r"rollout.host = '192.0.2.1': Cannot assign .*valid: an address or name of th"):
        Server(Address(0, "192.0.2.1", "a-token-of-some-length"))


def test_a_connection_that_asks_nothing_holds_the_others_up_for_a_while_only(port, monkeypatch):
    monkeypatch.setattr(Handler, "timeout", 0.5)
    with socket.create_connection(("127.0.0.1", port)):
        assert client(port, timeout=30.0)._ask_all("about")["model"] == "tiny"


def test_a_server_that_is_not_there_is_waited_for_and_then_named():
    told, port = [], free_port()
    with pytest.raises(EngineDied, match=rf"server at port {port} is lost .*refused.*serve.py RECIPES"):
        RemoteRollout(Address(port), shapes=SHAPES, timeout=1.0, comm=Communicator(), progress=told.append)
    assert len(told) >= 3  # it asked again and again


def test_a_server_that_comes_late_is_found():
    port = free_port()

    def late():
        time.sleep(0.5)
        with Server(Address(port)) as server:
            server.service = Service(hf(), model="tiny", shapes=SHAPES)
            server.handle_request()

    thread = threading.Thread(target=late)
    thread.start()
    client(port, timeout=30.0)
    thread.join()


def test_a_port_in_use_is_named(port):
    with pytest.raises(UserError, match=rf"rollout.port = {port}: Address already in use; valid: a free port"):
        Server(Address(port))


class Noting(Service):
    """Keeps what it was asked, in order."""

    def __init__(self, *about, **settings):
        super().__init__(*about, **settings)
        self.asked = []

    def answer(self, what, body):
        self.asked.append((what, len(body.get("prompts", ()))))
        return super().answer(what, body)

    def load(self, body, *, version):
        self.asked.append(("load", version))
        super().load(body, version=version)


def from_a_rank(comm, port):
    """Weights that each rank holds half of, and this rank's answers: of three prompts one or two."""
    from grpo.policy.optimizer import AdamWConfig
    from grpo.settings import PolicyConfig

    settings = {"optim": AdamWConfig(), "total_updates": 1, "token_budget": 1000, "dtype": "float32"}
    policy = deepspeed_policy(tiny_model(seed=4), zero=PolicyConfig(zero_stage=3), comm=comm, **settings)
    there = RemoteRollout(Address(port), shapes=SHAPES, timeout=300.0, comm=comm)
    there.load(policy.export_weights(), version=7)
    written = there.generate(comm.shard(THREE, even=False), SAMPLING, seed=5 + comm.rank)
    there.release()
    return written


def test_two_ranks_are_served_by_one_push_and_one_request():
    need("deepspeed")
    port, here = free_port(), hf()
    here.load(tiny_model(seed=4).named_parameters(), version=7)
    with Server(Address(port)) as server:
        service = Noting(hf(), model="tiny", shapes=SHAPES)
        thread = threading.Thread(target=server.serve, args=(service,), daemon=True)
        thread.start()
        ranks = run_ranks(from_a_rank, port)
        server.shutdown()
        thread.join()
    for rank in ranks:
        assert isinstance(rank.value, list), f"{rank.value!r} {rank.said}"
    assert [len(rank.value) for rank in ranks] == [1, 2]
    assert [group for rank in ranks for group in rank.value] == here.generate(THREE, SAMPLING, seed=5)
    assert service.asked == [("about", 0), ("load", 7), ("generate", 3), ("release", 0)]


def test_a_run_and_its_server_from_the_command_line(tmp_path):
    """The real vLLM serves a run of one rank and one of two; then it is gone, and the next run ends with one line."""
    need("vllm")
    need("deepspeed")
    port = free_port()
    recipes = ["configs/stage1.toml", "configs/models/tiny.toml", f"--rollout.port={port}", f"--run.folder={tmp_path}"]
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    about = {"cwd": ROOT, "env": {**os.environ, **cache}, "text": True}
    recipes += ["--policy.dtype=float32"]  # also where bfloat16 is fast
    serve = [sys.executable, "launch/serve.py", *recipes, "--rollout.cpu_kv_cache_gib=0.1", "--model.context=2048"]
    train = [sys.executable, "launch/train.py", *recipes, "--rollout.engine=server", "--held_out.questions=0"]
    with subprocess.Popen(serve, stdout=subprocess.DEVNULL, **about) as server:
        try:
            alone = run_program("launch.train", [*train[2:], "--run.name=s"], **cache)
            launcher = ["-m", "deepspeed.launcher.runner", "--quiet", "--num_accelerators=2"]
            two = [*train[:1], *launcher, f"--master_port={free_port()}", *train[1:], "--policy.zero_stage=3"]
            both = subprocess.run([*two, "--run.name=t"], capture_output=True, check=False, **about)
        finally:
            server.terminate()
    for name, done in (("s", alone), ("t", both)):
        assert done.returncode == 0, done.stdout + done.stderr
        metrics = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        assert len(metrics) == 3
        assert max(row.get("policy/mismatch", 0.0) for row in metrics) < 1e-4
    gone = [*train[2:], "--run.name=l", "--rollout.timeout=1"]
    lost = run_program("launch.train", gone, **cache)
    assert lost.returncode == 1, lost.stdout + lost.stderr
    assert f"stopped: the rollout server at port {port} is lost" in lost.stdout
    assert "Traceback" not in lost.stdout + lost.stderr
