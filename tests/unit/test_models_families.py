"""What is said of an architecture that is not on the list."""

import pytest

from beear.errors import UserError
from beear.models.families import ENCODERS, FAMILIES, family_of

NO_DECODER = ", which is no decoder-only language model"


@pytest.mark.parametrize(
    ("architecture", "model_type", "said"),
    [
        ("BertModel", "bert", NO_DECODER),
        ("BertLMHeadModel", "bert", NO_DECODER),
        ("RobertaForMaskedLM", "roberta", NO_DECODER),
        ("T5ForConditionalGeneration", "t5", NO_DECODER),
        ("WhisperForConditionalGeneration", "whisper", NO_DECODER),
        ("Llama4ForConditionalGeneration", "llama4", NO_DECODER),
        ("LlamaForSequenceClassification", "llama", f"{NO_DECODER} (that of its family is LlamaForCausalLM)"),
        ("GPT2Model", "gpt2", ' (did you mean "GPT2LMHeadModel"?)'),
        ("LlamaForCausalLN", "llama", ' (did you mean "LlamaForCausalLM"?)'),
        ("MambaForCausalLM", "mamba", ""),
        ("Llama4ForCausalLM", "llama4_text", ""),
        ("ChatGLMModel", "chatglm", ""),
    ],
)
def test_a_stranger_is_told_what_it_is(architecture: str, model_type: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        family_of({"architectures": [architecture], "model_type": model_type}, "config.json")
    assert str(caught.value) == (
        f'config.json: found architecture "{architecture}" with model_type "{model_type}"{said}, expected one of the '
        f"{len(FAMILIES)} decoder families in docs/untrusted-checkpoints.md"
    )


def test_a_model_that_calls_itself_an_encoder_with_a_decoder_is_none() -> None:
    with pytest.raises(UserError, match="no decoder-only"):
        family_of({"architectures": ["OtherForCausalLM"], "model_type": "other", "is_encoder_decoder": True}, "config.json")


def test_no_family_counts_as_an_encoder() -> None:
    assert ENCODERS.isdisjoint(family.model_type for family in FAMILIES.values())
