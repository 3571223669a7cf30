"""Draw the reward and the answers of a run, step by step: python -m benchmarks.curve runs/NAME OUT.png"""

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure  # pyplot would look for a window system

WINDOW = 7  # steps of the running mean: a step of the default recipe has four questions
PANELS = {
    "reward": ("reward/exact_match", "reward/citation"),
    "Trust-Score and its parts, percent": ("trust/trust_score", "trust/f1_gr", "trust/f1_ac", "trust/f1_gc"),
}


def draw(run: Path, out: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, (label, names) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for name in names:
            steps = [row["step"] + 1 for row in rows if name in row]
            values = [row[name] for row in rows if name in row]
            means = [
                sum(part) / len(part) for n in range(len(values)) if (part := values[max(0, n + 1 - WINDOW) : n + 1])
            ]
            (line,) = axes.plot(steps, means, label=name.partition("/")[2])
            axes.plot(steps, values, ".", color=line.get_color(), markersize=3, alpha=0.4)
        axes.set_xlabel(f"GRPO step (line: mean of {WINDOW} steps)")
        axes.set_title(label)
        axes.legend(fontsize="small")
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
