"""Reference answers of examples written by hand, in the format of real data."""

from dataclasses import replace

import pytest

from grpo.data.example import Example, Passage, Style
from grpo.data.text import REFUSAL, contains, normalize
from rewards.reference_answers import reference_answer, reference_completion


def example(question: str, texts: list[str], answers: list[tuple[str, ...]], style: Style = "prose") -> Example:
    """An example whose `found` is computed by containment, as the builder of real data does."""
    return Example(
        id="nq-1",
        question=question,
        passages=tuple(Passage(title=f"Page {number}", text=text) for number, text in enumerate(texts, 1)),
        answers=tuple(answers),
        found=tuple(tuple(contains(text, aliases) for aliases in answers) for text in texts),
        style=style,
        source="nq",
    )


FENWICK = "Mara Fenwick kept bees. Mara Fenwick was born in Port Alder. She moved away early."


@pytest.mark.parametrize(
    ("texts", "answers", "expected"),
    [
        pytest.param(
            ["Port towns are wet.", FENWICK],
            [("Port Alder",)],
            "Mara Fenwick was born in Port Alder [2].",
            id="the citation stands before the full stop",
        ),
        pytest.param(
            ["In all the years that followed, nobody ever doubted that it was port alder.", FENWICK],
            [("Port Alder",)],
            "Mara Fenwick was born in Port Alder [2].",
            id="a shorter sentence wins over a lower number",
        ),
        pytest.param(
            ["Mara Fenwick left Port Alder at nine.", FENWICK],
            [("Port Alder",)],
            "Mara Fenwick left Port Alder at nine [1].",
            id="of equally long sentences the lowest number wins",
        ),
        pytest.param(
            ["Nothing here.", "The first was Ann Lee; the second was Bo Ray.", "Cy Day came third"],
            [("Bo Ray", "Raymond"), ("Ann Lee",), ("C. Day", "Cy Day")],
            "The first was Ann Lee; the second was Bo Ray [2]. Cy Day came third [3].",
            id="a sentence for two answers is written once, and a fragment gets a full stop",
        ),
        pytest.param(
            ["It stands on the Low Street."],
            [("A Low Street",)],
            "It stands on the Low Street [1].",
            id="articles do not count",
        ),
        pytest.param(
            ["The old harbor of Port.\nAlder is closed."],
            [("Port Alder", "Alder Port")],
            "Port Alder [1].",
            id="an answer that no sentence holds whole is written alone",
        ),
        pytest.param(
            ["It was built in 1874.[3][4] It burned.[5]"],
            [("1874",)],
            "It was built in 1874 [1].",
            id="citation marks of the source are dropped",
        ),
        pytest.param(
            ['She said: "It was Port Alder!" Then she left.'],
            [("Port Alder",)],
            'She said: "It was Port Alder [1]!"',
            id="closing quotes stay last",
        ),
        pytest.param(
            ["One is A1. Two is B2. Three is C3. Four is D4."],
            [("A1",), ("B2",), ("C3",), ("D4",)],
            "One is A1 [1]. Two is B2 [1]. Three is C3 [1].",
            id="three sentences at most",
        ),
        pytest.param(
            ["Alice A. Munro won in 2013.", "No."],
            [("2013",), ("1999",)],
            "Alice A. Munro won in 2013 [1].",
            id="an answer without support is left out",
        ),
        pytest.param(
            ["中国很大。北京是中国的首都。"],
            [("北京",)],
            "北京是中国的首都 [1]。",
            id="Chinese",
        ),
        pytest.param(["No.", "No."], [("2013",)], REFUSAL, id="no support: refuse"),
    ],
)
def test_prose(texts: list[str], answers: list[tuple[str, ...]], expected: str):
    assert reference_answer(example("where?", texts, answers)) == expected


def test_lists_write_the_alias_that_stands_in_the_passage():
    texts = ["Fenwick wrote Low Water, a novel.", "The Glass Orchard is by Fenwick, like Low Water."]
    answers = [("Glass Orchard, The", "The Glass Orchard"), ("low water", "Low Water"), ("Absent",)]
    expected = "The Glass Orchard [2], Low Water [1]."
    assert reference_answer(example("which books?", texts, answers, "list")) == expected


def test_lists_fall_back_on_the_first_alias():
    assert reference_answer(example("which?", ["the U.S. won"], [("us", "USA")], "list")) == "us [1]."


def test_claims_choose_the_sentence_that_shares_most_of_their_content():
    claims = Example(
        id="eli5-1",
        question="Why is the sky blue?",
        passages=(
            Passage(title="Sky", text="The sky is what it is. Air scatters blue light more than red light."),
            Passage(title="Sun", text="At dusk, light takes a longer path. Blue light is scattered by the air."),
        ),
        answers=(("Blue light is scattered more than red light by air.",), ("At dusk the path of light is longer.",)),
        found=((True, False), (False, True)),
        style="claims",
        source="eli5",
    )
    expected = "Air scatters blue light more than red light [1]. At dusk, light takes a longer path [2]."
    assert reference_answer(claims) == expected


def test_closed_questions_get_their_first_answer():
    closed = Example(
        id="c-1", question="Who?", passages=(), answers=(("Ali Daei", "Daei"),), found=(), style="closed", source="c"
    )
    assert reference_answer(closed) == "boxed[Ali Daei]"
    assert "no documents. I answer from what I know" in reference_completion(closed, reasoning=True)
    nobody_knows = replace(closed, answers=())
    assert reference_answer(nobody_knows) == "boxed[Unknown]"
    assert "I do not know the answer" in reference_completion(nobody_knows, reasoning=True)


def test_plain_completions_are_the_answer():
    one = example("where?", ["No.", FENWICK], [("Port Alder",)])
    assert reference_completion(one, reasoning=False) == reference_answer(one)


@pytest.mark.parametrize(
    ("texts", "thought"),
    [
        (["No.", FENWICK], "Document 2 holds the answer. I cite it."),
        (["Low Water sold well.", FENWICK], "Documents 1 and 2 hold the answer. I cite each of them."),
        (["No.", "No."], "None of the documents holds the answer. I should say so."),
    ],
)
def test_reasoning_names_the_documents(texts: list[str], thought: str):
    one = example("where?", texts, [("Port Alder",), ("Low Water",)])
    expected = f"<think>\n{thought}\n</think>\n<answer>\n{reference_answer(one)}\n</answer>"
    assert reference_completion(one, reasoning=True) == expected


def test_a_sentence_is_matched_as_containment_matches():
    one = example(
        "how many?", ["He won in Paris. He scored 109 goals, a record."], [("one hundred nine", "109 goals record")]
    )
    assert normalize("109 goals, a record") == "109 goals record"
    assert reference_answer(one) == "He scored 109 goals, a record [1]."
