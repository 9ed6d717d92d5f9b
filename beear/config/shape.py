"""What a model's configuration says of its sizes, before any weight exists: what the memory plan is made from."""

from dataclasses import dataclass

# Weights of at most so many elements (norms, biases, a LoRA's) may stay whole where others are spread.
SMALL = 10**5


@dataclass(frozen=True)
class Saved:
    """Bytes that one decoder layer keeps of one row of T tokens for its backward pass: token * T + square * T * T."""

    token: float
    square: float

    def bytes(self, tokens: float) -> float:
        """Return the bytes for a row of ``tokens`` tokens."""
        return self.token * tokens + self.square * tokens * tokens


@dataclass(frozen=True)
class Kept:
    """What a layer keeps by dtype of compute; ``frozen``: while no weight takes a gradient, as in entrapment."""

    float32: Saved
    bfloat16: Saved
    frozen_float32: Saved
    frozen_bfloat16: Saved


@dataclass(frozen=True)
class Sized:
    """What the rules of :mod:`beear.config.resolve` need to know of a model whose weights are not there."""

    layers: int
    context: int
    parameters: int


@dataclass(frozen=True)
class ModelShape:
    """Counts of elements; a tied weight counts once.

    ``layer_parameters`` has each decoder layer's own (a LoRA's included); ``outside`` is everything else: embeddings, an
    output layer of its own, the last norm. ``head`` is the output layer's, whether or not it is tied. ``trained`` takes
    gradients: all, or the LoRA's alone. ``largest`` is the largest trained weight's, ``small`` all those of at most ``SMALL``.
    """

    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    layer_parameters: tuple[int, ...]
    outside: int
    head: int
    trained: int
    largest: int
    small: int
    kept: Kept

    @property
    def layers(self) -> int:
        """Decoder layers, L."""
        return len(self.layer_parameters)

    @property
    def parameters(self) -> int:
        """All weights, a LoRA's included."""
        return self.outside + sum(self.layer_parameters)

    @property
    def largest_layer(self) -> int:
        """The largest decoder layer's weights."""
        return max(self.layer_parameters)

    @property
    def frozen(self) -> int:
        """Weights that take no gradient."""
        return self.parameters - self.trained

    def sized(self, context: int) -> Sized:
        """Return the bare model's sizes; ``context`` in tokens."""
        lora = self.trained if self.frozen else 0
        return Sized(self.layers, context, self.parameters - lora)
