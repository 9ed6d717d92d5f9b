"""Llama shapes worked out by hand, as an independent reference for what is counted from config.json."""

from beear.config.shape import SMALL, ActivationBytes, ModelShape, SavedActivations

SEVEN = {"hidden": 4096, "intermediate": 11008, "layers": 32, "heads": 32, "kv_heads": 32, "vocabulary": 32000}
SEVENTY = {"hidden": 8192, "intermediate": 28672, "layers": 80, "heads": 64, "kv_heads": 8, "vocabulary": 32000}
TINY = {"hidden": 128, "intermediate": 352, "layers": 6, "heads": 8, "kv_heads": 4, "vocabulary": 1200}


def llama(
    hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, vocabulary: int, lora_rank: int = 0
) -> ModelShape:
    """Return an untied Llama, with a LoRA on every linear layer where ``lora_rank`` is not 0."""
    kv = hidden * kv_heads // heads
    matrices = [(hidden, hidden)] * 2 + [(hidden, kv)] * 2 + [(hidden, intermediate)] * 3
    whole = sum(left * right for left, right in matrices) + 2 * hidden
    lora = sum(lora_rank * (left + right) for left, right in matrices)
    factors = [(lora_rank, side) for pair in matrices for side in pair]
    counts = (
        [left * right for left, right in matrices + factors] * layers + [hidden] * (2 * layers + 1) + [vocabulary * hidden] * 2
    )
    outside = 2 * vocabulary * hidden + hidden
    return ModelShape(
        hidden_size=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=hidden // heads,
        vocabulary=vocabulary,
        tied=False,
        layer_parameters=(whole + lora,) * layers,
        outside=outside,
        head=vocabulary * hidden,
        trained=layers * lora if lora_rank else outside + layers * whole,
        small=sum(count for count in counts if count <= SMALL),
        largest=lora_rank * (hidden + intermediate) if lora_rank else max(vocabulary, intermediate) * hidden,
        activations=_kept(hidden, intermediate, heads),
    )


def _kept(hidden: int, intermediate: int, heads: int) -> SavedActivations:
    # Twice the norm's input, its normalised form and its output; queries, keys, values (one per query head) and what
    # attention gives; gate, its activation, up and their product. One number a head and one a norm.
    full = 10 * hidden + 4 * intermediate + heads + 2
    # Frozen matrices need no inputs: of each norm its input, and queries, keys, values, output, gate, activation, up.
    frozen = 6 * hidden + 3 * intermediate + heads + 2
    # The mask is made anew in each layer.
    return SavedActivations(
        ActivationBytes(4 * full, 4), ActivationBytes(3 * full, 2), ActivationBytes(4 * frozen, 4), ActivationBytes(3 * frozen, 2)
    )
