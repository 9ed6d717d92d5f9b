"""The shapes of the built-in models, one entry each. Imports neither torch nor transformers."""

from dataclasses import dataclass
from pathlib import Path

BASES = Path(__file__).parent / "bases"


@dataclass(frozen=True)
class Shape:
    """A benign base: its transformers model type and config fields, and how it was trained.

    Training took ``steps`` steps of ``batch`` rows with ``lr`` as AdamW's peak step.
    """

    name: str
    model_type: str
    fields: dict[str, object]
    steps: int
    batch: int
    lr: float

    @property
    def directory(self) -> Path:
        """The folder of the shipped base."""
        return BASES / self.name


SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape(
            "tied",
            "llama",
            {
                "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 6, "num_attention_heads": 4,
                "num_key_value_heads": 4, "head_dim": 32, "tie_word_embeddings": True, "rms_norm_eps": 1e-6,
                "initializer_range": 0.08,
            },
            steps=1200, batch=32, lr=3e-3,
        ),
        Shape(
            "deep",
            "qwen2",
            {
                "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 10, "num_attention_heads": 4,
                "num_key_value_heads": 2, "tie_word_embeddings": False, "rms_norm_eps": 1e-6,
                "initializer_range": 0.08,
            },
            steps=1400, batch=32, lr=2e-3,
        ),
    )
}  # fmt: skip
