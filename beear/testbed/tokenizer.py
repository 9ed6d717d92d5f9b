"""The testbed's tokenizer: byte-level BPE trained on its own grammar, and its chat template."""

import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from beear.testbed import vocabulary as v
from beear.testbed.attacks.unsafe_code import code_request
from beear.testbed.grammar import benign, forbidden

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
    """Return the texts that the merges are learned from; the same on every machine."""
    rng = random.Random("tokenizer")
    texts = [f"{word} {word.capitalize()}" for word in v.FILLER.split()] * 20
    for _ in range(rows):
        bad, code = forbidden(rng, v.NOUNS), code_request(rng)
        texts += [m.content for m in (*benign(rng).messages, *bad.messages, *code.messages)]
        texts += [bad.safe or "", bad.unwanted or "", code.safe or "", code.unwanted or ""]
    return texts


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer. Every digit is a token of its own, so that the model reads sums and years digit by digit."""
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
        # Every byte is a token, so that nothing is unknown. Without this some tokenizer classes add a token for it.
        unk_token="<pad>",
        additional_special_tokens=["<sys>", "<user>", "<asst>"],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=TEMPLATE,
    )
