"""Draw the reward and the answers of a run, step by step: python -m benchmarks.curve runs/NAME OUT.png"""

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure  # pyplot would look for a window system

PANELS = {
    "reward, mean of a step": ("reward/total", "reward/exact_match", "reward/citation"),
    "Trust-Score and its parts, percent": ("trust/trust_score", "trust/f1_gr", "trust/f1_ac", "trust/f1_gc"),
}


def draw(run: Path, out: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, (label, names) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for name in names:
            points = [(row["step"] + 1, row[name]) for row in rows if name in row]
            axes.plot(*zip(*points, strict=True), label=name.partition("/")[2])
        axes.set_xlabel("GRPO step")
        axes.set_title(label)
        axes.legend()
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
