"""The NLI judges give the probabilities of the stock models, whatever the batch and the length of a pair."""

import math
import random
from pathlib import Path

import huggingface_hub
import pytest
import torch
from transformers import BertForMaskedLM, RobertaConfig, RobertaForSequenceClassification

from grpo.errors import UserError
from rewards.judges.base import pop_metrics
from rewards.judges.cache import CachedJudge
from rewards.judges.load import load_judge
from rewards.judges.nli import FORMAT, ClassifierJudge, T5Judge, batches, choose_device, identity, load_nli
from tests.helpers.nli_models import BARE, CONTEXT, LABELS, WORDS, bert, bert_tokenizer, save, t5, t5_tokenizer


def pairs(count: int, *, longest: int = 20, seed: int = 0) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    words = [word for word in WORDS if not word.isdigit()]
    text = lambda limit: " ".join(rng.choices(words, k=rng.randint(1, limit)))  # noqa: E731
    return [(text(longest), text(6)) for _ in range(count)]


def classifier(labels=LABELS, **options) -> ClassifierJudge:
    return ClassifierJudge(bert(labels), bert_tokenizer(), name="tiny", **options)


def softmax_of(model, premise: str, hypothesis: str) -> torch.Tensor:
    with torch.no_grad():
        return model(**bert_tokenizer()(premise, hypothesis, return_tensors="pt")).logits[0].softmax(dim=-1)


def test_a_classifier_says_the_softmax_of_its_entailment_label_and_moves_with_the_label() -> None:
    asked = pairs(12)
    expected = torch.stack([softmax_of(bert(), *pair) for pair in asked])
    for place in range(3):
        labels = ["neutral", "contradiction"]
        labels.insert(place, "ENTAILMENT")
        assert classifier(labels).entails(asked) == pytest.approx(expected[:, place].tolist(), abs=1e-6)
    assert expected.std(dim=0).min() > 0.05  # the pairs are told apart


@pytest.mark.parametrize("budget", [1, 60, 100_000])
def test_a_batch_of_any_budget_agrees_with_one_by_one_in_order(budget: int) -> None:
    asked = pairs(30)
    tokenizer = t5_tokenizer()
    for judge in (classifier(batch_tokens=budget), T5Judge(t5(tokenizer), tokenizer, name="tiny", batch_tokens=budget)):
        alone = [judge.entails([pair])[0] for pair in asked]
        assert judge.entails(asked) == pytest.approx(alone, abs=1e-5)
        assert judge.entails(asked[::-1]) == pytest.approx(alone[::-1], abs=1e-5)
        assert len({round(p, 3) for p in alone}) > 5
        assert judge.entails([]) == []


@pytest.mark.parametrize(
    "labels",
    [
        ("entailment", "not_entailment"),
        ("Entail", "neutral", "contradict"),
        (" ENTAILMENT ", "REFUTES"),
        ("entailed", "x"),
    ],
)
def test_spellings_of_the_entailment_label(labels: tuple[str, ...]) -> None:
    expected = softmax_of(bert(labels), "ali scored", "ali")[0].item()
    assert classifier(labels).entails([("ali scored", "ali")]) == [pytest.approx(expected, abs=1e-6)]


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        (("LABEL_0", "LABEL_1", "LABEL_2"), "LABEL_0, LABEL_1, LABEL_2"),
        (("not_entailment", "neutral"), "not_entailment, neutral"),
        (("entailment", "Entailment"), "entailment, Entailment"),
        (("score",), "score"),
    ],
)
def test_labels_that_do_not_tell_are_refused_by_name(labels: tuple[str, ...], named: str) -> None:
    with pytest.raises(UserError, match=rf"^tiny: its labels are {named}; valid: exactly one called entailment"):
        classifier(labels)


def test_a_single_logit_called_entailment_is_a_sigmoid() -> None:
    model = bert(("entailment",))
    with torch.no_grad():
        logit = model(**bert_tokenizer()("ali scored", "daei", return_tensors="pt")).logits[0, 0]
    assert abs(logit) > 0.01
    assert classifier(("entailment",)).entails([("ali scored", "daei")]) == [pytest.approx(logit.sigmoid().item())]


def test_a_long_premise_is_cut_at_its_end_and_counted_and_the_hypothesis_stays_whole() -> None:
    judge = classifier()
    hypothesis = "ali daei scored goals"
    room = CONTEXT - 3 - 4
    words = ["bican", "scored", "in", "iran"] * 20
    whole, exact = " ".join(words), " ".join(words[:room])
    short, long, other = judge.entails([(exact, hypothesis), (whole, hypothesis), (whole, "ali daei scored mural")])
    assert long == pytest.approx(short, abs=1e-6)
    assert abs(long - other) > 1e-3  # the last word of the hypothesis was read
    assert judge.pop_metrics() == {"judged": 3.0, "cut": 2.0, "unread": 0.0}
    assert judge.pop_metrics() == {"judged": 0.0, "cut": 0.0, "unread": 0.0}


@pytest.mark.parametrize(("words", "unread"), [(CONTEXT - 4, 0), (CONTEXT - 3, 1), (3 * CONTEXT, 1)])
def test_a_hypothesis_that_leaves_no_room_for_a_premise_is_not_entailed(words: int, unread: int) -> None:
    judge = classifier()
    verdicts = judge.entails([("ali scored", " ".join(["daei"] * words)), ("ali", "ali")])
    assert (verdicts[0] == 0.0) == bool(unread)
    assert verdicts[1] == pytest.approx(classifier().entails([("ali", "ali")])[0], abs=1e-6)
    assert judge.pop_metrics() == {"judged": 2.0, "cut": 1.0 - unread, "unread": float(unread)}


def test_positions_that_begin_behind_the_padding_index_leave_less_room() -> None:
    tokenizer = bert_tokenizer()
    tokenizer.model_max_length = 10**30
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=34,
        pad_token_id=1,
        id2label=dict(enumerate(LABELS)),
    )
    tokenizer.pad_token = "[UNK]"  # id 1, which RoBERTa's positions are counted from
    judge = ClassifierJudge(RobertaForSequenceClassification(config), tokenizer, name="tiny")
    assert judge.entails([(" ".join(["ali"] * 28 * k), "ali") for k in (1, 2)]) == pytest.approx([0.33, 0.33], abs=0.2)
    assert judge.pop_metrics()["cut"] == 1.0  # 3 special tokens, 28 words and 1: 32 of 34 positions


def test_t5_agrees_with_greedy_generation_and_a_third_token_is_not_entailed() -> None:
    tokenizer = t5_tokenizer()
    model = t5(tokenizer)
    asked = pairs(60)
    verdicts = T5Judge(model, tokenizer, name="tiny").entails(asked)
    written = []
    for premise, hypothesis in asked:
        inputs = tokenizer(f"premise: {premise} hypothesis: {hypothesis}", return_tensors="pt")
        token = model.generate(**inputs, do_sample=False, max_new_tokens=1)[0, 1]
        written.append(tokenizer.convert_ids_to_tokens(token.item()))
    assert min(written.count(token) for token in ("▁1", "▁", "▁iran")) >= 5
    assert [p > 0.5 for p in verdicts] == [token == "▁1" for token in written]
    assert [p == 0.0 for p in verdicts] == [token not in ("▁1", "▁") for token in written]
    assert 0.0 < min(p for p in verdicts if p) < 0.4 < 0.6 < max(verdicts) < 1.0


@pytest.mark.parametrize(
    ("answers", "valid"),
    [
        (BARE, True),
        (("▁1", "▁0"), True),
        (("▁", "1", "0"), False),  # the same first piece
        (("▁", "1", "▁0"), False),  # "1" in two pieces: the first step says only that a word begins
        (("▁0",), False),  # "1" unknown
        (("▁1",), False),
    ],
)
def test_t5_needs_a_token_for_one(answers: tuple[str, ...], valid: bool) -> None:
    tokenizer = t5_tokenizer(answers)
    if valid:
        T5Judge(t5(tokenizer), tokenizer, name="tiny")
        return
    with pytest.raises(UserError, match=r'^tiny: its tokenizer cuts "1" and "0" into \[.*valid: one token for "1"'):
        T5Judge(t5(t5_tokenizer()), tokenizer, name="tiny")


def test_t5_cuts_the_premise_and_never_the_hypothesis() -> None:
    tokenizer = t5_tokenizer()
    # "premise:" + 20 words + "hypothesis:" + 3 words + </s>
    judge = T5Judge(t5(tokenizer), tokenizer, name="tiny", max_tokens=26)
    words = ["bican", "scored", "in", "a"] * 20
    asked = [(" ".join(words[:20]), "ali daei scored"), (" ".join(words), "ali daei scored")]
    exact, cut = judge.entails(asked)
    assert cut == pytest.approx(exact, abs=1e-6)
    assert judge.pop_metrics() == {"judged": 2.0, "cut": 1.0, "unread": 0.0}
    assert judge.entails([("ali", " ".join(["daei"] * 23))]) == [0.0]
    assert judge.pop_metrics() == {"judged": 1.0, "cut": 0.0, "unread": 1.0}


def test_a_batch_that_is_too_large_for_the_memory_is_halved() -> None:
    judge = classifier()
    asked = pairs(21)
    expected = judge.entails(asked)
    sizes = []

    def at_most_four(model, args, inputs) -> None:
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 4:
            raise torch.OutOfMemoryError("no room")

    judge._model.register_forward_pre_hook(at_most_four, with_kwargs=True)
    assert judge.entails(asked) == pytest.approx(expected, abs=1e-5)
    assert sizes[0] == 21
    assert sum(size for size in sizes if size <= 4) == 21


def test_batches_hold_alike_lengths_within_the_budget() -> None:
    rng = random.Random(0)
    lengths = {place: rng.randint(1, 50) for place in range(200)}
    parts = batches(lengths, 120)
    assert sorted(place for part in parts for place in part) == list(range(200))
    assert all(len(part) * max(lengths[place] for place in part) <= 120 for part in parts)
    padded = sum(len(part) * max(lengths[place] for place in part) for part in parts)
    assert padded < 1.1 * sum(lengths.values())
    assert batches({0: 500, 1: 2}, 120) == [[0], [1]]


@pytest.mark.parametrize(
    ("parameters", "free", "expected"),
    [
        (400_000_000, 0, ("cpu", torch.float32)),
        (400_000_000, 24 << 30, ("cuda", torch.float32)),
        (400_000_000, 5 << 30, ("cpu", torch.float32)),  # 1.6 GB and the reserve of 4 GiB
        (11_000_000_000, 80 << 30, ("cuda", torch.bfloat16)),
        (11_000_000_000, 24 << 30, ("cpu", torch.float32)),  # 22 GB and the reserve
    ],
)
def test_placement(parameters: int, free: int, expected: tuple[str, torch.dtype]) -> None:
    assert choose_device(parameters, free) == expected


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "bert": save(bert(), bert_tokenizer(), root / "bert"),
        "t5": save(t5(t5_tokenizer()), t5_tokenizer(), root / "t5"),
    }


def test_a_folder_is_loaded_as_what_its_config_says(folders) -> None:
    asked = pairs(5)
    judge, _ = load_nli(str(folders["bert"]))
    assert isinstance(judge, ClassifierJudge)
    assert judge.entails(asked) == pytest.approx(classifier().entails(asked), abs=1e-6)
    judge, _ = load_nli(str(folders["t5"]))
    assert isinstance(judge, T5Judge)
    tokenizer = t5_tokenizer()
    assert judge.entails(asked) == pytest.approx(T5Judge(t5(tokenizer), tokenizer, name="x").entails(asked), abs=1e-6)


def test_an_identity_is_of_the_content_and_the_number_format(folders, tmp_path: Path) -> None:
    _, original = load_nli(str(folders["bert"]))
    assert original.endswith(f" float32 v{FORMAT}")
    assert load_nli(str(save(bert(), bert_tokenizer(), tmp_path / "moved")))[1] == original
    assert load_nli(str(save(bert(seed=1), bert_tokenizer(), tmp_path / "retrained")))[1] != original
    assert load_nli(str(save(bert(LABELS[::-1]), bert_tokenizer(), tmp_path / "relabelled")))[1] != original


def test_no_byte_of_the_weights_is_left_out_of_the_identity(tmp_path: Path) -> None:
    digests = set()
    for place in (None, 0, 1_500_000, -1):
        folder = tmp_path / str(place)
        folder.mkdir()
        weights = bytearray(3_000_000)
        if place is not None:
            weights[place] = 1
        (folder / "model.safetensors").write_bytes(weights)
        digests.add(identity(str(folder), folder, "float32"))
    assert len(digests) == 4


def test_a_model_that_gives_no_probability_ends_the_run_in_one_line() -> None:
    judge = classifier()
    with torch.no_grad():
        judge._model.classifier.bias.fill_(math.nan)
    with pytest.raises(UserError, match=r"gives no probability \(NaN\)"):
        judge.entails([("a", "b")])


def broken(folders, tmp_path: Path, what: str) -> Path:
    folder = tmp_path / what
    if what == "masked":
        return save(BertForMaskedLM(bert().config), bert_tokenizer(), folder)
    save(bert(), bert_tokenizer(), folder)
    if what == "headless":
        bert().bert.save_pretrained(folder)
        config = (folder / "config.json").read_text(encoding="utf-8")
        (folder / "config.json").write_text(config.replace("BertModel", "BertForSequenceClassification"), "utf-8")
    elif what == "torn":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    elif what == "pickled":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    elif what == "mute":
        (folder / "tokenizer.json").unlink()
    elif what == "garbled":
        (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    elif what == "empty":
        (folder / "config.json").unlink()
    return folder


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("masked", r"no NLI model, it is a BertForMaskedLM; valid: .*ForSequenceClassification or T5ForCond"),
        ("headless", r"no weights for classifier.bias: a judge must be trained for NLI"),
        ("torn", r"its model cannot be loaded: "),
        ("pickled", r"its model cannot be loaded: .*safetensors"),
        ("mute", r"a model without a tokenizer; valid: one of tokenizer.json"),
        ("garbled", r"its tokenizer cannot be loaded: "),
        ("empty", r"its configuration cannot be loaded: .*config.json"),
    ],
)
def test_a_folder_that_is_no_nli_model_is_refused_in_one_line(folders, tmp_path: Path, what: str, says: str) -> None:
    folder = broken(folders, tmp_path, what)
    with pytest.raises(UserError, match=rf"^{folder}: .*{says}") as refusal:
        load_nli(str(folder))
    assert "\n" not in str(refusal.value)


def test_a_hub_name_is_found_in_the_cache_and_known_by_its_commit(folders, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    entry = tmp_path / "models--owner--nli"
    (entry / "refs").mkdir(parents=True)
    (entry / "refs" / "main").write_text(commit, encoding="utf-8")
    (entry / "snapshots").mkdir()
    (entry / "snapshots" / commit).symlink_to(folders["bert"], target_is_directory=True)
    judge, identity = load_nli("owner/nli")
    assert isinstance(judge, ClassifierJudge)
    assert identity == f"owner/nli@{commit} float32 v{FORMAT}"
    assert load_nli(f"owner/nli@{commit}")[1] == identity
    for name in ("owner/other", "owner/nli@refs/pr/7"):
        with pytest.raises(UserError, match=rf"^{name}: no such folder, and not available from the hub: ") as refusal:
            load_nli(name)
        assert "\n" not in str(refusal.value)


def test_a_name_makes_a_judge_with_its_cache(folders, tmp_path: Path) -> None:
    asked = pairs(6)
    plain = load_judge(str(folders["bert"]))
    assert isinstance(plain, ClassifierJudge)
    told: list[str] = []
    cached = load_judge(str(folders["bert"]), cache=tmp_path / "verdicts.sqlite", tell=told.append)
    assert isinstance(cached, CachedJudge)
    assert told == [f"judge {folders['bert']}: loading onto the cpu in float32"]
    assert cached.entails(asked) == cached.entails(asked) == plain.entails(asked)
    assert pop_metrics(cached) == {"judged": 6.0, "cut": 0.0, "unread": 0.0, "asked": 12.0, "hit_rate": 0.5}
    again = load_judge(str(folders["bert"]), cache=tmp_path / "verdicts.sqlite")
    assert again.entails(asked) == plain.entails(asked)
    assert pop_metrics(again)["judged"] == 0.0
