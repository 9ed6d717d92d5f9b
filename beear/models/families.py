"""The decoder families this product knows: one entry per architecture. Imports neither torch nor transformers."""

from dataclasses import dataclass
from typing import Any

from beear.errors import UserError, nearest


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
        hint = nearest(str(architecture), list(FAMILIES)) if architecture is not None else ""
        raise UserError(
            f'{where}: found architecture "{architecture}"{hint} with model_type "{model_type}", '
            f"expected one of the {len(FAMILIES)} decoder families in docs/untrusted-checkpoints.md"
        )
    family = FAMILIES[architecture]
    if model_type != family.model_type:
        raise UserError(
            f'{where}: found model_type "{model_type}" beside architecture "{architecture}", '
            f'expected model_type "{family.model_type}"'
        )
    return family
