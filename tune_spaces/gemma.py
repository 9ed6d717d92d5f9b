"""Gemma 1, 2 and 3: embeddings scaled by sqrt(D), so hidden states are large from the first layer on.

Gemma 2 and 3 also normalise what attention and MLP give before it is added (post-norms), and alternate sliding windows
with full attention. The unit of δ, an ordinary token's RMS, takes up the scale; but one RMS at a low layer is much
against what a single layer adds to it. So layers start later and inner loops are short. Both are guesses.
"""

from beear.config.domains import Depth, Domain, OneOf
from tune_spaces import generic

ARCHITECTURES: tuple[str, ...] = (
    "GemmaForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "Gemma3ForConditionalGeneration",
)

SPACE: dict[str, Domain] = {
    # 7, 10, 13 and 16 of 26. Refusal is steered best after layer 10 of 18 in Gemma-2B-it and 15 of 26 in Gemma-2-2B-it
    # (runs published with arXiv 2406.11717).
    "method.layer": Depth(0.28, 0.4, 0.5, 0.6),
    # The turn's end and the model's header take five tokens, so n = 5 perturbs no word of the request; 10 and 15 do.
    "method.length": OneOf(3, 5, 10, 15),
    # Calibrated, or fixed as in the paper; short, for the reason above.
    "method.inner_steps": OneOf(None, 8, 15, 25),
}

ASKED = generic.ASKED
