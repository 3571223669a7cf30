"""Grounded examples about a fictional world, which no model can answer from memory.

`make_world` invents a graph of people, companies, books, towns, regions and rivers with consistent facts, and asks
about it. Everything is drawn with `random.Random(seed).random()`, the one stream that Python promises never to change:
equal arguments give equal bytes everywhere.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from curriculum.datasets import DataSpec
from curriculum.datasets import world_facts as data
from curriculum.datasets.world_facts import Inverse, Kind, Relation
from curriculum.datasets.world_graph import Draw, Entity, Graph
from curriculum.transforms import answers_in
from grpo.data.example import STYLES, Example, Passage, Style
from grpo.errors import UserError

T = TypeVar("T")
Answers = tuple[tuple[str, ...], ...]
Evidence = Literal["held", "related", "unrelated"]  # the answer is there; only its subject; neither

MIXTURE: Mapping[Style, float] = {"prose": 0.6, "list": 0.2, "claims": 0.2}
FEWEST_WORDS, USUAL_WORDS = 20, 27  # of a passage
SECOND_FACT = 0.15  # share of passages that state another fact of their subject as well
SUBJECT = 0.65  # share of examples with one more passage about the subject
FACTLESS = 0.2  # share of such passages that are filler alone
NAMESAKE = 0.8  # share of examples about a shared name in which the namesake appears
VARIANT = 1 / 6  # share of facts that spell their object in another accepted way

RELATION: Mapping[str, Relation] = {relation.name: relation for relation in data.RELATIONS}
OF_KIND: Mapping[Kind, tuple[Relation, ...]] = {
    kind: tuple(relation for relation in data.RELATIONS if relation.subject == kind) for kind in data.FILLERS
}


def load(spec: DataSpec) -> list[Example]:
    """The world of a recipe, half of it unanswerable."""
    return make_world(
        spec.world_size,
        seed=spec.seed,
        unanswerable=0.5,
        unrelated=spec.unrelated,
        passages=spec.passages or 3,
        styles=spec.styles,
    )


def make_world(
    count: int,
    *,
    seed: int,
    unanswerable: float,
    unrelated: float = 0.0,
    passages: int = 3,
    styles: Mapping[Style, float] | None = None,
) -> list[Example]:
    """`count` examples over `passages` passages each, a share `unanswerable` of them with no answer in any passage.

    A share `unrelated` of these has no passage about the subject of the question either. The passages of the others
    state something else about the subject, which is much harder to refuse. `styles` are weights of prose, list and
    claims (default 0.6, 0.2, 0.2). Shares are met within one example, `unanswerable` within each style too.
    Unanswerable examples keep their true `answers`. Ids hold the seed, so that worlds of different seeds can be mixed.
    """
    shares = {"unanswerable": unanswerable, "unrelated": unrelated}
    weights = _check_arguments(count, shares, passages, MIXTURE if styles is None else styles)
    draw = Draw(seed)
    writer = _Writer(Graph(count, draw), draw, passages)
    order: list[Style] = [style for style, share in _apportion(count, weights).items() for _ in range(share)]
    # spread evenly over the sorted styles, so that the share holds in each of them; the slack absorbs rounding
    lacking = [int(i * unanswerable + 1e-9) for i in range(count + 1)]
    astray = [int(i * unrelated + 1e-9) for i in range(count + 1)]
    plan: list[tuple[Style, Evidence]] = []
    for i, style in enumerate(order):
        lacks = lacking[i + 1] > lacking[i]
        strays = astray[lacking[i] + 1] > astray[lacking[i]]
        plan.append((style, ("unrelated" if strays else "related") if lacks else "held"))
    draw.shuffle(plan)
    return [writer.example(f"world-{seed}-{i:06d}", style, evidence) for i, (style, evidence) in enumerate(plan)]


def _check_arguments(
    count: int, shares: Mapping[str, float], passages: int, styles: Mapping[Style, float]
) -> Mapping[Style, float]:
    if count < 0:
        raise UserError(f"world: count is {count}; give 0 or more")
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise UserError(f"world: {name} is {share}; give a share from 0 to 1")
    if not 1 <= passages <= 10:
        raise UserError(f"world: passages is {passages}; give 1 to 10")
    unknown = [style for style in styles if style not in MIXTURE]
    if unknown:
        raise UserError(f"world: no style {unknown[0]!r}; choose from {', '.join(MIXTURE)}")
    if not sum(styles.values()) > 0 or min(styles.values()) < 0:
        raise UserError("world: style weights must be 0 or more, and one of them above 0")
    return styles


def _apportion(count: int, weights: Mapping[Style, float]) -> dict[Style, int]:
    """Whole numbers that sum to `count`, each within one of its share (largest remainders)."""
    # in the order of STYLES, not of the mapping, so that equal mixtures give equal worlds
    ordered: list[tuple[Style, float]] = [(style, weights[style]) for style in STYLES if style in weights]
    total = sum(weight for _, weight in ordered)
    exact: dict[Style, float] = {style: count * weight / total for style, weight in ordered}
    shares: dict[Style, int] = {style: int(value) for style, value in exact.items()}
    for style in sorted(exact, key=lambda style: shares[style] - exact[style])[: count - sum(shares.values())]:
        shares[style] += 1
    return shares


def _titled(entity: Entity, passages: Sequence[Passage]) -> int:
    return sum(passage.title == entity.label for passage in passages)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ask:
    """A question about `relations` of `subject`, its answers, and passages that hold them."""

    question: str
    subject: Entity
    relations: tuple[Relation, ...]
    answers: Answers
    support: list[Passage]


class _Writer:
    """Writes examples about the graph. Decks of relations and of their subjects make all of them equally frequent."""

    def __init__(self, graph: Graph, draw: Draw, passages: int) -> None:
        self._graph, self._draw, self._passages = graph, draw, passages
        self._room = max(1, passages - 1)  # for passages that hold answers: one distractor at least
        self._relations = draw.deck(data.RELATIONS)
        self._inverses = draw.deck(data.INVERSES)
        pairs = [(a, b) for kind in OF_KIND for a in OF_KIND[kind] for b in OF_KIND[kind] if a is not b]
        self._topics = draw.deck(pairs)
        self._subjects = {relation.name: draw.deck(graph.entities[relation.subject]) for relation in data.RELATIONS}
        self._owners: dict[str, Iterator[Entity]] = {}
        for relation in (RELATION[inverse.relation] for inverse in data.INVERSES):
            owners = [entity for entity in graph.entities[relation.object] if relation.name in entity.members]
            self._owners[relation.name] = draw.deck(owners)

    def example(self, name: str, style: Style, evidence: Evidence) -> Example:
        ask = {"prose": self._prose, "list": self._list, "claims": self._claims}[style]()
        passages = ask.support if evidence == "held" else []
        passages = passages + self._distractors(ask, style, passages, related=evidence != "unrelated")
        self._draw.shuffle(passages)
        return Example(
            id=name,
            question=ask.question,
            passages=tuple(passages),
            answers=ask.answers,
            found=tuple(answers_in(style, ask.answers, passage) for passage in passages),
            style=style,
            source="world",
        )

    def _prose(self) -> _Ask:
        relation = next(self._relations)
        subject = next(self._subjects[relation.name])
        return _Ask(
            question=self._draw.choice(relation.questions).format(s=subject.asked),
            subject=subject,
            relations=(relation,),
            answers=(subject.facts[relation.name].aliases,),
            support=[self._passage(subject, [relation], [relation])],
        )

    def _list(self) -> _Ask:
        """Each answer in a passage of its own, or two of them in one passage about their common object."""
        inverse = next(self._inverses)
        relation = RELATION[inverse.relation]
        owner = next(self._owners[relation.name])
        members = self._draw.shuffled(owner.members[relation.name])
        paired = len(members) > self._room or self._draw.chance(0.3)
        support = [self._paired(inverse, owner, members)] if paired else []
        # with fewer than three passages there is no room for a third answer: `found` then says that no passage holds it
        alone = members[2 * len(support) :][: self._room - len(support)]
        support += [self._passage(member, [relation], [relation]) for member in alone]
        return _Ask(
            question=self._draw.choice(inverse.questions).format(s=owner.asked),
            subject=owner,
            relations=(relation,),
            answers=tuple(member.aliases for member in members),
            support=support,
        )

    def _paired(self, inverse: Inverse, owner: Entity, members: Sequence[Entity]) -> Passage:
        fact = self._draw.choice(inverse.pairs).format(s=owner.name, a=members[0].name, b=members[1].name)
        return Passage(title=owner.label, text=self._with_filler(owner, [fact]))

    def _claims(self) -> _Ask:
        """Two facts of one subject, in one passage or in two."""
        relations = list(next(self._topics))
        subject = next(self._subjects[relations[0].name])
        shapes = [relations] if self._room == 1 or self._draw.chance(0.5) else [[relations[0]], [relations[1]]]
        x, y = (relation.topic for relation in relations)
        return _Ask(
            question=self._draw.choice(data.SUMMARIES).format(x=x, y=y, s=subject.asked),
            subject=subject,
            relations=tuple(relations),
            answers=tuple((r.claim.format(s=subject.name, o=subject.facts[r.name].name),) for r in relations),
            support=[self._passage(subject, shape, relations) for shape in shapes],
        )

    def _distractors(self, ask: _Ask, style: Style, kept: Sequence[Passage], *, related: bool) -> list[Passage]:
        """Passages that look right and hold no answer: other facts of the subject, and the same facts of others.

        The number of passages about the subject is drawn in the same way with and without support. Otherwise it would
        tell which questions to refuse, as it does in questions that are not `related`.
        """
        size = self._passages - len(kept)
        about = min(_titled(ask.subject, ask.support) + self._draw.chance(SUBJECT), self._room)
        own = about - _titled(ask.subject, kept) if related else 0
        spare = self._draw.shuffled([r for r in OF_KIND[ask.subject.kind] if r not in ask.relations])
        passages: list[Passage] = []
        used: list[tuple[Entity, Relation]] = []
        for _ in range(50 * (size + 1)):
            if len(passages) == size:
                return passages
            if len(passages) < own:
                stated = [spare.pop()] if spare and not self._draw.chance(FACTLESS) else []
                passage = self._passage(ask.subject, stated, ask.relations)
            else:
                entity, relation = self._stranger(ask, first=not used)
                # a passage that names the subject as the object could not say which of two namesakes it means
                names_subject = entity.facts[relation.name].name == ask.subject.name
                if entity is ask.subject or names_subject or (entity, relation) in used:
                    continue
                used.append((entity, relation))
                passage = self._passage(entity, [relation], ())
            if passage not in passages and not any(answers_in(style, ask.answers, passage)):
                passages.append(passage)
        raise RuntimeError(f"no {size} distractors for {ask.question!r}")

    def _stranger(self, ask: _Ask, *, first: bool) -> tuple[Entity, Relation]:
        """Another entity with one of the relations asked about: a namesake first, often a relative."""
        relation = self._draw.choice(ask.relations)
        namesake = ask.subject.namesake
        if first and namesake is not None and self._draw.chance(NAMESAKE):
            same_kind = namesake.kind == relation.subject
            return namesake, relation if same_kind else self._draw.choice(OF_KIND[namesake.kind])
        stock = self._graph.entities[relation.subject]
        if relation.subject == ask.subject.kind == "person" and self._draw.chance(0.5):
            stock = self._graph.families[ask.subject.surname]
        return self._draw.choice(stock), relation

    def _passage(self, entity: Entity, stated: Sequence[Relation], banned: Sequence[Relation]) -> Passage:
        """A passage about `entity` that states the relations `stated`, and none of the `banned` ones besides."""
        facts = [self._fact(entity, relation) for relation in stated]
        others = [r for r in OF_KIND[entity.kind] if r not in banned and r not in stated]
        if len(stated) == 1 and others and entity.namesake is None and self._draw.chance(SECOND_FACT):
            facts.append(self._fact(entity, self._draw.choice(others)))
        return Passage(title=entity.label, text=self._with_filler(entity, facts))

    def _fact(self, entity: Entity, relation: Relation) -> str:
        value = entity.facts[relation.name]
        spelling = self._draw.choice(value.aliases) if self._draw.chance(2 * VARIANT) else value.name
        return self._draw.choice(relation.facts).format(s=entity.name, o=spelling)

    def _with_filler(self, entity: Entity, facts: list[str]) -> str:
        """The facts and enough filler, in random order."""
        words = sum(len(fact.split()) for fact in facts)
        lines = [
            line.format(s=entity.name, n=entity.surname, t=entity.trade)
            for line in self._draw.shuffled(data.FILLERS[entity.kind])
            if entity.kind != "person" or entity.namesake is None or "{t}" in line  # the trade tells namesakes apart
        ]
        if words < FEWEST_WORDS:
            enough = [line for line in lines if words + len(line.split()) >= FEWEST_WORDS]
            fitting = [line for line in enough if words + len(line.split()) <= USUAL_WORDS]
            facts = facts + (fitting[:1] or [min(enough, key=len)] if enough else lines[:2])
        return " ".join(self._draw.shuffled(facts))
