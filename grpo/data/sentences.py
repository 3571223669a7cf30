"""Sentences and list items of a text with their citations: the statements that rewards and metrics count.

A stop ends a sentence unless it belongs to an abbreviation, an initial, a number or a name. Citation marks belong to
the sentence before them, behind its stop too; marks at the start of a line belong to the sentence that follows.
"""

from collections.abc import Iterator, Sequence

import regex

from grpo.data.text import CITATION, citations, words

Span = tuple[int, int]
MARK = "\ue000"  # stands for every character of a citation mark
INSIDE = "x"  # stands for a stop or separator inside an accepted answer

_CLOSERS = "[\"')”’»）」』】〉》*_]*+"
_END = regex.compile(
    rf"(?P<western>[.!?…]++){_CLOSERS}(?:[ \t]*{MARK}++)*+"
    rf"(?=[ \t]+\S|(?<={MARK})\S|[\p{{Han}}\p{{Hiragana}}\p{{Katakana}}])"
    rf"|(?:[。！？｡।॥؟۔]|．(?!\d))++{_CLOSERS}(?![とっ、，,])(?:[ \t]*{MARK}++)*+"
)
_MARKER = regex.compile(
    r"[ \t]*(?:(?:[-*•–—·◦▪●]|#{1,6}|>)[ \t]+|(?:\*\*|__)?[(（]?(?P<number>\d{1,3})(?:[.)．）]|、(?!\d))(?!\d)[ \t]*"
    r"|\(?(?:[a-z]|[ivx]{1,4})\)[ \t]+)(?=\S)"
)
_AHEAD = regex.compile(rf"[\s{MARK}\"'(“‘«\[*_]*(?P<first>\w+)?(?:\W{{1,3}}(?P<second>\w+))?")

# A stop behind the first never ends a sentence; behind the second not before a number; behind the third only before a
# word that begins sentences; and behind the fourth always ("World War I. Ann").
_TITLE = regex.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|Gen|Col|Lt|Sgt|Capt|Rev|Hon|Sen|Rep|Gov|vs|cf|viz|approx|e\.g|i\.e)\.$")
_COUNT = regex.compile(
    r"\b(?:[Nn]os?|[Vv]ol|[Ff]ig|[Ss]ec|[Cc]h|[Aa]rt|[Oo]p|pp?|ca?|b|d|r|fl"
    r"|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\.$"
)
_SHORT = regex.compile(
    r"\b(?:St|Mt|Ft|Jr|Sr|Inc|Ltd|Co|Corp|Bros|Ave|Blvd|Rd|Dept|Univ|etc|al|Ph\.D|[A-Z]|(?:[A-Za-z]\.)+[A-Za-z])\.$"
)
_GRADE = regex.compile(r"\b(?:War|Part|Act|Phase|Type|Class|Grade|Vitamin|Hepatitis|Plan) [A-Z]\.$")
_STARTERS = frozenset(
    regex.findall(
        r"\w+",
        "a after all although an and another as at because before both but by during each even for from he her here his"
        " how however i if in it its later many most my no not of on one our she since so some such that the their"
        " then there these they this those though to today two under until we what when where which while who why with"
        " yes you",
    )
)

_CUTS = regex.compile(r"[.!?,;，；、。]")
_LETTER = r"[\p{Latin}\p{N}]"
_LINES, _SEMICOLONS = regex.compile(r"\n"), regex.compile(r"[\n;；]")
_COMMAS = regex.compile(
    rf"\n|(?<!\d),|,(?!\d{{3}}(?!\d))|[，、]|(?<={MARK})[ \t]+(?:and|or|&|和|及)(?=[ \t])"
)  # not 1,234
_AND = regex.compile(r"[ \t]*(?:and|or|&)[ \t]+(?=\S)")


def sentences(text: str, names: Sequence[str] = ()) -> list[str]:
    """The sentences of a text as they stand in it. A stop inside one of `names` ends none.

    >>> sentences("Dr. Moss wrote No. 5 [1]. It won. [2] J. Ode sang")
    ['Dr. Moss wrote No. 5 [1].', 'It won. [2]', 'J. Ode sang']
    """
    return [said for start, end in _sentence_spans(_mask(text, names)) if (said := text[start:end].strip())]


def statements(
    text: str, names: Sequence[str] = (), *, listed: bool = False
) -> tuple[list[tuple[str, tuple[int, ...]]], bool]:
    """(statement, numbers it cites) of every sentence, or of every item if `listed`; and whether a citation stands
    before all of them.

    Statements have neither citation marks nor list markers. A piece without words is no statement; its citations belong
    to the statement before it. The accepted answers in `names` are never cut.

    >>> statements("1. It won. [2]\\n2. She sang [1, 3].")
    ([('It won.', (2,)), ('She sang.', (1, 3))], False)
    >>> statements("Washington, D.C. [1], and London [2].", ("Washington, D.C.",), listed=True)[0]
    [('Washington, D.C.', (1,)), ('London', (2,))]
    """
    mask = _mask(text, names)
    marks = [match.span() for match in CITATION.finditer(text)][::-1]
    found: list[tuple[str, list[int]]] = []
    stray = False
    for start, end in _item_spans(mask) if listed else _sentence_spans(mask):
        cites: list[int] = []
        kept: list[str] = []
        behind = start
        while marks and marks[-1][0] < end:
            first, last = marks.pop()
            cites += citations(text[first:last])
            kept.append(text[behind:first].rstrip(" \t"))
            behind = last
        said = " ".join("".join([*kept, text[behind:end]]).split())
        if marker := _MARKER.match(said):
            said = said[marker.end() :]
        if words(said):
            found.append((said, cites))
        elif found:
            found[-1][1].extend(cites)
        else:
            stray = stray or bool(cites)
    return [(said, tuple(cites)) for said, cites in found], stray


def _mask(text: str, names: Sequence[str]) -> str:
    """The text, of the same length, with MARK for citations and INSIDE for what could cut one of `names`."""
    mask = CITATION.sub(lambda match: MARK * len(match[0]), text)
    folded = text.casefold()
    for name in sorted(names, key=len, reverse=True):
        if _CUTS.search(name[:-1]) and name.casefold() in folded:
            start, last = regex.escape(name[:-1]), regex.escape(name[-1])
            whole = rf"(?<!{_LETTER}){start}(?={last}(?!{_LETTER}))"
            mask = regex.sub(whole, lambda match: _CUTS.sub(INSIDE, match[0]), mask, flags=regex.IGNORECASE)
    return mask


def _sentence_spans(mask: str) -> Iterator[Span]:
    """Spans that together hold all of the text but its line ends."""
    number = 0  # of the last list marker
    for line in regex.finditer(r"[^\n]+", mask):
        start = line.start()
        for end in _END.finditer(mask, *line.span()):
            piece = mask[start : end.start()].strip() if end.start() - start < 8 else ""
            if end["western"] == "." and piece.isdecimal() and (start == line.start() or int(piece) == number + 1):
                number = int(piece)  # "2." begins the second entry of a list
            elif not end["western"] or _ends(mask, start, end):
                yield start, end.end()
                start = end.end()
        yield start, line.end()


def _ends(mask: str, start: int, end: regex.Match[str]) -> bool:
    """Whether western stops, with the citations behind them, end a sentence."""
    # looking back 24 characters covers every abbreviation and keeps the time linear
    head = mask[max(start, end.start() - 24) : end.start() + 1]
    ahead = _AHEAD.match(mask, end.end(), end.end() + 60)
    first, second = (ahead["first"] or "", ahead["second"] or "") if ahead else ("", "")
    cited = MARK in mask[max(start, end.start() - 1) : end.end()]
    if end["western"] == ".":
        if _TITLE.search(head) or (
            _COUNT.search(head) and (first[:1].isdecimal() or regex.fullmatch("[IVXL]{2,}", first))
        ):
            return False
        if _SHORT.search(head) and not _GRADE.search(head):
            return (first.casefold() in _STARTERS and first[0].isupper()) or (cited and not first[:1].islower())
    elif (
        not cited and first[:1].isupper() and second[:1].isupper() and second != "I" and second.casefold() in _STARTERS
    ):
        return False  # "Mamma Mia! Here We Go Again"
    return cited or not first[:1].islower()


def _item_spans(mask: str) -> Iterator[Span]:
    """Spans of list items: lines with markers, else between semicolons, else between commas."""
    mask = mask.rstrip().removesuffix(".")
    lines = mask.split("\n")
    bulleted = sum(_MARKER.match(line) is not None for line in lines) > 1
    cut = _LINES if bulleted else _SEMICOLONS if regex.search("[;；]", mask) else _COMMAS
    start = 0
    for separator in (*cut.finditer(mask), None):
        end = separator.start() if separator else len(mask)
        piece = mask[start:end]
        if not (bulleted and piece.rstrip().endswith((":", "："))):  # "The cities are:"
            joined = _AND.match(piece) if start else None
            yield start + (joined.end() if joined else 0), end
        start = separator.end() if separator else end
