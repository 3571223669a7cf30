"""What text means, with the field's own examples."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo.data.sentences import sentences
from grpo.data.text import contains, content_words, normalize, strip_citations


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The U.S. won, an A-team!  It's 1,234", "us won ateam its 1234"),
        ("Café – naïve", "café – naïve"),
        ("A.B.C. the a an", "abc"),
    ],
)
def test_normalize(text, normal):
    assert normalize(text) == normal


def test_containment_is_of_whole_words():
    assert not contains("Born in 1938.", ("38", "the"))  # an alias without words is nowhere
    assert contains("Born in 1938.", ("1938",))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("It won. [2] She sang [1].", ["It won. [2]", "She sang [1]."]),
        ("Dr. Moss met J. Ode. They left.", ["Dr. Moss met J. Ode.", "They left."]),
        ("It cost 3.5 million. Why?", ["It cost 3.5 million.", "Why?"]),
        ("One line\nAnother", ["One line", "Another"]),
        ('He said "go." Then he went', ['He said "go."', "Then he went"]),
        ("   ", []),
    ],
)
def test_sentences(text, parts):
    assert sentences(text) == parts


def test_citations():
    assert strip_citations("Ali Daei scored 109 goals [1][2].") == "Ali Daei scored 109 goals."


@given(st.text())
def test_sentences_lose_nothing_but_blanks(text):
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


@given(st.text("aThe .\n\x0b\u2028x1'-_\x00–é²\u0301") | st.text())
def test_tokens_are_those_of_the_normalized_text(text):
    assert content_words(text) == frozenset(normalize(text).split())
