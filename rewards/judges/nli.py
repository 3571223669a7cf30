"""Judges that are NLI models: a classifier of text pairs, or a T5 that writes "1" or "0".

`ClassifierJudge` is any sequence classifier with a label "entailment". `T5Judge` is an encoder-decoder such as
google/t5_xxl_true_nli_mixture, the judge of ALCE and the Trust-Score. `load_nli` tells which a model is. The only file
of rewards/ that imports torch and transformers.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from grpo.errors import UserError
from rewards.judges.base import Pair

Row = Mapping[str, list[int]]  # a tokenized pair: {"input_ids": [...], "attention_mask": [...]}
BATCH_TOKENS = 8192  # of one forward pass, padding included
BF16_PARAMETERS = 1_000_000_000  # from which a model runs in bfloat16 on a GPU, as the T5 of the Trust-Score does
RESERVED_BYTES = 4 << 30  # of GPU memory beside the weights, estimated for 11B parameters
DEFAULT_MAX_TOKENS = 2048  # of a pair, for a model without a limit such as T5; three passages have about 500
FORMAT = 1  # counted up with every change of prompt, truncation or label rule, so that cached verdicts are not used
ENTAILMENT_LABELS = ("entailment", "entail", "entails", "entailed")
MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.txt")  # downloaded and hashed: no pickle and no code
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "spm.model", "sentencepiece.bpe.model")
TOKENIZER_FILES += ("vocab.json", "vocab.txt")


class NliJudge:
    """A `Judge` over a model, in batches of similar lengths.

    A pair longer than `max_tokens` loses the end of its premise (counted as "cut"). A hypothesis that leaves no room
    for a premise is never cut; its verdict is 0.0 (counted as "unread").
    """

    def __init__(self, model: Any, tokenizer: Any, *, max_tokens: int, batch_tokens: int) -> None:
        self._model = model.eval().requires_grad_(False)
        self._tokenizer, self._max_tokens, self._batch_tokens = tokenizer, max_tokens, batch_tokens
        self._counts = dict.fromkeys(("judged", "cut", "unread"), 0)

    def entails(self, pairs: Sequence[Pair]) -> list[float]:
        """The probability of entailment of each (premise, hypothesis), in order."""
        if not pairs:
            return []
        encoded = [self._truncate(pair, row) for pair, row in zip(pairs, self._encode(pairs), strict=True)]
        rows = {place: row for place, row in enumerate(encoded) if row is not None}
        self._counts["judged"] += len(pairs)
        self._counts["unread"] += len(pairs) - len(rows)
        verdicts = [0.0] * len(pairs)
        with torch.inference_mode():
            for batch in batches({place: len(row["input_ids"]) for place, row in rows.items()}, self._batch_tokens):
                for place, p in zip(batch, self._with_oom_retry([rows[place] for place in batch]), strict=True):
                    verdicts[place] = p
        if any(math.isnan(p) for p in verdicts):
            raise UserError("the judge's model gives no probability (NaN): damaged weights, or too large for bf16")
        return verdicts

    def pop_metrics(self) -> dict[str, float]:
        """Pairs since the last call: judged, of them with a cut premise, and with a hypothesis too long to read."""
        counts, self._counts = self._counts, dict.fromkeys(self._counts, 0)
        return {name: float(count) for name, count in counts.items()}

    def _encode(self, pairs: Sequence[Pair]) -> list[Row]:
        """Whole pairs, however long."""
        raise NotImplementedError

    def _cut(self, pair: Pair) -> Row | None:
        """The pair with its premise cut to fit `max_tokens`; None if the hypothesis leaves no room."""
        raise NotImplementedError

    def _probabilities(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """One forward pass: float32 [rows]."""
        raise NotImplementedError

    def _truncate(self, pair: Pair, row: Row) -> Row | None:
        if len(row["input_ids"]) <= self._max_tokens:
            return row
        cut = self._cut(pair)
        self._counts["cut"] += cut is not None
        return cut

    def _with_oom_retry(self, rows: Sequence[Row]) -> list[float]:
        """The probabilities of a batch, which is halved while the GPU has no room for it."""
        try:
            inputs = self._tokenizer.pad([dict(row) for row in rows], return_tensors="pt").to(self._model.device)
            return self._probabilities(inputs).tolist()
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise
        # Outside of `except`, whose traceback would keep the tensors of the failed pass alive.
        torch.cuda.empty_cache()
        half = len(rows) // 2
        return self._with_oom_retry(rows[:half]) + self._with_oom_retry(rows[half:])

    def _tokenize(self, *texts: list[str], **options: Any) -> list[Row]:
        encoded = self._tokenizer(*texts, verbose=False, **options)  # verbose would warn of texts that are cut later
        return [dict(zip(encoded, columns, strict=True)) for columns in zip(*encoded.values(), strict=True)]


class ClassifierJudge(NliJudge):
    """Any `AutoModelForSequenceClassification`: the softmax of its label "entailment" for the text pair.

    UserError, naming `name`, if the labels of the model's config do not say which is entailment.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str, batch_tokens: int = BATCH_TOKENS) -> None:
        super().__init__(model, tokenizer, max_tokens=max_input_tokens(model, tokenizer), batch_tokens=batch_tokens)
        self._label = entailment_label(model.config, name=name)

    def _encode(self, pairs: Sequence[Pair]) -> list[Row]:
        return self._tokenize([premise for premise, _ in pairs], [hypothesis for _, hypothesis in pairs])

    def _cut(self, pair: Pair) -> Row | None:
        premise, hypothesis = pair
        if len(self._tokenize([""], [hypothesis])[0]["input_ids"]) >= self._max_tokens:
            return None
        return self._tokenize([premise], [hypothesis], truncation="only_first", max_length=self._max_tokens)[0]

    def _probabilities(self, inputs: Mapping[str, Tensor]) -> Tensor:
        logits = self._model(**inputs).logits.float()
        return logits[:, 0].sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=-1)[:, self._label]


class T5Judge(NliJudge):
    """A T5 that writes "1" for entailed: P("1") against P("0") at the first decoder step.

    The Trust-Score decodes greedily and compares the text with "1". That text is "1" exactly where P("1") > 0.5 here,
    unless a third token wins; then the verdict is 0.0.

    "1" must be one token, or the first step would not tell it from "10". "0" may be several with another first one: in
    T5's own vocabulary it is the bare prefix piece and then "0". UserError, naming `name`, otherwise.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        super().__init__(model, tokenizer, max_tokens=max_tokens, batch_tokens=batch_tokens)
        one, zero = (tokenizer.encode(label, add_special_tokens=False) for label in ("1", "0"))
        if len(one) != 1 or zero[:1] in ([], one) or tokenizer.unk_token_id in (one[0], zero[0]):
            pieces = ", ".join(str(tokenizer.convert_ids_to_tokens(ids)) for ids in (one, zero))
            raise UserError(
                f'{name}: its tokenizer cuts "1" and "0" into {pieces}; valid: one token for "1", another first'
            )
        self._answers = [one[0], zero[0]]
        self._start = model.config.decoder_start_token_id

    def _encode(self, pairs: Sequence[Pair]) -> list[Row]:
        return self._tokenize([f"premise: {premise} hypothesis: {hypothesis}" for premise, hypothesis in pairs])

    def _cut(self, pair: Pair) -> Row | None:
        # No piece of a sentencepiece model crosses a blank: the two parts tokenized apart are the pieces of the whole.
        head = self._tokenize([f"premise: {pair[0]}"], add_special_tokens=False)[0]
        tail = self._tokenize([f"hypothesis: {pair[1]}"])[0]
        prefix = len(self._tokenize(["premise:"], add_special_tokens=False)[0]["input_ids"])
        room = self._max_tokens - len(tail["input_ids"])
        return None if room <= prefix else {part: head[part][:room] + tail[part] for part in tail}

    def _probabilities(self, inputs: Mapping[str, Tensor]) -> Tensor:
        start = torch.full((len(inputs["input_ids"]), 1), self._start, device=self._model.device)
        logits_BV = self._model(**inputs, decoder_input_ids=start, use_cache=False).logits[:, 0].float()
        answers = torch.tensor(self._answers, device=logits_BV.device)
        decided_B = torch.isin(logits_BV.argmax(dim=-1), answers)
        return torch.where(decided_B, logits_BV[:, answers].softmax(dim=-1)[:, 0], 0.0)


def load_nli(name: str, *, tell: Callable[[str], None] = lambda text: None) -> tuple[NliJudge, str]:
    """The judge in a folder or of a hub name (owner/model[@revision]), and the identity of its verdicts.

    On the GPU if it has room, else on the CPU. UserError, one line, if there is no such model or it is no NLI model.
    """
    folder = model_folder(name, tell)
    config = _load(name, "configuration", AutoConfig, folder)
    kind, head = _judge_class(config, name=name)
    tokenizer = _load(name, "tokenizer", AutoTokenizer, folder)
    parameters = free = 0
    if torch.cuda.is_available():
        free = torch.cuda.mem_get_info()[0]
        with torch.device("meta"):
            parameters = head.from_config(config, trust_remote_code=False).num_parameters()
    device, dtype = choose_device(parameters, free)
    number_format = str(dtype).removeprefix("torch.")
    tell(f"judge {name}: loading onto the {device} in {number_format}")
    logging.disable_progress_bar()
    model, report = _load(name, "model", head, folder, dtype=dtype, use_safetensors=True, output_loading_info=True)
    if report["missing_keys"]:
        raise UserError(f"{name}: no weights for {sorted(report['missing_keys'])[0]}: a judge must be trained for NLI")
    judge = kind(model.to(device), tokenizer, name=name)
    return judge, identity(name, folder, f"{number_format} v{FORMAT}")


def model_folder(name: str, tell: Callable[[str], None]) -> Path:
    """The folder of that name, or of the hub's model, from its cache or downloaded; UserError if there is neither."""
    folder = Path(name)
    if not folder.is_dir():
        owner_model, _, revision = name.partition("@")
        tell(f"judge {name}: looking on the hub and in its cache")
        patterns = {"allow_patterns": list(MODEL_FILES), "ignore_patterns": ["*/*"]}
        try:
            folder = Path(snapshot_download(owner_model, revision=revision or None, **patterns))
        except (OSError, ValueError) as error:
            raise UserError(f"{name}: no such folder, and not available from the hub: {_one_line(error)}") from None
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):  # transformers would make an empty one
        raise UserError(f"{name}: a model without a tokenizer; valid: one of {', '.join(TOKENIZER_FILES)}")
    return folder


def identity(name: str, folder: Path, number_format: str) -> str:
    """What a verdict depends on beside the texts: the model, and how it is run.

    A hub model is its name and commit. A folder is a digest of every byte of its files, about a second per GB: nothing
    less can tell a model from the same one with a retrained last layer.
    """
    if not Path(name).is_dir():
        return f"{name.partition('@')[0]}@{folder.name} {number_format}"
    digest = hashlib.sha256()
    for file in sorted({file for pattern in MODEL_FILES for file in folder.glob(pattern)}):
        with file.open("rb") as stream:
            digest.update(f"{file.name}\0".encode() + hashlib.file_digest(stream, "sha256").digest())
    return f"folder:{digest.hexdigest()} {number_format}"


def entailment_label(config: Any, *, name: str) -> int:
    """The index of the one label called entailment, in any case; UserError if there is not exactly one."""
    labels = [str(config.id2label[index]) for index in range(config.num_labels)]
    found = [index for index, label in enumerate(labels) if label.strip().lower() in ENTAILMENT_LABELS]
    if len(found) != 1:
        valid = "exactly one called entailment (id2label in its config.json)"
        raise UserError(f"{name}: its labels are {', '.join(labels)}; valid: {valid}")
    return found[0]


def max_input_tokens(model: Any, tokenizer: Any) -> int:
    """The least of the limits of tokenizer, config and position table."""
    limits = [tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or DEFAULT_MAX_TOKENS]
    for path, module in model.named_modules():
        # RoBERTa and its kin count positions from behind the padding index, which is part of the table.
        if path.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)
    return min(limits)


def batches(lengths: Mapping[int, int], batch_tokens: int) -> list[list[int]]:
    """Keys in batches, longest first, each of at most `batch_tokens` tokens with padding, or a single row.

    >>> batches({0: 2, 1: 9, 2: 3, 3: 1}, 6)
    [[1], [2, 0], [3]]
    """
    parts: list[list[int]] = []
    for key in sorted(lengths, key=lambda key: -lengths[key]):
        if parts and lengths[parts[-1][0]] * (len(parts[-1]) + 1) <= batch_tokens:
            parts[-1].append(key)
        else:
            parts.append([key])
    return parts


def choose_device(parameters: int, free: int) -> tuple[str, torch.dtype]:
    """The GPU if its `free` bytes hold weights and RESERVED_BYTES, in bfloat16 from BF16_PARAMETERS; else the CPU."""
    dtype = torch.bfloat16 if parameters >= BF16_PARAMETERS else torch.float32
    return ("cuda", dtype) if parameters * dtype.itemsize + RESERVED_BYTES <= free else ("cpu", torch.float32)


def _judge_class(config: Any, *, name: str) -> tuple[Callable[..., NliJudge], Any]:
    """The judge for a model, and the class that loads the model."""
    architectures = config.architectures or ()
    if any(architecture.endswith("ForSequenceClassification") for architecture in architectures):
        return ClassifierJudge, AutoModelForSequenceClassification
    if any(architecture.endswith("T5ForConditionalGeneration") for architecture in architectures):
        return T5Judge, AutoModelForSeq2SeqLM
    found = ", ".join(architectures) or f"{config.model_type} without architectures"
    raise UserError(
        f"{name}: no NLI model, it is a {found}; valid: ...ForSequenceClassification or T5ForConditionalGeneration"
    )


def _load(name: str, what: str, factory: Any, folder: Path, **options: Any) -> Any:
    try:
        return factory.from_pretrained(str(folder), trust_remote_code=False, **options)
    except Exception as error:  # the tokenizers library raises bare Exceptions for a damaged file
        raise UserError(f"{name}: its {what} cannot be loaded: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
