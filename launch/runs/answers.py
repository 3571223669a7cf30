"""Answers sampled from a fixed model and kept in a folder across kills: for evaluation, filters and prompt sweeps.

`answers.jsonl` has a first line that says what the answers are made with, and then a line per batch: a kill loses the
batch under way and nothing else. A folder of answers that were made otherwise is refused, and so is one that another
process writes into.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from grpo.distributed.communicator import Communicator
from grpo.errors import UserError
from grpo.rollout.base import RolloutEngine, derive_seed
from grpo.settings import PolicyConfig, RolloutConfig
from grpo.telemetry.console import Console
from grpo.types import Sampling, TokenIds
from launch.builders.models import fingerprint
from launch.builders.policy import Dtype, choose_dtype
from launch.builders.prompts import PromptCodec
from launch.builders.rollout import Engine, choose_rollout, make_rollout
from launch.config.recipe import ModelConfig
from launch.planner.fit import with_evaluation_split
from launch.runs.run_lock import RunLock

FILE = "answers.jsonl"


class Answer(NamedTuple):
    """One sampled completion: its text, and whether the token limit ended it."""

    text: str
    truncated: bool


class AnswerStore:
    """The answers in a folder, by the name of their prompt; a context manager that holds the folder's lock."""

    def __init__(self, folder: Path, made_with: Mapping[str, Any]) -> None:
        self._path, self._lock = folder / FILE, RunLock(folder)
        self._made_with = json.loads(json.dumps(made_with))  # as the file will give it back
        self._answers: dict[str, list[Answer]] = {}
        self._is_open = False

    def __enter__(self) -> "AnswerStore":
        """Lock and read the folder where it has answers; the first answers make it otherwise.

        UserError where another process holds the lock, or where the answers there were made with something else.
        """
        if self._path.exists():
            self._open()
            try:
                self._read()
            except UserError:
                self._lock.release()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._lock.release()

    def __contains__(self, name: str) -> bool:
        return name in self._answers

    def __getitem__(self, name: str) -> list[Answer]:
        return self._answers[name]

    def add(self, batch: Mapping[str, Sequence[Answer]]) -> None:
        """Append a batch as one line and sync it to disk."""
        if not self._is_open:
            self._open()
            if self._path.exists():
                raise UserError(f"{self._path}: another process has made this file in the meantime; start again")
            self._append({"made_with": self._made_with})
        self._append(batch)
        self._answers.update({name: list(answers) for name, answers in batch.items()})

    def _open(self) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock.acquire(create=True)
        except OSError as error:
            raise UserError(f"{self._path} cannot be written: {error.strerror}; give another folder") from error
        self._is_open = True

    def _append(self, row: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> None:
        raw = self._path.read_bytes()
        whole = raw.rfind(b"\n") + 1
        if not whole and json.dumps({"made_with": self._made_with}).encode().startswith(raw):  # killed at the beginning
            os.truncate(self._path, 0)
            self._append({"made_with": self._made_with})
            return
        try:
            head, *lines = raw[:whole].decode("utf-8").split("\n")[:-1]
            found = {**json.loads(head)["made_with"]}  # TypeError unless it is an object
            for line in lines:
                rows = json.loads(line)
                self._answers.update({name: [Answer(*answer) for answer in rows[name]] for name in rows})
        except (ValueError, LookupError, TypeError, RecursionError):
            raise UserError(f"{self._path}: damaged, or no file of answers; give another folder") from None
        differing = [name for name in self._made_with if found.get(name) != self._made_with[name]]
        if differing:
            now = self._made_with
            changed = ", ".join(f"{name} = {found.get(name)!r} there and {now[name]!r} now" for name in differing)
            raise UserError(f"{self._path}: its answers were made otherwise ({changed}); give another folder")
        if whole < len(raw):  # a line that a kill has torn
            os.truncate(self._path, whole)


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedModel:
    """A model that answers as it is: its folder and codec, and the sections that say how it is run."""

    folder: str
    codec: PromptCodec
    model: ModelConfig
    policy: PolicyConfig
    rollout: RolloutConfig

    def answer(
        self,
        prompts: Mapping[str, TokenIds],
        sampling: Sampling,
        out: Path,
        *,
        seed: int,
        about: Mapping[str, Any] | None = None,
        console: Console,
    ) -> list[list[Answer]]:
        """`sampling.group_size` answers to each prompt, in order, from the store in `out`; missing ones are sampled.

        `about` is what else answers depend on, for the error.
        """
        engine = choose_rollout(self.rollout, self.folder, console, fixed=True)
        dtype = choose_dtype(self.policy) if engine == "vllm" else "float32"
        rollout, context = self.rollout, self.model.context
        if engine == "vllm":
            width = 2 if dtype == "bfloat16" else 4
            rollout = with_evaluation_split(rollout, self.folder, self.model.config, width=width, context=context)
        how = {"codec": self.codec, "context": context, "dtype": dtype, "console": console, "comm": Communicator()}
        with AnswerStore(out, {**made_with(self.folder, engine, dtype, sampling, seed), **(about or {})}) as store:
            return sample(
                lambda: make_rollout(engine, rollout, self.folder, own_workers=True, **how),
                prompts,
                sampling,
                store,
                seed=seed,
                batch_size=max(1, rollout.max_num_seqs // sampling.group_size),
                console=console,
            )


def made_with(folder: str, engine: Engine, dtype: Dtype, sampling: Sampling, seed: int) -> dict[str, Any]:
    """What changes answers besides their prompts, by the names that an error gives."""
    weights = hashlib.sha256(json.dumps(fingerprint(folder)).encode()).hexdigest()[:12]
    return {
        "model": f"{folder} ({weights})",
        "engine": engine,
        "dtype": dtype,
        "samples": sampling.group_size,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": seed,
    }


def prompt_name(name: str, prompt: TokenIds) -> str:
    """The key of a prompt in a store: a readable name, and a digest of the tokens, which change with the question,
    the system prompt, the demonstrations and the template.

    >>> prompt_name("nq-17", (1, 2, 3))
    'nq-17 dfd5726d86ed'
    """
    return f"{name} {hashlib.sha256(repr(tuple(prompt)).encode()).hexdigest()[:12]}"


def sample(
    make_engine: Callable[[], RolloutEngine],
    prompts: Mapping[str, TokenIds],
    sampling: Sampling,
    store: AnswerStore,
    *,
    seed: int,
    batch_size: int,
    console: Console,
) -> list[list[Answer]]:
    """The answers to each prompt, in order; prompts that the store lacks are sampled, `batch_size` at a time.

    The engine is made only where prompts are left. The seed of a batch is a hash of `seed` and its first prompt: a
    resumed run then samples the same answers as one that was never killed.
    """
    left = [name for name in prompts if name not in store]
    done = len(prompts) - len(left)
    if done:
        console.line(f"{'':12} {done} of {len(prompts)} are answered already")
    if not left:
        return [store[name] for name in prompts]
    engine, truncated = make_engine(), 0
    for start in range(0, len(left), batch_size):
        names = left[start : start + batch_size]
        groups = engine.generate([prompts[name] for name in names], sampling, seed=derive_seed(seed, names[0]))
        answers = [[Answer(c.text, c.finish == "length") for c in group] for group in groups]
        store.add(dict(zip(names, answers, strict=True)))
        done += len(names)
        truncated += sum(answer.truncated for group in answers for answer in group)
        console.line(f"{'':12} {done} of {len(prompts)} answered, {truncated} cut off at {sampling.max_tokens} tokens")
    return [store[name] for name in prompts]
