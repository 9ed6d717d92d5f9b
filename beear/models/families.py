"""The decoder families this product knows: one entry per architecture. Imports neither torch nor transformers."""

import re
from dataclasses import dataclass
from typing import Any

from beear.errors import UserError


@dataclass(frozen=True)
class Family:
    """What config.json may call one architecture.

    ``tied`` is what an absent ``tie_word_embeddings`` means for it; ``nested`` names the sub-configuration that
    describes the decoder where config.json holds several.
    """

    architecture: str
    model_type: str
    tied: bool = False
    nested: str | None = None


FAMILIES: dict[str, Family] = {
    family.architecture: family
    for family in (
        Family("ApertusForCausalLM", "apertus"),
        Family("ArceeForCausalLM", "arcee"),
        Family("BloomForCausalLM", "bloom", tied=True),
        Family("CohereForCausalLM", "cohere", tied=True),
        Family("Cohere2ForCausalLM", "cohere2", tied=True),
        Family("DeepseekV2ForCausalLM", "deepseek_v2"),
        Family("DeepseekV3ForCausalLM", "deepseek_v3"),
        Family("Exaone4ForCausalLM", "exaone4"),
        Family("FalconForCausalLM", "falcon", tied=True),
        Family("GemmaForCausalLM", "gemma", tied=True),
        Family("Gemma2ForCausalLM", "gemma2", tied=True),
        Family("Gemma3ForCausalLM", "gemma3_text", tied=True),
        Family("Gemma3ForConditionalGeneration", "gemma3", tied=True, nested="text_config"),
        Family("GlmForCausalLM", "glm"),
        Family("Glm4ForCausalLM", "glm4"),
        Family("GPT2LMHeadModel", "gpt2", tied=True),
        Family("GPTBigCodeForCausalLM", "gpt_bigcode", tied=True),
        Family("GPTJForCausalLM", "gptj"),
        Family("GPTNeoForCausalLM", "gpt_neo", tied=True),
        Family("GPTNeoXForCausalLM", "gpt_neox"),
        Family("GptOssForCausalLM", "gpt_oss"),
        Family("GraniteForCausalLM", "granite"),
        Family("GraniteMoeForCausalLM", "granitemoe"),
        Family("HeliumForCausalLM", "helium"),
        Family("LlamaForCausalLM", "llama"),
        Family("MinistralForCausalLM", "ministral"),
        Family("MistralForCausalLM", "mistral"),
        Family("MixtralForCausalLM", "mixtral"),
        Family("NemotronForCausalLM", "nemotron"),
        Family("OlmoForCausalLM", "olmo"),
        Family("Olmo2ForCausalLM", "olmo2"),
        Family("Olmo3ForCausalLM", "olmo3"),
        Family("OlmoeForCausalLM", "olmoe"),
        Family("OPTForCausalLM", "opt", tied=True),
        Family("PhiForCausalLM", "phi"),
        Family("Phi3ForCausalLM", "phi3"),
        Family("PhimoeForCausalLM", "phimoe"),
        Family("Qwen2ForCausalLM", "qwen2"),
        Family("Qwen2MoeForCausalLM", "qwen2_moe"),
        Family("Qwen3ForCausalLM", "qwen3"),
        Family("Qwen3MoeForCausalLM", "qwen3_moe"),
        Family("SeedOssForCausalLM", "seed_oss"),
        Family("SmolLM3ForCausalLM", "smollm3", tied=True),
        Family("StableLmForCausalLM", "stablelm"),
        Family("Starcoder2ForCausalLM", "starcoder2", tied=True),
    )
}

# What stands in an architecture's name after the family's: what the model is for.
HEAD = re.compile(r"(For[A-Z]\w*|LMHead\w*|DoubleHeads\w*|Encoder\w*|Decoder\w*)?(Model)?$")
# Heads that are put on encoders, or in place of a decoder's own.
NO_DECODER = re.compile(
    r"For(MaskedLM|ConditionalGeneration|\w*Classification|QuestionAnswering|MultipleChoice|NextSentencePrediction|PreTraining|"
    r"\w*Seq2Seq|\w*CTC|\w*Retrieval)$|(Encoder|DoubleHeads)Model$"
)
ENCODERS = {
    "albert", "bart", "bert", "big_bird", "bigbird_pegasus", "camembert", "canine", "convbert", "data2vec-text", "deberta",
    "deberta-v2", "distilbert", "electra", "ernie", "esm", "eurobert", "flaubert", "fnet", "funnel", "ibert", "led", "longformer",
    "longt5", "luke", "lxmert", "m2m_100", "marian", "mbart", "megatron-bert", "mobilebert", "modernbert", "mpnet", "mra", "mt5",
    "mvp", "nezha", "nystromformer", "pegasus", "plbart", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer",
    "squeezebert", "switch_transformers", "t5", "t5gemma", "tapas", "umt5", "whisper", "xlm", "xlm-roberta", "xlm-roberta-xl",
    "xlnet", "xmod", "yoso",
}  # fmt: skip

BY_MODEL_TYPE: dict[str, Family] = {family.model_type: family for family in FAMILIES.values()}


def family_of(config: dict[str, Any], where: str) -> Family:
    """Return the family that ``architectures`` and ``model_type`` of config.json agree on.

    Raises:
        UserError: the architecture is unknown, or the two fields name different families (the library builds the
            class that ``model_type`` names, so a mismatch would build something nobody checked).
    """
    model_type = config.get("model_type")
    listed = config.get("architectures")
    architecture = listed[0] if isinstance(listed, list) and listed else None
    if architecture is None and isinstance(model_type, str) and model_type in BY_MODEL_TYPE:
        return BY_MODEL_TYPE[model_type]
    if not isinstance(architecture, str) or architecture not in FAMILIES:
        raise UserError(
            f'{where}: found architecture "{str(architecture)[:80]}" with model_type "{str(model_type)[:80]}"'
            f"{_what_it_is(str(architecture), model_type, config)}, expected one of the {len(FAMILIES)} decoder families in "
            "docs/untrusted-checkpoints.md"
        )
    family = FAMILIES[architecture]
    if model_type != family.model_type:
        raise UserError(
            f'{where}: found model_type "{model_type}" beside architecture "{architecture}", '
            f'expected model_type "{family.model_type}"'
        )
    return family


def _what_it_is(architecture: str, model_type: object, config: dict[str, Any]) -> str:
    """Return what is known of an architecture that is not listed: that it is no decoder, or what its family's is called."""
    stem = HEAD.sub("", architecture).casefold()
    own = next((known for known in FAMILIES if stem and HEAD.sub("", known).casefold() == stem), None)
    encoder = model_type in ENCODERS if isinstance(model_type, str) else False
    if encoder or config.get("is_encoder_decoder") is True or NO_DECODER.search(architecture):
        return ", which is no decoder-only language model" + (f" (that of its family is {own})" if own and not encoder else "")
    return f' (did you mean "{own}"?)' if own else ""
