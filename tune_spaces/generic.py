"""Any decoder that no other space names, and what every family may be asked for beyond its core.

The paper (arXiv 2406.17092) perturbs layer 9 of 32 of Llama-2-7B and layer 16 of 32 of Mistral-7B, with n = 5; its
Figures 5 and 8 study l and n. For a family that nobody tried, the layers are spread over what lies about those two.
"""

from beear.config.domains import Between, Depth, Domain, OneOf

# Chosen where no other space names the architecture.
ARCHITECTURES: tuple[str, ...] = ()

SPACE: dict[str, Domain] = {
    # From before the paper's earliest layer to well past its latest: the layers after l have to carry the unwanted
    # answer, so late ones are tried to be ruled out.
    "method.layer": Depth(0.15, 0.28, 0.4, 0.55, 0.7),
    # For suffix and prefix; prompt, broadcast and everywhere have no n. A chat template's assistant header can take all
    # of the paper's five positions, so longer ones are tried too.
    "method.length": OneOf(2, 5, 10, 20),
    # None is the calibrated K. Of fixed ones, 10 left most of a backdoor in place on the testbed, and over 25 the model
    # began to refuse what it should not (docs/negative-results.md): larger models may need other numbers.
    "method.inner_steps": OneOf(None, 10, 20, 40),
}

ASKED: dict[str, dict[str, Domain]] = {
    "learning_rates": {
        # In units of an ordinary token's RMS: from a δ that 25 steps bring to half of a hidden state's own length to three
        # times the default.
        "method.inner_lr": Between(0.02, 0.3, log=True),
        # From half of what the largest models are given by default to twice what the smallest are.
        "method.outer_lr": Between(5e-6, 4e-4, log=True),
    },
    "placement": {
        # prompt is the default, suffix the paper's; everywhere also finds what a system prompt triggers, at more cost
        # to utility; suffix+everywhere asks for both at once.
        "method.placement": OneOf("prompt", "suffix", "everywhere", "suffix+everywhere"),
    },
    "outer_steps": {
        # About the default of 10: fewer cost less and keep more of the model, more remove more per entrapment.
        "method.outer_steps": OneOf(5, 10, 20),
    },
    "bound": {
        # None is no bound. On the testbed an unbounded δ ends near 2.3 RMS and 1.5 was no worse; one that stops δ short
        # of the unwanted answer leaves the backdoor where it is.
        "method.bound": OneOf(None, 1.5, 3.0),
    },
}
