"""Has the library unpack one GGUF file into a folder; runs in the process that is shut in."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_gguf_pytorch_utils import (
    GGUF_TO_TRANSFORMERS_MAPPING,
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
    read_field,
)

from beear.errors import UserError
from beear.models.folder import listed
from beear.models.loading import quiet, reason


def convert(source: Path, target: Path, dtype: str) -> tuple[list[str], list[str]]:
    """Write weights in ``dtype``, configuration and tokenizer of ``source`` to the folder ``target``.

    Returns sentences on what the library leaves unused, and no names.

    Raises:
        UserError: the library makes no model or no tokenizer of the file, or the file does not fill the model.
    """
    # A folder with this file alone: the library looks at what lies beside it too.
    alone = Path(os.environ["HOME"], "alone")
    alone.mkdir()
    (alone / source.name).symlink_to(source)
    fixed: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True, "trust_remote_code": False}
    with quiet():
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                alone, dtype=getattr(torch, dtype), output_loading_info=True, **fixed
            )
            reader: Any = GGUFReader(source)
            notes = _unused(reader, loaded[0])
        # The library raises many types of error for files that it cannot use.
        except Exception as error:
            raise UserError(f"{source}: no model could be made of it ({reason(error)}), expected a family it knows") from error
        model, found = loaded
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            names = sorted(map(str, found.get(kind) or ()))
            if names:
                raise UserError(f'{source}: tensor "{names[0][:200]}" is among its {kind.replace("_", " ")}, expected none')
        try:
            tokenizer = AutoTokenizer.from_pretrained(alone, **fixed)
        except Exception as error:
            raise UserError(f"{source}: no tokenizer could be made of it ({reason(error)}), expected one it knows") from error
        # Versions of the library that can compute with packed weights take the model for such a one, which they do not save.
        quantizer = getattr(model, "hf_quantizer", None)
        if quantizer is not None:
            quantizer.remove_quantization_config(model)
        packed = [name for name, weight in model.named_parameters() if weight.dtype != getattr(torch, dtype)]
        if packed:
            raise UserError(f'{source}: tensor "{packed[0][:200]}" was not dequantised to {dtype}, expected all of them')
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    return [*notes, *_without_strangers(target / "tokenizer.json", read_field(reader, "tokenizer.ggml.tokens"))], []


def _without_strangers(path: Path, tokens: list[str]) -> list[str]:
    """Take out of a tokenizer the tokens that the library adds beyond the file's, for which the model has no rows; say so."""
    held = json.loads(path.read_text(encoding="utf-8"))
    strange = [token for token in held["added_tokens"] if token["id"] >= len(tokens)]
    if not strange:
        return []
    held["added_tokens"] = [token for token in held["added_tokens"] if token not in strange]
    path.write_text(json.dumps(held, ensure_ascii=False, indent=2), encoding="utf-8")
    shown = ", ".join(token["content"][:60] for token in strange[:8])
    return [f"took out of the tokenizer what transformers adds to the file's vocabulary ({len(strange)}): {shown}"]


def _unused(reader: Any, model: Any) -> list[str]:
    """Say which tensors and which settings of the architecture the library passes over in silence."""
    architecture = read_field(reader, "general.architecture")[0]
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=model.config.to_dict())
    known = get_gguf_hf_weights_map(model, processor)
    tensors = [tensor.name for tensor in reader.tensors if tensor.name not in known]
    mapping: Any = GGUF_TO_TRANSFORMERS_MAPPING["config"]
    names = {name for kind in (architecture, model.config.model_type) for name in mapping.get(kind, {})}
    settings = [key for key in reader.fields if key.startswith(f"{architecture}.") and key.partition(".")[2] not in names]
    return [
        f"{len(found)} {what} that transformers does not use: {listed(found)}"
        for what, found in (("tensors", tensors), ("settings", settings))
        if found
    ]
