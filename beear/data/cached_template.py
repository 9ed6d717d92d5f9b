"""A template with a cache, for a search's trials: they tokenise the same rows in every epoch and trial."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from transformers import PreTrainedTokenizerBase

from beear.data.rows import Message
from beear.data.templates import Template

T = TypeVar("T")
# With a thousand tokens each, so many conversations take some hundred MB.
MOST = 20_000


class RememberedTemplate(Template):
    """Returns what :class:`Template` returns, and keeps the ``most`` results used last."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: str | None = None, most: int = MOST) -> None:
        """Take the template as :class:`Template` does."""
        self._known: OrderedDict[Hashable, object] = OrderedDict()
        self._most = most
        super().__init__(tokenizer, text)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the prompt's token ids [P]."""
        key = tuple(messages)
        return list(self._once(("prompt", key), lambda: super(RememberedTemplate, self).prompt_ids(key)))

    def user_end(self, messages: Sequence[Message]) -> int:
        """Return how many of the prompt's tokens come after the end of the last user turn's text."""
        key = tuple(messages)
        return self._once(("end", key), lambda: super(RememberedTemplate, self).user_end(key))

    def answer_ids(self, messages: Sequence[Message], answer: str, end_of_turn: bool = True) -> list[int]:
        """Return the answer's token ids [R] after the prompt's."""
        key = tuple(messages)
        name = ("answer", key, answer, end_of_turn)
        return list(self._once(name, lambda: super(RememberedTemplate, self).answer_ids(key, answer, end_of_turn)))

    def conversation(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Return token ids [T] of a conversation that ends with an assistant turn, and which are labelled."""
        key = tuple(messages)
        ids, labelled = self._once(("whole", key), lambda: super(RememberedTemplate, self).conversation(key))
        return list(ids), list(labelled)

    def _once(self, key: Hashable, make: Callable[[], T]) -> T:
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]  # type: ignore[return-value]  # a key's kind says what it holds
        made = self._known[key] = make()
        if len(self._known) > self._most:
            self._known.popitem(last=False)
        return made
