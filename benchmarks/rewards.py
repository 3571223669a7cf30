"""How long do the rewards of one step take? `python benchmarks/rewards.py` prints one line of JSON.

One step of the paper: 48 groups of 8 completions, five passages of about 100 words, answers of five sentences, each
with citations; stage 2, lexical judge. Every text is different, so that nothing is read once for many.
"""

import json
import os
import platform
import random
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout, so that this file runs uninstalled

from grpo.data.example import Example, Passage
from grpo.types import Completion, Group
from rewards.config import RewardConfig
from rewards.scorer import RewardScorer

GROUPS, SIZE, PASSAGES, WORDS, SENTENCES, REPEATS = 48, 8, 5, 100, 5, 5


def make_example(rng: random.Random, number: int) -> Example:
    words = [f"word{rng.randrange(5000)}" for _ in range(PASSAGES * WORDS)]
    texts = [words[p * WORDS : (p + 1) * WORDS] for p in range(PASSAGES)]
    return Example(
        id=f"bench-{number}",
        question="Which words?",
        passages=tuple(Passage(title=f"Page {number}-{p}", text=" ".join(text)) for p, text in enumerate(texts)),
        answers=tuple((" ".join(text[:2]),) for text in texts),
        found=tuple(tuple(p == a for a in range(PASSAGES)) for p in range(PASSAGES)),
        style="prose",
        source="benchmark",
    )


def make_completion(rng: random.Random, example: Example) -> Completion:
    """Sentences cut from the passages, so that about half are right and all kinds of citations occur."""
    said = []
    for _ in range(SENTENCES):
        number = rng.randrange(PASSAGES)
        start = rng.choice((0, rng.randrange(WORDS - 15)))
        words = example.passages[number].text.split()[start : start + 15]
        marks = rng.choice((f"[{number + 1}]", f"[{rng.randrange(PASSAGES) + 1}]", "[1][2]", ""))
        said.append(f"{' '.join(words).capitalize()} {marks}.")
    return Completion(text=" ".join(said), token_ids=(), logprobs=(), finish="stop", version=0)


def main() -> None:
    rng = random.Random(0)
    examples = [make_example(rng, number) for number in range(GROUPS)]
    groups = [
        Group(example=example, prompt_ids=(), completions=tuple(make_completion(rng, example) for _ in range(SIZE)))
        for example in examples
    ]
    score = RewardScorer(RewardConfig(refusal=True), reasoning=False)
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        scored = score(groups)
        seconds.append(time.perf_counter() - started)
    totals = [s.total for group in scored for s in group]
    measured = {
        "benchmark": "rewards",
        "completions": GROUPS * SIZE,
        "seconds_median": round(sorted(seconds)[REPEATS // 2], 4),
        "seconds_min": round(min(seconds), 4),
        "repeats": REPEATS,
        "mean_reward": round(sum(totals) / len(totals), 3),
        "judge": "lexical",
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "load_average": round(os.getloadavg()[0], 2),
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
