"""What the small files beside a vocabulary say, as it is meant: classes by today's names, special and added tokens."""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from beear.errors import UserError
from beear.models.folder import MEGABYTE, read_object

TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
SENTENCEPIECE = "tokenizer.model"
# Classes by names that the library had before its first release with them, which old checkpoints still say.
RENAMED = {"LLaMATokenizer": "LlamaTokenizer", "LLaMATokenizerFast": "LlamaTokenizerFast", "LLaMaTokenizer": "LlamaTokenizer"}
# Of these classes, transformers 5 takes the vocabulary alone from a tokenizer.json that marks spaces as sentencepiece does, and
# where text gets a space before it from "legacy". Versions before took all of the file, and checkpoints were trained with those.
BUILT_ANEW = {"LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast"}
# Their special tokens where no file names any.
CLASS_ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
AS_WRITTEN = "PreTrainedTokenizerFast"
SPACE = "\u2581"
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class TokenizerSettings:
    """tokenizer_config.json and special_tokens_map.json of a folder, each empty where there is none.

    A class of an old name has today's, one that would not take all of the tokenizer.json is replaced by one that does, and
    special tokens that are empty text are left out. ``notes`` say so.
    """

    folder: Path
    config: dict[str, Any]
    special: dict[str, Any]
    notes: tuple[str, ...]

    @cached_property
    def roles(self) -> dict[str, str]:
        """Special tokens by role. As in the library, special_tokens_map.json wins, and only without added_tokens_decoder."""
        said = self.config if "added_tokens_decoder" in self.config else {**self.config, **self.special}
        return {role: token for role in ROLES if (token := _content(said.get(role)))}

    @cached_property
    def added(self) -> dict[int, dict[str, Any]]:
        """Added tokens by id: their content, and the flags that are set.

        Raises:
            UserError: an entry that is no token with an id.
        """
        decoder, path = self.config.get("added_tokens_decoder"), self.folder / ADDED_TOKENS
        if decoder is None and path.exists():
            decoder, where = read_object(path, 64 * MEGABYTE), str(path)
            pairs = [(index, {"content": token, "special": token in self._others}) for token, index in decoder.items()]
        else:
            where = f"{self.folder / TOKENIZER_CONFIG}: added_tokens_decoder"
            pairs = list(decoder.items()) if isinstance(decoder, dict) else []
        try:
            tokens = {int(index): {**token, "content": str(_content(token) or "")} for index, token in pairs}
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: found {str(decoder)[:80]}, expected tokens with their ids") from error
        if not all(token["content"] for token in tokens.values()):
            raise UserError(f"{where}: found {str(decoder)[:80]}, expected the text of every token")
        return dict(sorted(tokens.items()))

    @property
    def _others(self) -> set[str | None]:
        """Special tokens that have no role."""
        said = (self.config.get("additional_special_tokens"), self.special.get("additional_special_tokens"))
        return {_content(token) for tokens in said if isinstance(tokens, list) for token in tokens}


def only_sentencepiece(folder: Path) -> bool:
    """Say whether a folder's vocabulary is a tokenizer.model alone."""
    others = (folder / "tokenizer.json").exists() or ((folder / "vocab.json").exists() and (folder / "merges.txt").exists())
    return (folder / SENTENCEPIECE).exists() and not others


def tokenizer_settings(folder: Path) -> TokenizerSettings:
    """Read a folder's settings.

    Raises:
        UserError: a file that is no JSON object.
    """
    notes = []
    config, special = (
        read_object(folder / name, 512 * MEGABYTE) if (folder / name).exists() else {}
        for name in (TOKENIZER_CONFIG, SPECIAL_TOKENS)
    )
    named = config.get("tokenizer_class")
    if isinstance(named, str) and named in RENAMED:
        config["tokenizer_class"] = RENAMED[named]
        notes.append(f'{folder}: tokenizer_class "{named}" is an old name, read as {RENAMED[named]}')
    for name, said in ((TOKENIZER_CONFIG, config), (SPECIAL_TOKENS, special)):
        empty = [role for role in ROLES if role in said and said[role] is not None and _content(said[role]) == ""]
        for role in empty:
            del said[role]
        if empty:
            notes.append(f"{folder}: {name} gives {', '.join(empty)} as empty text, read as not given")
    return _as_written(TokenizerSettings(folder, config, special, tuple(notes)))


def _as_written(settings: TokenizerSettings) -> TokenizerSettings:
    """Return settings whose class takes all of the folder's tokenizer.json; the special tokens stay those of the class named."""
    named, folder = settings.config.get("tokenizer_class"), settings.folder
    own = CLASS_ROLES if named in BUILT_ANEW else {}
    roles = {**own, **settings.roles}
    known = named in BUILT_ANEW or (named is None and "eos_token" in roles)
    if not known or settings.config.get("add_prefix_space") is not None or not _marks_spaces(folder):
        return settings
    other = named or "the class of the model's family"
    note = f"{folder}: tokenizer.json is read as it is, not by {other}, of which transformers 5 makes other tokens"
    config = {**{role: roles[role] for role in own}, **settings.config, "tokenizer_class": AS_WRITTEN}
    return replace(settings, config=config, notes=(*settings.notes, note))


def _marks_spaces(folder: Path) -> bool:
    """Say whether a folder has a tokenizer.json that marks spaces as sentencepiece does."""
    path = folder / "tokenizer.json"
    found = read_object(path, 512 * MEGABYTE) if path.exists() else {}
    return SPACE in json.dumps([found.get("normalizer"), found.get("pre_tokenizer")], ensure_ascii=False)


def _content(token: Any) -> str | None:
    """Return the text of a token that is written as text or as an object; None where it is neither."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None
