"""How much arithmetic does an update need? Tokens and floating-point operations, counted from lengths, never measured.

P tokens of a prompt, R of a completion, N parameters that a token is multiplied with. A trainer that runs the prompt
once per completion runs G (P + R) tokens for a group where P + G R are distinct; what is useful is counted once per
distinct token, so that running one twice never looks like speed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # only its lengths are looked at, so that counting needs no torch
    from grpo.batch import Batch

BACKWARD = 2  # the gradients of inputs and of weights: two products for each one of the forward pass


class Sizes(Protocol):
    """What of a decoder its arithmetic depends on; `launch.config.model_size.Shape` has all of it."""

    @property
    def layers(self) -> int: ...
    @property
    def attention(self) -> int: ...  # heads x head_dim
    @property
    def parameters(self) -> int: ...  # all of them, tied ones once
    @property
    def head_parameters(self) -> int: ...  # vocabulary x hidden
    @property
    def tied(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Some completions and the prompts they continue, as counts; adds up over batches.

    Two completions of 3 and 1 tokens after a prompt of 2: `Work(distinct=6, equivalent=8, learnt=4, completions=2,
    pairs=3 + 4 + 3)`: 3 within the prompt; of the first completion two tokens are read, which see the prompt (2 x 2)
    and themselves (1 + 2); of the second none is.
    """

    distinct: int = 0  # every prompt once, every completion once: P + G R of a group
    equivalent: int = 0  # a prompt for every completion: G (P + R), what a plain trainer runs
    learnt: int = 0  # completion tokens, the ones whose logits are needed
    completions: int = 0  # each ends in a token that is predicted and never read
    pairs: int = 0  # (query, key) of all tokens that are read: who looks at whom, itself included

    def __add__(self, other: "Work") -> "Work":
        return Work(
            distinct=self.distinct + other.distinct,
            equivalent=self.equivalent + other.equivalent,
            learnt=self.learnt + other.learnt,
            completions=self.completions + other.completions,
            pairs=self.pairs + other.pairs,
        )

    @property
    def read(self) -> int:
        """ForwardTokenCounter that the shared layout runs at least: each distinct token but the last ones."""
        return self.distinct - self.completions

    @property
    def read_apart(self) -> int:
        """ForwardTokenCounter that the padded layout runs at least: the same with a prompt for every completion."""
        return self.equivalent - self.completions


def group_work(prompt: int, completions: Sequence[int]) -> Work:
    """The work of one prompt and its completions, from their lengths in tokens.

    >>> group_work(400, [48] * 8).distinct, group_work(400, [48] * 8).equivalent
    (784, 3584)
    """
    return Work(
        distinct=prompt + sum(completions),
        equivalent=sum(prompt + length for length in completions),
        learnt=sum(completions),
        completions=len(completions),
        pairs=_triangle(prompt) + sum((length - 1) * prompt + _triangle(length - 1) for length in completions),
    )


def batch_work(batch: "Batch") -> Work:
    """The work of a batch as it is trained on: rows that were left out and prompts without rows cost nothing."""
    completions: dict[int, list[int]] = {}
    for group, length in zip(batch.group_B.tolist(), batch.lengths_B.tolist(), strict=True):
        completions.setdefault(group, []).append(length)
    return total(group_work(len(batch.prompts[group]), lengths) for group, lengths in completions.items())


def total(parts: Iterable[Work]) -> Work:
    return sum(parts, Work())


def update_flops(sizes: Sizes, work: Work) -> float:
    """Operations of one forward and backward pass, by the field's convention: 3 (2 N distinct + 4 layers width pairs).

    N leaves an input embedding of its own out (it is looked up) and has the head in, for every distinct token, as in
    PaLM (arXiv 2204.02311, appendix B) and its successors. Attention is counted where a token may look, so half of a
    full square. The optimizer and whatever is computed again are not counted.
    """
    multiplied = sizes.parameters - (0 if sizes.tied else sizes.head_parameters)
    return (1 + BACKWARD) * (2.0 * multiplied * work.distinct + _attention(sizes, work))


def needed_flops(sizes: Sizes, work: Work) -> float:
    """The same without what no exact update has to do: logits of prompt tokens, and the last tokens, never read."""
    trunk = sizes.parameters - (1 if sizes.tied else 2) * sizes.head_parameters
    products = 2.0 * trunk * work.read + 2.0 * sizes.head_parameters * work.learnt
    return (1 + BACKWARD) * (products + _attention(sizes, work))


def _attention(sizes: Sizes, work: Work) -> float:
    """Forward operations of q k and of the weighted sum of v: a multiplication and an addition each, per pair."""
    return 4.0 * sizes.layers * sizes.attention * work.pairs


def _triangle(count: int) -> int:
    return count * (count + 1) // 2
