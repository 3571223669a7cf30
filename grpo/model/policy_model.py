"""The seam between the policy engine and a causal language model of transformers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grpo.batch import Batch
from grpo.model.forward import Layout, LayoutOption, completion_logprobs, resolve_layout
from grpo.model.lm_head import ChunkedHead

Gather = Callable[[Any], AbstractContextManager[Any]]
"""A context in which the given parameters are whole, for weights that are sharded over ranks."""


class PolicyModel(torch.nn.Module):
    """Batch -> log-probabilities of its completion tokens, by the policy or by its frozen reference.

    A module, so that DeepSpeed can wrap it; it is itself the one place that knows transformers' model. Dropout is
    disabled, so that the gradient pass and the sampler see the same policy.
    """

    layout: Layout = "padded"  # until `prepare` has tried the model

    def __init__(
        self,
        model: Any,
        *,
        layout: LayoutOption = "auto",
        temperature: float = 1.0,
        gradient_checkpointing: bool = False,
        reference: Any = None,
    ) -> None:
        """`model` and `reference` are causal language models of transformers with a bare linear head."""
        super().__init__()
        disable_dropout(model)
        self.model = model
        self.head = ChunkedHead(model.get_output_embeddings().weight)
        self._layout_option: LayoutOption = layout
        self._temperature, self._gradient_checkpointing = temperature, gradient_checkpointing
        self._gather: Gather = nullcontext
        # In a list, since a submodule would be sharded and trained with this one.
        self._frozen: list[Any] = []
        if reference is not None:
            self._frozen.append(PolicyModel(reference, temperature=temperature).eval().requires_grad_(False))

    def prepare(self, gather: Gather | None = None) -> None:
        """Resolve the layout and enable gradient checkpointing; backends call this once the weights are in place.

        `gather` is given if the weights are sharded. UserError as `resolve_layout`.
        """
        self._gather = gather or nullcontext
        torch.backends.cuda.enable_cudnn_sdp(False)  # it would build a plan, 0.4 s, for every new length of a prompt
        self.layout = resolve_layout(self.model, self._layout_option, gather=self._gather)
        for frozen in self._frozen:
            frozen.layout = self.layout
        if self._gradient_checkpointing:
            # The second run of a layer under ZeRO-3 finds shards where tensors were saved; reentrant does not compare.
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": bool(gather)})
        self.train()  # for gradient checkpointing alone

    def forward_logprobs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(logp_BC, entropy_BC) of the completion tokens, float32, 0 outside `learn_BC`, on the model's device."""
        return completion_logprobs(self.model, batch, layout=self.layout, temperature=self._temperature, head=self.head)

    forward = forward_logprobs

    @contextmanager
    def reference(self) -> Iterator[Any]:
        """Yield the module that returns log-probabilities of the frozen reference. ValueError if there is none."""
        if not self._frozen:
            raise ValueError("this policy has no reference model: it was built for kl_coef = 0")
        yield self._frozen[0]

    def wrap_reference(self, wrap: Callable[["PolicyModel"], Any]) -> None:
        """Replace the reference, if there is one, by what `wrap` makes of it: a cast or sharded module."""
        self._frozen = [wrap(frozen) for frozen in self._frozen]

    def trainable_parameters(self) -> list[tuple[str, Any]]:
        """(name on the model hub, parameter), in a fixed order; tied parameters once."""
        return [(name, each) for name, each in self.model.named_parameters() if each.requires_grad]

    def export_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield whole tensors under the names of the model hub; tied tensors once. Collective if sharded."""
        for name, parameter in self.model.named_parameters():
            with self._gather([parameter]):
                yield name, parameter.detach()

    def save_pretrained(self, path: Path, weights: Mapping[str, Tensor]) -> None:
        """Write a model folder with these weights, whole tensors, since the model's own may be sharded."""
        saved = self.model.state_dict().keys()  # only some buffers belong into a file
        buffers = {name: buffer for name, buffer in self.model.named_buffers() if name in saved}
        self.model.save_pretrained(path, state_dict={**weights, **buffers}, safe_serialization=True)


def disable_dropout(model: torch.nn.Module) -> None:
    """Set the probability of every dropout to 0."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "attn_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
