"""OLMo 1, 2 and 3, dense: norms without weights (1), or norms after each block and on queries and keys (2 and 3).

From OLMo 2 on, the residual stream itself is not normalised before a block reads it: a block sees δ at its full size
against the hidden state, and its answer is normalised before it is added. That short inner loops suffice is a guess.
OLMo 3's sliding windows (4,096 tokens, three layers of four) are longer than the rows that are trained on.
"""

from beear.config.domains import Depth, Domain, OneOf
from tune_spaces import generic

ARCHITECTURES: tuple[str, ...] = ("OlmoForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM")

SPACE: dict[str, Domain] = {
    # 6, 9, 13 and 18 of 32: about the paper's two layers, 9 (Llama-2-7B) and 16 (Mistral-7B) of 32.
    "method.layer": Depth(0.2, 0.28, 0.4, 0.55),
    # The paper's 5 and its neighbours; longer ones reach past a header that is written in ordinary tokens.
    "method.length": OneOf(3, 5, 8, 12),
    # Calibrated, or fixed as in the paper.
    "method.inner_steps": OneOf(None, 10, 20, 40),
}

ASKED = generic.ASKED
