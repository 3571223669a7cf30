"""Labels of real logs: what is looked up, what a judge says, what is dropped, and what is a question to refuse."""

import json

import pytest

from curriculum.build import main
from curriculum.builder import build_examples
from curriculum.datasets import DataSpec
from curriculum.labels import is_refusal, is_sentence
from curriculum.sources import load_source, read_rows
from grpo.data.example import load_examples, read_example, to_record
from grpo.data.files import write_jsonl
from rewards.judges.lexical import LexicalJudge

TOWER = "Varn Tower was built in 1846 by the mason Tove Arden.[2] It stands on the east cliff."
HALL = "Orra Hall, a court of the northern valley, was sold by Bo Marsh for 38 crowns."
REFUSED = [
    "I could not find this in the documents.",
    "I'm sorry, but I don't know.",
    "The provided documents do not mention who built it.",
    "The context does not contain enough information to answer the question.",
    "There is no information about this in the given passages.",
    "This is not mentioned in the search results.",
    "I’m unable to answer this. Please ask the service desk.",
    "I apologize, but I couldn't find an answer to your question in the search results.",
    "Unanswerable",
    "N/A",
    "No Answer Present.",
]
ANSWERED = [
    "He could not find the treasure.",
    "Tove Arden did not know the plan.",
    "The sources of the Nile do not lie in Egypt.",
    "No information was lost in the fire of 1911.",
    "The Unknown",
    "The documents do not say who. Records of 1846 name a mason. He was Tove Arden.",
]


def log(tmp_path, *rows, **spec):
    path = tmp_path / "log.jsonl"
    asked = [{"question": f"Question {n}?", "passages": [TOWER, HALL], **row} for n, row in enumerate(rows)]
    path.write_text("\n".join(map(json.dumps, asked)), encoding="utf-8")
    return load_source(str(path), DataSpec(**spec))


@pytest.mark.parametrize("answer", REFUSED)
def test_refusals_are_read_in_many_wordings(answer):
    assert is_refusal(answer)
    assert is_refusal(f"{answer} [1]")


@pytest.mark.parametrize("answer", ANSWERED)
def test_answers_with_such_words_are_none(answer):
    assert not is_refusal(answer)


def test_a_sentence_is_told_from_a_name():
    said = ["It was built by Tove Arden.", "the court of the northern valley which Bo Marsh had sold in the year 1846"]
    assert all(map(is_sentence, said))
    assert not any(map(is_sentence, ["Tove Arden", "Dr. Moss Jr.", "1846.", "the University of the Northern Valley"]))
    assert is_sentence("第一座塔在北京的东边。")
    assert not is_sentence("北京。")


def test_questions_to_refuse_are_those_that_the_log_says(tmp_path):
    """Refused, marked or empty; by a wording of the user's own; and none whose answer stands in its passages."""
    rows = [
        {"answer": "I could not find this in the documents."},
        {"answer": "Cy Wren", "answerable": False},
        {"answer": ""},
        {"answer": "Das steht nirgends."},
        {"answer": "Tove Arden", "answerable": False},
        {"answer": "Cy Wren"},
        {"answer": "Tove Arden"},
    ]
    examples, said = log(tmp_path, *rows, refusals=("steht nirgends",))
    natural = [example for example in examples if [p.text for p in example.passages] == [TOWER, HALL]]
    assert [(e.question, e.answerable) for e in natural] == [(f"Question {n}?", n == 6) for n in (0, 1, 2, 3, 6)]
    assert natural[0].extra["answer"] == rows[0]["answer"]
    assert "7 questions, 5 kept (dropped: 1 marked as unanswerable, though a passage holds the answer" in said
    assert "1 with an answer that no passage supports); 1 answerable examples, 4 unanswerable (4 as" in said
    assert "1 empty answers count as none" in said


def test_a_refusal_is_read_back_as_a_question_without_an_answer(tmp_path):
    """By training, by a run's own questions.jsonl, and by a second build."""
    refused = {"answer": "I could not find this in the documents."}
    examples, _ = log(tmp_path, refused, {"answer": "Tove Arden"})
    back = [read_example("built.jsonl:1", to_record(e), style="prose", source="log") for e in examples]
    assert back == examples
    assert [(e.answers, e.answerable, e.extra) for e in back[:1]] == [((), False, refused)]
    write_jsonl(tmp_path / "built.jsonl", map(to_record, examples))
    again, _ = load_source(str(tmp_path / "built.jsonl"), DataSpec())
    assert [(e.answers, e.found) for e in again] == [(e.answers, e.found) for e in examples]


def test_a_statement_of_fact_is_no_refusal_and_a_title_is_none_either(tmp_path):
    """A log's refusal that a passage states is dropped; the short gold answer of a data set stays an answer."""
    audit = "The audit of Orra Hall ended in May. No evidence of fraud was found."
    rows = [
        {"answer": "No evidence of fraud was found.", "passages": [audit]},
        {"answer": "No evidence of fraud was found.", "passages": [TOWER]},
        {"answer": "I could not find it. Orra Hall was sold by Bo Marsh for 38 crowns.", "style": "claims"},
        {"answer": "N/A"},
    ]
    examples, said = log(tmp_path, *rows)
    assert [(e.question, e.answers, e.style) for e in examples] == [
        ("Question 1?", (), "prose"),
        ("Question 2?", (), "claims"),
        ("Question 3?", (), "prose"),
    ]
    assert "4 questions, 3 kept (dropped: 1 marked as unanswerable, though a passage holds the answer)" in said
    prompts = [f"Question: {n}?\nDocument [1](Title: T): {text}\nAnswer:" for n, text in enumerate((audit, TOWER))]
    chats = [{"prompt": prompt, "response": "No evidence of fraud was found."} for prompt in prompts]
    write_jsonl(tmp_path / "chats.jsonl", chats)
    examples, said = load_source(str(tmp_path / "chats.jsonl"), DataSpec())
    assert [(e.question, e.answers, e.extra["answer"]) for e in examples] == [("1?", (), chats[0]["response"])]
    assert "dropped: 1 marked as unanswerable, though a passage holds the answer" in said
    gold = {"question": "Who?", "answers": ["Unknown"], "ctxs": [{"title": "", "text": "Unknown won.", "isgold": True}]}
    (tmp_path / "nq.jsonl").write_text(json.dumps(gold), encoding="utf-8")
    examples, _ = load_source(str(tmp_path / "nq.jsonl"), DataSpec(passages=1))
    assert [(e.answers, e.answerable) for e in examples] == [((("Unknown",),), True)]


def test_sentences_are_claims_that_a_judge_finds(tmp_path):
    rows = [
        {"answer": "Tove Arden built Varn Tower [1]. It stands on the east cliff [1]. It was sold in 1900 [2]."},
        {"answer": "The tower was the work of a man of great renown and of his brothers."},
        {"answer": "38"},
        {"answer": "184"},
    ]
    (claims, *others), said = log(tmp_path, *rows)
    assert (claims.style, [answer for (answer,) in claims.answers]) == (
        "claims",
        ["Tove Arden built Varn Tower.", "It stands on the east cliff.", "It was sold in 1900."],
    )
    assert claims.found == ((True, True, False), (False, False, False))
    assert [(e.question, e.found) for e in others if e.answerable] == [("Question 2?", ((False,), (True,)))]
    assert "dropped: 2 with an answer that no passage supports" in said  # "184" is in 1846, but no word of it
    assert "1 answers are sentences, labelled by the judge lexical" in said


def test_a_made_refusal_shows_nothing_of_the_answer(tmp_path):
    """The passages of other questions, without any that the judge or half of the words of a claim speak for."""
    near = "The tower by Tove Arden, on a cliff in the east, was built of stone."
    rows = [
        {
            "question": "Who built the tower of stone on the cliff in the east?",
            "answer": "Tove Arden built Varn Tower on the east cliff.",
            "passages": [TOWER],
        },
        {"answer": "Bo Marsh", "passages": [HALL]},
        {"answer": "stone", "passages": [near]},
    ]
    examples, _ = log(tmp_path, *rows)
    made = {example.id: [p.text for p in example.passages] for example in examples if not example.answerable}
    assert made["log-000001-u"] == [HALL]
    assert made["log-000003-u"] in ([TOWER], [HALL])


def test_in_chinese_too_a_made_refusal_shows_nothing_of_the_answer(tmp_path):
    """The judge wants every sign; here six of ten are there."""
    rows = [
        {"question": "北京的塔是谁建的?", "answer": "张三在北京建了这座塔。", "passages": ["张三在北京建了这座塔。"]},
        {"answer": "李四", "passages": ["北京的高塔是张三和李四建造的。"]},
        {"answer": "Bo Marsh", "passages": [HALL]},
    ]
    examples, _ = log(tmp_path, *rows, passages=1)
    made = {example.id: [p.text for p in example.passages] for example in examples if not example.answerable}
    assert made["log-000001-u"] == [HALL]


def test_the_style_of_a_log_is_said(tmp_path):
    listed, _ = log(tmp_path, {"answer": "Tove Arden [1], Bo Marsh [2]"}, style="list")
    assert (listed[0].style, listed[0].answers) == ("list", (("Tove Arden",), ("Bo Marsh",)))
    assert listed[0].found == ((True, False), (False, True))
    claims, _ = log(tmp_path, {"answer": "Tove Arden"}, style="claims")
    assert (claims[0].style, claims[0].found) == ("claims", ((True,), (False,)))
    assert "style" not in claims[0].extra


def test_ids_and_other_columns_survive(tmp_path):
    examples, _ = log(tmp_path, *[{"id": "a", "answer": "Tove Arden", "user": "u1", "ts": 3}] * 2)
    assert [example.id for example in examples] == ["a", "a-2"]
    assert all(example.extra == {"user": "u1", "ts": 3} for example in examples)


def test_a_judge_labels_a_whole_file(tmp_path, capsys):
    """With a table of how it agrees with the labels that are there."""
    docs = [{"title": "", "text": text, "answers_found": [flag]} for text, flag in ((TOWER, 1), (HALL, 1))]
    claim = {"question": "Who?", "answers": ["Tove Arden built Varn Tower."], "docs": docs, "style": "claims"}
    (tmp_path / "in.jsonl").write_text(json.dumps(claim), encoding="utf-8")
    out = tmp_path / "out.jsonl"
    arguments = [str(tmp_path / "in.jsonl"), "--out", str(out), "--unanswerable", "0"]
    assert main([*arguments, "--label-with", "lexical"]) == 0
    assert load_examples(out)[0].found == ((True,), (False,))
    said = capsys.readouterr().out
    assert "agreement    50.0 % of 2 labels" in said
    agreement = json.loads((tmp_path / "out.report.json").read_text())["agreement"]
    assert agreement == {"both": 1, "judge_only": 0, "file_only": 1, "neither": 0}
    out.unlink()
    (tmp_path / "out.report.json").unlink()
    assert main(arguments) == 0
    assert load_examples(out)[0].found == ((True,), (True,))  # the file's own, where no judge is asked


def test_the_judge_is_asked_once_for_all_labels(tmp_path):
    log(tmp_path, *[{"answer": "Tove Arden built Varn Tower."}] * 3)
    calls = []

    class Counting(LexicalJudge):
        def entails(self, pairs):
            calls.append(len(pairs))
            return super().entails(pairs)

    rows, _, _ = read_rows(tmp_path / "log.jsonl", DataSpec())
    build_examples(rows, judge=Counting(), unanswerable=0.0)
    assert calls == [2]  # three questions over the same two passages
