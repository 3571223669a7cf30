"""How is a judge asked once for a whole step? Groups are scored side by side, and their questions are put together.

An NLI model wants large batches, and what is asked second may depend on the first answer (only a right statement's
citations are looked up). So every group is scored in a thread of its own; when all that still run are waiting for the
judge, it is asked about everything at once, in the order of the groups. It runs in the caller's thread: only there do
a model's own threads exist already, and one at a time is what a judge may expect.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

from rewards.judges.base import Verifier

T = TypeVar("T")
Pairs = Sequence[tuple[str, str]]


class Asker:
    """The `Verifier` of one task: its questions wait until those of all other tasks can go with them."""

    def __init__(self, number: int, inbox: SimpleQueue[tuple[int, Pairs | None]]) -> None:
        self._number, self._inbox = number, inbox
        self._replies: SimpleQueue[list[float] | BaseException] = SimpleQueue()

    def entails(self, pairs: Pairs) -> list[float]:
        """What the judge said; what it raised is raised here too."""
        self._inbox.put((self._number, list(pairs)))
        reply = self._replies.get()
        if isinstance(reply, BaseException):
            raise reply
        return reply

    def tell(self, reply: list[float] | BaseException) -> None:
        self._replies.put(reply)

    def ended(self) -> None:
        self._inbox.put((self._number, None))


def ask_together(tasks: Sequence[Callable[[Verifier], T]], judge: Verifier) -> list[T]:
    """What each task returns, in order; `judge` is asked as often as the task that asks most often asks.

    A task is called with the verifier to ask and runs in a thread. What a task or the judge raises is raised here, by
    the first task that it ended, when all tasks are over.
    """
    if len(tasks) == 1:
        return [tasks[0](judge)]
    inbox: SimpleQueue[tuple[int, Pairs | None]] = SimpleQueue()
    askers = [Asker(number, inbox) for number in range(len(tasks))]

    def work(task: Callable[[Verifier], T], asker: Asker) -> T:
        try:
            return task(asker)
        finally:
            asker.ended()

    with ThreadPoolExecutor(max(len(tasks), 1), thread_name_prefix="score") as pool:
        futures = [pool.submit(work, task, asker) for task, asker in zip(tasks, askers, strict=True)]
        try:
            _answer(askers, inbox, judge)
        except BaseException as error:  # an interrupt: no task may wait for an answer that never comes
            for asker in askers:
                asker.tell(error)
            raise
    return [future.result() for future in futures]


def _answer(askers: Sequence[Asker], inbox: SimpleQueue[tuple[int, Pairs | None]], judge: Verifier) -> None:
    """Put a round to the judge whenever nobody is left who could add to it, until all tasks are over."""
    running, waiting = set(range(len(askers))), dict[int, Pairs]()
    while running:
        number, pairs = inbox.get()
        if pairs is None:
            running.discard(number)
        else:
            waiting[number] = pairs
        if waiting and waiting.keys() == running:
            _ask_round([(askers[n], waiting[n]) for n in sorted(waiting)], judge)
            waiting.clear()


def _ask_round(asked: Sequence[tuple[Asker, Pairs]], judge: Verifier) -> None:
    """One call of the judge; everyone gets the answers to their own questions, or the error."""
    pairs = [pair for _, own in asked for pair in own]
    try:
        verdicts = judge.entails(pairs)
        assert len(verdicts) == len(pairs), f"the judge answered {len(verdicts)} of {len(pairs)} questions"
    except BaseException as error:
        for asker, _ in asked:
            asker.tell(error)
        return
    start = 0
    for asker, own in asked:
        asker.tell(verdicts[start : start + len(own)])
        start += len(own)
