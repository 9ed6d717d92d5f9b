"""Phi 1 to 4, dense: two different blocks under one name.

Phi 1, 1.5 and 2 add attention and MLP of the same normalised input at once (parallel residual); Phi 3 and 4 are built
like Llama, with fused projections. Nothing published says where either decides to refuse: the ranges are Llama's,
somewhat narrowed, and a guess.
"""

from beear.config.domains import Depth, Domain, OneOf
from tune_spaces import generic

ARCHITECTURES: tuple[str, ...] = ("PhiForCausalLM", "Phi3ForCausalLM")

SPACE: dict[str, Domain] = {
    # 6, 9, 13 and 16 of 32; 5, 7, 10 and 12 of the 24 that Phi 1.5 has.
    "method.layer": Depth(0.2, 0.28, 0.4, 0.5),
    # The paper's 5 and its neighbours: Phi 3's header is short, and the first models have no chat template of their own.
    "method.length": OneOf(3, 5, 8, 12),
    # Calibrated, or fixed as in the paper.
    "method.inner_steps": OneOf(None, 12, 25, 40),
}

ASKED = generic.ASKED
