"""Trust-Data as it is laid out on the hub: configurations and splits, grounded records, and chats without answers."""

import json

import pytest

from curriculum.datasets import DataSpec
from curriculum.sources import load_source
from grpo.errors import UserError

datasets = pytest.importorskip("datasets")

CONFIGS = {"trust_score": ("asqa_eval", "qampari_eval", "eli5_eval"), "trust_align_sft": ("train", "test")}
REFUSAL = "I apologize, but I couldn't find an answer to your question in the search results."
LISTED = "Instruction: Provide a list of accurate answers. Separate answers by commas."
TEXTS = ("Tower 7 stands in Varn.", "Hall 7 stands in Orvale.", "Snow fell.")


def doc(text, *flags):
    return {"title": "T", "text": text, "answers_found": list(flags)} if flags else {"title": "T", "text": text}


def chat(question, response, instruction="Instruction: Write an answer."):
    shown = "\n".join(f"Document [{n}](Title: T): {text}" for n, text in enumerate(TEXTS, 1))
    prompt = f"{instruction}\n\nQuestion: {question}\n\n{shown}\nAnswer:"
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]}


CHATS = [
    chat("Where does tower 7 stand?", "Tower 7 stands in Varn [1]. It is the tallest of its kind in all the land."),
    chat("Which places have a tower or a hall?", "Varn [1], Orvale, the old town [2], Nowhere [3].", LISTED),
    chat("Who owns tower 7?", REFUSAL),
    chat("Who built tower 7?", "A mason of great renown built it with his brothers [1]."),
]
GOLD = [
    {
        "question": "Where does tower 7 stand?",
        "qa_pairs": [{"short_answers": ["Varn"]}],
        "docs": [doc(TEXTS[0], 1), doc(TEXTS[2], 1)],
    },
    {
        "question": "Which places have a tower or a hall?",
        "qa_pairs": [{"short_answers": ["Orvale"]}],
        "docs": [doc("x")],
    },
    {"question": "who owns tower 7", "qa_pairs": [{"short_answers": ["Bo Marsh"]}], "docs": [doc("x")]},
]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder with the README of the hub, whose `configs` say which file is which split."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "Trust-Data"
    folder.mkdir()
    lines = ["---", "configs:"]
    for config, splits in CONFIGS.items():
        lines += [
            f"- config_name: {config}",
            *(["  default: true"] if config == "trust_score" else []),
            "  data_files:",
        ]
        for split in splits:
            lines += [f"  - split: {split}", f"    path: {config}/{split}.parquet"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")
    docs = [doc(f"Tower {n} stands in Varn{n}.", int(n == 3)) for n in range(100)]
    asqa = {"question": "Where does tower 3 stand?", "qa_pairs": [{"short_answers": ["Varn3"]}], "docs": docs}
    listed = {"question": "Which?", "answers": [["Varn1"], ["Varn9"]]}
    listed |= {"docs": [doc(f"Tower {n} stands in Varn{n}.", int(n == 1), int(n == 9)) for n in range(100)]}
    claims = {"question": "Why?", "claims": ["Tower 60 stands in Varn60.", "It rained."]}
    claims |= {"docs": [doc(f"Tower {n} stands in Varn{n}.", int(n == 60), 0) for n in range(100)]}
    for config in CONFIGS:
        (folder / config).mkdir()
    for split in CONFIGS["trust_align_sft"]:
        datasets.Dataset.from_list(CHATS).to_parquet(folder / "trust_align_sft" / f"{split}.parquet")
    columns = ("question", "qa_pairs", "answers", "claims", "docs")  # of all splits, filled up with null
    rows = [{name: row.get(name) for name in columns} for row in (listed, asqa, claims)]
    table = datasets.Dataset.from_list(rows)
    for split, place in (("qampari_eval", 0), ("asqa_eval", 1), ("eli5_eval", 2)):
        table.select([place]).to_parquet(folder / "trust_score" / f"{split}.parquet")
    return f"hub:{folder}"


@pytest.mark.parametrize("rest", ["", ":train", ":nowhere/train", ":trust_align_sft/dev"])
def test_a_set_with_several_configurations_says_which_there_are(hub, rest):
    with pytest.raises(
        UserError, match=r"expected one of .*:trust_score/asqa_eval, .*:trust_align_sft/train"
    ) as caught:
        load_source(hub + rest, DataSpec())
    assert "\n" not in str(caught.value)


def test_evaluation_takes_the_first_five_of_a_hundred_each_in_its_style(hub):
    read = {
        s: load_source(f"{hub}:trust_score/{s}", DataSpec(passages=5, choose="first"))[0]
        for s in CONFIGS["trust_score"]
    }
    assert {
        split: [(e.style, e.source, len(e.passages), e.answerable) for e in rows] for split, rows in read.items()
    } == {
        "asqa_eval": [("prose", "asqa", 5, True)],
        "qampari_eval": [("list", "qampari", 5, True)],
        "eli5_eval": [("claims", "eli5", 5, False)],  # its answer is in document 61
    }
    trained = load_source(f"{hub}:trust_score/eli5_eval", DataSpec(passages=5))[0]
    assert [(e.answerable, len(e.passages)) for e in trained] == [(True, 5)]


def test_chats_are_read_with_the_documents_of_their_prompts(hub):
    examples, said = load_source(f"{hub}:trust_align_sft/train", DataSpec())
    assert "read as messages; accepted answers are what the assistant wrote; data.gold = ALCE's" in said
    assert "4 questions, 3 kept (dropped: 1 with an answer that no passage supports)" in said
    first, listed, refused = examples
    assert tuple(p.text for p in first.passages) == TEXTS
    assert (first.style, first.found) == ("claims", ((True, False), (False, False), (False, False)))
    assert (listed.style, listed.answers) == ("list", (("Varn",), ("Orvale, the old town",), ("Nowhere",)))
    assert not refused.answerable


def test_accepted_answers_are_joined_by_the_question(hub, tmp_path):
    gold = tmp_path / "asqa_gold.json"
    gold.write_text(json.dumps(GOLD), encoding="utf-8")
    source = f"{hub}:trust_align_sft/train"
    examples, said = load_source(source, DataSpec(gold=(str(gold),)))
    assert "3 of 4 questions have accepted answers in data.gold, the others are left out" in said
    assert [(e.source, e.style, e.answers, e.found) for e in examples] == [
        ("asqa", "prose", (("Varn",),), ((True,), (False,), (True,))),  # the last by its label alone
        ("asqa", "prose", (("Orvale",),), ((False,), (True,), (False,))),
        ("asqa", "prose", (("Bo Marsh",),), ((False,), (False,), (False,))),  # refused, and no passage holds it
    ]
    gold.write_text(json.dumps([{**GOLD[0], "question": "Other?"}]), encoding="utf-8")
    with pytest.raises(
        UserError, match=r"none of the 4 questions is in data.gold = .*asqa_gold.json; expected the files"
    ):
        load_source(source, DataSpec(gold=(str(gold),)))
