"""Puts a checkpoint's tokenizer files where the library reads them as they are meant: for loading and for export."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from beear.models.tokenizer_files import FILES, TEMPLATE_FOLDER
from beear.models.tokenizer_settings import (
    AS_WRITTEN,
    SENTENCEPIECE,
    SPECIAL_TOKENS,
    TOKENIZER_CONFIG,
    TokenizerSettings,
    only_sentencepiece,
    tokenizer_settings,
)


@contextmanager
def readable_tokenizer(folder: Path) -> Iterator[Path]:
    """Give a folder of which the library makes the tokenizer that is meant: ``folder`` itself, or a copy for the while.

    Raises:
        UserError: see :func:`copy_tokenizer`.
    """
    if not only_sentencepiece(folder) and not tokenizer_settings(folder).notes:
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        copy_tokenizer(folder, Path(place))
        yield Path(place)


def copy_tokenizer(folder: Path, target: Path) -> None:
    """Copy the tokenizer's files, byte for byte where the library reads them as they are meant.

    Beside a tokenizer.model alone comes a tokenizer.json that gives the same tokens, and tokenizer_config.json then names
    the class that reads it, and the model's own special tokens where the folder names none. What
    :class:`TokenizerSettings` reads in another way is written that way.

    Raises:
        UserError: tokenizer.model is no sentencepiece model, or one that no tokenizer.json can stand for.
    """
    for name in FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    for path in sorted((folder / TEMPLATE_FOLDER).glob("*.jinja")):
        (target / TEMPLATE_FOLDER).mkdir(exist_ok=True)
        shutil.copyfile(path, target / TEMPLATE_FOLDER / path.name)
    settings = tokenizer_settings(folder)
    if only_sentencepiece(folder):
        _write_json(target / TOKENIZER_CONFIG, _with_tokenizer_json(settings, target))
    elif settings.notes and settings.config:
        _write_json(target / TOKENIZER_CONFIG, settings.config)
    if settings.notes and (folder / SPECIAL_TOKENS).exists():
        _write_json(target / SPECIAL_TOKENS, settings.special)


def _with_tokenizer_json(settings: TokenizerSettings, target: Path) -> dict[str, Any]:
    """Write the tokenizer.json of a tokenizer.model, and return the tokenizer_config.json that belongs to it."""
    # A checkpoint with a tokenizer.json is inspected without these libraries.
    from beear.models.sentencepiece_file import SentencePieceFile

    source = SentencePieceFile(settings.folder / SENTENCEPIECE, settings)
    (target / "tokenizer.json").write_text(source.tokenizer_json(), encoding="utf-8")
    # The one class that takes a tokenizer.json as it is, in this version of the library and in those before.
    own = {role: token for role, token in source.roles.items() if role not in settings.roles}
    config = {**settings.config, **own, "tokenizer_class": AS_WRITTEN}
    if "added_tokens_decoder" in config:
        config["added_tokens_decoder"] = {str(i): {**token, "normalized": False} for i, token in settings.added.items()}
    return config


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
