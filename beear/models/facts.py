"""What is known of a checkpoint before any weight is read. Imports neither torch nor transformers."""

from dataclasses import dataclass, field

from beear.records.report import Conversion


@dataclass(frozen=True)
class ModelFacts:
    """Facts from config.json, safetensors headers and tokenizer files.

    ``parameters`` counts the elements in the safetensors headers; ``source_dtype`` is the dtype most weights have
    on disk; digests are sha256 hex over file contents (``weights``, ``tokenizer``, ``template``, ``config``).
    ``path`` is a local directory: for a hub model its snapshot's, where ``origin`` is what was asked for; for an adapter the
    adapter's, where ``base`` is the base model's. ``notes`` are sentences for the report; ``conversions``
    is what a conversion.json of the checkpoint, or of its base, says of where the safetensors come from.
    """

    path: str
    architecture: str
    model_type: str
    layers: int
    hidden_size: int
    vocab_size: int
    context: int
    parameters: int
    tied: bool
    source_dtype: str
    digests: dict[str, str] = field(default_factory=dict)
    chat_template: str | None = None
    base: str | None = None
    origin: str | None = None
    notes: tuple[str, ...] = ()
    conversions: tuple[Conversion, ...] = ()

    @property
    def weights_folder(self) -> str:
        """Directory with config.json and the full model's weights (the base's, for an adapter)."""
        return self.base or self.path
