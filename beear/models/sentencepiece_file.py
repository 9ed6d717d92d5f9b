"""Turns a sentencepiece model into a tokenizer.json that gives the same tokens, and checks that it does.

The library's own conversion does not: it drops a space that a text begins with, and for some families the prefix that
sentencepiece writes before every text, or reads no vocabulary at all.
"""

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase

from beear.errors import UserError
from beear.models.folder import MEGABYTE
from beear.models.tokenizer_reading import TEXTS
from beear.models.tokenizer_settings import SPACE, TokenizerSettings

MAX_BYTES = 64 * MEGABYTE
# Kinds of pieces, as sentencepiece_model.proto numbers them.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
UNIGRAM, BPE = 1, 2
OWN_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")


class SentencePieceFile:
    """A sentencepiece model, with what the files beside it say.

    tokenizer_config.json's ``add_prefix_space`` says whether text gets a space before it (by default: what the model says).
    ``legacy: false`` says that text after a special token gets none; sentencepiece itself gives it one. Exceptions: text that
    is nothing but a user-defined piece gets none, nor does text that begins with one where ``legacy`` is false.
    ``add_bos_token`` (by default true) and ``add_eos_token`` (by default false) say what the library writes where it is asked
    for special tokens.
    """

    def __init__(self, path: Path, settings: TokenizerSettings) -> None:
        """Read the file.

        Raises:
            UserError: it is no sentencepiece model, or one with pieces that only sentencepiece itself can use.
        """
        self.path, self._settings = path, settings
        try:
            content = path.read_bytes() if path.stat().st_size <= MAX_BYTES else b""
            # An empty text is taken for no model, which is no error.
            SentencePieceProcessor(model_proto=content or b"none")
            self._proto = sentencepiece_model_pb2.ModelProto.FromString(content)  # type: ignore[attr-defined]  # made at run time
        # Native code raises bare RuntimeError, and the reader of the format its own errors.
        except Exception as error:
            raise UserError(
                f"{path}: found no sentencepiece model (it may be a tiktoken file), expected one, or a tokenizer.json beside it"
            ) from error
        self._unigram = self._proto.trainer_spec.model_type == UNIGRAM
        if self._proto.trainer_spec.model_type not in (UNIGRAM, BPE) or any(p.type == UNUSED for p in self._proto.pieces):
            raise UserError(
                f"{path}: found a sentencepiece model of words, of characters or with unused pieces, "
                "expected one of kind bpe or unigram, or a tokenizer.json beside it"
            )

    @property
    def roles(self) -> dict[str, str]:
        """Special tokens by role: those that the files beside the model name, then the model's own."""
        spec = self._proto.trainer_spec
        ids = zip(OWN_ROLES, (spec.bos_id, spec.eos_id, spec.unk_id, spec.pad_id), strict=True)
        own = {role: self._names[i] for role, i in ids if 0 <= i < len(self._names)}
        return {**own, **self._settings.roles}

    def tokenizer_json(self) -> str:
        """Return the text of a tokenizer.json.

        Raises:
            UserError: an added token whose id is not the next one.
        """
        tokenizer = Tokenizer(self._model())
        tokenizer.normalizer = normalizers.Sequence(self._normalizers(self._prefixed and self._every))
        if self._prefixed and not self._every:
            # By now the text holds no plain space: the first prepends one to its start, the second makes that the mark of one.
            marks = [pre_tokenizers.Metaspace(" ", "first", split=False), pre_tokenizers.Metaspace(SPACE, "never", split=False)]
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence(marks)
        steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        tokenizer.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if self._prefixed else [])])
        tokenizer.add_tokens(list(self._added()))
        for index, token in self._settings.added.items():
            given = tokenizer.token_to_id(token["content"])
            if given != index:
                raise UserError(
                    f'{self.path.parent}: found added token "{token["content"][:40]}" with id {index}, '
                    f"expected {given}, the next after tokenizer.model's {len(self._names)} pieces"
                )
        self._write_ends(tokenizer)
        return str(tokenizer.to_str())

    def check_same(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Compare the tokens of many texts with those of sentencepiece itself.

        Raises:
            UserError: they differ; the sentence gives the first such text.
        """
        proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made at run time
        proto.CopyFrom(self._proto)
        proto.normalizer_spec.add_dummy_prefix = self._prefixed
        own = SentencePieceProcessor(model_proto=proto.SerializeToString())
        others = tokenizer.get_added_vocab().keys() - self._symbols
        for text in self._probes():
            if any(token in text for token in others):
                continue
            found, expected = list(tokenizer(text, add_special_tokens=False)["input_ids"]), own.encode(text)
            if found != expected:
                raise UserError(
                    f"{self.path}: the tokenizer made of it gives {str(found)[:60]} for {text[:40]!r} and sentencepiece "
                    f"{str(expected)[:60]}, expected the same tokens; put a tokenizer.json beside it"
                )

    @property
    def _prefixed(self) -> bool:
        said = self._settings.config.get("add_prefix_space")
        return bool(self._proto.normalizer_spec.add_dummy_prefix if said is None else said)

    @property
    def _every(self) -> bool:
        """Whether text after a special token is prefixed too."""
        return self._settings.config.get("legacy") is not False

    @cached_property
    def _symbols(self) -> list[str]:
        """Pieces that sentencepiece looks for in the text before anything else."""
        return [p.piece for p in self._proto.pieces if p.type == USER_DEFINED]

    @cached_property
    def _names(self) -> list[str]:
        """The pieces in order of their ids; one whose id an added token has goes by that token's text."""
        added = self._settings.added
        return [str(added[i]["content"]) if i in added else p.piece for i, p in enumerate(self._proto.pieces)]

    def _model(self) -> models.Model:
        spec, pieces, names = self._proto.trainer_spec, self._proto.pieces, self._names
        if self._unigram:
            scored = [(name, piece.score) for name, piece in zip(names, pieces, strict=True)]
            return models.Unigram(scored, spec.unk_id, spec.byte_fallback)
        # Merges are done by score; of equal ones, sentencepiece takes the leftmost.
        normal = {p.piece for p, name in zip(pieces, names, strict=True) if p.type == NORMAL and p.piece == name}
        by_score = sorted((p for p in pieces if p.piece in normal), key=lambda p: -p.score)
        merges = [
            (p.piece[:cut], p.piece[cut:])
            for p in by_score
            for cut in range(1, len(p.piece))
            if p.piece[:cut] in normal and p.piece[cut:] in normal
        ]
        vocabulary = {name: index for index, name in enumerate(names)}
        return models.BPE(
            vocabulary, merges, unk_token=names[spec.unk_id], fuse_unk=True, byte_fallback=spec.byte_fallback
        )  # fmt: skip

    def _normalizers(self, prefix: bool) -> list[normalizers.Normalizer]:
        spec = self._proto.normalizer_spec
        found: list[normalizers.Normalizer] = []
        if spec.precompiled_charsmap:
            found.append(normalizers.Precompiled(spec.precompiled_charsmap))
        if spec.remove_extra_whitespaces:
            found += [normalizers.Replace(Regex("^ +| +$"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
        if prefix and self._symbols:
            # Pieces looked for in normalised text are normalised like it, and must not get the prefix.
            pieces = "|".join(map(re.escape, self._symbols))
            found.append(normalizers.Replace(Regex(rf"\A(?!(?:{pieces})?\z)"), SPACE))
        elif prefix:
            found.append(normalizers.Prepend(SPACE))
        return [*found, normalizers.Replace(" ", SPACE)]

    def _added(self) -> Iterator[AddedToken]:
        """Yield the tokens that are found in text before anything else, in the order of their ids."""
        for name, piece in zip(self._names, self._proto.pieces, strict=True):
            if piece.type in (UNKNOWN, CONTROL):
                yield AddedToken(name, special=True, normalized=False)
            elif piece.type == USER_DEFINED:
                # Looked for once spaces are marked: pieces of several spaces are written with the mark.
                yield AddedToken(name, special=False, normalized=True)
        roles = set(self.roles.values())
        for token in self._settings.added.values():
            special = bool(token.get("special")) or token["content"] in roles
            flags = {name: bool(token.get(name)) for name in ("lstrip", "rstrip", "single_word")}
            yield AddedToken(token["content"], special=special, normalized=False, **flags)

    def _probes(self) -> Iterator[str]:
        yield from TEXTS
        pieces = [p.piece.replace(SPACE, " ") for p in self._proto.pieces if p.type == NORMAL]
        # Every piece once, and in the company of others: a text of a few hundred characters each.
        for start in range(0, len(pieces), 100):
            yield "".join(pieces[start : start + 100])
            yield "".join(pieces[start : start + 100][::-1])
        for piece in self._symbols:
            symbol = piece.replace(SPACE, " ")
            yield from (f"a{symbol}b {symbol}", f"b{symbol}{symbol}  {symbol}")
            if not self._prefixed or self._every:
                yield f"{symbol}a"

    def _write_ends(self, tokenizer: Tokenizer) -> None:
        """Have the tokenizer write the first and the last special token where the library is asked for special tokens."""
        config = self._settings.config
        wanted = {"bos_token": config.get("add_bos_token") is not False, "eos_token": bool(config.get("add_eos_token"))}
        first, last = ([token for name, token in self.roles.items() if name == role and wanted[role]] for role in wanted)
        if first or last:
            single = [*first, "$A", *last]
            pair = [*single, *(f"{token}:1" for token in first), "$B:1", *(f"{token}:1" for token in last)]
            known = [(token, tokenizer.token_to_id(token)) for token in {*first, *last}]
            tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=known)
