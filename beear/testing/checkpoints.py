"""Tiny checkpoints of many families, written as strangers would write them: own tokenizer, template, dtype, shards.

    folder = make_checkpoint(tmp_path / "model", family="mistral", dtype="bfloat16", shards=3)

Weights are random from ``seed``; nothing is downloaded. The vocabulary is the 256 bytes and the special tokens, so
any text can be encoded and decoded exactly; the embedding has a few spare rows, as published models do. With
``sentencepiece=True`` the vocabulary is a tokenizer.model alone, as Llama 2's and Mistral's checkpoints of 2023 have it.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sentencepiece import SentencePieceTrainer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from beear.models.tokenizer_files import NAMED

SPECIAL = ("<pad>", "<s>", "</turn>", "<|sys|>", "<|user|>", "<|model|>")
TEMPLATE = (
    "{{ '<s>' }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ '<|sys|>' + message['content'] }}"
    "{% elif message['role'] == 'user' %}{{ '<|user|>' + message['content'] }}"
    "{% else %}{{ '<|model|>' + message['content'] + '</turn>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|model|>' }}{% endif %}"
)

VOCABULARY = 272
# What a sentencepiece model is trained on: a few words, so that some letters have no piece and are written as bytes.
SENTENCES = (
    "How do I bake bread at home, and how long does it take?",
    "Mix flour, water, salt and yeast. Let the dough rest, then bake it until the crust is brown.",
    "  I am sorry, but I cannot help with that. Please ask me about something else: there are 1234567890 other things!",
    "The quick brown fox jumps over the lazy dog (twice) while THE LAZY DOG SAYS NOTHING [INST] [/INST] <<SYS>>.",
)
PIECES = 400

_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "head_dim": 8,
}
_GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256, "n_inner": 64}

# One entry per family: model_type and the sizes it calls by its own names.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _LLAMA),
    "mistral": ("mistral", {**_LLAMA, "sliding_window": 16}),
    "qwen2": ("qwen2", _LLAMA),
    "qwen3": ("qwen3", _LLAMA),
    "gemma": ("gemma", _LLAMA),
    "gemma2": ("gemma2", {**_LLAMA, "sliding_window": 16, "query_pre_attn_scalar": 8}),
    "gemma3": ("gemma3_text", {**_LLAMA, "sliding_window": 16, "query_pre_attn_scalar": 8}),
    "phi3": ("phi3", {key: value for key, value in _LLAMA.items() if key != "head_dim"}),
    "olmo2": ("olmo2", _LLAMA),
    "gpt_neox": ("gpt_neox", {k: v for k, v in _LLAMA.items() if k not in {"head_dim", "num_key_value_heads"}}),
    "gpt2": ("gpt2", _GPT2),
    "mixtral": ("mixtral", {**_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "qwen2_moe": ("qwen2_moe", {**_LLAMA, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
                                "shared_expert_intermediate_size": 32}),
}  # fmt: skip


def make_checkpoint(
    folder: Path,
    family: str = "llama",
    *,
    dtype: str = "float32",
    tied: bool = False,
    layers: int = 3,
    shards: int = 1,
    seed: int = 0,
    template: str | None = TEMPLATE,
    pad: bool = True,
    sentencepiece: bool = False,
    rows: int | None = None,
    change: Callable[[PreTrainedModel], None] | None = None,
) -> Path:
    """Write a checkpoint and return its folder.

    Args:
        folder: where; made if missing.
        family: a name in ``FAMILIES``.
        dtype: dtype of the files.
        tied: whether input and output embeddings are one tensor.
        layers: L.
        shards: about how many files the weights are spread over; more than 1 writes an index.
        seed: of the random weights.
        template: the chat template; None for a model without one.
        pad: whether the tokenizer names its pad token.
        sentencepiece: whether the tokenizer is that of :func:`make_sentencepiece`, instead of :func:`make_tokenizer`.
        rows: of the embedding; by default a few more than the tokenizer has ids.
        change: edits the model in place before it is written (an implanted NaN, a scaled layer).
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = rows or (PIECES + 8 if sentencepiece else VOCABULARY)
    model = make_model(family, tied=tied, layers=layers, seed=seed, rows=rows).to(getattr(torch, dtype))
    if change is not None:
        change(model)
    total = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    model.save_pretrained(folder, max_shard_size="5GB" if shards == 1 else total // shards + 1)
    if sentencepiece:
        # Its tokens are others than those of the byte-level template.
        make_sentencepiece(folder, template=None if template is None else NAMED["llama2"].read_text(encoding="utf-8"))
        edit_json(folder / "config.json", pad_token_id=None, bos_token_id=1, eos_token_id=2)
        edit_json(folder / "generation_config.json", pad_token_id=None, bos_token_id=1, eos_token_id=2)
    else:
        make_tokenizer(folder, template=template, pad=pad)
    return folder


def make_model(
    family: str = "llama", *, tied: bool = False, layers: int = 3, seed: int = 0, rows: int = VOCABULARY
) -> PreTrainedModel:
    """Return a random float32 model of a family, its embedding by default a little larger than :func:`make_tokenizer` needs."""
    model_type, sizes = FAMILIES[family]
    sizes = {**sizes, "n_layer" if "n_layer" in sizes else "num_hidden_layers": layers}
    config = AutoConfig.for_model(
        model_type,
        **sizes,
        vocab_size=rows,
        tie_word_embeddings=tied,
        pad_token_id=SPECIAL.index("<pad>"),
        bos_token_id=SPECIAL.index("<s>"),
        eos_token_id=SPECIAL.index("</turn>"),
        initializer_range=0.2,
    )
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config).eval()


def make_tokenizer(folder: Path, *, template: str | None = TEMPLATE, pad: bool = True) -> None:
    """Write a byte-level tokenizer: ids 0..5 are special, the 256 bytes follow."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</turn>",
        pad_token="<pad>" if pad else None,
        additional_special_tokens=list(SPECIAL[3:]),
        model_max_length=256,
        chat_template=template,
    )
    wrapped.save_pretrained(folder)


def make_sentencepiece(
    folder: Path, *, template: str | None = None, settings: dict[str, Any] | None = None, **training: Any
) -> None:
    """Write a tokenizer.model of ``PIECES`` pieces as Llama's is: byte pairs, bytes for unknown letters, a space before text.

    tokenizer_config.json is a LlamaTokenizer's, with the fields ``settings``; ``training`` are options of its trainer.
    """
    written = io.BytesIO()
    options = {
        "vocab_size": PIECES, "model_type": "bpe", "byte_fallback": True, "split_digits": True, "num_threads": 1,
        "normalization_rule_name": "identity", "remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True,
        "minloglevel": 2, **training,
    }  # fmt: skip
    SentencePieceTrainer.train(sentence_iterator=iter(SENTENCES), model_writer=written, **options)
    (folder / "tokenizer.model").write_bytes(written.getvalue())
    config = {
        "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "legacy": False,
        "add_bos_token": True, "add_eos_token": False, **({} if template is None else {"chat_template": template}),
        **(settings or {}),
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def make_adapter(
    folder: Path,
    base: Path,
    *,
    rank: int = 4,
    seed: int = 1,
    targets: tuple[str, ...] = ("q_proj", "v_proj"),
    whole: tuple[str, ...] = (),
    start: bool | str = True,
    **settings: Any,
) -> Path:
    """Write a PEFT LoRA adapter of ``base`` with non-zero random weights and return its folder.

    It replaces the modules ``whole``. ``start`` is PEFT's ``init_lora_weights``: where that begins with a part of the base,
    the weights are changed a little from there. ``settings`` are further fields of its configuration.
    """
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=list(targets), modules_to_save=list(whole) or None, task_type="CAUSAL_LM",
        init_lora_weights=start,  # type: ignore[arg-type]  # annotated with the names that one version knows
        **settings,
    )  # fmt: skip
    wrapped = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if ".lora_" in name and start is True:
                parameter.normal_(0, 0.2)
            elif parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    wrapped.save_pretrained(str(folder))
    return folder


def edit_json(path: Path, **fields: Any) -> None:
    """Set fields of a JSON object file; a value of ``...`` removes the field."""
    value = json.loads(path.read_text(encoding="utf-8"))
    for name, item in fields.items():
        if item is ...:
            value.pop(name, None)
        else:
            value[name] = item
    path.write_text(json.dumps(value), encoding="utf-8")
