"""The fictional world as data: the parts of its names, its relations, and the sentences that state them.

Three rules hold for every sentence of a relation, and `tests/unit/curriculum/test_world.py` checks them:

* it names its subject and its object in full, without a pronoun, so that a copy of it alone is an answer;
* it holds every content word of the relation's `claim`, so that the `lexical` judge entails the claim from it;
* no filler holds the verb of a relation, so that filler never states a fact.

Names are made of common English-like pieces, which are few tokens in a byte-pair vocabulary.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["person", "company", "book", "town", "region", "river", "year"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """One kind of fact: `{s}` is its subject, `{o}` its object. `topic` names the fact in a question about several."""

    name: str
    subject: Kind
    object: Kind
    topic: str
    claim: str
    questions: tuple[str, ...]
    facts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inverse:
    """A list question: which subjects of `relation` have the object `{s}`? `pairs` state two, `{a}` and `{b}`."""

    relation: str
    questions: tuple[str, ...]
    pairs: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


RELATIONS: tuple[Relation, ...] = (
    Relation(
        name="birthplace",
        subject="person",
        object="town",
        topic="birth",
        claim="{s} was born in {o}.",
        questions=("Where was {s} born?", "In which town was {s} born?", "What is the birthplace of {s}?"),
        facts=(
            "{s} was born in {o} during a dry summer.",
            "{s} was born in the old town of {o}.",
            "Born in {o}, {s} left home at sixteen.",
            "{o} is the town where {s} was born.",
            "Church records show that {s} was born in {o}.",
            "{s}, the youngest of four, was born in {o}.",
            "It was in {o} that {s} was born.",
        ),
    ),
    Relation(
        name="employer",
        subject="person",
        object="company",
        topic="work",
        claim="{s} worked for {o}.",
        questions=("Which company did {s} work for?", "Who employed {s}?", "At which company did {s} work?"),
        facts=(
            "{s} worked for {o} for eleven years.",
            "{s} worked at {o} until the cold winter.",
            "For most of a long career, {s} worked at {o}.",
            "{o} was the firm where {s} worked.",
            "Old letters show that {s} worked for {o}.",
            "{s} worked at {o}, mostly on night shifts.",
        ),
    ),
    Relation(
        name="spouse",
        subject="person",
        object="person",
        topic="marriage",
        claim="{s} married {o}.",
        questions=("Who was {s} married to?", "Whom did {s} marry?", "Who was the spouse of {s}?"),
        facts=(
            "{s} married {o} in a small chapel.",
            "{s} was married to {o} for thirty years.",
            "In early spring, {s} married {o}.",
            "{o} and {s} were married after one short season.",
            "Against all advice, {s} married {o}.",
            "The parish book says that {s} married {o}.",
        ),
    ),
    Relation(
        name="founder",
        subject="company",
        object="person",
        topic="founding",
        claim="{o} founded {s}.",
        questions=("Who founded {s}?", "Who was the founder of {s}?", "Which person founded {s}?"),
        facts=(
            "{s} was founded by {o} in a rented barn.",
            "{o} founded {s} with money from a cousin.",
            "It was {o} who founded {s} after the war.",
            "{o}, then nearly penniless, founded {s}.",
            "Company papers say that {o} founded {s}.",
            "{s} was founded by {o} on borrowed land.",
        ),
    ),
    Relation(
        name="seat",
        subject="company",
        object="town",
        topic="home town",
        claim="{s} is based in {o}.",
        questions=("Where is {s} based?", "In which town is {s} based?", "Which town is {s} based in?"),
        facts=(
            "{s} is based in {o} beside the market.",
            "{s} has always been based in {o}.",
            "Today {s} is still based in {o}.",
            "{o} is the town where {s} is based.",
            "Based in {o}, {s} trades in every season.",
            "For cheap rent, {s} is based in {o}.",
        ),
    ),
    Relation(
        name="author",
        subject="book",
        object="person",
        topic="writing",
        claim="{o} wrote {s}.",
        questions=("Who wrote {s}?", "Who is the author of {s}?", "Which author wrote {s}?"),
        facts=(
            "{o} wrote {s} over two quiet winters.",
            "{s} is a novel that {o} wrote at sea.",
            "It was {o} who wrote {s} by lamplight.",
            "{o} wrote {s} after years of travel.",
            "Most readers know that {o} wrote {s}.",
            "{o} wrote {s} for a weekly paper.",
        ),
    ),
    Relation(
        name="published",
        subject="book",
        object="year",
        topic="publication",
        claim="{s} was published in {o}.",
        questions=(
            "In what year was {s} published?",
            "When was {s} first published?",
            "What year was the publication of {s}?",
        ),
        facts=(
            "{s} was published in {o} with a plain cover.",
            "{s} was first published in the year {o}.",
            "In {o}, a small press published {s}.",
            "The novel {s} was published late in {o}.",
            "After many delays, {s} was published in {o}.",
            "Readers met {s} in {o}, when it was published.",
        ),
    ),
    Relation(
        name="river",
        subject="town",
        object="river",
        topic="river",
        claim="The {o} runs through {s}.",
        questions=(
            "Which river runs through {s}?",
            "What river does {s} lie on?",
            "What is the name of the river in {s}?",
        ),
        facts=(
            "The {o} runs through {s} under three bridges.",
            "Slow and brown, the {o} runs through {s}.",
            "The {o} runs straight through {s}.",
            "Through the middle of {s} runs the {o}.",
            "Every spring the {o} runs high through {s}.",
            "Maps show that the {o} runs through {s}.",
        ),
    ),
    Relation(
        name="mayor",
        subject="town",
        object="person",
        topic="mayor",
        claim="{o} is mayor of {s}.",
        questions=(
            "Who is the mayor of {s}?",
            "Which person is mayor of {s}?",
            "What is the name of the mayor of {s}?",
        ),
        facts=(
            "The mayor of {s} is {o}, elected twice.",
            "{o} is mayor of {s} and rarely travels.",
            "In {s}, the office of mayor belongs to {o}.",
            "Voters in {s} chose {o} as mayor.",
            "{o} became mayor of {s} by one vote.",
            "Since the flood, {o} has been mayor of {s}.",
        ),
    ),
    Relation(
        name="capital",
        subject="region",
        object="town",
        topic="capital",
        claim="{o} is the capital of {s}.",
        questions=("What is the capital of {s}?", "Which town is the capital of {s}?", "Name the capital of {s}."),
        facts=(
            "The capital of {s} is {o}, a walled town.",
            "{o} has long been the capital of {s}.",
            "{o} is the capital of {s} by old law.",
            "The council of {s} made {o} its capital.",
            "As capital of {s}, {o} holds the main court.",
            "In {s}, the capital is the town of {o}.",
        ),
    ),
    Relation(
        name="united",
        subject="region",
        object="year",
        topic="union",
        claim="{s} was united in {o}.",
        questions=(
            "In what year was {s} united?",
            "When was {s} united?",
            "What year was {s} united under one council?",
        ),
        facts=(
            "{s} was united in {o} under one council.",
            "After a long feud, {s} was united in {o}.",
            "In {o}, three valleys were united as {s}.",
            "A treaty of {o} united all of {s}.",
            "{s} was finally united in the year {o}.",
            "{o} was the year that united {s}.",
        ),
    ),
    Relation(
        name="source",
        subject="river",
        object="region",
        topic="source",
        claim="The {s} rises in {o}.",
        questions=(
            "In which region does the {s} rise?",
            "Where does the {s} rise?",
            "Which region is the source of the {s} in?",
        ),
        facts=(
            "The {s} rises in {o} among bare hills.",
            "The {s} rises in the wet north of {o}.",
            "From a cave in {o} rises the {s}.",
            "{o} is the region where the {s} rises.",
            "Old surveys say the {s} rises in {o}.",
            "High in {o}, the {s} rises from a marsh.",
        ),
    ),
)

INVERSES: tuple[Inverse, ...] = (
    Inverse(
        relation="author",
        questions=("Which novels did {s} write?", "What books were written by {s}?", "List the novels by {s}."),
        pairs=(
            "{s} wrote the novels {a} and {b}.",
            "{a} and {b} are novels that {s} wrote.",
            "Before turning forty, {s} wrote {a} and {b}.",
        ),
    ),
    Inverse(
        relation="founder",
        questions=(
            "Which companies did {s} found?",
            "What firms were founded by {s}?",
            "List the companies that {s} founded.",
        ),
        pairs=(
            "{s} founded the firms {a} and {b}.",
            "{a} and {b} were both founded by {s}.",
            "With borrowed money, {s} founded {a} and {b}.",
        ),
    ),
    Inverse(
        relation="river",
        questions=("Which towns does the {s} run through?", "What towns lie on the {s}?", "List the towns on the {s}."),
        pairs=(
            "The {s} runs through {a} and {b}.",
            "Both {a} and {b} lie where the {s} runs.",
            "On its way, the {s} runs past {a} and {b}.",
        ),
    ),
)

SUMMARIES: tuple[str, ...] = (
    "What do the documents say about the {x} and the {y} of {s}?",
    "What is known about the {x} and the {y} of {s}?",
    "Describe the {x} and the {y} of {s}.",
)
"""Questions of the claims style: `{x}` and `{y}` are topics of two relations of the subject `{s}`."""

FILLERS: dict[Kind, tuple[str, ...]] = {
    # `{n}` is the surname, `{t}` the trade, which alone tells two people of one name apart
    "person": (
        "{s}, a {t} by trade, kept bees behind a narrow brick house.",
        "As a {t}, {s} was known for patience and for a loud laugh.",
        "Friends of {s} recall a careful {t} with a fondness for strong tea.",
        "The {t} {s} played the fiddle at fairs and never learned to swim.",
        "{n} collected old clocks and repaired most of them without any help.",
        "Late in life, {n} taught local children to read maps and stars.",
        "{n} disliked crowds, slept little, and walked the hills before every breakfast.",
        "Neighbors said that {n} could name each bird by its song alone.",
    ),
    "company": (
        "{s} sells its goods by weight and closes for two weeks each summer.",
        "The sign of {s} shows a red heron above a pair of keys.",
        "About forty people are on the payroll of {s}, many of them cousins.",
        "{s} survived two fires and still uses the same heavy iron doors.",
        "Goods from {s} travel by barge and carry a small blue stamp.",
        "{s} pays its staff each Friday and keeps a cat in the office.",
        "A bell at {s} rings twice a day and can be heard for miles.",
    ),
    "book": (
        "{s} is a novel about two sisters who inherit an empty lighthouse.",
        "Critics found {s} slow at first but praised its strange last chapter.",
        "The novel {s} follows a thief who returns everything a year later.",
        "{s} is a long novel, told in letters between a nurse and her brother.",
        "Early copies of {s} have a green spine and a map inside.",
        "The novel {s} has forty chapters, and each one opens with a storm.",
        "{s} is a novel that schools often assign for its short, clear sentences.",
    ),
    "town": (
        "{s} has a covered market, a stone tower, and very steep streets.",
        "Visitors come to {s} in autumn for its apples and its brass bands.",
        "Most houses in {s} are built of gray slate and painted bright blue.",
        "The people of {s} are proud of a clock that is always ten minutes late.",
        "{s} has one school, two bakeries, and a library that opens on Sundays.",
        "A cable car in {s} carries tourists up to the old fort.",
        "Fog covers {s} on most mornings and lifts by the noon bell.",
    ),
    "region": (
        "{s} is a land of wide moors, small farms, and long winters.",
        "Farmers in {s} grow barley and flax and keep black long-haired sheep.",
        "The flag of {s} shows a white hare on a dark green field.",
        "{s} has few roads, and most travel there goes by narrow canal boats.",
        "People in {s} speak an old dialect and celebrate the first frost.",
        "The coast of {s} is low and sandy, with salt pans and wind pumps.",
        "{s} is famous for its wool, its honey, and its wooden churches.",
    ),
    "river": (
        "Trout are common in the {s}, and its banks are lined with willows.",
        "The {s} freezes in most winters, and children skate on it until March.",
        "Barges on the {s} carry timber and salt from early spring to autumn.",
        "The {s} is shallow, with many gravel bars and a strong cold current.",
        "Old songs about the {s} tell of a ferry pulled by two white oxen.",
        "Herons nest along the {s}, and otters have lately come back to it.",
        "The {s} bends sharply below the hills and turns a dozen water mills.",
    ),
    "year": (),
}

FIRST_NAMES = _words(
    "Mara Ilse Corin Tamsin Orla Perrin Davin Lena Hollis Bran Elsa Rowan Tilda Jory Nell Silas Wren Alma Edric "
    "Greta Hale Ines Jonas Kira Leif Mina Nico Otto Petra Quinn Rhea Sten Thea Una Vera Willa Yara Zora Abel Bette "
    "Cleo Dora Emil Flora Gwen Hugo Iris Jana Karl Lotta Magda Niels Odessa Piers Rolf Sonia Tobin Ursa Vito Wanda "
    "Anton Bea Clara Dirk Eben Fern Gus Hedda Ivo Jessa Kurt Lars Moira Nola Oren Pia Ralf Selma Tess Viola"
)

SURNAME_STEMS = _words(
    "Fen Ash Brack Cald Dun El Farn Gran Hart Hol Kell Lang Mar Nor Oak Pem Rad Sel Stan Thorn Wake Wes Win Wood "
    "Bram Hazel Lin Pen Ren Stock"
)

SURNAME_ENDS = _words("wick ton ley ford well more by stone field man ridge worth")

PLACE_FIRST = _words(
    "Port Low East Upper North Little Long Old Cold Far Great High Lower South West Nether Inner Outer Market Castle"
)

PLACE_LAST = _words(
    "Alder Anchor Apple Arrow Aspen Badger Barley Barrow Basin Beacon Birch Bramble Briar Bridle Candle Carver "
    "Cedar Chapel Cinder Clover Cobble Copper Coral Crane Cricket Cutter Dagger Dowel Drift Eagle Ember Falcon "
    "Farrow Feather Fennel Ferry Finch Flint Forge Garnet Ginger Glen Grove Hammer Harbor Harrow Hawk Hazel Heather "
    "Heron Hollow Hunter Ivory Jasper Juniper Kettle Lantern Lark Laurel Linden Lodge Lumber Mallow Maple Marble "
    "Marlow Meadow Mercy Miller Mint Morrow Moss Nettle Oak Olive Orchid Otter Pebble Pepper Pine Plover Quarry "
    "Quill Rabbit Raven Reed Robin Rook Saddle Saffron Sage Salt Shepherd Silver Sorrel Sparrow Spruce Stag "
    "Starling Stone Summer Swan Tanner Thistle Thorn Timber Tower Turner Valley Walnut Warren Weaver Willow Winter "
    "Yarrow"
)

COMPANY_LAST = (
    "Mills",
    "Glass Works",
    "Brewery",
    "Press",
    "Foundry",
    "Shipyard",
    "Bakery",
    "Tannery",
    "Salt Company",
    "Tile Works",
    "Rope Company",
    "Clock Company",
    "Paper Mill",
    "Dairy",
    "Tea Company",
    "Boat Works",
    "Iron Company",
    "Wool Company",
)

BOOK_FIRST = _words(
    "Amber Bitter Blue Borrowed Bright Broken Buried Clever Crooked Distant Dusty Drowned Earnest Endless Fallen "
    "Famous Final Foreign Frozen Gentle Glass Gloomy Hidden Hollow Honest Hungry Idle Iron Leaning Lofty Lonely Mad "
    "Misty Narrow Nervous Painted Paper Pale Patient Plain Quiet Restless Royal Rusty Sacred Second Seventh Silent "
    "Sleeping Stolen Stubborn Sunken Tender Third Velvet Wandering Wild Wooden"
)

BOOK_LAST = _words(
    "Archive Balcony Bargain Bell Bridge Carnival Cathedral Clock Cradle Coast Corridor Curtain Dance Debt Door "
    "Engine Errand Feast Ferry Fountain Garden Gate Ghost Guest Harvest Horse Hour Island Judge Key Ladder Lake "
    "Letter Library Mask Mirror Mountain Neighbor Ocean Orchard Painter Parade Pilot Promise Queen Road Room Sailor "
    "Season Shadow Song Station Storm Teacher Tiger Train Voyage Wedding Window"
)

RIVER_FIRST = _words(
    "Tol Mar Wen Bra Kel Dar Fal Gar Hal Jor Lan Mel Nar Or Pel Ral Sar Tam Val Wil Bel Cor Dell Er Fer Gil Har Il "
    "Kar Lor Mer Nel Os Per Ros Sel Tor Ul Ver Wal Ban Can Den Fin Gan Hen Kin Len Min Ten"
)

RIVER_LAST = _words("ly ow en a by er o is et ey ing ock wash water")

REGION_FIRST = _words(
    "Alder Amber Arden Ash Bar Bell Berry Birch Brad Bram Brom Cal Carl Cedar Chal Clar Clay Copper Corn Crag Cross "
    "Dal Dawn Deer Dell Dor Drake Dun Elder Elm Ember Fair Fal Fern Flint Fox Gal Gold Gran Hal Ham Harp Hart Hawk "
    "Hazel Hel Hol Horn Ivy Jar Kell Kester King Kirk Lam Lark Lin Long Lor Mal Maple Mar Mead Mel Mor Moss Nor Oak "
    "Or Otter Pem Pen Quill Ram Raven Red Ren Rich Ros Rush Sal Sel Silver Sol Star Stone Storm Sun Swan Tal Tam "
    "Thorn Tor Val Ver Wal Weld Whit Wil Wind Winter Wolf"
)

REGION_LAST = _words("land shire mark dale vale moor")

TRADES = _words(
    "painter miller baker carpenter tailor sailor potter weaver gardener printer teacher doctor banker farmer "
    "musician surveyor translator photographer mason clockmaker"
)

INITIALS = "BCDEFGHJKLMNPRSTW"
