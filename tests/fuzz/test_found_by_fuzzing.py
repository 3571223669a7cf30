"""What fuzzing has found, one by one: each of these was a traceback, a hang, or a file elsewhere."""

import json
import os

import numpy as np
import pytest

from grpo.checkpointing import store
from grpo.checkpointing.rng_state import get_rng_state, set_rng_state
from grpo.config import load
from grpo.data.example import load_examples
from grpo.data.prompts import load_system_prompt
from grpo.errors import UserError
from grpo.policy.optimizer_state import read_counters
from launch.config.recipe import Recipe
from launch.runs.resume import check_same_recipe, log_sizes
from tests.helpers.checkpoints import write_checkpoint

BRACKETS = "[" * 100_000


def test_a_message_is_one_line_that_any_terminal_can_show():
    error = UserError("data.jsonl:1: id 'a\nb\x1b[2J\u2028\ud800' is taken")
    assert str(error) == r"data.jsonl:1: id 'a\nb\x1b[2J\u2028\ud800' is taken"
    assert str(UserError("Zoë’s 10 €")) == "Zoë’s 10 €"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"x = {BRACKETS}", "not TOML: maximum recursion depth"),
        ("x = " + "9" * 5000, "not TOML: Exceeds the limit"),
        ('["a\\nb"]\nx = 1', r"recipe.toml:1: unknown key a\\nb; valid: run, "),
        (f'[run]\nseed = "{"x" * 10_000}"', r"run.seed = 'x{199}\.\.\.: Input should be a valid integer"),
    ],
)
def test_recipes(tmp_path, text, says):
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=says):
        load(Recipe, [str(tmp_path / "recipe.toml")])


def test_overrides():
    assert load(Recipe, [f"--run.project={BRACKETS}"]).run.project == BRACKETS
    with pytest.raises(UserError, match=r"a\\x00b: cannot read this recipe \(no path, or not UTF-8\)"):
        load(Recipe, ["a\0b"])


@pytest.mark.parametrize("key", ["run.name", "run.stage", "model.label"])
@pytest.mark.parametrize("name", ["../up", "/tmp/up", "..", "a/b", "a" * 101, "a\0b", "a\nb"])
def test_no_name_leads_out_of_the_folder_of_runs(key, name):
    with pytest.raises(UserError, match=rf"{key} = .*: valid: the name of one folder, without /, of at most 100"):
        load(Recipe, [f"--{key}={name}"])
    assert load(Recipe, [f"--{key}=first..try-ü"])


@pytest.mark.parametrize("field", ["question", "answers", "id", "source"])
def test_half_of_a_surrogate_pair_is_refused_and_a_whole_one_taken(tmp_path, field):
    record = {"question": "Q", "answers": ["109"], "docs": [{"title": "", "text": "109"}], "id": "i", "source": "s"}
    half = {**record, field: ["\ud83d"] if field == "answers" else "\ud83d"}
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n" + json.dumps(half), encoding="utf-8")
    with pytest.raises(UserError, match=r"a.jsonl:2: malformed JSON \(.*surrogates not allowed"):
        load_examples(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text(json.dumps({**record, "question": "\U0001f600 \\ud83d"}), encoding="utf-8")
    assert load_examples(tmp_path / "b.jsonl")[0].question == "\U0001f600 \\ud83d"


def changed(path, **more):
    """The manifest with other entries, saying of itself that it is whole."""
    body = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    body = {**{key: value for key, value in body.items() if key != "hash"}, **more}
    told = store._hash(store._json(body))
    (path / "manifest.json").write_bytes(store._json({**body, "hash": told}))
    return body


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"files": {}}, "manifest.json: does not name state.json"),
        ({"ranks": 3}, "manifest.json: does not name rank-2.json"),
        ({"ranks": 10**12}, "manifest.json: does not name rank-2.json"),
        ({"ranks": "2"}, "manifest.json: cannot be read: TypeError"),
        ({"ranks": None}, "manifest.json: cannot be read: TypeError"),
        ({"files": []}, "manifest.json: does not name state.json"),
    ],
)
def test_a_manifest_of_something_else(tmp_path, more, says):
    path = write_checkpoint(tmp_path, 5)
    changed(path, **more)
    assert store.find_corruption(path, 5).startswith(says)


@pytest.mark.parametrize("name", ["pipe", "link", "outside", "policy", "../x"])
def test_what_is_no_plain_file_of_the_checkpoint_is_not_opened(tmp_path, name):
    """A pipe was waited for, for good."""
    path = write_checkpoint(tmp_path, 5)
    os.mkfifo(path / "pipe")
    (path / "link").symlink_to(path / "state.json")
    (path / "outside").symlink_to("/etc/hostname")
    files = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["files"]
    changed(path, files={**files, name: [0, ""]})
    assert name in store.find_corruption(path, 5)
    (path / "manifest.json").write_text(BRACKETS)
    assert store.find_corruption(path, 5).startswith("manifest.json: cannot be read: RecursionError")


@pytest.mark.parametrize("shared", [{}, {"parts": {"logs": {"bytes": {"metrics.jsonl": "x"}}}}, []])
def test_a_state_without_the_lengths_of_the_logs(tmp_path, shared):
    assert store.create(tmp_path, 5, needed=0, reserve=0) == ""
    store.write_rank_state(store.temp_path(tmp_path, 5), 0, {}, {})
    store.commit(tmp_path, 5, ranks=1, shared=shared)
    with pytest.raises(UserError, match="step-000005: its part on the log files cannot be read"):
        log_sizes(store.latest_valid(tmp_path))


@pytest.mark.parametrize("text", ['{"updates": Infinity, "adam_steps": 0, "parameters": 1}', BRACKETS, "[]"])
def test_counts_of_an_optimizer(tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(UserError, match="cannot be read as the state of an optimizer"):
        read_counters(tmp_path, parameters=1)


@pytest.mark.parametrize("text", ["run = 3", f"x = {BRACKETS}"])
def test_the_recipe_of_a_run_that_is_none(tmp_path, text):
    (tmp_path / "recipe.toml").write_text(text)
    (tmp_path / "prompt.txt").write_text("")
    with pytest.raises(UserError, match="cannot be read as the recipe of this run"):
        check_same_recipe(load(Recipe, []), tmp_path)


@pytest.mark.parametrize(("place", "words"), [(10**6, 624), (-1, 624), (0, 3)])
def test_numpys_state_is_looked_at_before_it_is_believed(place, words):
    """numpy draws from the memory behind its state where `place` lies there."""
    states = get_rng_state()
    kind, keys, _, has_gauss, cached = states["numpy"]
    with pytest.raises(ValueError, match="expected 624, and 0 to 624"):
        set_rng_state({**states, "numpy": [kind, keys[:words], place, has_gauss, cached]})
    assert np.random.get_state(legacy=True)[2] == states["numpy"][2]


LARGE = f"0x{5_000 * 'f'}"  # written in tens it has more digits than Python writes


def test_a_number_that_toml_does_not_have(tmp_path):
    """It was taken for a seed, and then could not be written into the run's recipe; as a name it could not be told."""
    (tmp_path / "a.toml").write_text(f"[run]\nseed = [{{a = {LARGE}}}]\n")
    with pytest.raises(UserError, match=r"a\.toml: not TOML: an integer of more than 64 bits$"):
        load(Recipe, [str(tmp_path / "a.toml")])
    with pytest.raises(UserError, match=r"run\.seed = '0xfff.*\.\.\.: Input should be a valid integer"):
        load(Recipe, [f"--run.seed={LARGE}"])
    with pytest.raises(UserError, match=r"run\.seed = '9{30}': Input should be a valid integer"):
        load(Recipe, [f'--run.seed="{30 * "9"}"'])  # text is no number
    assert load(Recipe, [f"--run.seed={2**62}"]).run.seed == 2**62


def test_of_an_endless_argument_the_beginning_and_the_end_are_told():
    with pytest.raises(UserError, match=r"^--x\.y=\[{1100,1200} \.\.\. .*unknown key x; ") as refused:
        load(Recipe, [f"--x.y={100_000 * '['}"])
    assert len(str(refused.value)) == 2400 + len(" ... ")


def test_a_prompt_whose_name_no_disk_takes_or_that_is_no_text(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read as a prompt: .*too long"):
        load_system_prompt(300 * "[")
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"p\.txt: cannot be read as a prompt: 'utf-8' codec"):
        load_system_prompt(str(tmp_path / "p.txt"))
