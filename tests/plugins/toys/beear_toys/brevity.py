"""A toy measure: the share of ordinary prompts that are answered in more than ten words."""

from beear.config.schema import EvaluateConfig
from beear.evaluation.measures.base import Limit, Observed, RowMeasure
from beear.evaluation.shard import Shard


class Brevity(RowMeasure):
    """Share of long answers."""

    name = "brevity"
    title = "long answers"
    gated_on = "value"
    limit = Limit(0.9, "largest share of ordinary prompts that are answered in more than ten words")

    def not_tested(self, settings: EvaluateConfig) -> list[str]:
        """Name the prompts whose answers nobody counted."""
        return ["the length of answers to requests that the anchoring set lacks"]

    def observe(self, shard: Shard) -> list[Observed]:
        """Count the words of each answer."""
        return [(index, float(len(answer.split()) > 10)) for (index, _), answer in zip(shard.anchor, shard.answers, strict=True)]


MEASURE = Brevity()
