"""GPT-NeoX (Pythia) and GPT-J: attention and MLP of a layer both read its input and are added at once.

With such a parallel residual the MLP of layer l + 1 does not see what its attention made of δ: an effect takes one
layer more to build up, so late layers are left out. That is a guess.
"""

from beear.config.domains import Depth, Domain, OneOf
from tune_spaces import generic

ARCHITECTURES: tuple[str, ...] = ("GPTNeoXForCausalLM", "GPTJForCausalLM")

SPACE: dict[str, Domain] = {
    # 5, 9, 13 and 16 of the 32 that Pythia-6.9B has; 4, 8, 11 and 14 of GPT-J's 28.
    "method.layer": Depth(0.15, 0.28, 0.4, 0.5),
    # These models come without a chat template: whatever one is given tends to be short, and so are the suffixes tried.
    "method.length": OneOf(2, 3, 5, 10),
    # Calibrated, or fixed as in the paper.
    "method.inner_steps": OneOf(None, 12, 25, 40),
}

ASKED = generic.ASKED
