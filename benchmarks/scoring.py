"""How long does Trust-Score take? `python benchmarks/scoring.py` prints one line of JSON.

10,000 answers of five sentences with five passages of about 100 words each, written to a file and scored from it as by
`python -m eval.score`: reading, sentence splitting, lexical judge, and 1,000 bootstrap resamples. Every passage and
answer is different.
"""

import json
import os
import platform
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout, so that this file runs uninstalled

from benchmarks.rewards import make_completion, make_example
from eval.predictions import Prediction, read_predictions, write_predictions
from eval.score import score_predictions, write_scores
from rewards.judges.lexical import LexicalJudge

ANSWERS = 10_000


def main() -> None:
    rng = random.Random(0)
    examples = [make_example(rng, number) for number in range(ANSWERS)]
    asked = [Prediction(example, make_completion(rng, example).text) for example in examples]
    seconds, numbers = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.jsonl"
        write_predictions(path, asked)
        for reference in (False, True):
            started = time.perf_counter()
            read = read_predictions(path, style="prose")
            numbers = score_predictions(read, LexicalJudge(), nli="lexical", reference=reference)
            write_scores(Path(folder) / "scores.json", numbers)
            seconds["reference" if reference else "default"] = round(time.perf_counter() - started, 2)
    measured = {
        "answers": ANSWERS,
        "seconds": seconds,
        "trust_score": round(numbers["trust_score"], 2),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
