"""Checks config.json of an untrusted checkpoint and reads the model's sizes from it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beear.errors import UserError
from beear.models.families import Family, family_of
from beear.models.folder import MEGABYTE, inside, read_object

# Each of these makes transformers import code, fetch kernels, or read files other than those checked here.
CODE_KEYS = (
    "auto_map",
    "custom_pipelines",
    "transformers_weights",
    "fusion_config",
    "distributed_config",
    "custom_generate",
)
QUANTISATION_KEYS = ("quantization_config", "compression_config")
ATTENTION = {"eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"}
EXPERTS = {"eager", "batched_mm", "grouped_mm"}

LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
HIDDEN = ("hidden_size", "n_embd", "d_model", "n_embed")
CONTEXT = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "max_seq_len", "n_ctx")
VOCAB = ("vocab_size",)

# transformers makes an object for each one that is counted here, before a weight file is looked at.
COUNT = re.compile(r"(num|n)_\w*(layer|expert|head|label|block|group)\w*|attention_types")
MOST = 10_000
# With another value the model returns something else than callers expect, cannot be saved, or looks at later tokens.
FLAGS = {"return_dict": True, "output_attentions": False, "is_causal": True, "use_bidirectional_attention": False}
WINDOWS = {"sliding_window", "attention_chunk_size"}
TOKEN_LIMIT = 1 << 31


@dataclass(frozen=True)
class ConfigFacts:
    """Sizes from config.json: L layers, D hidden, V vocabulary, context in tokens."""

    family: Family
    layers: int
    hidden_size: int
    vocab_size: int
    context: int
    tied: bool


def walk(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every (dotted key, value) of nested objects and lists, however deep."""
    waiting = [(key, value)]
    while waiting:
        path, item = waiting.pop()
        if path:
            yield path, item
        if isinstance(item, dict):
            waiting += [(f"{path}.{name}" if path else str(name), inner) for name, inner in item.items()]
        elif isinstance(item, list):
            waiting += [(f"{path}[{index}]", inner) for index, inner in enumerate(item)]


def refuse_code(config: dict[str, Any], where: str) -> None:
    """Refuse a configuration that names code of its own, foreign kernels or other weight files, at any depth.

    Raises:
        UserError: naming the key.
    """
    for path, value in walk(config):
        name = path.rpartition(".")[2]
        if name in CODE_KEYS and value:
            raise UserError(
                f'{where}: found "{path}", which makes the library load code or files of the checkpoint\'s choosing; '
                "expected a plain configuration"
            )
        if name.endswith("_implementation") or name.endswith("_implementation_internal"):
            known = EXPERTS if "experts" in name else ATTENTION
            values = value.values() if isinstance(value, dict) else [value]
            if any(item is not None and item not in known for item in map(_hashable, values)):
                raise UserError(f'{where}: found "{path}": {str(value)[:80]!r}, expected one of {", ".join(sorted(known))}')


def _hashable(value: Any) -> Any:
    return str(value) if isinstance(value, list | dict) else value


def refuse_quantised(config: dict[str, Any], where: str) -> None:
    """Refuse a quantised checkpoint.

    Raises:
        UserError: naming the method.
    """
    for path, value in walk(config):
        if path.rpartition(".")[2] in QUANTISATION_KEYS and value:
            method = value.get("quant_method", "unknown") if isinstance(value, dict) else "unknown"
            raise UserError(
                f'{where}: found "{path}" (method {str(method)[:40]}), a quantised checkpoint; '
                "expected its float32, bfloat16 or float16 original"
            )


def check_values(config: dict[str, Any], where: str) -> None:
    """Refuse values, at any depth, that transformers takes unchecked, and fails on or spends memory on later.

    Raises:
        UserError: naming the key.
    """
    for path, value in walk(config):
        name = path.rpartition(".")[2].partition("[")[0]
        size = len(value) if name in {"id2label", "label2id"} and isinstance(value, dict) else value
        if type(size) is int and size > MOST and (COUNT.fullmatch(name) or size is not value):
            shown = f"{size:,}"[:40]
            raise UserError(f'{where}: found "{path[:80]}" of {shown}, expected at most {MOST:,}')
        if name in FLAGS and value is not None and value is not FLAGS[name]:
            raise UserError(f'{where}: found "{path[:80]}": {str(value)[:40]}, expected it left out')
        if name in WINDOWS and not isinstance(value, int | None):
            raise UserError(f'{where}: found "{path[:80]}": {str(value)[:40]}, expected a whole number')
        if name == "eos_token_id" and not _token_ids(value):
            raise UserError(f'{where}: found "{path[:80]}": {str(value)[:40]}, expected a token id or a list of them')


def _token_ids(value: Any) -> bool:
    items = value if isinstance(value, list) else [] if value is None else [value]
    return all(type(item) is int and abs(item) < TOKEN_LIMIT for item in items)


def read_config(folder: Path) -> tuple[dict[str, Any], ConfigFacts]:
    """Return config.json, checked, and its sizes.

    Raises:
        UserError: config.json is missing, too big or broken, names code, is quantised, holds values that make no
            model, or is of an unknown family; or a size is missing or not a positive whole number.
    """
    path = inside(folder, "config.json", str(folder))
    config = read_object(path, 4 * MEGABYTE)
    where = str(path)
    refuse_code(config, where)
    refuse_quantised(config, where)
    facts = config_facts(config, where)
    check_values(config, where)
    return config, facts


def config_facts(config: dict[str, Any], where: str) -> ConfigFacts:
    """Return the sizes in a configuration, from its nested part where the family has one.

    Raises:
        UserError: unknown family, or a size missing or not a positive whole number.
    """
    family = family_of(config, where)
    part = config.get(family.nested, {}) if family.nested else config
    if not isinstance(part, dict):
        raise UserError(f'{where}: found "{family.nested}" that is no object, expected the decoder\'s configuration')
    if part.get("is_encoder_decoder") or config.get("is_encoder_decoder"):
        raise UserError(f"{where}: found is_encoder_decoder, expected a decoder-only model")
    tied = config.get("tie_word_embeddings", part.get("tie_word_embeddings", family.tied))
    if not isinstance(tied, bool):
        raise UserError(f"{where}: found tie_word_embeddings {tied!r}, expected true or false")
    return ConfigFacts(
        family=family,
        layers=_size(part, LAYERS, family, where),
        hidden_size=_size(part, HIDDEN, family, where),
        vocab_size=_size(part, VOCAB, family, where),
        context=_size(part, CONTEXT, family, where, fallback=2048),
        tied=tied,
    )


def _size(part: dict[str, Any], names: tuple[str, ...], family: Family, where: str, fallback: int | None = None) -> int:
    for name in names:
        if part.get(name) is not None:
            value = part[name]
            break
    else:
        name, value = names[0], _library_default(family, names)
        value = fallback if value is None else value
    if type(value) is not int or value < 1:
        raise UserError(f'{where}: found "{name}": {str(value)[:50]}, expected a positive whole number')
    return value


def _library_default(family: Family, names: tuple[str, ...]) -> Any:
    """Return what transformers' configuration class says where config.json leaves a size out."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = CONFIG_MAPPING[family.model_type]()
    part = getattr(config, family.nested) if family.nested else config
    return next((getattr(part, name) for name in names if getattr(part, name, None) is not None), None)
