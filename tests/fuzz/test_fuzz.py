"""Whatever is put into a file: it is taken, or refused by one line. Never a traceback, a hang, or a file elsewhere.

In short here, and with 10,000 inputs of each kind by `make test-fuzz`.
"""

import copy
import gzip
import json
import math
import os
import shutil
import tomllib
from dataclasses import replace

import pytest
import tomli_w
import torch
from hypothesis import given
from hypothesis import strategies as st

from curriculum.builder import read_pool
from curriculum.datasets import DataSpec
from curriculum.sources import load_source, read_rows
from eval.answer_extraction import DefaultProtocol, TrustEvalProtocol
from eval.answer_scores import score_answers
from eval.predictions import Prediction, read_predictions
from eval.trust_score import scores
from grpo.checkpointing import store
from grpo.config import dump, load
from grpo.data.example import STYLES, Example, Passage, load_examples, train_heldout_split
from grpo.policy.optimizer_state import read_counters, read_parameter
from grpo.types import Completion, Group
from launch.config.recipe import Recipe
from launch.runs.resume import restore_folder
from launch.runs.run import save_recipe
from rewards.answer import parse
from rewards.config import PRESETS
from rewards.judges.lexical import LexicalJudge
from rewards.scorer import RewardScorer
from tests.helpers.built import build_file
from tests.helpers.fuzz import Touched, anything, deep, many, no_hang, scalars, taken, values, words
from tests.helpers.records import HOTPOT, LOG, MUSIQUE
from tests.helpers.source_tree import MODELS, STAGES
from tests.helpers.toy_training import ToyRun

NQ = {
    "question": "Who led Orvale?",
    "answers": ["Ada Quill"],
    "ctxs": [{"title": "T", "text": "Ada Quill led.", "isgold": True}, {"title": "U", "text": "No.", "isgold": False}],
}
GROUNDED = {
    "id": "q1",
    "question": "Who scored?",
    "answers": [["Daei", "Ali Daei"], ["Bican"]],
    "docs": [{"title": "Ali Daei", "text": "Ali Daei scored 109 goals.", "answers_found": [1, 0]}],
    "style": "prose",
    "source": "asqa",
    "data_type": "asqa",
    "output": "Daei [1].",
}
SQUAD = {
    "title": "T",
    "paragraphs": [{"context": "Ada led.", "qas": [{"question": "Who?", "answers": [{"text": "Ada"}]}]}],
}
MS_MARCO = {"query": "Who?", "answers": ["Ada"], "passages": {"passage_text": ["Ada led.", "x"], "is_selected": [1, 0]}}
RUN = {
    "inputs": {"question": "Who?"},
    "outputs": {"answer": "It was Ada [1].", "documents": [{"page_content": "Ada."}]},
}
CHAT = {
    "messages": [
        {"role": "user", "content": "Question: Who led?\n\nDocument [1](Title: T): Ada led.\nAnswer:"},
        {"role": "assistant", "content": "It was Ada who led [1]."},
    ]
}
ASQA = {
    "question": "Who?",
    "qa_pairs": [{"short_answers": ["Ada"]}],
    "docs": [{"title": "T", "text": "Ada.", "score": 1}],
}
SHAPES = (GROUNDED, NQ, HOTPOT, MUSIQUE, LOG, SQUAD, MS_MARCO, RUN, CHAT, ASQA)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """One folder for all inputs of a test: its files are written anew for each."""
    return tmp_path_factory.mktemp("fuzz")


def places(value):
    """Every (container, key) in something made of lists and dictionaries."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    found = [(value, key) for key in keys]
    return found + [place for key in keys for place in places(value[key])]


@st.composite
def changed(draw, base):
    """Something near `base`: up to three of its values are replaced, removed or repeated."""
    value = copy.deepcopy(base)
    for _ in range(draw(st.integers(0, 3))):
        if not (there := places(value)):
            break
        holder, key = there[draw(st.integers(0, len(there) - 1))]
        what = draw(st.sampled_from(("replace", "replace", "remove", "repeat")))
        if what == "replace":
            holder[key] = draw(values)
        elif what == "remove":
            del holder[key]
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        else:
            holder[draw(anything)] = copy.deepcopy(holder[key])
    return value


# Recipes and overrides

RECIPES = [tomllib.loads(dump(load(Recipe, [str(stage), str(model)]))) for stage in STAGES for model in MODELS[:2]]
NAMES = [f"{section}.{key}" for section, keys in RECIPES[0].items() for key in keys] + ["run", "x.y", "run.name.x", "."]
DEEP = ("[" * 100_000, "{a=" * 50_000, "9" * 5_000, "1979-13-45", "0x" + "f" * 5_000)


@st.composite
def recipes(draw):
    """The text of a recipe, near one of ours or not."""
    kind = draw(st.sampled_from(("near", "near", "near", "text", "deep")))
    if kind == "text":
        return draw(anything)
    near = draw(changed(draw(st.sampled_from(RECIPES))))
    written = tomli_w.dumps(without_none(near)) if isinstance(near, dict) else ""
    place = draw(st.integers(0, len(written)))
    return written[:place] + f"\nx = {draw(st.sampled_from(DEEP))}\n" + written[place:] if kind == "deep" else written


def without_none(value):
    """TOML has no null."""
    if isinstance(value, dict):
        return {key: without_none(item) for key, item in value.items()}
    return [without_none(item) for item in value] if isinstance(value, list) else "" if value is None else value


overrides = st.builds(
    "--{}={}".format,
    st.sampled_from(NAMES) | anything,
    st.one_of(anything, scalars.map(json.dumps), st.sampled_from((*DEEP, "../up", "/tmp/up", "a/../../up", "a" * 300))),
)


@many(60)
@given(text=recipes(), more=st.lists(overrides, max_size=3), evaluation=st.booleans())
def test_recipes(home, text, more, evaluation):
    file, runs = home / "recipe.toml", home / "runs"
    file.write_bytes(text.encode(errors="surrogatepass"))
    check = Recipe.check_evaluation if evaluation else None
    shutil.rmtree(runs, ignore_errors=True)  # of an input that failed
    with Touched.inside(runs):
        recipe = taken(lambda: load(Recipe, [str(file), *more, f"--run.folder={runs}"], check=check))
        if recipe is None or evaluation:
            return
        folder = runs / recipe.run_name
        folder.mkdir(parents=True)
        taken(lambda: save_recipe(recipe, folder))
    if (saved := runs / recipe.run_name / "recipe.toml").exists():
        assert load(Recipe, [str(saved)]) == recipe
    shutil.rmtree(runs, ignore_errors=True)


# Data


@st.composite
def files(draw):
    """(ending, bytes) of a file of records, most of them near one of the shapes that are read."""
    base = draw(st.sampled_from(SHAPES))
    records = draw(st.lists(changed(base) | values, min_size=1, max_size=3))
    ending = draw(st.sampled_from((".jsonl", ".jsonl", ".json", ".jsonl.gz")))
    ascii_only = draw(st.booleans())
    said = [json.dumps(record, ensure_ascii=ascii_only) for record in records]
    written = ("[" + ",".join(said) + "]" if ending == ".json" else "\n".join(said)).encode(errors="surrogatepass")
    match draw(st.sampled_from(("whole",) * 6 + ("cut", "bytes", "deep"))):
        case "cut":
            written = written[: draw(st.integers(0, len(written)))]
        case "bytes":
            place = draw(st.integers(0, len(written)))
            written = written[:place] + draw(st.binary(max_size=4)) + written[place + 1 :]
        case "deep":
            written += b"\n" + draw(deep).encode()
    return ending, gzip.compress(written) if ending.endswith(".gz") and draw(st.booleans()) else written


READERS = (
    lambda path: train_heldout_split(load_examples(path, style="list")),
    lambda path: train_heldout_split(load_examples(path)),
    lambda path: load_source(str(path), DataSpec(passages=1, choose="first")),
    lambda path: read_rows(path, DataSpec()),
    read_pool,
    lambda path: build_file(path, passages=2, max_words=5),
    lambda path: build_file(path, passages=1, unanswerable=0.0, pool=path, relabel=True),
)


@many(60)
@given(file=files())
def test_data(home, file):
    path = home / f"data{file[0]}"
    path.write_bytes(file[1])
    with Touched.inside(home):
        for read in READERS:
            taken(lambda read=read: read(path))


@many(40)
@given(file=files(), style=st.sampled_from(STYLES), reasoning=st.booleans())
def test_predictions(home, file, style, reasoning):
    path = home / f"predictions{file[0]}"
    path.write_bytes(file[1])
    if predictions := taken(lambda: read_predictions(path, style=style)):
        score(predictions, reasoning)


# Completions

pieces = st.lists(words | anything, max_size=8).map("".join)
completions = st.one_of(
    pieces,
    st.builds(lambda text, times: text * times, pieces, st.integers(1, 400)),
    st.builds("<think>{}</think> <answer>{}</answer>".format, pieces, pieces),
)
QUESTION = Example(
    id="q",
    question="Who won, and where?",
    passages=(Passage(title="Prize", text="Ann won in Paris."), Passage(title="", text="It is said.")),
    answers=(("Paris", "the"), ("Ann, of Rome",), ("109",)),
    found=((True, False, False), (False, True, True)),
    style="prose",
    source="s",
)


def posed(style):
    """The question in this style."""
    if style == "closed":
        return replace(QUESTION, style=style, passages=(), found=())
    return replace(QUESTION, style=style)


def score(predictions, reasoning):
    for reading in (DefaultProtocol(), TrustEvalProtocol()):
        with no_hang():
            sums = score_answers(predictions, LexicalJudge(), protocol=reading, reasoning=reasoning).sums_IK
            assert all(0 <= float(value[0]) <= 100 + 1e-9 for value in scores(sums.sum(0)).values())


@many(100)
@given(texts=st.lists(completions, min_size=1, max_size=3), style=st.sampled_from(STYLES), reasoning=st.booleans())
def test_completions(texts, style, reasoning):
    """Of any text, halves of surrogate pairs included: a tokenizer of somebody else's may write them."""
    example = posed(style)
    for text in texts:
        with no_hang():
            answer = parse(text, style=style, reasoning=reasoning)
        assert all(statement.text.strip() for statement in answer.statements)
        assert 0 <= answer.refusal_score <= 1
    made = [Completion(text=text, token_ids=(), logprobs=(), finish="stop", version=0) for text in texts]
    group = Group(example=example, prompt_ids=(), completions=tuple(made))
    for settings in PRESETS.values():
        if settings.consistency and not reasoning:
            continue
        with no_hang():
            (rows,) = RewardScorer(settings, reasoning=reasoning, judge=LexicalJudge())([group])
        assert all(math.isfinite(row.total) for row in rows)


@many(40)
@given(texts=st.lists(completions, min_size=1, max_size=3), style=st.sampled_from(STYLES[:3]), reasoning=st.booleans())
def test_trust_score(texts, style, reasoning):
    score([Prediction(posed(style), text) for text in texts], reasoning)


# Checkpoints


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run of the toy with a checkpoint after a step; a folder for copies of it, and its files."""
    home = tmp_path_factory.mktemp("saved")
    kept = ToyRun(home / "run", steps=2, every=2)
    kept.train()
    (home / "beside").write_text("not of this run")
    run, step = home / "run", "checkpoints/step-000002"
    return (
        kept,
        home,
        step,
        {str(file.relative_to(run)): file.read_bytes() for file in run.rglob("*") if file.is_file()},
    )


def put_back(home, step, whole):
    """The run as it was left, in a new folder; its checkpoint."""
    run = home / "copy"
    shutil.rmtree(run, ignore_errors=True)
    for name, data in whole.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(data)
    return run, run / step


def go_on(kept, run):
    """What a start does with a folder of checkpoints, up to the first step."""

    def start():
        found = store.latest_valid(run / "checkpoints")
        restore_folder(run, found)
        kept.checkpoints.restore(found)
        return found

    with Touched.inside(run):
        return taken(start)


STRANGE = (
    "..", ".", "", "../../../beside", "/etc/hostname", "policy", "policy/../../../beside", "link", "dangling", "loop",
    "pipe", "a" * 300, "nul\0", "\ud800", "state.json/x",
)  # fmt: skip
MANIFESTS = ("manifest.json", "state.json", "rank-0.json", "policy/state.json")


@many(60)
@given(data=st.data())
def test_checkpoints(saved, data):
    """One whose manifest, or a state that it vouches for, says something else; and files that are no files."""
    kept, home, step, whole = saved
    run, path = put_back(home, step, whole)
    name = data.draw(st.sampled_from(MANIFESTS))
    body = data.draw(changed(json.loads(whole[f"{step}/{name}"])))
    if name == "manifest.json" and isinstance(body, dict) and isinstance(body.get("files"), dict):
        size = st.sampled_from((0, 15, 4096, len("not of this run"), -1, "0", None, 1e400))
        more = st.dictionaries(st.sampled_from(STRANGE), st.tuples(size, scalars).map(list), max_size=2)
        body["files"] |= data.draw(more)
        (path / "link").symlink_to(home / "beside")
        (path / "dangling").symlink_to(path / "nowhere")
        (path / "loop").symlink_to(path / "loop")
        os.mkfifo(path / "pipe")
    written = data.draw(st.sampled_from((store._json(body) if is_utf8(body) else b"\xff",) * 4 + (b"[" * 100_000, b"")))
    (path / name).write_bytes(written)
    manifest = body if name == "manifest.json" else json.loads(whole[f"{step}/manifest.json"])
    if name != "manifest.json":
        manifest["files"][name] = [len(written), store._hash(written)]
    if isinstance(manifest, dict) and is_utf8(manifest) and data.draw(st.integers(0, 5)):
        reseal(path, manifest)
    go_on(kept, run)


def reseal(path, manifest):
    """A manifest that says of itself that it is whole."""
    body = {key: value for key, value in manifest.items() if key != "hash"}
    (path / store.MANIFEST).write_bytes(store._json({**body, "hash": store._hash(store._json(body))}))


def is_utf8(value):
    try:
        store._json(value)
    except UnicodeEncodeError:
        return False
    return True


def test_an_untouched_checkpoint_is_gone_on_with(saved):
    """So that the inputs above are not all refused."""
    kept, home, step, whole = saved
    run, path = put_back(home, step, whole)
    assert go_on(kept, run).path == path
    reseal(path, json.loads(whole[f"{step}/manifest.json"]))
    assert (path / "manifest.json").read_bytes() == whole[f"{step}/manifest.json"]


@many(40)
@given(file=st.binary(max_size=200) | deep.map(str.encode))
def test_small_files_beside_models(home, file):
    """The counts of an optimizer and a parameter's tensors."""
    for name in ("state.json", "00000.safetensors"):
        (home / name).write_bytes(file)
    taken(lambda: read_counters(home, parameters=1))
    taken(lambda: read_parameter(home, 0, "head", torch.zeros(2, 2), moments=False))
