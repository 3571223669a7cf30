"""A tiny random model and a byte tokenizer: real code paths with no weights to fetch."""

from collections.abc import Sequence

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from grpo.batch import Batch, collate
from grpo.data.example import Example, Passage
from grpo.types import Completion, Group, TokenIds

EOS = 0


class ByteTokenizer:
    """One token per byte, 0 is the stop token; no chat template."""

    chat_template = None
    eos_token_id = EOS
    name_or_path = "byte tokenizer"

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return bytes(i for i in ids if i != EOS and i < 256).decode("utf-8", errors="replace")


def tiny_model(
    seed: int = 0,
    *,
    tied: bool = True,
    layers: int = 2,
    width: int = 32,
    attention: str = "sdpa",
    head_dim: int | None = None,
):
    """A random Llama over bytes in float32, two query heads per key head. For vLLM's CPU build `head_dim` is 32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=EOS,
        initializer_range=0.2,  # large, so that attention matters and a dropped mask shows
        attn_implementation=attention,
    )
    return LlamaForCausalLM(config).float()


def example(number: int = 0, answer: str = "109") -> Example:
    return Example(
        id=f"toy-{number}",
        question="How many?",
        passages=(Passage(title="T", text=f"It was {answer}."),),
        answers=((answer,),),
        found=((True,),),
        style="prose",
        source="toy",
    )


def random_batch(
    prompts: Sequence[int] = (5, 9),
    sizes: Sequence[int] = (3, 2),
    lengths: Sequence[int] = (4, 1, 6, 2, 5),
    seed: int = 0,
) -> Batch:
    """Random tokens: prompt lengths, completions per prompt, completion lengths in order."""
    generator = torch.Generator().manual_seed(seed)

    def ids(count: int) -> TokenIds:
        return tuple(torch.randint(1, 256, (count,), generator=generator).tolist())

    left = iter(lengths)
    groups = []
    for number, (prompt, size) in enumerate(zip(prompts, sizes, strict=True)):
        completions = tuple(
            Completion(text="", token_ids=(*ids(length - 1), EOS), logprobs=(-1.0,) * length, finish="stop", version=0)
            for length in (next(left) for _ in range(size))
        )
        groups.append(Group(example=example(number), prompt_ids=ids(prompt), completions=completions))
    advantages = torch.randn(sum(sizes), generator=generator)
    return collate(groups, advantages)


def per_group(score):
    """A Scorer from a function of one group, (example, completions) -> scores."""
    return lambda groups: [score(group.example, group.completions) for group in groups]


def deepspeed_policy(
    model, *, optim, zero, comm, total_updates, token_budget, dtype="float32", nonfinite=None, **settings
):
    """As `torch_policy`, over DeepSpeed as `zero` says, a `PolicyConfig`; `settings` are those of `PolicyModel`."""
    from grpo.model.policy_model import PolicyModel
    from grpo.policy.deepspeed_backend import DeepSpeedBackend
    from grpo.policy.engine import Policy

    if comm.world == 1:  # vLLM's tests may have destroyed the group that DeepSpeed keeps from an earlier test
        from deepspeed.utils import groups

        groups._WORLD_GROUP = None
    config = zero.model_copy(update={"dtype": dtype})
    backend = DeepSpeedBackend(PolicyModel(model, **settings), optim, config=config, comm=comm)
    return Policy(backend, total_updates=total_updates, token_budget=token_budget, comm=comm, nonfinite=nonfinite)


def write_state(snapshot, path, *, lead=True):
    """Write a rank's share of the optimizer state into the folder of all ranks; the rank that leads, the counters."""
    path.mkdir(parents=True, exist_ok=True)
    for name in snapshot.files(lead=lead):
        (path / name).write_bytes(b"".join(snapshot.contents(name)))
