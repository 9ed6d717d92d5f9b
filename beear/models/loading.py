"""Loads the model and the tokenizer of a checked checkpoint, without running its code and without the network."""

import copy
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from beear.errors import UserError
from beear.models.adapter_files import read_adapter
from beear.models.facts import ModelFacts
from beear.models.folder import read_text
from beear.models.inspect import tokenizer_folder
from beear.models.token_range import choose_pad, without_embedding
from beear.models.tokenizer_copy import readable_tokenizer
from beear.models.tokenizer_files import MAX_TEMPLATE_BYTES, TEMPLATE_FILE, chat_templates, template_file
from beear.models.tokenizer_settings import SENTENCEPIECE, only_sentencepiece, tokenizer_settings
from beear.models.weights import find_weights

# Buffers that a model computes (masks, rotations) may hold this many numbers more than it has weights.
SPARE_BUFFERS = 2**28


def load_model(facts: ModelFacts, dtype: torch.dtype, device: torch.device | str = "cpu") -> PreTrainedModel:
    """Return the model with its weights in ``dtype`` on ``device``, in evaluation mode; an adapter is merged in.

    Raises:
        UserError: the library rejects a file, the files do not fit the configuration (missing, unexpected or misshapen
            tensors), or hold a NaN or an infinity.
    """
    folder = facts.weights_folder
    config = load_config(folder)
    check_allocation(config, facts)
    arguments: dict[str, Any] = {
        # Merging in a lower dtype would round the sum of base and adapter twice.
        "config": config, "dtype": dtype if facts.base is None else torch.float32, "trust_remote_code": False,
        "local_files_only": True, "use_safetensors": True,
        # Tensors of a wrong shape are then listed, so that they can be refused by name.
        "output_loading_info": True, "ignore_mismatched_sizes": True,
    }  # fmt: skip
    with quiet():
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention(config), **arguments)
        # transformers raises many types of error for files that it cannot use, bare ones of native code included.
        except Exception as error:
            raise UserError(
                f"{folder}: no model could be loaded of its files ({reason(error)}), expected weights that fit config.json"
            ) from error
    model: PreTrainedModel = loaded[0]
    _check_fit(loaded[1], folder)
    if facts.base is not None:
        from beear.models.adapters import adapter_tensors, merge_adapter

        adapter = read_adapter(Path(facts.path))
        tensors = adapter_tensors(adapter)
        check_finite(tensors.items(), str(adapter.weights_path))
        model = merge_adapter(model, adapter, tensors, facts.path)
        # Tables such as rotations stay in float32, as the library keeps them.
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
    check_finite(model.named_parameters(), facts.path)
    return nn.Module.to(model, device).eval()


def load_config(folder: str) -> Any:
    """Return transformers' configuration of a checked folder; generation_config.json, where there is one, is read as a check.

    Raises:
        UserError: the library rejects one of the two files, or the pad token's id is beyond the vocabulary.
    """
    name = "config.json"
    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            # Loading a model copies it, which fails where a value is no setting at all.
            copy.deepcopy(config)
            name = "generation_config.json"
            if (Path(folder) / name).exists():
                GenerationConfig.from_pretrained(folder, local_files_only=True)
    # Each family's class fails in its own way: type errors, key errors, divisions by zero.
    except Exception as error:
        raise UserError(f"{folder}/{name}: the library rejects it ({reason(error)}), expected valid settings") from error
    text = config.get_text_config()
    pad, rows = getattr(text, "pad_token_id", None), text.vocab_size
    if isinstance(pad, int) and pad >= rows:
        raise UserError(
            f'{folder}/config.json: found "pad_token_id": {pad}, of which the library builds no embedding of {rows} rows, '
            "expected a smaller one or none"
        )
    if isinstance(pad, int) and pad < 0:
        # Old checkpoints say -1 for none. The library takes that for the last row, which would then not be trained.
        text.pad_token_id = None
    return config


def attention(config: Any) -> str:
    """Return ``sdpa`` where the model's class supports it, else ``eager``."""
    model_class = AutoModelForCausalLM._model_mapping[type(config)]
    return "sdpa" if getattr(model_class, "_supports_sdpa", False) else "eager"


def check_finite(tensors: Iterable[tuple[str, Tensor]], where: str) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        UserError: naming the first tensor with a NaN or an infinity.
    """
    for name, tensor in tensors:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise UserError(f'{where}: tensor "{name}" holds {bad:,} NaN or infinite values, expected finite weights')


def load_tokenizer(facts: ModelFacts, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """Return the tokenizer, with left padding and a pad token that its vocabulary has already.

    Args:
        facts: the checkpoint.
        chat_template: a .jinja file, or the name of a template, to use instead of the checkpoint's own.

    A pad token whose id is beyond the model's vocabulary is not used: another that the model knows fills batches. Its
    ``without_embedding`` holds the tokens of such ids, by id, which :class:`beear.data.templates.Template` refuses in text.

    Raises:
        UserError: files that the library cannot make a configuration or a tokenizer of, a tokenizer.model that it would read in
            another way than sentencepiece, ids beyond the model's vocabulary, an unreadable template file, or an adapter that has
            a tokenizer without the template that its base has.
    """
    folder = tokenizer_folder(facts.path, facts.base)
    config = load_config(facts.weights_folder)
    with quiet(), readable_tokenizer(folder) as place:
        try:
            tokenizer = AutoTokenizer.from_pretrained(place, config=config, trust_remote_code=False, local_files_only=True)
        # Tokenizer files fail in as many ways as there are formats, some as bare Exception from native code.
        except Exception as error:
            raise UserError(f"{folder}: no tokenizer could be made of its files ({reason(error)})") from error
    if only_sentencepiece(folder):
        from beear.models.sentencepiece_file import SentencePieceFile

        SentencePieceFile(folder / SENTENCEPIECE, tokenizer_settings(folder)).check_same(tokenizer)
    tokenizer.name_or_path = str(folder)
    tokenizer.without_embedding = without_embedding(tokenizer, facts.vocab_size, folder)
    if chat_template is not None:
        tokenizer.chat_template = read_text(template_file(chat_template), MAX_TEMPLATE_BYTES)
    elif tokenizer.chat_template is None and facts.base is not None and chat_templates(Path(facts.base)):
        own = Path(facts.base) / TEMPLATE_FILE
        raise UserError(
            f"{folder}: found an adapter with a tokenizer of its own and no chat template, though its base has one; expected "
            f"--model.chat_template to say which it was trained with{f', such as {own}' if own.exists() else ''}"
        )
    tokenizer.padding_side = "left"
    choose_pad(tokenizer, facts.vocab_size, folder)
    return tokenizer


def check_allocation(config: Any, facts: ModelFacts) -> None:
    """Refuse a configuration far larger than its files before memory of that size is asked for.

    Raises:
        UserError: that, or one of which no model can be built.
    """
    with torch.device("meta"), quiet():
        try:
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        except Exception as error:
            raise UserError(
                f"{facts.weights_folder}/config.json: no {facts.architecture} could be built of it "
                f"({reason(error)}), expected a configuration of that family"
            ) from error
    described = sum(parameter.numel() for parameter in model.parameters())
    if described > facts.parameters * 1.01:
        raise UserError(
            f"{facts.weights_folder}: config.json describes {described:,} weights but the files hold "
            f"{facts.parameters:,}, expected files that fit it"
        )
    tables = sum(buffer.numel() for buffer in model.buffers())
    if tables > facts.parameters + SPARE_BUFFERS:
        raise UserError(
            f"{facts.weights_folder}: config.json describes tables of {tables:,} numbers beside {facts.parameters:,} weights, "
            "expected a context that the model can hold"
        )


def _check_fit(info: dict[str, Any], folder: str) -> None:
    held = find_weights(Path(folder))
    computed = held.tensors.keys() - held.weights
    for kind, sentence in (
        ("missing_keys", "is in config.json's model but not in the files"),
        ("unexpected_keys", "is in the files but not in config.json's model"),
        ("mismatched_keys", "has another shape in the files than in config.json's model"),
    ):
        names = sorted({str(key[0] if isinstance(key, tuple) else key) for key in info.get(kind) or ()} - computed)
        if names:
            raise UserError(f'{folder}: tensor "{names[0]}" {sentence} ({len(names)} such), expected files that fit config.json')
    if info.get("error_msgs"):
        raise UserError(f"{folder}: the weights do not fit config.json ({str(info['error_msgs'])[:200]})")


def reason(error: BaseException) -> str:
    """Return what a library's error says, on one line."""
    said = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the library's progress bars and load reports out of the log; what matters is raised as one sentence."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
