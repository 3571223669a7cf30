"""What did the rounds say? Ratios within each round, and the table that is printed and kept."""

import json
import statistics
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

Round = Mapping[str, Mapping[str, float]]
"""What each contender measured in one round: contender -> {"rollout": seconds, ..., "peak_bytes": bytes}"""

PHASES = ("rollout", "update", "step", "peak_bytes")


def ratio(rounds: Sequence[Round], phase: str, *, ours: str, theirs: str) -> tuple[float, float, float]:
    """(median, least, most) of theirs / ours over the rounds, each within its own round.

    >>> rounds = [{"a": {"step": 2.0}, "b": {"step": 12.0}}, {"a": {"step": 3.0}, "b": {"step": 12.0}}]
    >>> ratio(rounds, "step", ours="a", theirs="b")
    (5.0, 4.0, 6.0)
    """
    found = [measured[theirs][phase] / measured[ours][phase] for measured in rounds]
    return statistics.median(found), min(found), max(found)


def spread(rounds: Sequence[Round], phase: str, name: str) -> tuple[float, float, float]:
    """(median, least, most) of what a contender measured."""
    found = [measured[name][phase] for measured in rounds]
    return statistics.median(found), min(found), max(found)


def choose_peer(warm_ups: Mapping[str, Mapping[str, float]], *, slack: float = 0.1) -> tuple[str, str]:
    """(the fastest, the one with the least memory that is as fast within `slack`) by their steps to warm up.

    >>> choose_peer({"trl-4": {"step": 10.4, "peak_bytes": 7e9}, "trl-8": {"step": 10.0, "peak_bytes": 11e9}})
    ('trl-8', 'trl-4')
    """
    fastest = min(warm_ups, key=lambda name: warm_ups[name]["step"])
    limit = (1 + slack) * warm_ups[fastest]["step"]
    as_fast = [name for name in warm_ups if warm_ups[name]["step"] <= limit]
    return fastest, min(as_fast, key=lambda name: warm_ups[name]["peak_bytes"])


def markdown(result: Mapping[str, Any]) -> str:
    """The result as a page: machine, settings, and per shape a table of contenders and one of ratios."""
    machine, asked = result["machine"], result["asked"]
    versions = ", ".join(f"{name} {version}" for name, version in {**machine["versions"], **result["peer"]}.items())
    gpus = f", {', '.join(machine['gpus'])}" if machine["gpus"] else ""
    lines = [
        f"# Our step and TRL's, {result['date']}",
        "",
        f"{machine['cpu']} ({', '.join(machine['features']) or 'no vector extensions known'}), "
        f"{machine['cores']} cores, {machine['memory_gb']} GB{gpus}; {asked['threads']} threads, {asked['dtype']}; "
        f"Python {machine['python']}, {versions}; load average when it began "
        f"{', '.join(map(str, machine['load_average']))}.",
        "",
        f"`{result['command']}`. {asked['model']}, {asked['layers']} layers, random weights; the same weights, prompts "
        "(token ids) and forced lengths for all. Each contender is a process of its own; steps are interleaved, after "
        "one to warm up. Seconds and bytes are medians, with the least and the most in brackets; a ratio is taken "
        "within its round.",
    ]
    if machine["gpus"]:
        lines += [
            "",
            "TRL writes with transformers here, also beside ours-vllm: its own vLLM is not among the contenders.",
        ]
    for shape in result["shapes"]:
        lines += ["", *shape_table(shape)]
    return "\n".join(lines) + "\n"


def shape_table(shape: Mapping[str, Any]) -> list[str]:
    """One shape: what each contender took, then theirs / ours."""
    rounds, names = shape["rounds"], list(shape["rounds"][0])
    lines = [
        f"## {shape['workload']} (prompts x samples x (prompt + completion tokens)), {len(rounds)} rounds",
        "",
        "| contender | rollout, s | update, s | step, s | peak, GB | MFU of the update | without logits nobody needs |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in names:
        cells = [_cell(spread(rounds, phase, name), 1e9 if phase == "peak_bytes" else 1) for phase in PHASES]
        mfus = [
            f"{100 * spread(rounds, mfu, name)[0]:.0f} %" if mfu in rounds[0][name] else ""
            for mfu in ("mfu", "mfu_needed")
        ]
        lines.append(f"| {' | '.join([name, *cells, *mfus])} |")
    if shape["fastest"]:
        lines += ["", *ratio_table(shape, names)]
    elif lost := [name for name in shape["warm_ups"] if name not in names]:
        firsts = [f"{name} {first_step(shape['warm_ups'][name])}" for name in (*lost, *names)]
        lines += [
            "",
            f"{', '.join(lost)}: not there to the end. First steps, which are no rounds: {'; '.join(firsts)}.",
        ]
    return lines


def first_step(measured: Mapping[str, float]) -> str:
    """`9.0 s (rollout 3.0, update 6.0), 2.00 GB`"""
    phases = f"rollout {measured['rollout']:.1f}, update {measured['update']:.1f}"
    return f"{measured['step']:.1f} s ({phases}), {measured['peak_bytes'] / 1e9:.2f} GB"


def ratio_table(shape: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """How many times our contenders are faster, and leaner, than the peer's chosen setting."""
    fastest, leanest, rounds = shape["fastest"], shape["leanest"], shape["rounds"]
    tried = "; ".join(  # in its first step a trainer has no moments of Adam yet: the peer's memory is not overstated
        f"{name} {one['step']:.1f} s, {one['peak_bytes'] / 1e9:.2f} GB"
        for name, one in shape["warm_ups"].items()
        if name.startswith("trl")
    )
    lines = [
        f"TRL's settings by their first step: {tried}. Compared with: {fastest}, the fastest; memory with {leanest}, "
        "the leanest that is as fast within a tenth.",
        "",
        f"| {fastest} / ours | rollout | update | step | ours / {leanest}: peak memory |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in (name for name in names if name.startswith("ours")):
        cells = [_cell(ratio(rounds, phase, ours=name, theirs=fastest)) for phase in ("rollout", "update", "step")]
        ours = spread(rounds, "peak_bytes", name)[0]
        theirs = (
            spread(rounds, "peak_bytes", leanest)[0]
            if leanest in rounds[0]
            else shape["warm_ups"][leanest]["peak_bytes"]
        )
        lines.append(f"| {' | '.join([name, *cells, f'{ours / theirs:.2f}'])} |")
    return lines


def keep(result: Mapping[str, Any], folder: Path, name: str) -> list[Path]:
    """Write DATE-NAME.md and .json into `folder`; where there are such files already, with the next free number."""
    stem = free_stem(folder, f"{date.today().isoformat()}-{name}")
    files = [folder / f"{stem}.{end}" for end in ("md", "json")]
    files[0].write_text(markdown(result), encoding="utf-8")
    files[1].write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return files


def free_stem(folder: Path, stem: str) -> str:
    """The stem, or with the next number after it where a result has that name: nothing is overwritten."""
    taken = {file.stem for file in folder.glob(f"{stem}*")}
    return next(name for name in (stem, *(f"{stem}-{n}" for n in range(2, 10_000))) if name not in taken)


def _cell(found: tuple[float, float, float], unit: float = 1) -> str:
    median, least, most = (value / unit for value in found)
    return f"{median:.2f} ({least:.2f}-{most:.2f})"
