"""Checks that need both the data and the tokenizer, made on the longest and the shortest rows the driver saw."""

from transformers import PreTrainedTokenizerBase

from beear.config.schema import RunConfig
from beear.data.encode import encode_anchor, encode_defense
from beear.data.fill import complete
from beear.data.load import LoadedData
from beear.data.rows import AnchorRow, DefenseRow
from beear.data.templates import Template
from beear.errors import UserError
from beear.models.facts import ModelFacts


def check_lengths(config: RunConfig, facts: ModelFacts, data: LoadedData, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make sure that the template works, that the longest rows fit and that n positions exist in the shortest prompt.

    Raises:
        UserError: one of them does not hold.
    """
    template, longest = Template(tokenizer), config.data.max_length
    assert longest is not None, "the configuration is resolved first"
    rows = [row for found in data.longest.values() for row in found]
    shortest = min(data.longest["defense"], key=lambda row: sum(len(m.content) for m in row.messages))
    for row in [*rows[:8], *rows[-8:], shortest]:
        if isinstance(row, DefenseRow):
            encode_defense(complete(row, {}, config.data.refusal), template, longest, facts.context)
        elif isinstance(row, AnchorRow):
            encode_anchor(row, template, longest, facts.context)
    assert isinstance(shortest, DefenseRow)
    _check_positions(config, shortest, template)


def _check_positions(config: RunConfig, shortest: DefenseRow, template: Template) -> None:
    method = config.method
    if method.name == "finetune" or not {"suffix", "prefix"} & set(method.placements):
        return
    tokens = len(template.prompt_ids(shortest.messages))
    room = tokens - (template.user_end(shortest.messages) if method.suffix_from == "user" else 0)
    if method.length > room:
        raise UserError(
            f"method.length: found {method.length}, expected at most {room}, "
            f"the tokens of the shortest prompt ({shortest.origin})"
        )
