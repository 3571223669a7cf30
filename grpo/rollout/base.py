"""The seam to whatever writes completions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from grpo.data.example import Example
from grpo.errors import StaleWeights
from grpo.types import Completion, Group, PromptRenderer, Sampling, TokenIds


class RolloutEngine(Protocol):
    """Writes completions with exactly the weights it was last given.

    Token ids in, token ids out: nothing is tokenized or re-tokenized here. Log-probabilities are those of the
    distribution that was sampled from. Truncated means `finish == "length"`.
    """

    def load(self, weights: Iterable[tuple[str, Tensor]], *, version: int) -> None:
        """Take new weights, forget everything computed with the old ones; completions carry `version` from now on.

        Every parameter once, by name, in any order; StaleWeights where one is missing, unknown or of another shape.
        """
        ...

    def generate(self, prompts: Sequence[TokenIds], sampling: Sampling, *, seed: int) -> list[list[Completion]]:
        """`sampling.group_size` completions per prompt, [P][G], in order; the same for the same seed and weights."""
        ...

    def release(self) -> None:
        """Give memory back until the next `load`."""
        ...


def checked(
    weights: Iterable[tuple[str, Tensor]], shapes: Mapping[str, tuple[int, ...]], *, version: int
) -> Iterator[tuple[str, Tensor]]:
    """The weights as they come, one at a time. StaleWeights unless they are exactly the parameters in `shapes`.

    Two parameters of one shape under each other's names pass here; the comparison of log-probabilities sees them.
    """
    missing = dict.fromkeys(shapes)
    for name, tensor in weights:
        if name not in missing:
            what = "came twice" if name in shapes else "is no parameter of the rollout engine's model"
            raise StaleWeights(f"weights {version}: {name} {what}")
        if tuple(tensor.shape) != shapes[name]:
            raise StaleWeights(
                f"weights {version}: {name} has the shape {tuple(tensor.shape)}, in the rollout engine {shapes[name]}"
            )
        del missing[name]
        yield name, tensor.detach()
    if missing:
        raise StaleWeights(
            f"weights {version}: {next(iter(missing))} is missing ({len(missing)} of {len(shapes)} are); "
            "the rollout engine would mix two versions"
        )


def sample_groups(
    rollout: RolloutEngine,
    examples: Sequence[Example],
    render: PromptRenderer,
    sampling: Sampling,
    *,
    seed: int,
    version: int,
) -> list[Group]:
    """One unscored group per example, in order. Raises StaleWeights if a completion carries another version."""
    prompts = [render(example) for example in examples]
    written = rollout.generate(prompts, sampling, seed=seed)
    for completion in (completion for group in written for completion in group):
        if completion.version != version:
            raise StaleWeights(
                f"the rollout engine wrote with weights {completion.version}, the trainer is at {version}"
            )
    return [
        Group(example=example, prompt_ids=prompt, completions=tuple(completions))
        for example, prompt, completions in zip(examples, prompts, written, strict=True)
    ]
