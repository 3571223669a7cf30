"""Names of models -> folders on disk, tokenizers and weights. The only place that loads either."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grpo.checkpointing.atomic_directory import atomic_directory
from grpo.errors import UserError
from grpo.telemetry.console import Console
from launch.config.recipe import ModelConfig

EMBEDDED = "embedded:smollm2-135m"
TINY = "random:tiny"
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TINY_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
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
def cache_errors() -> Iterator[None]:
    """Raise UserError where the cache cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{cache_folder()}: the cache cannot be written ({error.strerror}); valid: XDG_CACHE_HOME set to a folder "
            "that can"
        ) from error


def locate(name: str, *, console: Console) -> str:
    """What `from_pretrained` takes: a local folder, or a hub name as it is."""
    if name == EMBEDDED:
        from launch.builders.assets import ensure_embedded_model

        console.status("embedded model: looking into the cache")
        quiet_transformers(device())
        with cache_errors():
            return str(ensure_embedded_model(cache_folder(), tell=console.status))
    if name == TINY:
        with cache_errors():
            return str(_ensure_tiny_model(cache_folder()))
    if name.partition(":")[0] in ("embedded", "random") and ":" in name:
        raise UserError(f"model.name = {name!r}: unknown; valid: {EMBEDDED}, {TINY}, a folder, or a hub name")
    if Path(name).is_dir():
        _check_folder(Path(name))
    elif name.startswith((".", "/")) or name.count("/") != 1:
        raise UserError(f"model.name = {name!r}: no such folder, and not a hub name like owner/model")
    return name


def starting_model(model: ModelConfig, runs: str) -> str | None:
    """Return the model folder that `model.init_from` names; None for "base". A run folder stands for its model.

    A stage stands for its run with this model below the folder `runs`. Raises UserError where there is no such folder.
    """
    start = model.init_from
    if start == "base":
        return None
    if (CONFIGS / f"{start}.toml").is_file():
        folder = Path(runs) / f"{start}-{model.label}" / "model"
        if not folder.is_dir():
            raise UserError(
                f'model.init_from = "{start}": {folder} is not there; run `make train-{start}` first, '
                "or give a model folder: --model.init_from=FOLDER (make: FROM=FOLDER)"
            )
        return str(folder)
    if not Path(start).is_dir():
        raise UserError(
            f'model.init_from = {start!r}: no such folder; valid: "base", a stage such as "stage1", or a model or run '
            "folder"
        )
    is_run = (Path(start) / "model").is_dir() and not (Path(start) / "config.json").exists()
    return str(Path(start) / "model") if is_run else start


def starting_weights(model: ModelConfig, runs: str, console: Console) -> str:
    """Return what `from_pretrained` takes for the weights that training starts from where there is no warm-up."""
    return locate(starting_model(model, runs) or model.name, console=console)


def device() -> str:
    """Return "cuda" where there is a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def check_context(context: int, model: Any, folder: str) -> None:
    """Raise UserError where the context is longer than the model has positions."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", context)
    if context > limit:
        raise UserError(f"model.context = {context}: {folder} has positions for {limit}; at most that")


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


def quiet_transformers(device: str) -> None:
    """Keep transformers from drawing bars, and from importing a DeepSpeed that warns of finding no GPU on a save."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # the console has its own signs of life
    if device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def load_model(folder: str, *, device: str, bf16: bool = False, sharding: Mapping[str, Any] | None = None) -> Any:
    """The weights in float32, or bfloat16, attention through SDPA.

    `sharding` is a configuration of ZeRO-3: every rank then keeps a share of each tensor as it is read, so that a model
    can be loaded that no rank has room for. Called by all ranks together.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    quiet_transformers(device)
    dtype = torch.bfloat16 if bf16 else torch.float32
    with _sharded(sharding):
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, attn_implementation="sdpa", use_safetensors=True, **OURS
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(f"{folder}: no causal language model can be loaded: {_line(error)}") from None
    return _with_valid_generation(model if sharding else model.to(device))


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
    """The model without its weights: its configuration, and the names and shapes of its parameters."""
    import torch
    from transformers import AutoModelForCausalLM

    config, _ = load_configurations(folder)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, **OURS)
    except ValueError as error:
        raise UserError(f"{folder}: not the configuration of a causal language model: {_line(error)}") from None


def load_configurations(folder: str) -> tuple[Any, Any]:
    """The configurations of the model and of generation; None for the second where there is none."""
    from transformers import AutoConfig, GenerationConfig

    try:
        config = AutoConfig.from_pretrained(folder, **OURS)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: not the configuration of a causal language model: {_line(error)}") from None
    try:
        return config, GenerationConfig.from_pretrained(folder)
    except OSError:  # a model folder may do without one; stop tokens are then those of config.json
        return config, None


def _with_valid_generation(model: Any) -> Any:
    """The model with a generation configuration that transformers saves: else a trained model is lost at the end."""
    from transformers import GenerationConfig

    given = model.generation_config
    try:
        given.validate(strict=True)
    except ValueError as error:
        kept = {name: getattr(given, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        model.generation_config = GenerationConfig(**kept)
        logging.getLogger(__name__).warning(
            "generation_config.json does not validate (%s); only its token ids are kept", _line(error)
        )
    return model


def _check_folder(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{folder}: holds an adapter (adapter_config.json), which would be ignored; merge it into its base model "
            "first (peft: merge_and_unload), or remove its files to train the base weights"
        )
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: not a model folder: it has no config.json")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise UserError(f"{folder}: a model folder without a tokenizer (tokenizer.json); save the tokenizer into it")
    if not list(folder.glob("*.safetensors")):
        raise UserError(f"{folder}: a model folder without weights (*.safetensors); other formats are not read")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _ensure_tiny_model(cache: Path) -> Path:
    """Return the folder of a random two-layer Llama over bytes, written on first use; the same weights every time."""
    folder = cache / "random-tiny-2"
    if not folder.is_dir():
        with atomic_directory(folder) as work:
            write_tiny_model(work)
    return folder


def write_tiny_model(folder: Path, *, seed: int = 0) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<end>": 0} | {symbol: number for number, symbol in enumerate(alphabet, 1)}
    tokens = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="<end>")
    tokenizer.chat_template = TINY_TEMPLATE
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,  # the smallest that vLLM's CPU build has attention for
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
