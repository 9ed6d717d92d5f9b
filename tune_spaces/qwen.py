"""Qwen 2, 2.5 and 3, dense: Llama's block with biases on queries, keys and values (2) or norms on queries and keys (3).

Query and key norms keep attention scores bounded whatever δ's size, so δ steers more by what values carry than by
drawing attention to itself. That is a guess about what it means for K.
"""

from beear.config.domains import Depth, Domain, OneOf
from tune_spaces import generic

ARCHITECTURES: tuple[str, ...] = ("Qwen2ForCausalLM", "Qwen3ForCausalLM")

SPACE: dict[str, Domain] = {
    # 5, 8, 11, 15 and 18 of 28. Refusal was steered best after layer 15 of 24 in the first Qwen's 1.8B chat model
    # (runs published with arXiv 2406.11717), later than in Llama: that its successors are alike is a guess, so the
    # range reaches from the testbed's best layers to there.
    "method.layer": Depth(0.18, 0.28, 0.4, 0.52, 0.64),
    # ChatML ends a prompt in five tokens of its own, <|im_end|> to the line break after assistant, so n = 5 perturbs
    # no word of the request; 10 and 15 do.
    "method.length": OneOf(3, 5, 10, 15),
    # Calibrated, or fixed as in the paper. The testbed's ten-layer Qwen 2 lost more utility than its Llama at 25.
    "method.inner_steps": OneOf(None, 10, 20, 30),
}

ASKED = generic.ASKED
