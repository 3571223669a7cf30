"""The interface of rollout engines, which sample completions from the policy."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from grpo.data.example import Example
from grpo.errors import StaleWeights
from grpo.types import Completion, Group, PromptRenderer, Sampling, TokenIds


class RolloutEngine(Protocol):
    """Samples completions with exactly the weights of the last `load`.

    Token ids in, token ids out: no engine tokenizes. Log-probabilities are those of the sampled distribution. A
    truncated completion has `finish == "length"`.
    """

    def load(self, weights: Iterable[tuple[str, Tensor]], *, version: int) -> None:
        """Take new weights and drop all caches of the old ones; completions carry `version` from now on.

        `weights` has every parameter once, by name, in any order. StaleWeights where one is missing, unknown or of
        another shape.
        """
        ...

    def generate(self, prompts: Sequence[TokenIds], sampling: Sampling, *, seed: int) -> list[list[Completion]]:
        """`sampling.group_size` completions per prompt, [P][G], in order; the same for the same seed and weights."""
        ...

    def release(self) -> None:
        """Free memory until the next `load`."""
        ...


def check_weights(
    weights: Iterable[tuple[str, Tensor]], shapes: Mapping[str, tuple[int, ...]], *, version: int
) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights one at a time; StaleWeights unless they are exactly the parameters in `shapes`.

    Two swapped parameters of one shape pass here; the comparison of log-probabilities finds them.
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


def derive_seed(*parts: int | str) -> int:
    """Return a seed below 2**48 that depends on every part: runs, steps, ranks and requests share no random numbers.

    >>> derive_seed(3, 5, 0, 0), derive_seed(3, 5, 1, 0)
    (189256206487869, 177117474372952)
    """
    return int.from_bytes(hashlib.sha256(" ".join(map(str, parts)).encode()).digest()[:6])


def sample_groups(
    rollout: RolloutEngine,
    examples: Sequence[Example],
    render: PromptRenderer,
    sampling: Sampling,
    *,
    seed: int,
    version: int,
) -> list[Group]:
    """One unscored group per example, in order; StaleWeights where a completion carries another version."""
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
