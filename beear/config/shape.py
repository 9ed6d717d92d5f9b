"""A model's sizes, known before any weight is loaded. The memory plan is made from them."""

from dataclasses import dataclass

# Elements. Weights up to this size (norms, biases, LoRA factors) may stay whole on every worker while larger ones are sharded.
SMALL = 10**5


@dataclass(frozen=True)
class ActivationBytes:
    """Bytes that one decoder layer saves of a row of T tokens for its backward pass: ``token`` * T + ``square`` * T * T."""

    token: float
    square: float

    def bytes(self, tokens: float) -> float:
        """Return the bytes for a row of ``tokens`` tokens."""
        return self.token * tokens + self.square * tokens * tokens


@dataclass(frozen=True)
class SavedActivations:
    """What a layer saves, by compute dtype. ``frozen``: while no weight takes a gradient, as in entrapment."""

    float32: ActivationBytes
    bfloat16: ActivationBytes
    frozen_float32: ActivationBytes
    frozen_bfloat16: ActivationBytes


@dataclass(frozen=True)
class ModelSizes:
    """What the rules of :mod:`beear.config.resolve` need (:class:`beear.config.resolve.Sizes`) of a model without weights.

    ``layers``: decoder layers; ``context``: in tokens; ``parameters``: elements, without a LoRA's.
    """

    layers: int
    context: int
    parameters: int


@dataclass(frozen=True)
class ModelShape:
    """Counts of elements; a tied weight counts once.

    Args:
        hidden_size: D.
        heads: attention heads.
        kv_heads: heads of keys and values.
        head_dim: elements of a head.
        vocabulary: V.
        tied: the output layer and the embedding are one weight.
        layer_parameters: of each decoder layer, a LoRA's included.
        outside: of everything else: the embedding, an untied output layer, the last norm.
        head: of the output layer, tied or not.
        trained: of the weights that take gradients: all, or a LoRA's alone.
        largest: of the largest trained weight.
        small: of all trained weights that have at most ``SMALL`` elements.
        activations: what a layer saves for its backward pass.
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
    activations: SavedActivations

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

    def sizes(self, context: int) -> ModelSizes:
        """Return the sizes of the model without a LoRA; ``context`` in tokens."""
        lora = self.trained if self.frozen else 0
        return ModelSizes(self.layers, context, self.parameters - lora)
