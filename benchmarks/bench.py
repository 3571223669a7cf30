"""How many times faster than TRL is one step, and how much leaner? `make bench`, or `python -m benchmarks.bench`.

Our step and TRL's GRPOTrainer on the same weights, prompts, forced completion lengths, group size, dtype and threads.
Each contender is a process of its own, told step by step what to do, so that steps are interleaved and a slow minute of
the machine is a slow minute for all. TRL is tried at every micro-batch that is asked for and compared at its fastest.

Contenders: ours-hf, ours-vllm (the default rollout engines), ours-padded (every prompt once per completion, hf engine),
trl-N (N is its micro-batch; no vLLM). One of ours with `:N` after it has micro-batches of N tokens, `ours-hf:1568`, and
else of one group. Results: benchmarks/results/DATE-NAME.md and .json.
"""

import argparse
import importlib.util
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the checkout, so that this file runs uninstalled

import torch

from benchmarks.channel import Contender, ContenderLost
from benchmarks.machine import machine
from benchmarks.report import choose_peer, keep, markdown
from benchmarks.update import positive
from benchmarks.workload import Workload, find_model_config, parse_workload, random_prompts, write_model_folder
from grpo.errors import UserError
from grpo.policy.precision import resolve_bf16

TRL_PYTHON = ROOT / ".venv-trl" / "bin" / "python"
OURS: dict[str, dict[str, str]] = {
    "ours-vllm": {"engine": "vllm", "layout": "shared"},
    "ours-hf": {"engine": "hf", "layout": "shared"},
    "ours-padded": {"engine": "hf", "layout": "padded"},
}
# On a CPU the step takes as long at every micro-batch, and 16 rows need more memory than such a machine often has.
TRL = {"cpu": ("trl-4", "trl-8"), "cuda": ("trl-4", "trl-8", "trl-16")}
SHAPES = {"cpu": "4x8x400+48,2x8x1200+100", "cuda": "8x8x1200+500,8x8x2000+300"}


def is_ours(name: str) -> bool:
    """Whether this names one of ours, with or without the tokens of its micro-batches."""
    return re.fullmatch(f"({'|'.join(OURS)})(:[1-9][0-9]*)?", name) is not None


def job_of(name: str, workload: Workload, asked: argparse.Namespace, *, folder: str, vocabulary: int) -> dict[str, Any]:
    """What the contender of this name is told before it starts; UserError for a micro-batch that does not divide."""
    job: dict[str, Any] = {
        "folder": folder,
        "workload": str(workload),
        "prompts": [random_prompts(workload, vocabulary=vocabulary, seed=step) for step in range(1 + asked.rounds)],
        "threads": asked.threads,
        "dtype": asked.dtype,
        "device": asked.device,
        "gradient_checkpointing": asked.gradient_checkpointing,
    }
    kind, _, budget = name.partition(":")
    if kind in OURS:
        job |= {"token_budget": int(budget or workload.group_tokens)}
        return job | OURS[kind] | {"kv_cache": asked.kv_cache, "gpu_share": asked.gpu_share}
    micro, rows = int(name.removeprefix("trl-")), workload.prompts * workload.group
    if rows % micro:
        raise UserError(f"{name}: a micro-batch of {micro} does not divide the {rows} completions of {workload}")
    return job | {"micro_batch": micro}


def start(name: str, job: dict[str, Any], folder: Path) -> Contender:
    """The contender's process, ready for its first step."""
    file = folder / f"{name}.json"
    file.write_text(json.dumps(job), encoding="utf-8")
    python, module = (sys.executable, "our_step") if is_ours(name) else (str(TRL_PYTHON), "trl_step")
    threads = str(job["threads"])
    environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
    print(f"  {name}: starting", file=sys.stderr, flush=True)
    return Contender(
        name,
        [python, "-m", f"benchmarks.{module}", str(file)],
        log=folder / f"{name}.log",
        environment=environment,
    )


def run_shape(
    workload: Workload, names: Sequence[str], asked: argparse.Namespace, config: Mapping[str, Any]
) -> dict[str, Any]:
    """Find the peer's fastest setting, warm ours up, and take the rounds, each in another order."""
    with tempfile.TemporaryDirectory() as work, ExitStack() as stack:
        model = Path(work) / "model"
        write_model_folder(config, model, positions=workload.prompt_tokens + workload.completion_tokens + 8)

        def begin(name: str) -> Contender:
            job = job_of(name, workload, asked, folder=str(model), vocabulary=config["vocab_size"])
            contender = start(name, job, Path(work))
            stack.callback(contender.close)
            return contender

        peer, tried = fastest_peer([name for name in names if not is_ours(name)], begin)
        running, warmed = warm_up([name for name in names if is_ours(name)], begin)
        warm_ups = tried | warmed
        running |= {peer.name: peer} if peer else {}
        rounds = take_rounds(running, asked.rounds)
    return {
        "workload": str(workload),
        "token_ratio": workload.token_ratio,
        "work": asdict(workload.work),
        "ready": {name: one.ready for name, one in running.items()},
        "warm_ups": warm_ups,
        "fastest": peer.name if peer and peer.name in running else "",
        "leanest": choose_peer(tried)[1] if peer and peer.name in running else "",
        "rounds": rounds,
    }


def take_rounds(running: dict[str, Contender], rounds: int) -> list[dict[str, dict[str, Any]]]:
    """What each contender measured in each round. One that dies, such as where the memory of the machine is not enough
    for all, is taken out of `running` and of the rounds before; ContenderLost where that was the last."""
    found = []
    for number in range(rounds):
        order = list(running)[number % len(running) :] + list(running)[: number % len(running)]
        measured = {}
        for name in order:
            try:
                measured[name] = taken(running[name], f"round {number + 1} of {rounds}")
            except ContenderLost as error:
                print(f"  {error}; it is left out", file=sys.stderr, flush=True)
                del running[name]
                if not running:
                    raise
        found.append(measured)
    return [{name: measured[name] for name in running} for measured in found]


def first_steps(names: Sequence[str], begin: Callable[[str], Contender]) -> Iterator[tuple[Contender, dict[str, Any]]]:
    """(a contender after its first step, that step), one after the other. One that dies of it is left out with a line;
    ContenderLost where all do."""
    lost, lived = None, False
    for name in names:
        try:
            contender = begin(name)
            measured = taken(contender, "warm-up")
        except ContenderLost as error:
            print(f"  {error}; it is left out", file=sys.stderr, flush=True)
            lost = error
            continue
        lived = True
        yield contender, measured
    if lost and not lived:
        raise lost


def warm_up(
    names: Sequence[str], begin: Callable[[str], Contender]
) -> tuple[dict[str, Contender], dict[str, dict[str, Any]]]:
    """(ours, still running; their first steps)."""
    stepped = list(first_steps(names, begin))
    return {one.name: one for one, _ in stepped}, {one.name: measured for one, measured in stepped}


def fastest_peer(
    names: Sequence[str], begin: Callable[[str], Contender]
) -> tuple[Contender | None, dict[str, dict[str, Any]]]:
    """(the peer at its fastest, still running; the first step of every setting that ran). The slower of two ends before
    the next begins: a large micro-batch needs most of a machine."""
    best: Contender | None = None
    tried: dict[str, dict[str, Any]] = {}
    for contender, measured in first_steps(names, begin):
        tried[contender.name] = measured
        slower = contender if best and choose_peer(tried)[0] != contender.name else best
        best = contender if slower is not contender else best
        if slower:
            slower.close()
    return best, tried


def taken(contender: Contender, when: str) -> dict[str, Any]:
    """One step, with a sign of life."""
    measured = contender.step()
    shown = ", ".join(f"{phase} {measured[phase]:.2f} s" for phase in ("rollout", "update", "step"))
    print(f"  {contender.name}: {when}: {shown}, {measured['peak_bytes'] / 1e9:.2f} GB", file=sys.stderr, flush=True)
    return measured


def contenders(asked: argparse.Namespace) -> list[str]:
    """Who takes part; UserError for a name that is none, or for one that is not installed."""
    vllm = importlib.util.find_spec("vllm") is not None
    default = [name for name in OURS if vllm or name != "ours-vllm"] + list(TRL[asked.device])
    names = asked.contenders.split(",") if asked.contenders else default
    for name in names:
        if not is_ours(name) and not re.fullmatch("trl-[1-9][0-9]*", name):
            raise UserError(
                f"contender {name!r}: valid: {', '.join(OURS)}, each also with :N for micro-batches of N tokens, and "
                "trl-N with a micro-batch of N"
            )
        if name.startswith("ours-vllm") and not vllm:
            raise UserError(f"contender {name!r}: vLLM is not installed (make setup says why); valid: ours-hf")
        if not is_ours(name) and not TRL_PYTHON.exists():
            raise UserError(f"contender {name!r}: no .venv-trl; `make bench` makes it")
    return names


def bench(asked: argparse.Namespace) -> dict[str, Any]:
    """Everything that was measured, and on what."""
    names = contenders(asked)
    workloads = [parse_workload(text) for text in (asked.shapes or SHAPES[asked.device]).split(",")]
    config = find_model_config(asked.model, layers=asked.layers)
    for workload in workloads:  # what cannot be is found before the first hour
        for name in names:
            job_of(name, workload, asked, folder="", vocabulary=2)
    about = machine()
    shapes = []
    for workload in workloads:
        print(f"{workload}:", file=sys.stderr, flush=True)
        shapes.append(run_shape(workload, names, asked, config))
    ready = [one for measured in shapes for name, one in measured["ready"].items() if not is_ours(name)]
    return {
        "date": date.today().isoformat(),
        "command": " ".join(["python -m benchmarks.bench", *sys.argv[1:]]),
        "asked": vars(asked) | {"layers": config["num_hidden_layers"]},
        "machine": about,
        "peer": {"trl": ready[0]["machine"]["versions"]["trl"]} if ready else {},
        "shapes": shapes,
    }


def main(argv: list[str]) -> int:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", help=f"PROMPTSxGROUPxPROMPT+COMPLETION,...; {SHAPES['cpu']} on a CPU")
    parser.add_argument("--contenders", help="names, with commas; all that are installed if not given")
    parser.add_argument("--rounds", type=positive, default=3, help="counted steps of each contender")
    parser.add_argument("--model", default="qwen3-0.6b" if gpu else "smollm2-135m", help="a folder or a name")
    parser.add_argument("--layers", type=positive, help="so many of the model's layers; all of them if not given")
    parser.add_argument("--threads", type=positive, default=len(os.sched_getaffinity(0)), help="of each contender")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if gpu else "cpu")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="for all contenders")
    parser.add_argument("--kv-cache", type=float, default=1.0, help="GiB of vLLM's cache on a CPU")
    parser.add_argument("--gpu-share", type=float, default=0.4, help="of a GPU's memory, vLLM's while it is awake")
    parser.add_argument("--name", default="bench-gpu" if gpu else "bench-cpu", help="of the files of results")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="where they go")
    asked = parser.parse_args(argv)
    if asked.dtype == "auto":
        asked.dtype = "bfloat16" if resolve_bf16("auto", torch.device(asked.device)) else "float32"
    try:
        result = bench(asked)
    except (UserError, ContenderLost) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result["asked"]["out"] = asked.out.name  # a folder of this machine is of no use to a reader
    asked.out.mkdir(parents=True, exist_ok=True)
    files = keep(result, asked.out, asked.name)
    print(markdown(result))
    print("\n".join(f"written: {file}" for file in files))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
