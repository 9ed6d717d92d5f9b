"""The model's own chat template, run in a sandbox, and the tokens that it makes of conversations."""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from jinja2.exceptions import SecurityError, TemplateError
from transformers import PreTrainedTokenizerBase

from beear.data.rows import Message
from beear.errors import UserError

OPEN_THINKING = re.compile(r"<(think|thinking|thought|reasoning)>\s*$")
THOUGHTS = re.compile(r"^\s*<(think|thinking|thought|reasoning)>.*?</\1>\s*", re.DOTALL)
SENTINEL, SYSTEM_SENTINEL = "zq7answer", "zq7system"


class Template:
    """Turns conversations into the token ids that the model gets when it is served.

    The template alone writes special tokens. The tokenizer adds none, so no BOS is doubled. transformers renders in an
    immutable jinja2 sandbox with ``raise_exception``, ``strftime_now``, ``tojson``, ``{% generation %}`` and loop
    controls. Where a template rejects or drops the system turn, its text goes to the start of the first user turn.
    Thinking blocks are left empty.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: str | None = None) -> None:
        """Take ``text`` (jinja) or the tokenizer's own template, and find out from three renderings how it writes turns.

        Raises:
            UserError: there is no template, it tries to leave the sandbox, it fails, or it writes no assistant turn.
        """
        self.tokenizer = tokenizer
        self.text = text if text is not None else _own_template(tokenizer)
        self._last_prompt: tuple[tuple[Message, ...], str] = ((), "")
        self._last_ids: tuple[str, list[int], list[tuple[int, int]]] = ("", [], [])
        question, answer = Message("user", "zq7question"), Message("assistant", SENTINEL)
        self._after_user = self._render([question], True).rpartition(question.content)[2]
        whole = self._render([question, answer], False)
        if SENTINEL not in whole:
            raise UserError("The chat template writes no assistant turn; expected the answer's text in its output.")
        self.end_of_turn = self._first_special(whole.partition(SENTINEL)[2])
        self.folds_system = not self._takes_system(question)

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """Return the rendering that ends where the assistant's answer starts."""
        key = tuple(messages)
        if self._last_prompt[0] != key:
            self._last_prompt = (key, self._prompt_text(key))
        return self._last_prompt[1]

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the prompt's token ids [P]."""
        return list(self._placed(self.prompt_text(messages))[0])

    def user_end(self, messages: Sequence[Message]) -> int:
        """Return how many of the prompt's tokens come after the end of the last user turn's text."""
        text = self.prompt_text(messages)
        tail = self._after_user
        end = len(text) - len(tail) if text.endswith(tail) else text.rfind(messages[-1].content.strip())
        if not text.endswith(tail) and end >= 0:
            end += len(messages[-1].content.strip())
        return sum(start >= end for start, _ in self._placed(text)[1]) if end >= 0 else 0

    def answer_ids(self, messages: Sequence[Message], answer: str, end_of_turn: bool = True) -> list[int]:
        """Return the answer's token ids [R] after the prompt's, with the template's end of turn where ``end_of_turn``.

        The prompt's tokens are always a prefix of those of prompt and answer. Where tokens would merge across the border,
        both are encoded apart.
        """
        prompt, answered = self.prompt_text(messages), self._answer_text(messages, answer)
        if end_of_turn:
            answered += self.end_of_turn
        ids, whole = self._placed(prompt)[0], self._encode(prompt + answered)
        if whole[: len(ids)] == ids:
            return whole[len(ids) :]
        return self._encode(answered)

    def conversation(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Return token ids [T] of a conversation that ends with an assistant turn, and which are labelled.

        Every assistant turn is labelled, its end-of-turn token included.
        """
        before, last = list(messages[:-1]), messages[-1].content
        prompt = self.prompt_text(before)
        ids, places = self._placed(prompt)
        spans = self._spans(before, prompt)
        # A word's token starts at the space before the word, which is the template's own.
        labelled = [any(start < b and end > a for a, b in spans) for start, end in places]
        answer = self.answer_ids(before, last)
        return ids + answer, labelled + [True] * len(answer)

    def _prompt_text(self, messages: Sequence[Message]) -> str:
        text = self._render(self._plain(messages), True)
        if opened := OPEN_THINKING.search(text):
            text = f"{text[: opened.start()]}<{opened[1]}>\n\n</{opened[1]}>\n\n"
        return text

    def _spans(self, messages: list[Message], text: str) -> list[tuple[int, int]]:
        """Return the character spans of the assistant turns inside a prompt, ends of turn included."""
        found, cursor = [], 0
        for index, message in enumerate(messages):
            content = _without_thoughts(message.content).strip()
            if message.role == "assistant":
                head = self.prompt_text(messages[:index])
                cursor = len(head) if text.startswith(head) else cursor
            at = text.find(content, cursor)
            if at < 0:
                continue
            begin, cursor = at, at + len(content)
            if message.role == "assistant":
                if self.end_of_turn and text[cursor:].lstrip().startswith(self.end_of_turn.lstrip()):
                    cursor = text.index(self.end_of_turn.lstrip(), cursor) + len(self.end_of_turn.lstrip())
                found.append((begin, cursor))
        return found

    def _answer_text(self, messages: Sequence[Message], answer: str) -> str:
        """Return the answer as the template writes it (some templates strip white space), without the end of turn."""
        answer = _without_thoughts(answer)
        prompt = self.prompt_text(messages)
        whole = self._render(self._plain([*messages, Message("assistant", answer)]), False)
        if not whole.startswith(prompt):
            return answer.strip()
        rest = whole[len(prompt) :]
        return rest[: rest.rfind(self.end_of_turn)] if self.end_of_turn and self.end_of_turn in rest else rest

    def _plain(self, messages: Sequence[Message]) -> list[Message]:
        turns = [replace(m, content=_without_thoughts(m.content)) if m.role == "assistant" else m for m in messages]
        if not self.folds_system or turns[0].role != "system":
            return turns
        first = next(i for i, m in enumerate(turns) if m.role == "user")
        folded = replace(turns[first], content=f"{turns[0].content}\n\n{turns[first].content}")
        return [*turns[1:first], folded, *turns[first + 1 :]]

    def _takes_system(self, question: Message) -> bool:
        try:
            return SYSTEM_SENTINEL in self._render([Message("system", SYSTEM_SENTINEL), question], True)
        except UserError:
            return False

    def _first_special(self, tail: str) -> str:
        """Return ``tail`` up to the end of its first special token, which is what the model writes to end its turn."""
        specials = [s for s in self.tokenizer.get_added_vocab() if s in tail]
        if not specials:
            return tail
        end = min(((tail.index(s), -len(s), s) for s in specials), key=lambda found: found[:2])
        return tail[: end[0] + len(end[2])]

    def _render(self, messages: Sequence[Message], generation: bool) -> str:
        chat = [{"role": m.role, "content": m.content} for m in messages]
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    chat,
                    chat_template=self.text,
                    tokenize=False,
                    add_generation_prompt=generation,
                    enable_thinking=False,
                    thinking=False,
                )
            )
        except SecurityError as error:
            raise UserError(f"The chat template tries to leave its sandbox, and is stopped: {_reason(error)}.") from error
        except TemplateError as error:
            raise UserError(f"The chat template rejects the conversation ({_reason(error)}).") from error
        except Exception as error:  # a template is untrusted code: any error in it is invalid input
            raise UserError(f"The chat template fails ({type(error).__name__}: {_reason(error)}).") from error

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _placed(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return token ids and the characters at which each starts and ends; the last text's result is kept."""
        if self._last_ids[0] != text:
            self._last_ids = (text, *self._places_of(text))
        return self._last_ids[1], self._last_ids[2]

    def _places_of(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        if self.tokenizer.is_fast:
            coded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            return list(coded["input_ids"]), [(start, end) for start, end in coded["offset_mapping"]]
        ids = self._encode(text)
        return ids, list(pairwise(len(self.tokenizer.decode(ids[:i])) for i in range(len(ids) + 1)))


def _own_template(tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise UserError("The checkpoint has no chat template; give one with --model.chat_template FILE.jinja.") from error


def _without_thoughts(text: str) -> str:
    return THOUGHTS.sub("", text)


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
