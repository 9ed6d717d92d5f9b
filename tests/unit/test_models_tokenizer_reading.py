"""A tokenizer.json that transformers reads in another way than it is written is noted."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from beear.models.inspect import inspect_checkpoint
from beear.models.loading import load_tokenizer
from beear.models.tokenizer_reading import read_otherwise
from beear.testing.checkpoints import edit_json, make_checkpoint


def said_of(folder):
    return read_otherwise(load_tokenizer(inspect_checkpoint(str(folder))), folder)


def with_pairs_of_digits(folder):
    """Have the tokenizer.json merge two digits, which a rule of Qwen's class keeps apart."""
    path = folder / "tokenizer.json"
    own = Tokenizer.from_file(str(path))
    vocabulary = own.get_vocab()
    merged = Tokenizer(models.BPE(vocab={**vocabulary, "01": len(vocabulary)}, merges=[("0", "1")]))
    merged.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    merged.decoder = decoders.ByteLevel()
    merged.add_special_tokens([token for _, token in sorted(own.get_added_tokens_decoder().items())])
    merged.save(str(path))


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_a_tokenizer_that_is_read_as_it_is_written_is_not_noted(tmp_path, family):
    assert said_of(make_checkpoint(tmp_path, family)) == []
    edit_json(
        tmp_path / "tokenizer.json", truncation={"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    )
    assert said_of(tmp_path) == [], "neither of the two cuts what is encoded here"


def test_a_family_whose_class_brings_its_own_rules_is_noted(tmp_path):
    make_checkpoint(tmp_path, "qwen2")
    with_pairs_of_digits(tmp_path)
    (said,) = said_of(tmp_path)
    assert said.startswith(
        f"{tmp_path}/tokenizer.json: transformers reads it by rules of its own for this family, so that '0123 45"
    )
    one, other, both = (Tokenizer.from_file(str(tmp_path / "tokenizer.json")).token_to_id(token) for token in ("0", "1", "01"))
    assert f"gives [{one}, {other}, " in said and f"by the file [{both}, " in said


def test_a_sentencepiece_model_alone_has_its_own_check(tmp_path):
    assert said_of(make_checkpoint(tmp_path, sentencepiece=True)) == []
