"""The answer store: kills, other settings, other processes."""

import io
import json

import pytest

from grpo.errors import UserError
from grpo.telemetry.console import Console
from grpo.types import Completion, Sampling
from launch.runs.answers import FILE, Answer, AnswerStore, made_with, sample

SAMPLING = Sampling(group_size=2, max_tokens=4, temperature=1.0, top_p=1.0)
PROMPTS = {f"q{n}": (n, n + 1) for n in range(5)}


class Engine:
    """Answers that tell their prompt and the seed of their batch; it dies after `batches`."""

    def __init__(self, batches=99):
        self.left, self.asked = batches, []

    def generate(self, prompts, sampling, *, seed):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.asked += prompts
        return [
            [
                Completion(text=f"{prompt} {seed} {n}", token_ids=(1,), logprobs=(0.0,), finish=finish, version=-1)
                for n, finish in enumerate(("stop", "length"))
            ]
            for prompt in prompts
        ]


def run(folder, engine, *, made=None):
    with AnswerStore(folder, made or {"model": "a"}) as store:
        console = Console(io.StringIO())
        return sample(lambda: engine, PROMPTS, SAMPLING, store, seed=7, batch_size=2, console=console)


@pytest.fixture
def whole(tmp_path):
    return run(tmp_path / "whole", Engine())


@pytest.mark.parametrize("torn", [b"", b'{"q2": [["'])
def test_a_killed_run_resumes_to_the_same_answers(tmp_path, whole, torn):
    folder = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        run(folder, Engine(batches=1))
    with (folder / FILE).open("ab") as file:
        file.write(torn)
    engine = Engine()
    assert run(folder, engine) == whole
    assert engine.asked == [(2, 3), (3, 4), (4, 5)]
    assert (folder / FILE).read_bytes() == (tmp_path / "whole" / FILE).read_bytes()
    assert whole[3][1] == Answer(whole[3][1].text, truncated=True)


def test_no_engine_is_made_where_nothing_is_left(tmp_path, whole):
    assert run(tmp_path / "whole", None) == whole


def test_answers_that_were_made_otherwise_are_refused(tmp_path, whole):
    message = r"its answers were made otherwise \(model = 'a' there and 'b' now\); give another folder"
    with pytest.raises(UserError, match=message):
        run(tmp_path / "whole", Engine(), made={"model": "b"})


def test_two_processes_cannot_write_into_one_folder(tmp_path):
    with AnswerStore(tmp_path, {}) as one, AnswerStore(tmp_path, {}) as late:
        one.add({"q": [Answer("a", truncated=False)]})
        with pytest.raises(UserError, match=r"process .* writes into this run"):
            AnswerStore(tmp_path, {}).__enter__()
        with pytest.raises(UserError, match=r"process .* writes into this run"):
            late.add({"q": [Answer("b", truncated=False)]})
    with AnswerStore(tmp_path, {}) as store:  # the lock was released
        assert store["q"] == [Answer("a", truncated=False)]


@pytest.mark.parametrize(
    "text", ["hello\n", "[]\n", '{"made_with": 3}\n', '{"made_with": {}}\n[1]\n', "[" * 10**5 + "\n"]
)
def test_a_file_of_something_else_is_refused(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError, match="damaged, or no file of answers"):
        AnswerStore(tmp_path, {}).__enter__()


def test_what_changes_answers_is_in_the_digest(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("1")
    folder = str(tmp_path)
    made = made_with(folder, "vllm", "float32", SAMPLING, 0)
    others = [
        made_with(folder, "vllm", "bfloat16", SAMPLING, 0),
        made_with(folder, "vllm", "float32", SAMPLING, 1),
        made_with(folder, "hf", "float32", SAMPLING, 0),
        made_with(folder, "vllm", "float32", Sampling(group_size=2, max_tokens=5), 0),
    ]
    (tmp_path / "model.safetensors").write_text("23")
    others.append(made_with(folder, "vllm", "float32", SAMPLING, 0))
    differing = [[name for name in made if other[name] != made[name]] for other in others]
    assert differing == [["dtype"], ["seed"], ["engine"], ["max_tokens"], ["model"]]
    assert json.loads(json.dumps(made)) == made
