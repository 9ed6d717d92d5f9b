"""Whether the library reads a tokenizer.json as it is written.

Some of its classes take the vocabulary alone and bring their own rules.
"""

from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

# Texts in which tokenizers' rules differ: spaces at every place, line ends, digits, contractions, letters of many kinds.
TEXTS = (
    "", " ", "a", " a", "   a", "a ", "a   b", "\n", "\n\n a\n", "a\n\n\nb\n c", "\ta\t\tb", "a\r\nb", "\u2581a", "<0x0A>",
    "0123 4567890", "Don't stop - it's 3.14 (or so)!", "éàü ñ ß", "e\u0301", "日本語のテキスト", "Привет, мир", "שלום مرحبا",
    "🙂👩\u200d👩\u200d👧 ok", "\ufb01 ½ Ⅻ", "\u00a0a\u2003b\u200bc", "\x00\x01", "def f(x):\n    return x + 1\n", "http://a.b/c?d=e&f",
)  # fmt: skip


def read_otherwise(tokenizer: PreTrainedTokenizerBase, folder: Path) -> list[str]:
    """Return a sentence where ``tokenizer``, loaded from ``folder``, makes other tokens than its tokenizer.json says."""
    path = folder / "tokenizer.json"
    if not path.exists():
        return []
    try:
        written = Tokenizer.from_file(str(path))
    # Native code raises bare Exception. The library has read the file in its own way, which may need less of it.
    except Exception:
        return [f"{path}: it cannot be read as it is written, and transformers takes parts of it alone"]
    written.no_truncation()
    written.no_padding()
    added = tokenizer.get_added_vocab()
    for text in TEXTS:
        if any(token in text for token in added):
            continue
        found = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        expected = written.encode(text, add_special_tokens=False).ids
        if found != expected:
            tokens, own = str(found)[:60], str(expected)[:60]
            return [
                f"{path}: transformers reads it by rules of its own for this family, so that {text[:40]!r} gives {tokens} and by "
                f"the file {own}; a model that was trained with the file's own tokens answers worse here, and wherever "
                "transformers serves it"
            ]
    return []
