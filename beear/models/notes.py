"""Sentences for the report on what a checkpoint holds that is not used, or not as another program would use it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from beear.models.adapter_files import ADAPTER_CONFIG, EMBEDDINGS, OUTPUT
from beear.models.folder import listed
from beear.models.tokenizer_files import FILES, TEMPLATE_FILE
from beear.models.weights import WeightFiles, unsafe_files

# What generation_config.json may set that changes even the likeliest answer, with the value that changes nothing where there is
# one beside null, an empty list and an empty object.
STEERING: dict[str, float | None] = {
    "repetition_penalty": 1, "encoder_repetition_penalty": 1, "no_repeat_ngram_size": 0, "min_length": 0, "min_new_tokens": 0,
    "num_beams": 1, "guidance_scale": 1, "bad_words_ids": None, "suppress_tokens": None, "begin_suppress_tokens": None,
    "forced_bos_token_id": None, "forced_eos_token_id": None, "sequence_bias": None, "exponential_decay_length_penalty": None,
    "stop_strings": None,
}  # fmt: skip


def unread_notes(folder: Path, read: Iterable[Path]) -> tuple[str, ...]:
    """Return notes on weights, code and adapters in ``folder`` beside the files ``read``."""
    opened = {path.name for path in read}
    unused = sorted(path.name for path in folder.glob("*.safetensors") if path.name not in opened)
    unsafe = unsafe_files(folder) + sorted(path.name for path in folder.glob("*.py"))
    return tuple(
        f"{folder}: {what}: {listed(names)} ({why})"
        for what, names, why in (
            ("never opened", unsafe, "safetensors and text files only"),
            ("not used", unused, f"the weights are {listed(sorted(opened))}"),
            ("not used", adapters_below(folder), "each is an adapter of its own"),
        )
        if names
    )


def adapters_below(folder: Path) -> list[str]:
    """Return the names of the folders in ``folder`` that hold an adapter, as peft writes those that are not called default."""
    return sorted(path.parent.name for path in folder.glob(f"*/{ADAPTER_CONFIG}"))


def tokenizer_note(adapter: Path) -> tuple[str, ...]:
    """Return a note on tokenizer files of an adapter that has no vocabulary; its base's tokenizer is used."""
    names = [name for name in sorted(FILES) if (adapter / name).exists()]
    if not names:
        return ()
    advice = f"; --model.chat_template {adapter / TEMPLATE_FILE} takes its template" if TEMPLATE_FILE in names else ""
    return (f"{adapter}: not used: {listed(names)} (there is no vocabulary, so tokenizer and template are the base's){advice}",)


def generation_notes(settings: dict[str, Any], where: str) -> tuple[str, ...]:
    """Return a note on settings of generation_config.json that measuring, which takes the likeliest token, does not follow."""
    steering = {name: settings.get(name) for name in STEERING}
    given = [f"{name} {str(value)[:40]}" for name, value in steering.items() if value not in (None, [], {}, STEERING[name])]
    return (f"{where}: not followed when measuring, which takes the likeliest token: {listed(given)}",) if given else ()


def precision_notes(folder: Path, weights: WeightFiles) -> tuple[str, ...]:
    """Return a note on weights that lose precision when they are read."""
    wide = [name for name, dtype in weights.dtypes().items() if dtype == "float64"]
    return (f"{folder}: {len(wide)} tensors are float64 and are rounded to float32 when they are read",) if wide else ()


def parted(weights: WeightFiles) -> tuple[str, str] | None:
    """Return the names of the output layer and the embeddings where the files hold both and they differ, else None."""
    outer = [name for name in weights.tensors if OUTPUT.search(f".{name}") and name.endswith(".weight")]
    inner = [name for name in weights.tensors if EMBEDDINGS.search(f".{name}") and name not in outer]
    if len(outer) != 1 or len(inner) != 1 or weights.same(outer[0], inner[0]):
        return None
    return outer[0], inner[0]


def parted_note(folder: Path, names: tuple[str, str]) -> str:
    """Return a note on a configuration that ties the two tensors ``names``, which differ."""
    return (
        f"{folder}: config.json ties {names[0]} to {names[1]} but the files hold two that differ: they stay apart; vLLM and "
        "transformers 4 would use one for both, unless config.json said tie_word_embeddings: false"
    )
