"""Where does a verifier's model lie, and what tells its verdicts from another's?"""

import hashlib
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import snapshot_download

from grpo.types import InputError

FILES = ("*.json", "*.safetensors", "*.model", "*.txt")
"""What is taken of a model: configuration, vocabulary, weights; no pickle and no code."""

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "spm.model", "sentencepiece.bpe.model")
TOKENIZERS += ("vocab.json", "vocab.txt")


def fetch(name: str, tell: Callable[[str], None]) -> Path:
    """The folder of that name, or of the hub's owner/model[@revision], from its cache or downloaded.

    Raises InputError, one line, if there is neither, or if configuration, tokenizer or safetensors are missing.
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
            raise InputError(f"{name}: neither a folder, nor to be had from the hub: {one_line(error)}") from None
        folder = Path(snapshot)
    if not (folder / "config.json").is_file():
        raise InputError(f"{name}: not a model folder: it has no config.json")
    if not any((folder / file).is_file() for file in TOKENIZERS):
        raise InputError(f"{name}: a model without a tokenizer; valid beside its config.json: {', '.join(TOKENIZERS)}")
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"{name}: a model without weights in *.safetensors; other formats are not read")
    return folder


def identity(name: str, folder: Path, number: str) -> str:
    """What a verdict depends on beside the two texts: the model, and the number format that it is run in.

    A hub model is its name and commit. A folder is a digest of its JSON, vocabulary and weight files, wherever it lies;
    of a weight file its size and 16 pieces of 64 KiB spread over it, since training changes weights everywhere.
    """
    if not Path(name).is_dir():
        return f"{name.partition('@')[0]}@{folder.name} {number}"
    digest = hashlib.sha256()
    for file in sorted({file for pattern in FILES for file in folder.glob(pattern)}):
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as stream:
            if file.suffix != ".safetensors":
                digest.update(stream.read())
                continue
            for piece in range(16):
                stream.seek(size * piece // 16)
                digest.update(stream.read(64 << 10))
    return f"folder:{digest.hexdigest()} {number}"


def one_line(error: Exception) -> str:
    """The beginning of a library's message, without its line breaks."""
    return " ".join(str(error).split())[:200]
