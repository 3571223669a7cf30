"""Does a model say that one text follows from another? The two kinds of NLI model that the field uses.

`SequenceClassification`: a classifier of text pairs with a label "entailment". `T5`: an encoder-decoder that writes
"1" or "0", such as google/t5_xxl_true_nli_mixture, the metric's own judge (ALCE, Trust-Score). `load_nli` tells which
it is. The only file of rewards/ that imports torch and transformers.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from grpo.errors import UserError
from rewards.judges.model_folder import fetch, identity, one_line

Row = Mapping[str, list[int]]
"""A tokenized pair, as the tokenizer names its parts: {"input_ids": [...], "attention_mask": [...]}."""

TOKEN_BUDGET = 8192
"""Tokens of one forward pass, padding included."""

BIG = 1_000_000_000
"""Parameters from which a model is run in bfloat16 on a GPU, as the field's evaluator runs its T5."""

RESERVE = 4 << 30
"""Bytes of GPU memory beside the weights, an estimate for 11B parameters; batches that need more are halved."""

UNBOUNDED = 2048
"""Tokens of a pair for a model without a limit of its own, as T5 with its relative positions: a bound on memory.

The field's evaluator cuts nothing; three passages of 100 words are about 500 tokens.
"""

FORMAT = 1
"""How a pair becomes a verdict: prompt, truncation, rule of the labels. Counted up with every change of it, since kept
verdicts of another format are not this one's."""

ENTAILMENT = ("entailment", "entail", "entails", "entailed")


class Judge:
    """A `Verifier` over a model: batches of alike lengths, in evaluation mode.

    A pair longer than `context` tokens has the end of its premise cut (count "cut"). A hypothesis that leaves no room
    for a premise is never cut: nobody has read it whole, so it is worth 0.0 (count "unread").
    """

    def __init__(self, model: Any, tokenizer: Any, *, context: int, budget: int) -> None:
        self._model = model.eval().requires_grad_(False)
        self._tokenizer, self._context, self._budget = tokenizer, context, budget
        self._counts = dict.fromkeys(("judged", "cut", "unread"), 0)

    def entails(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The probability of entailment of each (premise, hypothesis), in order."""
        if not pairs:
            return []
        encoded = [self._fitted(pair, row) for pair, row in zip(pairs, self._tokenized(pairs), strict=True)]
        rows = {place: row for place, row in enumerate(encoded) if row is not None}
        self._counts["judged"] += len(pairs)
        self._counts["unread"] += len(pairs) - len(rows)
        verdicts = [0.0] * len(pairs)
        with torch.inference_mode():
            for part in batches({place: len(row["input_ids"]) for place, row in rows.items()}, self._budget):
                for place, p in zip(part, self._halving([rows[place] for place in part]), strict=True):
                    verdicts[place] = p
        if any(math.isnan(p) for p in verdicts):
            raise UserError("the verifier's model gives no probability (NaN): damaged weights, or too large for bf16")
        return verdicts

    def take_counts(self) -> dict[str, float]:
        """Pairs since the last call: judged, of them with a cut premise, and with a hypothesis too long to read."""
        counts, self._counts = self._counts, dict.fromkeys(self._counts, 0)
        return {name: float(count) for name, count in counts.items()}

    def _tokenized(self, pairs: Sequence[tuple[str, str]]) -> list[Row]:
        """Whole pairs, however long."""
        raise NotImplementedError

    def _shortened(self, pair: tuple[str, str]) -> Row | None:
        """The pair in `context` tokens, the premise cut; None if the hypothesis leaves no room for any of it."""
        raise NotImplementedError

    def _probabilities(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """One forward pass: float32 [rows]."""
        raise NotImplementedError

    def _fitted(self, pair: tuple[str, str], row: Row) -> Row | None:
        if len(row["input_ids"]) <= self._context:
            return row
        short = self._shortened(pair)
        self._counts["cut"] += short is not None
        return short

    def _halving(self, rows: Sequence[Row]) -> list[float]:
        """The probabilities of a batch, in two halves where the GPU has no room for the whole."""
        try:
            inputs = self._tokenizer.pad([dict(row) for row in rows], return_tensors="pt").to(self._model.device)
            return self._probabilities(inputs).tolist()
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise
        # Outside of `except`, whose traceback would keep the failed pass's tensors alive.
        torch.cuda.empty_cache()
        half = len(rows) // 2
        return self._halving(rows[:half]) + self._halving(rows[half:])

    def _rows(self, *texts: list[str], **options: Any) -> list[Row]:
        # verbose: a text over the tokenizer's limit is our business, not a warning.
        encoded = self._tokenizer(*texts, verbose=False, **options)
        return [dict(zip(encoded, columns, strict=True)) for columns in zip(*encoded.values(), strict=True)]


class SequenceClassification(Judge):
    """Any `AutoModelForSequenceClassification`: the pair as a text pair, the softmax of the label "entailment".

    Raises UserError, naming `name`, if the labels of the model's config do not say which is entailment.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str, budget: int = TOKEN_BUDGET) -> None:
        super().__init__(model, tokenizer, context=positions(model, tokenizer), budget=budget)
        self._label = entailment_label(model.config, name=name)

    def _tokenized(self, pairs: Sequence[tuple[str, str]]) -> list[Row]:
        return self._rows([premise for premise, _ in pairs], [hypothesis for _, hypothesis in pairs])

    def _shortened(self, pair: tuple[str, str]) -> Row | None:
        premise, hypothesis = pair
        if len(self._rows([""], [hypothesis])[0]["input_ids"]) >= self._context:
            return None
        return self._rows([premise], [hypothesis], truncation="only_first", max_length=self._context)[0]

    def _probabilities(self, inputs: Mapping[str, Tensor]) -> Tensor:
        logits = self._model(**inputs).logits.float()
        return logits[:, 0].sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=-1)[:, self._label]


class T5(Judge):
    """A T5 that writes "1" for entailed: P("1") against P("0") at the first decoder step.

    The field's evaluator decodes greedily and compares the text with "1". Greedy begins with the most likely first
    token; while that is "1" or "0", it is "1" exactly where P("1") > 0.5 here. Where a third token wins, the field's
    text is not "1", so the probability is 0.0.

    "1" must be one token of the model's own tokenizer, or the first step would not tell it from "10" or "a". "0" may be
    several, of which the first counts: in T5's own vocabulary it is the bare prefix piece and then "0". Raises
    UserError, naming `name`, where the tokens do not tell them apart.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, name: str, context: int = UNBOUNDED, budget: int = TOKEN_BUDGET
    ) -> None:
        super().__init__(model, tokenizer, context=context, budget=budget)
        one, zero = (tokenizer.encode(label, add_special_tokens=False) for label in ("1", "0"))
        if len(one) != 1 or zero[:1] in ([], one) or tokenizer.unk_token_id in (one[0], zero[0]):
            pieces = ", ".join(str(tokenizer.convert_ids_to_tokens(ids)) for ids in (one, zero))
            raise UserError(
                f'{name}: its tokenizer cuts "1" and "0" into {pieces}; valid: one token for "1", another first'
            )
        self._answers = [one[0], zero[0]]
        self._start = model.config.decoder_start_token_id

    def _tokenized(self, pairs: Sequence[tuple[str, str]]) -> list[Row]:
        return self._rows([f"premise: {premise} hypothesis: {hypothesis}" for premise, hypothesis in pairs])

    def _shortened(self, pair: tuple[str, str]) -> Row | None:
        # No piece of a sentencepiece model crosses a blank: the two parts cut apart are the pieces of the whole.
        head = self._rows([f"premise: {pair[0]}"], add_special_tokens=False)[0]
        tail = self._rows([f"hypothesis: {pair[1]}"])[0]
        frame = len(self._rows(["premise:"], add_special_tokens=False)[0]["input_ids"])
        room = self._context - len(tail["input_ids"])
        return None if room <= frame else {part: head[part][:room] + tail[part] for part in tail}

    def _probabilities(self, inputs: Mapping[str, Tensor]) -> Tensor:
        start = torch.full((len(inputs["input_ids"]), 1), self._start, device=self._model.device)
        logits_BV = self._model(**inputs, decoder_input_ids=start, use_cache=False).logits[:, 0].float()
        answers = torch.tensor(self._answers, device=logits_BV.device)
        decided_B = torch.isin(logits_BV.argmax(dim=-1), answers)
        return torch.where(decided_B, logits_BV[:, answers].softmax(dim=-1)[:, 0], 0.0)


def load_nli(name: str, *, tell: Callable[[str], None] = lambda text: None) -> tuple[Judge, str]:
    """The judge in a folder or of a hub name (owner/model, or owner/model@revision), and the identity of its verdicts.

    On the GPU where there is room, else on the CPU. Raises UserError, one line, for what is not there or no NLI model.
    """
    folder = fetch(name, tell)
    config = _loaded(name, "configuration", AutoConfig, folder)
    kind, head = _kind(config, name=name)
    tokenizer = _loaded(name, "tokenizer", AutoTokenizer, folder)
    device, dtype = _place(config, head, name, tell)
    number = str(dtype).removeprefix("torch.")
    tell(f"verifier {name}: loading onto the {device} in {number}")
    logging.disable_progress_bar()
    model, report = _loaded(name, "model", head, folder, dtype=dtype, use_safetensors=True, output_loading_info=True)
    if report["missing_keys"]:
        raise UserError(
            f"{name}: no weights for {sorted(report['missing_keys'])[0]}: a verifier must be trained for NLI"
        )
    return kind(model.to(device), tokenizer, name=name), identity(name, folder, f"{number} v{FORMAT}")


def entailment_label(config: Any, *, name: str) -> int:
    """The index of the one label called entailment, in any case, in `id2label` or `label2id`; UserError if none is."""
    named = [(label, int(index)) for index, label in (config.id2label or {}).items()]
    named += [(label, int(index)) for label, index in (config.label2id or {}).items()]
    found = {index for label, index in named if str(label).strip().lower() in ENTAILMENT}
    if len(found) != 1 or not found <= set(range(config.num_labels)):
        labels = ", ".join(dict.fromkeys(str(label) for label, _ in named))
        raise UserError(
            f"{name}: its labels are {labels}; valid: exactly one called entailment (id2label in its config.json)"
        )
    return found.pop()


def positions(model: Any, tokenizer: Any) -> int:
    """How many tokens the model can read at once: the least of what its tokenizer, config and position table say."""
    limits = [tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or UNBOUNDED]
    for path, module in model.named_modules():
        # RoBERTa and its kin count positions from behind the padding index, which is part of the table.
        if path.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)
    return min(limits)


def batches(lengths: Mapping[int, int], budget: int) -> list[list[int]]:
    """Keys in batches, longest first, so that each has at most `budget` tokens with padding, or a single row.

    >>> batches({0: 2, 1: 9, 2: 3, 3: 1}, 6)
    [[1], [2, 0], [3]]
    """
    parts: list[list[int]] = []
    for key in sorted(lengths, key=lambda key: -lengths[key]):
        if parts and lengths[parts[-1][0]] * (len(parts[-1]) + 1) <= budget:
            parts[-1].append(key)
        else:
            parts.append([key])
    return parts


def placement(parameters: int, free: int | None) -> tuple[str, torch.dtype]:
    """Where a model is run, and in what format, when a GPU has `free` bytes (None: no GPU).

    On the GPU, from BIG parameters in bfloat16, if the weights and RESERVE fit; else on the CPU in float32.
    """
    dtype = torch.bfloat16 if parameters >= BIG else torch.float32
    if free is not None and parameters * dtype.itemsize + RESERVE <= free:
        return "cuda", dtype
    return "cpu", torch.float32


def _kind(config: Any, *, name: str) -> tuple[Callable[..., Judge], Any]:
    """Which judge a model is, and the class that loads it."""
    architectures = config.architectures or ()
    if any(architecture.endswith("ForSequenceClassification") for architecture in architectures):
        return SequenceClassification, AutoModelForSequenceClassification
    if any(architecture.endswith("T5ForConditionalGeneration") for architecture in architectures):
        return T5, AutoModelForSeq2SeqLM
    is_a = ", ".join(architectures) or f"{config.model_type} without architectures"
    raise UserError(
        f"{name}: no NLI model, it is a {is_a}; valid: ...ForSequenceClassification or T5ForConditionalGeneration"
    )


def _place(config: Any, head: Any, name: str, tell: Callable[[str], None]) -> tuple[str, torch.dtype]:
    if not torch.cuda.is_available():
        return placement(0, None)
    with torch.device("meta"):
        parameters = head.from_config(config, trust_remote_code=False).num_parameters()
    free = torch.cuda.mem_get_info()[0]
    device, dtype = placement(parameters, free)
    if device == "cpu":
        tell(f"verifier {name}: {parameters / 1e9:.1f}B parameters and {free >> 30} GiB of GPU memory free: on the CPU")
    return device, dtype


def _loaded(name: str, what: str, factory: Any, folder: Path, **options: Any) -> Any:
    try:
        return factory.from_pretrained(str(folder), trust_remote_code=False, **options)
    except Exception as error:  # the tokenizers library raises bare Exceptions for a damaged file
        raise UserError(f"{name}: its {what} cannot be loaded: {one_line(error)}") from None
