"""What fuzzing asks of every input: it is taken, or refused by one line (`taken`). And what files may hold.

`make test-fuzz` tries FUZZ=10000 inputs of each kind, `make test` a few.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from grpo.errors import UserError

CPU_SECONDS = 30  # of one input, which takes milliseconds: more is a hang; not of a clock, since machines stand still
LONGEST_LINE = 3000  # characters

# Any text that Python can hold, halves of surrogate pairs included: JSON can say them, and UTF-8 cannot.
anything = st.text(st.characters(codec=None), max_size=40)
text = st.text(max_size=40)
words = st.sampled_from(
    (
        "",
        " ",
        "\ud800",
        "Paris",
        "the",
        "[1]",
        "[1][2]",
        "[99999999999999999999]",
        "It won.",
        "\n",
        "<think>",
        "</answer>",
    )
)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), anything, words, st.sampled_from((10**30, -1, 0, 1, 2))
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(anything, inner, max_size=4)),
    max_leaves=8,
)
deep = st.sampled_from(("[" * 100_000, '{"a":' * 50_000, "[" * 3_000 + "]" * 3_000))


def many(short: int) -> Any:
    """So many inputs in `make test`, and as many as the environment's FUZZ says in `make test-fuzz`."""
    long = int(os.environ.get("FUZZ", "0"))
    return settings(
        max_examples=long or short,
        deadline=None,
        derandomize=not long,  # `make test` tries the same inputs every time
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def taken(call: Callable[[], Any]) -> Any:
    """What the call returns, or None where it refuses by an UserError of one line that any terminal can show."""
    with no_hang():
        try:
            return call()
        except UserError as error:
            line = str(error)
            assert line.strip()
            assert line.isprintable(), ascii(line)
            assert len(line) <= LONGEST_LINE, line[:200]
            line.encode()
    return None


@contextmanager
def no_hang() -> Iterator[None]:
    def over(*_: object) -> None:
        raise AssertionError(f"more than {CPU_SECONDS} s of computing over one small input")

    before = signal.signal(signal.SIGVTALRM, over)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


class Touched:
    """The files that are written, renamed or removed while `inside(folder)` lasts: none may be outside of it."""

    folder: str | None = None
    outside: ClassVar[list[str]] = []
    hooked = False

    @classmethod
    @contextmanager
    def inside(cls, folder: Path) -> Iterator[None]:
        if not cls.hooked:  # for good: an audit hook cannot be taken back
            sys.addaudithook(cls._see)
            cls.hooked = True
        cls.folder, cls.outside = str(folder.resolve()), []
        try:
            yield
        finally:
            cls.folder = None
        assert not cls.outside, cls.outside

    @classmethod
    def _see(cls, event: str, arguments: tuple[Any, ...]) -> None:
        if cls.folder is None:
            return
        if event == "open":
            path, _, flags = arguments
            paths = [path] if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC) else []
        elif event in ("os.rename", "os.link", "os.symlink"):
            paths = list(arguments[:2])
        elif event in ("os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "shutil.rmtree"):
            paths = [arguments[0]]
        else:
            return
        folder, cls.folder = cls.folder, None  # what is asked here is not looked at
        for path in paths:
            named = isinstance(path, (str, bytes, os.PathLike)) and os.path.realpath(os.fsdecode(path))
            if named and not (named + os.sep).startswith(folder + os.sep) and named != os.devnull:
                cls.outside.append(f"{event} {named}")
        cls.folder = folder
