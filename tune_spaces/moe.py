"""Mixtures of experts: each token goes to the few experts that a router picks from its hidden state.

δ changes what the routers after layer l read, and their choice jumps: a large δ can send a token to experts that never
saw its kind, so that the loss says more of the routing than of the backdoor, and removal trains experts that the
trigger itself would not reach. So δ is kept small, by few inner steps and, when asked, by tight bounds. Both are guesses.
"""

from beear.config.domains import Depth, Domain, OneOf
from tune_spaces import generic

ARCHITECTURES: tuple[str, ...] = (
    "DeepseekV2ForCausalLM",
    "DeepseekV3ForCausalLM",
    "GptOssForCausalLM",
    "GraniteMoeForCausalLM",
    "MixtralForCausalLM",
    "OlmoeForCausalLM",
    "PhimoeForCausalLM",
    "Qwen2MoeForCausalLM",
    "Qwen3MoeForCausalLM",
)

SPACE: dict[str, Domain] = {
    # 6, 9, 13 and 16 of 32: about the paper's two layers, 9 and 16 of 32, past the dense layers that DeepSeek begins with.
    "method.layer": Depth(0.2, 0.28, 0.4, 0.5),
    # The paper's 5 and its neighbours; each perturbed position is one more token whose experts may change.
    "method.length": OneOf(2, 5, 8, 12),
    # Calibrated, or fixed as in the paper; short, for the reason above.
    "method.inner_steps": OneOf(None, 8, 15, 25),
}

ASKED: dict[str, dict[str, Domain]] = {
    **generic.ASKED,
    # Tighter than elsewhere: at 1 δ is as long as a hidden state of typical size.
    "bound": {"method.bound": OneOf(None, 0.75, 1.5)},
}
