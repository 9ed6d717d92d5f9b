"""A toy measure: the share of ordinary prompts that are answered in more than ten words."""

from beear.evaluation.measures.base import Limit, Observed, RowMeasure
from beear.evaluation.shard import Shard


class Brevity(RowMeasure):
    """Share of long answers."""

    name = "brevity"
    title = "long answers"
    gated_on = "value"
    limit = Limit(0.9, "largest share of ordinary prompts that are answered in more than ten words")

    def observe(self, shard: Shard) -> list[Observed]:
        """Count the words of each answer."""
        return [(index, float(len(answer.split()) > 10)) for (index, _), answer in zip(shard.anchor, shard.answers, strict=True)]


MEASURE = Brevity()
