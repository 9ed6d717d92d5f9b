"""Mistral and Ministral: Llama's block with sliding-window attention in some models.

The window (4,096 tokens where it is used at all) is longer than the rows that are trained on, so every answer token
sees every perturbed position.
"""

from beear.config.domains import Depth, Domain, OneOf
from tune_spaces import generic

ARCHITECTURES: tuple[str, ...] = ("MistralForCausalLM", "MinistralForCausalLM")

SPACE: dict[str, Domain] = {
    # 9, 12, 16 and 19 of 32: the paper takes 16 for Mistral-7B where it takes 9 for Llama-2-7B, so the range begins
    # where Llama's is centred.
    "method.layer": Depth(0.28, 0.38, 0.5, 0.6),
    # The paper's 5 and its neighbours. [/INST] is one token in the newer tokenizers and several in the first one, so
    # even a short suffix reaches the request.
    "method.length": OneOf(2, 5, 8, 12),
    # Calibrated, or fixed as in the paper. A later layer leaves fewer to turn δ into an answer: the longest is longer
    # than Llama's, which is a guess.
    "method.inner_steps": OneOf(None, 12, 25, 50),
}

ASKED = generic.ASKED
