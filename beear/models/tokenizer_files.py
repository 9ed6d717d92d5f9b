"""Finds and checks the files of a tokenizer and its chat templates; tokenises nothing."""

import json
from pathlib import Path
from typing import Any

from beear.errors import UserError, nearest
from beear.models.config_file import refuse_code
from beear.models.folder import MEGABYTE, inside, read_object, read_text
from beear.models.tokenizer_settings import (
    ADDED_TOKENS,
    RENAMED,
    SENTENCEPIECE,
    SPECIAL_TOKENS,
    TOKENIZER_CONFIG,
    only_sentencepiece,
    tokenizer_settings,
)  # fmt: skip

TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_FOLDER = "additional_chat_templates"
# Templates of checkpoints that are published without one, by name.
NAMED = {path.stem: path for path in sorted((Path(__file__).parent / "chat_templates").glob("*.jinja"))}
MAX_TEMPLATE_BYTES = MEGABYTE

# Text formats only: everything the tokenizer may be built from, and everything an export copies.
FILES = (
    "tokenizer.json",
    TOKENIZER_CONFIG,
    SPECIAL_TOKENS,
    ADDED_TOKENS,
    "vocab.json",
    "merges.txt",
    SENTENCEPIECE,
    TEMPLATE_FILE,
)
CLASSES = {
    "PreTrainedTokenizer", "TokenizersBackend", "SentencePieceBackend", "PythonBackend", "Bloom", "CodeGen",
    "CodeLlama", "Cohere", "GPT2", "GPTNeoX", "Gemma", "Helium", "Llama", "OPT", "Phi", "Qwen2", "Qwen3", "Starcoder2",
}  # fmt: skip


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the tokenizer's files in name order, each checked.

    Raises:
        UserError: no usable vocabulary, a link out of the folder, broken JSON, a class or setting that brings code.
    """
    found = [inside(folder, name, str(folder)) for name in sorted(FILES) if (folder / name).exists()]
    names = {path.name for path in found}
    if not ({"tokenizer.json", "tokenizer.model"} & names or {"vocab.json", "merges.txt"} <= names):
        raise UserError(f"{folder}: found no tokenizer, expected tokenizer.json, tokenizer.model, or vocab.json with merges.txt")
    for path in found:
        if path.suffix == ".json":
            checked = read_object(path, 512 * MEGABYTE)
            if path.name == TOKENIZER_CONFIG:
                check_tokenizer_config(checked, str(path))
    extra = folder / TEMPLATE_FOLDER
    if extra.is_dir():
        inside(folder, TEMPLATE_FOLDER, str(folder))
        found += [inside(extra, path.name, str(extra)) for path in sorted(extra.glob("*.jinja"))]
    odd = next((path for path in found if not path.is_file()), None)
    if odd is not None:
        raise UserError(f"{odd}: found no regular file, expected a readable one")
    return found


def tokenizer_notes(folder: Path) -> tuple[str, ...]:
    """Return sentences on what of a checked tokenizer is read in another way than its files are written.

    Raises:
        UserError: a settings file that is no JSON object.
    """
    turned = f"{folder}: tokenizer.model is read by a tokenizer.json made of it, which gives sentencepiece's own tokens"
    return (*tokenizer_settings(folder).notes, *([turned] if only_sentencepiece(folder) else []))


def check_tokenizer_config(config: dict[str, Any], where: str) -> None:
    """Refuse a tokenizer configuration that brings code or reads files of its own choosing.

    Raises:
        UserError: naming the key.
    """
    refuse_code(config, where)
    name = config.get("tokenizer_class")
    if name is not None:
        name = RENAMED.get(name, name) if isinstance(name, str) else name
        short = name.removesuffix("Fast").removesuffix("Tokenizer") if isinstance(name, str) else ""
        if short not in CLASSES and (not isinstance(name, str) or name.removesuffix("Fast") not in CLASSES):
            known = [c if c.endswith(("Tokenizer", "Backend")) else f"{c}Tokenizer" for c in sorted(CLASSES)]
            hint = nearest(str(name), known)
            raise UserError(f'{where}: found tokenizer_class "{str(name)[:80]}"{hint}, expected a class of the library')
    for key in ("init_inputs", "fast_tokenizer_files", "gguf_file"):
        if config.get(key):
            raise UserError(f'{where}: found "{key}": {str(config[key])[:80]}, expected it left out')


def template_file(given: str) -> Path:
    """Return the file of a template that a user gives: by the name of one that comes with this product, or by its path.

    Raises:
        UserError: it is neither.
    """
    if given in NAMED:
        return NAMED[given]
    if not Path(given).is_file():
        hint = nearest(Path(given).name, list(NAMED))
        raise UserError(f'model.chat_template is "{given}"{hint}; expected a .jinja file, or one of {", ".join(NAMED)}')
    return Path(given)


def chat_templates(folder: Path) -> dict[str, str]:
    """Return the folder's chat templates by name, the one used for chatting as ``default``; empty if it has none.

    A chat_template.jinja wins over the entry in tokenizer_config.json, as in the library.

    Raises:
        UserError: a template that is too big, not UTF-8, or of another shape.
    """
    templates = _embedded(folder)
    if (folder / TEMPLATE_FILE).exists():
        templates = {"default": read_text(inside(folder, TEMPLATE_FILE, str(folder)), MAX_TEMPLATE_BYTES)}
    if (folder / TEMPLATE_FOLDER).is_dir():
        extra = {path.stem: read_text(path, MAX_TEMPLATE_BYTES) for path in sorted((folder / TEMPLATE_FOLDER).glob("*.jinja"))}
        if extra:
            templates = {**({"default": templates["default"]} if (folder / TEMPLATE_FILE).exists() else {}), **extra}
    return templates


def _embedded(folder: Path) -> dict[str, str]:
    path = folder / TOKENIZER_CONFIG
    value = read_object(path, 512 * MEGABYTE).get("chat_template") if path.exists() else None
    if value is None:
        return {}
    if isinstance(value, str):
        value = [{"name": "default", "template": value}]
    if not isinstance(value, list) or not all(
        isinstance(item, dict) and isinstance(item.get("name"), str) and isinstance(item.get("template"), str) for item in value
    ):
        raise UserError(f"{path}: found chat_template {json.dumps(value)[:80]}, expected text or a list of name and template")
    templates = {item["name"]: item["template"] for item in value}
    if any(len(text) > MAX_TEMPLATE_BYTES for text in templates.values()):
        raise UserError(f"{path}: found a chat template of over {MAX_TEMPLATE_BYTES:,} characters, expected a short one")
    return templates
