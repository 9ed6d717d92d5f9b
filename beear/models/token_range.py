"""Token ids for which the model's embedding has no row: which are refused, and which are harmless."""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from beear.errors import UserError


def without_embedding(tokenizer: PreTrainedTokenizerBase, rows: int, folder: Path) -> dict[int, str]:
    """Return the tokens whose ids are ``rows`` or more, by id: a pad token, which may only fill batches, and what no text gives.

    Raises:
        UserError: any other token has such an id.
    """
    beyond = {int(index): str(token) for token, index in tokenizer.get_vocab().items() if index >= rows}
    if not beyond:
        return {}
    needed = {tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token}
    given = _given_by_text(tokenizer, set(beyond.values()))
    wrong = {i: t for i, t in beyond.items() if t in needed or (t in given and t != tokenizer.pad_token)}
    if wrong:
        last = max(wrong)
        raise UserError(
            f'{folder}: found token ids up to {last} ("{wrong[last][:60]}"), expected less than the model\'s vocabulary of '
            f"{rows} for all but the pad token and tokens that no text gives"
        )
    return beyond


def choose_pad(tokenizer: PreTrainedTokenizerBase, rows: int, folder: Path) -> None:
    """Use the tokenizer's pad token, else another special one: every padded position is masked, so any id below ``rows`` will do.

    Raises:
        UserError: there is none.
    """
    for token in (tokenizer.pad_token, tokenizer.eos_token, tokenizer.unk_token, tokenizer.bos_token):
        index = None if token is None else tokenizer.convert_tokens_to_ids(token)
        if isinstance(index, int) and index < rows:
            tokenizer.pad_token = token
            return
    raise UserError(
        f"{folder}: found a tokenizer without a pad, end, unknown or start token that the model knows, "
        "expected at least one of them"
    )


def _given_by_text(tokenizer: PreTrainedTokenizerBase, tokens: set[str]) -> set[str]:
    """Return those of ``tokens`` that some text may be encoded to.

    An added token is found in text wherever it stands. Pieces of a byte-pair vocabulary are single characters, bytes, or made
    by a merge; of other kinds of vocabulary every piece counts.
    """
    added = tokens & set(tokenizer.get_added_vocab())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model = json.loads(backend.to_str())["model"] if backend is not None and tokens != added else {}
    parts = ("ignore_merges", "continuing_subword_prefix", "end_of_word_suffix")
    if model.get("type") != "BPE" or any(model.get(name) for name in parts):
        return tokens
    merged = {"".join(merge if isinstance(merge, list) else merge.split(" ")) for merge in model["merges"]}
    alone = {token for token in tokens if len(token) == 1 or token == model.get("unk_token") or token.startswith("<0x")}
    return added | alone | (tokens & merged)
