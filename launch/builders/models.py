"""Names of models -> folders on disk, tokenizers and weights. The only place that loads either."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grpo.data.prompts import eos_ids
from grpo.errors import UserError
from grpo.telemetry.console import Console
from rewards.judges.base import Judge
from rewards.judges.load import load_judge

EMBEDDED = "embedded:smollm2-135m"
TINY = "random:tiny"
# Said each time: left unsaid, transformers asks on the terminal whether to run the code that a model brings.
OURS = {"trust_remote_code": False}


def cache_folder() -> Path:
    """Where converted models are kept: the one place outside the repository that anything is written to."""
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "ground-grpo"
    try:
        return Path.home() / ".cache" / "ground-grpo"
    except RuntimeError:  # neither HOME nor an entry for this user
        raise UserError("this user has no home folder; valid: XDG_CACHE_HOME set to a folder for the cache") from None


@contextmanager
def _cache_errors() -> Iterator[None]:
    """UserError where the cache cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{cache_folder()}: the cache cannot be written ({error.strerror}); valid: XDG_CACHE_HOME set to a folder "
            "that can"
        ) from error


def make_judge(name: str, *, console: Console) -> Judge:
    """A judge of entailment by name; the verdicts of a model are kept beside the converted models."""
    if name == "lexical":
        return load_judge(name)
    folder = cache_folder()
    with _cache_errors():
        folder.mkdir(parents=True, exist_ok=True)
    return load_judge(name, cache=folder / "verdicts.sqlite", tell=console.status)


def locate(name: str, *, console: Console) -> str:
    """What `from_pretrained` takes: a local folder, or a hub name as it is."""
    if name == EMBEDDED:
        from launch.builders.assets import ensure_embedded_model

        console.status("embedded model: looking into the cache")
        with _cache_errors():
            return str(ensure_embedded_model(cache_folder(), tell=console.status))
    if name == TINY:
        from launch.builders.tiny_model import ensure_tiny_model

        with _cache_errors():
            return str(ensure_tiny_model(cache_folder()))
    if name.partition(":")[0] in ("embedded", "random") and ":" in name:
        raise UserError(f"model.name = {name!r}: unknown; valid: {EMBEDDED}, {TINY}, a folder, or a hub name")
    if Path(name).is_dir():
        _check_folder(Path(name))
    elif name.startswith((".", "/")) or name.count("/") != 1:
        raise UserError(f"model.name = {name!r}: no such folder, and not a hub name like owner/model")
    return name


def fingerprint(name: str) -> list[object]:
    """The identity of a base model: its name, or for a local folder a hash of its configuration and weights."""
    folder = Path(name)
    if not folder.is_dir():
        return [name]
    _check_folder(folder)
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    try:
        return [(file.name, _hash(file)) for file in files]
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from None


def _hash(file: Path) -> str:
    import xxhash

    digest = xxhash.xxh3_128()
    with file.open("rb") as opened:
        while block := opened.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def load_tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, **OURS)
    except Exception as error:  # the tokenizers library raises bare Exceptions for a damaged file
        raise UserError(f"{folder}: no tokenizer can be loaded: {_line(error)}") from None


def load_model(folder: str, *, device: str, bf16: bool = False, sharding: Mapping[str, Any] | None = None) -> Any:
    """The weights in float32, or bfloat16, attention through SDPA.

    `sharding` is a configuration of ZeRO-3: every rank then keeps a share of each tensor as it is read, so that a model
    can be loaded that no rank has room for. Called by all ranks together.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # the console has its own signs of life
    if device == "cpu":  # else transformers, when it first saves, imports a DeepSpeed that warns of finding no GPU
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    dtype = torch.bfloat16 if bf16 else torch.float32
    with _sharded(sharding):
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, attn_implementation="sdpa", use_safetensors=True, **OURS
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(f"{folder}: no causal language model can be loaded: {_line(error)}") from None
    return model if sharding else model.to(device)


@contextmanager
def _sharded(config: Mapping[str, Any] | None) -> Iterator[None]:
    """While this lasts, transformers loads for ZeRO-3: it holds the configuration by a weak reference."""
    if config is None:
        yield
        return
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    alive = HfDeepSpeedConfig(dict(config))
    yield
    del alive


def load_shell(folder: str) -> Any:
    """The model without its weights: names and shapes of its parameters, and both of its configurations."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    try:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, **OURS), **OURS)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: not the configuration of a causal language model: {_line(error)}") from None
    with contextlib.suppress(OSError):  # a model folder may do without one; stop tokens are then those of config.json
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def stop_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    return eos_ids(tokenizer, model.config, model.generation_config)


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: not a model folder: it has no config.json")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise UserError(f"{folder}: a model folder without a tokenizer (tokenizer.json); save the tokenizer into it")
    if not list(folder.glob("*.safetensors")):
        raise UserError(f"{folder}: a model folder without weights (*.safetensors); other formats are not read")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
