"""Tiny random NLI models, as real model folders: a BERT classifier of pairs and a T5, each with its tokenizer."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

WORDS = ("ali", "daei", "scored", "109", "goals", "bican", "805", "career", "he", "in", "iran", "title", "a", "mural")
LABELS = ("contradiction", "neutral", "entailment")
CONTEXT = 48
BARE = ("▁1", "▁", "0")
"""The pieces of "1" and "0" in T5's own vocabulary: "0" is the bare prefix piece and then itself."""


def bert_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; [CLS] premise [SEP] hypothesis [SEP] with token types 0 and 1."""
    vocabulary = {word: i for i, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS))}
    tokens = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokens.normalizer = normalizers.Lowercase()
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        model_max_length=CONTEXT,
    )


def bert(labels: Sequence[str] = LABELS, *, seed: int = 0) -> BertForSequenceClassification:
    """Random, with weights large enough that every word moves the logits."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=4 + len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=CONTEXT,
        initializer_range=0.5,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    return BertForSequenceClassification(config).eval()


def t5_tokenizer(answers: Sequence[str] = BARE) -> PreTrainedTokenizerFast:
    """A unigram model like sentencepiece's: every word begins with its prefix piece."""
    words = tuple(f"▁{word}" for word in ("premise:", "hypothesis:", *(w for w in WORDS if w not in ("109", "805"))))
    pieces = ("<pad>", "</s>", "<unk>", *answers, *words, *(f"▁{n}{n}" for n in range(2, 6)))
    tokens = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=2))
    tokens.pre_tokenizer = pre_tokenizers.Metaspace()
    tokens.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def t5(tokenizer: PreTrainedTokenizerFast, *, seed: int = 5) -> T5ForConditionalGeneration:
    """Random; its head says "1" or "0" by the sign of one direction, and "▁iran" where a second one is larger.

    With this seed each of them wins for some pairs.
    """
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        initializer_factor=3.0,
        decoder_start_token_id=0,
        tie_word_embeddings=False,
    )
    model = T5ForConditionalGeneration(config).eval()
    one, zero = (tokenizer.encode(label, add_special_tokens=False)[0] for label in "10")
    third = tokenizer.convert_tokens_to_ids("▁iran")
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        direction, other = torch.randn(2, 16)
        head.mul_(0.001)
        head[one], head[zero], head[third] = direction / 8, -direction / 8, other / 8
    return model


def save(model, tokenizer, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
