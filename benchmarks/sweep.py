"""How does the cost of an update grow with the prompt, and with the group? `python -m benchmarks.sweep`.

Runs benchmarks/update.py, a process for each point: prompts of several lengths in both layouts, one after the other so
that they share the machine's weather, then one prompt with more and more completions. Prints a table, writes the points
as DATE-NAME.json and the plot as docs/update-sweep.svg, beside what counting tokens alone would give:
G (P + R) / (P + G R). Few layers by default, so that it ends within ten minutes on two cores.
"""

import argparse
import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the checkout, so that this file runs uninstalled

from benchmarks.report import free_stem
from benchmarks.update import positive
from benchmarks.workload import Workload

LAYOUTS = ("padded", "shared")


def measured(workload: Workload, layout: str, asked: argparse.Namespace) -> dict[str, Any]:
    """One point: what benchmarks/update.py prints."""
    numbers = {
        "prompts": workload.prompts,
        "group": workload.group,
        "prompt-tokens": workload.prompt_tokens,
        "completion-tokens": workload.completion_tokens,
        "layers": asked.layers,
        "repeat": asked.repeat,
    }
    numbers |= {"threads": asked.threads} if asked.threads else {}
    words = [word for name, value in numbers.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "benchmarks.update", "--model", asked.model, "--layout", layout, *words]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)  # it has said why on stderr
    point = json.loads(done.stdout)
    print(
        f"{point['shape']:>14} {layout:>7} {point['seconds']:9.3f} s {point['peak_bytes'] / 1e9:6.2f} GB "
        f"{point['tokens_computed']:7d} positions, mfu {100 * point['mfu']:.0f} %",
        flush=True,
    )
    return point


def sweep(asked: argparse.Namespace) -> dict[str, Any]:
    """The points of both questions."""

    def workload(prompt: int, group: int) -> Workload:
        return Workload(prompts=1, group=group, prompt_tokens=prompt, completion_tokens=asked.completion_tokens)

    lengths = [
        {layout: measured(workload(prompt, asked.group), layout, asked) for layout in LAYOUTS}
        | {"prompt": prompt, "formula": workload(prompt, asked.group).token_ratio}
        for prompt in asked.prompt_tokens
    ]
    groups = [
        {"group": group, "shared": measured(workload(asked.group_prompt, group), "shared", asked)}
        for group in asked.groups
    ]
    return {"asked": dict(vars(asked)), "lengths": lengths, "groups": groups}


def plot(found: dict[str, Any], file: Path) -> None:
    """Left: how many times faster and leaner sharing is, by prompt, beside the formula. Right: seconds by group."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "ground-grpo"  # the same points give the same file
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    lengths, group = found["lengths"], found["asked"]["group"]
    prompts = [point["prompt"] for point in lengths]
    for name, label in (("seconds", "update time"), ("peak_bytes", "peak memory")):
        ratios = [point["padded"][name] / point["shared"][name] for point in lengths]
        left.plot(prompts, ratios, marker="o", label=f"{label}, padded / shared")
    left.plot(prompts, [point["formula"] for point in lengths], "k--", label="G (P + R) / (P + G R)")
    left.set(xlabel="P, prompt tokens", title=f"G = {group}, R = {found['asked']['completion_tokens']}", ylim=(0, None))
    left.legend()
    sizes = [point["group"] for point in found["groups"]]
    seconds = [point["shared"]["seconds"] for point in found["groups"]]
    right.plot(sizes, seconds, marker="o", label="shared, measured")
    right.plot(sizes, [seconds[0] * size / sizes[0] for size in sizes], "k--", label="in proportion to G")
    right.set(
        xlabel="G, completions of a prompt",
        ylabel="seconds",
        title=f"P = {found['asked']['group_prompt']}",
        ylim=(0, None),
    )
    right.legend()
    figure.savefig(file, metadata={"Date": None})


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="a model folder, for its sizes, or a named shape")
    parser.add_argument("--layers", type=positive, default=4)
    parser.add_argument("--prompt-tokens", type=positive, nargs="+", default=[200, 500, 1000, 2000, 4000])
    parser.add_argument("--completion-tokens", type=positive, default=48)
    parser.add_argument("--group", type=positive, default=8)
    parser.add_argument("--groups", type=positive, nargs="+", default=[4, 8, 16, 32], help="at one prompt length")
    parser.add_argument("--group-prompt", type=positive, default=1000, help="that prompt length")
    parser.add_argument("--repeat", type=positive, default=2, help="counted updates of each point")
    parser.add_argument("--threads", type=positive)
    parser.add_argument("--name", default="update-sweep", help="of the file of points")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="where it goes")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "update-sweep.svg")
    asked = parser.parse_args(argv)
    found = sweep(asked)
    found["asked"] |= {"out": asked.out.name, "plot": asked.plot.name}
    asked.out.mkdir(parents=True, exist_ok=True)
    points = asked.out / f"{free_stem(asked.out, f'{date.today().isoformat()}-{asked.name}')}.json"
    points.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    plot(found, asked.plot)
    print(f"written: {points}\nwritten: {asked.plot}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
