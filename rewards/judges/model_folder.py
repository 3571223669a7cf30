"""Where does a verifier's model lie, and what tells its verdicts from another's?"""

import hashlib
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import snapshot_download

from grpo.errors import UserError

FILES = ("*.json", "*.safetensors", "*.model", "*.txt")
"""What is taken of a model: configuration, vocabulary, weights; no pickle and no code."""

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "spm.model", "sentencepiece.bpe.model")
TOKENIZERS += ("vocab.json", "vocab.txt")


def fetch(name: str, tell: Callable[[str], None]) -> Path:
    """The folder of that name, or of the hub's owner/model[@revision], from its cache or downloaded.

    Raises UserError, one line, if there is neither, or if configuration, tokenizer or safetensors are missing.
    """
    folder = Path(name)
    if not folder.is_dir():
        owner_model, _, revision = name.partition("@")
        tell(f"verifier {name}: looking on the hub and in its cache")
        try:
            snapshot = snapshot_download(
                owner_model, revision=revision or None, allow_patterns=list(FILES), ignore_patterns=["*/*"]
            )
        except (OSError, ValueError) as error:
            raise UserError(f"{name}: neither a folder, nor to be had from the hub: {one_line(error)}") from None
        folder = Path(snapshot)
    if not (folder / "config.json").is_file():
        raise UserError(f"{name}: not a model folder: it has no config.json")
    if not any((folder / file).is_file() for file in TOKENIZERS):
        raise UserError(f"{name}: a model without a tokenizer; valid beside its config.json: {', '.join(TOKENIZERS)}")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{name}: a model without weights in *.safetensors; other formats are not read")
    return folder


def identity(name: str, folder: Path, number: str) -> str:
    """What a verdict depends on beside the two texts: the model, and how it is asked (`number`: formats of both kinds).

    A hub model is its name and commit. A folder is a digest of every byte of its JSON, vocabulary and weight files,
    wherever it lies: about a second for each GB, once at the start, since nothing less can tell a model from the same
    one with its last layer trained on.
    """
    if not Path(name).is_dir():
        return f"{name.partition('@')[0]}@{folder.name} {number}"
    digest = hashlib.sha256()
    for file in sorted({file for pattern in FILES for file in folder.glob(pattern)}):
        with file.open("rb") as stream:
            digest.update(f"{file.name}\0".encode() + hashlib.file_digest(stream, "sha256").digest())
    return f"folder:{digest.hexdigest()} {number}"


def one_line(error: Exception) -> str:
    """The beginning of a library's message, without its line breaks."""
    return " ".join(str(error).split())[:200]
