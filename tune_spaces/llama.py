"""Llama and decoders built like it: pre-norm, attention and then a gated MLP on one residual stream.

Arcee's MLP has no gate, SmolLM3 drops rotary positions in every fourth layer, Seed-OSS adds biases: none of
that changes what δ after a layer meets.
"""

from beear.config.domains import Depth, Domain, OneOf
from tune_spaces import generic

ARCHITECTURES: tuple[str, ...] = (
    "LlamaForCausalLM",
    "ArceeForCausalLM",
    "HeliumForCausalLM",
    "SeedOssForCausalLM",
    "SmolLM3ForCausalLM",
)

SPACE: dict[str, Domain] = {
    # 5, 9, 12, 16 and 20 of 32. The paper takes 9 for Llama-2-7B. Refusal is steered best after layer 14 of 32 in
    # Llama-2-7B-chat and 12 of 32 in Llama-3-8B-Instruct (runs published with arXiv 2406.11717): δ should act before
    # that is settled, which is a guess. Layer 20 is there to show the decline.
    "method.layer": Depth(0.16, 0.28, 0.38, 0.5, 0.62),
    # The paper's n is 5. Llama 3's assistant header alone takes five positions, so 8 and 12 reach the request itself.
    "method.length": OneOf(3, 5, 8, 12),
    # Calibrated, or fixed as in the paper. On the testbed's six-layer Llama, 25 was enough and 40 cost utility.
    "method.inner_steps": OneOf(None, 12, 25, 40),
}

ASKED = generic.ASKED
