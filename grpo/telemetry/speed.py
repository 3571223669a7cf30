"""Counts and seconds of a step -> rates, shares, and the words of the console line."""

from collections.abc import Mapping

from grpo.telemetry.flops import Work


def sharing(work: Work, ran: int) -> float:
    """How many times fewer positions were run than with a prompt for every completion: 1 for the padded layout."""
    return work.read_apart / ran


def padding(work: Work, ran: int, *, shared: bool) -> float:
    """The share of the positions run that the layout did not need: padding, and prompts of groups that were cut."""
    return 1 - (work.read if shared else work.read_apart) / ran


def speeds(values: Mapping[str, float]) -> dict[str, float]:
    """Tokens of a step by the second, all ranks and all phases: distinct ones, and as many as a trainer that repeats
    the prompt would have had to run for the same groups. Nothing where the step had no groups.

    >>> speeds({"time/step": 2.0, "count/prompt_tokens": 400, "count/completion_tokens": 384,
    ...         "count/equivalent_tokens": 3584})
    {'perf/tokens_per_second': 392.0, 'perf/equivalent_per_second': 1792.0}
    """
    if "count/equivalent_tokens" not in values:
        return {}
    seconds = max(values["time/step"], 1e-9)
    distinct = values["count/prompt_tokens"] + values["count/completion_tokens"]
    return {
        "perf/tokens_per_second": distinct / seconds,
        "perf/equivalent_per_second": values["count/equivalent_tokens"] / seconds,
    }


def usage(values: Mapping[str, float]) -> list[str]:
    """`392 tok/s (1,792 with repeated prompts)`, `mfu 41 %`, `shared 4.2x`, `padding 3 %`: what is known of how a step
    used the machine. Tokens of completions alone, in a supervised step."""
    if "perf/tokens_per_second" in values:
        each, repeated = values["perf/tokens_per_second"], values["perf/equivalent_per_second"]
        shown = [f"{each:.0f} tok/s ({repeated:,.0f} with repeated prompts)"]
    else:
        shown = [f"{values['count/tokens_per_s']:.0f} tok/s"]
    shown += [f"mfu {100 * values['perf/mfu']:.0f} %"] if "perf/mfu" in values else []
    if "perf/sharing" in values:
        shown.append(f"shared {values['perf/sharing']:.1f}x")
        shown.append(f"padding {100 * values['perf/padding']:.0f} %")
    return shown


def phases(values: Mapping[str, float]) -> str:
    """`14.1 s (rollout 8.0, update 6.0)`: the step, and the phases that took a hundredth of it or more."""
    step = values["time/step"]
    named = {name.removeprefix("time/"): value for name, value in values.items() if name.startswith("time/")}
    shown = [f"{name} {value:.1f}" for name, value in named.items() if name != "step" and value >= step / 100]
    return f"{step:.1f} s" + (f" ({', '.join(shown)})" if shown else "")
