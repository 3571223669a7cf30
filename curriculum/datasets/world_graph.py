"""The graph of the fictional world: people, companies, books, towns, regions and rivers, and the facts between them.

One graph per seed; its facts are consistent.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TypeVar

from curriculum.datasets import world_facts as data
from curriculum.datasets.world_facts import Kind

T = TypeVar("T")

GROUPS = 16, 640  # fewest and most authors; the most that the stock of names can serve


class Draw:
    """Choices made from `random()` alone: the other methods of `random.Random` may change between Python versions."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def chance(self, share: float) -> bool:
        return self._random() < share

    def below(self, bound: int) -> int:
        return int(self._random() * bound)

    def choice(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def shuffle(self, items: list[T]) -> None:
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        mixed = list(items)
        self.shuffle(mixed)
        return mixed

    def deck(self, items: Sequence[T]) -> Iterator[T]:
        """All items in random order, again and again, so that questions repeat as late as possible."""
        while True:
            yield from self.shuffled(items)


@dataclass(slots=True, eq=False)
class Entity:
    kind: Kind
    name: str
    aliases: tuple[str, ...]  # the name first
    label: str  # title of its passages: "Mara Fenwick (painter)"
    asked: str  # its name in a question: "the painter Mara Fenwick"
    trade: str = ""
    facts: dict[str, "Entity"] = field(default_factory=dict)  # by relation
    members: dict[str, list["Entity"]] = field(default_factory=dict)  # by relation: the subjects it is the object of
    namesake: "Entity | None" = None

    @property
    def surname(self) -> str:
        return self.name.rsplit(" ", 1)[-1]

    def state(self, relation: str, value: "Entity") -> None:
        self.facts[relation] = value
        value.members.setdefault(relation, []).append(self)


def _entity(kind: Kind, name: str, *others: str) -> Entity:
    return Entity(kind=kind, name=name, aliases=(name, *others), label=name, asked=name)


class Graph:
    """The world's entities and the facts between them. Its size follows `count`, up to the stock of names."""

    def __init__(self, count: int, draw: Draw) -> None:
        self._draw = draw
        groups = min(max(count // 12, GROUPS[0]), GROUPS[1])
        self.entities: dict[Kind, list[Entity]] = {kind: [] for kind in data.FILLERS}
        self.families: dict[str, list[Entity]] = {}
        self._people(4 * groups)
        self._name("region", self._stock(data.REGION_FIRST, "", data.REGION_LAST)[:groups])
        for first, last in self._stock_pairs(data.RIVER_FIRST, data.RIVER_LAST)[:groups]:
            self.entities["river"].append(_entity("river", f"River {first}{last}", f"{first}{last} River"))
        people = self.entities["person"]
        towns = self._stock(data.PLACE_FIRST, " ", data.PLACE_LAST)
        self._grouped("town", "river", self.entities["river"], towns)
        self._grouped("company", "founder", people[:groups], self._stock(data.PLACE_LAST, " ", data.COMPANY_LAST))
        books = [f"The {title}" for title in self._stock(data.BOOK_FIRST, " ", data.BOOK_LAST)]
        self._grouped("book", "author", people[groups : 2 * groups], books)
        self._share_names()
        self._facts()

    def _stock_pairs(self, first: Sequence[str], last: Sequence[str]) -> list[tuple[str, str]]:
        return self._draw.shuffled([(a, b) for a, b in product(first, last) if a != b])

    def _stock(self, first: Sequence[str], between: str, last: Sequence[str]) -> list[str]:
        return [f"{a}{between}{b}" for a, b in self._stock_pairs(first, last)]

    def _name(self, kind: Kind, names: Sequence[str]) -> None:
        self.entities[kind] += [_entity(kind, name) for name in names]

    def _people(self, size: int) -> None:
        """People in families of about four, who share a surname."""
        surnames = self._stock(data.SURNAME_STEMS, "", data.SURNAME_ENDS)[: size // 4]
        for first, last in self._stock_pairs(data.FIRST_NAMES, surnames)[:size]:
            person = _entity("person", f"{first} {last}", f"{first} {self._draw.choice(data.INITIALS)}. {last}")
            person.trade = self._draw.choice(data.TRADES)
            self.entities["person"].append(person)
            self.families.setdefault(last, []).append(person)

    def _grouped(self, kind: Kind, relation: str, owners: Sequence[Entity], names: Sequence[str]) -> None:
        """Two or three new entities of one kind for each owner, who is the object of `relation`."""
        sizes = [2 + self._draw.below(2) for _ in owners]
        start = len(self.entities[kind])
        self._name(kind, names[: sum(sizes)])
        members = iter(self.entities[kind][start:])
        for owner, size in zip(owners, sizes, strict=True):
            for _ in range(size):
                next(members).state(relation, owner)

    def _share_names(self) -> None:
        """Give every tenth person the name of another person, and every twelfth book that of a town."""
        people = self.entities["person"]
        # neither of a pair has written or founded anything: a book's passage could not say which of the two it means
        for i in range(len(people) // 2 + 5, len(people), 10):
            self._pair(people[i], people[i - 5])
            trades = self._draw.shuffled(data.TRADES)
            for person, trade in zip((people[i], people[i - 5]), trades, strict=False):
                person.trade, person.label = trade, f"{person.name} ({trade})"
                person.asked = f"the {trade} {person.name}"
        for book, town in zip(self.entities["book"][::12], self.entities["town"][::12], strict=False):
            self._pair(book, town)
            book.label, book.asked = f"{book.name} (novel)", f"the novel {book.name}"
            town.asked = f"the town {town.name}"

    def _pair(self, one: Entity, other: Entity) -> None:
        if one.kind == "person":
            self.families[one.surname].remove(one)
            self.families[other.surname].append(one)
        one.namesake, other.namesake = other, one
        one.name, one.aliases = other.name, other.aliases[: len(one.aliases)]

    def _facts(self) -> None:
        of = self.entities
        of["year"] = [_entity("year", str(year)) for year in range(1740, 1990)]
        for one, other in zip(of["person"][::2], of["person"][1::2], strict=True):
            one.state("spouse", other)
            other.state("spouse", one)
        for relation in data.RELATIONS:
            objects = self._draw.deck(of[relation.object])
            for subject in of[relation.subject]:
                if relation.name not in subject.facts:
                    subject.state(relation.name, next(objects))
