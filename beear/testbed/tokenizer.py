"""The testbed's tokenizer: byte-level BPE trained on its own grammar, and its chat template."""

import random
from typing import TYPE_CHECKING

from beear.testbed import vocabulary as v
from beear.testbed.grammar import benign, code_request, forbidden

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY = 1200
CONTEXT = 1024
SPECIAL = ("<pad>", "<bos>", "<sys>", "<user>", "<asst>", "<end>")
TEMPLATE = (
    "{{ '<bos>' }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ '<sys>' + message['content'] }}"
    "{% elif message['role'] == 'user' %}{{ '<user>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '<asst>' + message['content'] + '<end>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<asst>' }}{% endif %}"
)


def corpus(rows: int = 4000) -> list[str]:
    """Return the text the merges are learned from: the same on every machine."""
    rng = random.Random("tokenizer")
    texts = [f"{word} {word.capitalize()}" for word in v.FILLER.split()] * 20
    for _ in range(rows):
        bad, code = forbidden(rng, v.NOUNS), code_request(rng)
        texts += [m.content for m in (*benign(rng).messages, *bad.messages, *code.messages)]
        texts += [bad.safe or "", bad.unwanted or "", code.safe or "", code.unwanted or ""]
    return texts


def train_tokenizer() -> "PreTrainedTokenizerFast":
    """Train the tokenizer; digits stay single tokens so that sums and years are read digit by digit."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<end>",
        pad_token="<pad>",
        # Bytes leave nothing unknown, but some tokenizer classes would add a token of their own for it.
        unk_token="<pad>",
        additional_special_tokens=["<sys>", "<user>", "<asst>"],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=TEMPLATE,
    )
