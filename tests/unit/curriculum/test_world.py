"""The fictional world: what `make_world` promises, counted over 10,000 examples."""

import hashlib
import json
import re
import string
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache

import pytest

from curriculum.datasets.world import make_world
from curriculum.datasets.world_facts import FILLERS, INVERSES, RELATIONS, TRADES
from grpo.data.example import Example, Passage
from grpo.data.sentences import sentences
from grpo.data.text import CITATION, REFUSAL, STOP_WORDS, contains, normalize, strip_citations
from grpo.data.text import citations as numbers_in
from grpo.errors import UserError
from rewards.reference_answers import reference_answer

COUNT = 10_000
NAME = re.compile(r"\{[a-z]\}")


@cache
def world() -> list[Example]:
    return make_world(COUNT, seed=1, unanswerable=0.5)


def premise(passage: Passage) -> str:
    return f"Title: {passage.title}\n{passage.text}"


def citations(text: str) -> list[int]:
    return [number for mark in CITATION.findall(text) for number in numbers_in(mark)]


def entails(text: str, hypothesis: str) -> bool:
    return set(normalize(hypothesis).split()) - STOP_WORDS <= set(normalize(text).split())


def holds(example: Example, passage: Passage, answer: int) -> bool:
    aliases = example.answers[answer]
    return entails(premise(passage), aliases[0]) if example.style == "claims" else contains(passage.text, aliases)


def fact_pattern(template: str) -> re.Pattern[str]:
    """What a stated fact looks like: names in place of the braces. A name starts with a capital or a digit."""
    parts = [re.escape(part) for part in NAME.split(template)]
    return re.compile(r"(?<!\w)[A-Z1-9][\w. ]*?".join(parts))


def stated(passage: Passage) -> Iterator[tuple[str, str]]:
    """(relation, template) of every fact that a passage states."""
    for sentence in sentences(passage.text):
        for relation, template, pattern in fact_patterns():
            if pattern.fullmatch(sentence):
                yield relation, template


@cache
def fact_patterns() -> list[tuple[str, str, re.Pattern[str]]]:
    return [(relation.name, fact, fact_pattern(fact)) for relation in RELATIONS for fact in relation.facts]


def asked_relations(example: Example) -> set[str]:
    """The relations that a prose or list question asks about."""
    prose = [(relation.name, relation.questions) for relation in RELATIONS]
    listed = [(inverse.relation, inverse.questions) for inverse in INVERSES]
    return {
        name
        for name, questions in (prose if example.style == "prose" else listed)
        for question in questions
        if re.fullmatch(r".+".join(re.escape(part) for part in NAME.split(question)), example.question)
    }


def test_the_same_seed_gives_the_same_bytes_everywhere():
    examples = [asdict(example) for example in make_world(200, seed=7, unanswerable=0.4)]
    assert all(example.pop("extra") == {} for example in examples)
    digest = hashlib.sha256(json.dumps(examples, sort_keys=True).encode()).hexdigest()
    assert digest == "ba4e64803b3c7d637c035737676ecc08e8254d10d6833387a32ef7915f475e87"


def test_another_seed_gives_another_world_and_other_ids():
    one, other = (make_world(50, seed=seed, unanswerable=0.5) for seed in (1, 2))
    assert {e.question for e in one}.isdisjoint(e.question for e in other)
    assert {e.id for e in one}.isdisjoint(e.id for e in other)


def test_mixtures_that_are_equal_give_equal_worlds():
    one = make_world(60, seed=3, unanswerable=0.5, styles={"claims": 1, "prose": 3})
    assert one == make_world(60, seed=3, unanswerable=0.5, styles={"prose": 0.75, "claims": 0.25})


def test_ten_thousand_examples_are_different():
    assert len(world()) == COUNT
    assert len({example.id for example in world()}) == COUNT
    assert world()[123].id == "world-1-000123"
    assert len({(example.question, example.passages) for example in world()}) == COUNT
    assert len({example.question for example in world()}) > 0.99 * COUNT  # questions repeat as late as names allow
    assert {example.source for example in world()} == {"world"}
    assert {len(example.passages) for example in world()} == {3}
    assert all(len(set(example.passages)) == 3 for example in world())


def test_passages_are_short():
    words = [len(passage.text.split()) for example in world() for passage in example.passages]
    assert min(words) >= 20
    assert max(words) <= 45
    assert 23 < sum(words) / len(words) < 25


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("count", [0, 1, 7, 1000])
def test_shares_are_met_within_one_example(count: int, share: float):
    examples = make_world(count, seed=5, unanswerable=share)
    assert len(examples) == count
    styles = Counter(example.style for example in examples)
    for style, weight in {"prose": 0.6, "list": 0.2, "claims": 0.2}.items():
        assert abs(styles[style] - weight * count) < 1
        lacking = sum(1 for example in examples if example.style == style and not example.answerable)
        assert abs(lacking - share * styles[style]) < 1
    assert abs(sum(not example.answerable for example in examples) - share * count) < 1


def test_styles_can_be_chosen():
    examples = make_world(100, seed=5, unanswerable=0.5, styles={"list": 1.0, "claims": 0.0})
    assert {example.style for example in examples} == {"list"}


@pytest.mark.parametrize("passages", [1, 2, 4, 10])
def test_any_number_of_passages(passages: int):
    examples = make_world(300, seed=5, unanswerable=0.5, passages=passages)
    assert {len(example.passages) for example in examples} == {passages}
    assert sum(example.answerable for example in examples) == 150
    words = [len(passage.text.split()) for example in examples for passage in example.passages]
    assert min(words) >= 20
    assert max(words) <= 45


def test_a_claim_counts_as_found_only_when_it_is_entailed():
    claims = [example for example in world() if example.style == "claims"]
    assert {len(example.answers) for example in claims} == {2}
    in_one = sum(any(all(row) for row in example.found) for example in claims if example.answerable)
    assert 400 < in_one < 600  # of 1,000: both claims in one passage, or in two


def test_found_is_what_the_passages_say():
    for example in world():
        computed = tuple(
            tuple(holds(example, passage, answer) for answer in range(len(example.answers)))
            for passage in example.passages
        )
        assert computed == example.found, example.id
        # a title is part of what a verifier reads: it must not hold an answer that the text does not
        if example.style != "claims":
            assert computed == tuple(
                tuple(contains(premise(passage), aliases) for aliases in example.answers)
                for passage in example.passages
            )


def test_every_answer_of_an_answerable_example_is_supported():
    for example in world():
        assert len(example.answerable_indices) == (len(example.answers) if example.answerable else 0), example.id


def test_each_relation_is_asked_and_each_wording_used():
    asked = Counter(name for e in world() if e.style == "prose" for name in asked_relations(e))
    assert set(asked) == {relation.name for relation in RELATIONS}
    assert len(asked) >= 5
    assert set(asked.values()) == {500}
    listed = Counter(name for e in world() if e.style == "list" for name in asked_relations(e))
    assert set(listed) == {inverse.relation for inverse in INVERSES}
    used = Counter(fact for example in world()[:2000] for passage in example.passages for fact in stated(passage))
    for relation in RELATIONS:
        assert len(relation.facts) >= 6
        assert min(used[relation.name, fact] for fact in relation.facts) > 10


def test_list_questions_have_two_or_three_answers_in_one_passage_or_more():
    lists = [example for example in world() if example.style == "list"]
    assert {len(example.answers) for example in lists} == {2, 3}
    holding = Counter(sum(any(row) for row in example.found) for example in lists if example.answerable)
    assert set(holding) == {1, 2}
    assert min(holding.values()) > 100


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.name)
def test_every_wording_of_a_fact_names_both_sides_and_entails_the_claim(relation):
    for fact in relation.facts:
        assert 5 <= len(NAME.sub("Mara Fenwick", fact).split()) <= 13
        assert entails(
            fact.format(s="Mara Fenwick", o="Port Alder"), relation.claim.format(s="Mara Fenwick", o="Port Alder")
        )
        assert fact.count("{s}") == fact.count("{o}") == 1


def test_no_filler_states_a_fact():
    verbs = {
        word for relation in RELATIONS for word in normalize(relation.claim.format(s="", o="")).split()
    } - STOP_WORDS
    assert verbs >= {"born", "worked", "married", "founded", "based", "wrote", "published", "runs", "mayor", "capital"}
    for filler in (line for lines in FILLERS.values() for line in lines):
        assert not verbs & set(normalize(filler).split()), filler
        assert not set(filler) & set(string.digits), filler


def test_the_support_stands_anywhere():
    answerable = [example for example in world() if example.style == "prose" and example.answerable]
    assert all(sum(any(row) for row in example.found) == 1 for example in answerable)
    places = Counter(min(example.passages_with(0)) for example in answerable)
    for number in (1, 2, 3):
        assert 900 < places[number] < 1100  # 1,000 expected, standard deviation 26


def test_distractors_are_of_the_same_relation_and_of_the_same_subject():
    same_relation = same_subject = 0
    prose = [example for example in world()[:2000] if example.style == "prose"]
    for example in prose:
        (asked,) = asked_relations(example)
        for passage, (held,) in zip(example.passages, example.found, strict=True):
            relations = {name for name, _ in stated(passage)}
            about = strip_label(passage.title) in example.question
            assert not (about and asked in relations) or held or is_namesake(passage, example)
            same_relation += not about and asked in relations
            same_subject += about and not held and asked not in relations
    # 2.5 distractors an example, 0.65 to 1.65 of them about the subject, four in five of those with a fact of it
    assert same_relation > 1.1 * len(prose)
    assert same_subject > 0.7 * len(prose)


def test_the_number_of_passages_about_the_subject_tells_nothing():
    """A question must not give away that it is to be refused by how little is said about its subject."""
    titles = {True: Counter(), False: Counter()}
    for example in (e for e in world() if e.style == "prose"):
        about = sum(re.search(rf"\b{re.escape(p.title)}\b", example.question) is not None for p in example.passages)
        titles[example.answerable][about] += 1
    plain = {answerable: counts[1] / (counts[1] + counts[2]) for answerable, counts in titles.items()}
    assert plain[True] == pytest.approx(0.35, abs=0.03)
    assert plain[False] == pytest.approx(plain[True], abs=0.03)


def strip_label(title: str) -> str:
    return title.partition(" (")[0]


def is_namesake(passage: Passage, example: Example) -> bool:
    """Whether a passage is about another person of the name in the question, who has another trade."""
    trade = re.search(rf"the (\w+) {re.escape(strip_label(passage.title))}", example.question)
    return trade is not None and passage.title.endswith(")") and not passage.title.endswith(f"({trade[1]})")


def test_names_are_shared():
    namesakes = surnames = works_and_towns = 0
    for example in world():
        if asked := re.search(rf"the ({'|'.join(TRADES)}) ([A-Z]\w+ [A-Z]\w+)", example.question):
            namesakes += any(p.title.startswith(asked[2]) and asked[1] not in p.title for p in example.passages)
        elif asked := re.search(r"the (?:novel|town) ([A-Z]\w+ [A-Z]\w+)", example.question):
            works_and_towns += {asked[1], f"{asked[1]} (novel)"} <= {passage.title for passage in example.passages}
        elif re.match("Where was|Whom did|Who employed", example.question):
            names = {strip_label(p.title) for p in example.passages}
            surnames += len(names) > len({name.split()[-1] for name in names})
    assert namesakes > 100
    assert surnames > 200
    assert works_and_towns > 100


def test_the_trade_tells_two_people_of_one_name_apart():
    for example in world():
        if asked := re.search(rf"the ({'|'.join(TRADES)}) ([A-Z]\w+ [A-Z]\w+)", example.question):
            for number in sorted(set().union(*(example.passages_with(a) for a in example.answerable_indices))):
                assert example.passages[number - 1].title == f"{asked[2]} ({asked[1]})"


def test_gold_answers_hold_every_answer_and_are_entailed_by_what_they_cite():
    for example in world():
        gold = reference_answer(example)
        if not example.answerable:
            assert gold == REFUSAL
            continue
        statements = gold.split(", ") if example.style == "list" else sentences(gold)
        for statement in statements:
            numbers = citations(statement)
            assert len(numbers) == 1, gold
            assert entails(premise(example.passages[numbers[0] - 1]), strip_citations(statement)), gold
        for answer in example.answerable_indices:
            if example.style == "claims":
                assert any(entails(strip_citations(s), example.answers[answer][0]) for s in statements), gold
            else:
                assert contains(strip_citations(gold), example.answers[answer]), gold


def test_no_gold_answer_is_entailed_by_the_other_passages():
    """Citing a wrong passage must cost: the rewards could not tell otherwise."""
    for example in (e for e in world() if e.style == "prose" and e.answerable):
        gold = reference_answer(example)
        for number, passage in enumerate(example.passages, 1):
            assert entails(premise(passage), strip_citations(gold)) == (number in citations(gold)), example.id


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": -1}, "count is -1"),
        ({"unanswerable": 1.5}, "unanswerable is 1.5"),
        ({"passages": 0}, "passages is 0"),
        ({"styles": {"closed": 1.0}}, "no style 'closed'"),
        ({"styles": {"prose": 0.0}}, "style weights"),
        ({"styles": {}}, "style weights"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, message: str):
    with pytest.raises(UserError, match=message):
        make_world(**{"count": 5, "seed": 1, "unanswerable": 0.5, **arguments})


def test_unrelated_passages_say_nothing_of_the_subject():
    examples = make_world(400, seed=6, unanswerable=0.5, unrelated=0.75)
    silent = 0
    for example in examples:
        titled = [strip_label(passage.title) in example.question for passage in example.passages]
        silent += not any(titled)
        assert any(titled) or not example.answerable or example.style == "list"
    lacking = [example for example in examples if not example.answerable]
    assert len(lacking) == 200
    assert 125 < silent <= 175  # 150 without the subject, some of which have its namesake; few lists name theirs
