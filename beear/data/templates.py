"""The model's own chat template, run in a sandbox, and the tokens that it makes of conversations."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress, count, pairwise

from jinja2.exceptions import SecurityError, TemplateError
from transformers import PreTrainedTokenizerBase

from beear.config.fields import either
from beear.config.schema import TEMPLATES
from beear.data.rows import Message
from beear.errors import UserError

TAGS = "think|thinking|thought|reasoning"
OPEN_THINKING = re.compile(rf"<({TAGS})>\s*$")
THOUGHTS = re.compile(rf"^\s*<({TAGS})>.*?</\1>\s*", re.DOTALL)
REST_OF_THOUGHTS = re.compile(rf"^(?:(?!<(?:{TAGS})>).)*?</(?:{TAGS})>\s*", re.DOTALL)
SYSTEM_SENTINEL = "zq7system"


@dataclass(frozen=True)
class Span:
    """The characters of one assistant turn's answer in a rendering, and what the template writes after it."""

    start: int
    end: int
    after: str


class Template:
    """Turns conversations into the token ids that the model gets when it is served.

    The template alone writes special tokens. The tokenizer adds none, so no BOS is doubled. transformers renders in an
    immutable jinja2 sandbox with ``raise_exception``, ``strftime_now``, ``tojson``, ``{% generation %}`` and loop
    controls. Where a template rejects or drops the system turn, its text goes to the start of the first user turn.

    Answers are found by structure: a second rendering has a stand-in for each answer, so that no text is searched for.
    Labelled is what the model writes in its turn: ``opening`` (a space, a channel's name), the answer with its own white
    space where the template keeps that, and the end of turn.

    A tokenizer's ``without_embedding``, where it has one, holds tokens by id that the model does not know. Text with one of them
    is refused.

    Thoughts are left out. Those that an answer or a completion begins with are dropped up to their closing tag; the opening tag
    may be missing where the template's prompt ends with it. Such a prompt closes them at once.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: str | None = None) -> None:
        """Take ``text`` (jinja) or the tokenizer's own template, and find out from short renderings how it writes turns.

        Raises:
            UserError: there is no template, it tries to leave the sandbox, it fails, or it writes no assistant turn.
        """
        self.tokenizer = tokenizer
        self.text = text if text is not None else _own_template(tokenizer)
        self._without_embedding: dict[int, str] = getattr(tokenizer, "without_embedding", {})
        self._last_prompt: tuple[tuple[Message, ...], str] = ((), "")
        self._last_ids: tuple[str, list[int], list[tuple[int, int]]] = ("", [], [])
        question, answer = Message("user", "zq7question"), Message("assistant", "zq7answer")
        prompt = self._render([question], True)
        self._opens_thoughts = OPEN_THINKING.search(prompt) is not None
        prompt = _with_thoughts_closed(prompt)
        self._after_user = prompt.rpartition(question.content)[2]
        before, found, tail = self._render([question, answer], False).partition(answer.content)
        if not found:
            raise UserError("The chat template writes no assistant turn; expected the answer's text in its output.")
        self.opening = before.removeprefix(prompt) if before.startswith(prompt) else ""
        self._opening_ids = self._encode(self.opening) if self.opening.strip() else []
        self._inner_end = self._end_before_another_turn(question, answer)
        # Some templates leave the end of the last turn out.
        self.end_of_turn = self._to_special(tail) or self._inner_end or tail
        self.folds_system = not self._takes_system(question)

    @property
    def marks_ends(self) -> bool:
        """Whether an answer ends with a special token, by which the model can say that it is done."""
        return bool(self._to_special(self.end_of_turn))

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

        Every assistant turn that is to be learnt is labelled: its opening, its answer and its end of turn.

        Where a token would hold text of an answer and of the template, both are encoded apart, as a chat makes them.

        Raises:
            UserError: the template fails on it, or changes an answer's text.
        """
        before, last = list(messages[:-1]), messages[-1].content
        prompt = self.prompt_text(before)
        spans = self._learnt(before, prompt)
        ids, places = self._placed(prompt)
        borders = {border for span in spans for border in span}
        apart = sorted(border for border in borders if any(start < border < end for start, end in places))
        if apart:
            ids, places = self._placed_apart(prompt, apart)
        labelled = [any(start < b and end > a for a, b in spans) for start, end in places]
        answer = self.answer_ids(before, last)
        return ids + answer, labelled + [True] * len(answer)

    def check(self, messages: Sequence[Message], answers: Sequence[str]) -> None:
        """Render a conversation with each of the ``answers`` to it.

        Raises:
            UserError: the template fails on it, its answers cannot be told from the template's text, it has a token that the
                model does not know, or an answer is nothing but thoughts.
        """
        turns = list(messages)
        self._learnt(turns, self.prompt_text(turns))
        for answer in answers:
            self.check_spoken(answer)
            self._answer_text(turns, answer)
            if self._without_embedding:
                self.answer_ids(turns, answer)

    def check_spoken(self, answer: str) -> None:
        """Refuse an answer of which nothing would be learnt but to end at once.

        Raises:
            UserError: it is empty without its thoughts.
        """
        if not self.spoken(answer).strip():
            raise UserError("an answer holds nothing but thoughts, so no token of it is left to label; expected one after them.")

    def answer_in(self, ids: Sequence[int]) -> str:
        """Return the answer's text in generated tokens: without special tokens, the template's opening, and closed thoughts."""
        ids, mark = list(ids), self._opening_ids
        starts = [at for at in range(len(ids) - len(mark) + 1) if ids[at : at + len(mark)] == mark] if mark else []
        if starts:
            ids = ids[starts[-1] + len(mark) :]
        # A tag may be a special token, so thoughts are looked for while these are still there.
        whole = str(self.tokenizer.decode(ids))
        if (spoken := self.spoken(whole)) != whole:
            ids = list(self.tokenizer(spoken, add_special_tokens=False, verbose=False)["input_ids"])
        text = str(self.tokenizer.decode(ids, skip_special_tokens=True))
        # The last word of an opening may share a token with the answer's first.
        return text if starts else text.removeprefix(self.opening)

    def _prompt_text(self, messages: Sequence[Message]) -> str:
        prompt = self._render(self._plain(messages), True)
        return _with_thoughts_closed(prompt) if self._opens_thoughts else prompt

    def _learnt(self, messages: list[Message], prompt: str) -> list[tuple[int, int]]:
        """Return the characters of a prompt that the model writes in its earlier turns and that are to be learnt."""
        found = []
        learnt = [m.learnt for m in messages if m.role == "assistant"]
        for span in compress(self._answers(messages, prompt), learnt):
            ends = (end for end in (self.end_of_turn, self._inner_end) if end and span.after.startswith(end))
            found.append((self._opened(prompt, span), span.end + len(next(ends, ""))))
        return found

    def _opened(self, text: str, span: Span) -> int:
        """Return where the model begins to write: at the template's opening before the answer, or at the answer."""
        return span.start - len(self.opening) * text[: span.start].endswith(self.opening)

    def _answers(self, messages: Sequence[Message], text: str, generation: bool = True) -> list[Span]:
        """Return where the answers stand in ``text``, the rendering of ``messages``.

        Raises:
            UserError: it is not what the rendering with stand-ins says, up to white space around answers.
        """
        if all(m.role != "assistant" for m in messages):
            return []
        said = "\n".join(m.content for m in messages)
        mark = next(word for word in map("zq{}answer".format, count()) if word not in said)
        stood = [replace(m, content=f"{mark}{i}z") if m.role == "assistant" else m for i, m in enumerate(messages)]
        pieces = re.split(rf"{mark}\d+z", self._prompt_text(stood) if generation else self._render(self._plain(stood), False))
        answers = [self.spoken(m.content) for m in messages if m.role == "assistant"]
        found, cursor = [], len(pieces[0])
        if len(pieces) != len(answers) + 1 or not text.startswith(pieces[0]):
            raise UserError("The chat template does not write every answer once; expected it to.")
        for answer, after in zip(answers, pieces[1:], strict=True):
            for written in (answer, answer.rstrip(), answer.lstrip(), answer.strip()):
                end = cursor + len(written)
                if text.startswith(written, cursor) and text.startswith(after, end):
                    break
            else:
                raise UserError("The chat template changes an answer's text; expected it to write answers as they are.")
            found.append(Span(cursor, end, after))
            cursor = end + len(after)
        if cursor != len(text):
            raise UserError("The chat template changes an answer's text; expected it to write answers as they are.")
        return found

    def _answer_text(self, messages: Sequence[Message], answer: str) -> str:
        """Return the template's opening and the answer as the template writes it, without the end of turn."""
        turns = [*messages, Message("assistant", answer)]
        prompt, whole = self.prompt_text(messages), self._render(self._plain(turns), False)
        span = self._answers(turns, whole, generation=False)[-1]
        if whole.startswith(prompt) and len(prompt) <= span.start:
            return whole[len(prompt) : span.end]
        return whole[self._opened(whole, span) : span.end]

    def spoken(self, answer: str) -> str:
        """Return an answer without the thoughts that it begins with."""
        short = THOUGHTS.sub("", answer)
        return REST_OF_THOUGHTS.sub("", short) if self._opens_thoughts and short == answer else short

    def _plain(self, messages: Sequence[Message]) -> list[Message]:
        turns = [replace(m, content=self.spoken(m.content)) if m.role == "assistant" else m for m in messages]
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

    def _end_before_another_turn(self, question: Message, answer: Message) -> str:
        """Return what ends an answer that the user's next turn follows: some templates write another token there.

        It is what a user's turn ends with, too, since what follows both differs in the next turn's name. Where a user's turn has
        no such end, it is what follows the answer, unless that only begins the user's turn.
        """
        again = Message("user", "zq7again")
        try:
            text = self._render([question, answer, again, Message("assistant", "zq7more")], False)
        except UserError:
            return ""
        before_user, _, rest = text.partition(question.content)
        after_user, _, rest = rest.partition(answer.content)
        after_answer = rest.partition(again.content)[0]
        shared = self._to_special(os.path.commonprefix([after_user, after_answer]))
        only_begins = before_user.endswith(after_answer.lstrip())
        return shared or ("" if only_begins else self._to_special(after_answer))

    def _to_special(self, text: str) -> str:
        """Return ``text`` up to the end of its first special token; nothing where it has none."""
        places = [(text.index(s), -len(s), s) for s in self.tokenizer.get_added_vocab() if s in text]
        if not places:
            return ""
        at, _, special = min(places)
        return text[: at + len(special)]

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
        return self._with_embedding(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _with_embedding(self, ids: Sequence[int]) -> list[int]:
        """Return ``ids``; refuse those that the model has no embedding for, since looking them up would fail.

        Raises:
            UserError: naming the token.
        """
        wrong = next((self._without_embedding[i] for i in ids if i in self._without_embedding), None)
        if wrong is not None:
            raise UserError(f'its text has the token "{wrong}", for which the model has no embedding; expected text without it.')
        return list(ids)

    def _placed(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return token ids and the characters at which each starts and ends; the last text's result is kept."""
        if self._last_ids[0] != text:
            self._last_ids = (text, *self._places_of(text))
        return self._last_ids[1], self._last_ids[2]

    def _placed_apart(self, text: str, borders: Sequence[int]) -> tuple[list[int], list[tuple[int, int]]]:
        """Return what :meth:`_placed` does, with no token across any of ``borders``."""
        ids: list[int] = []
        places: list[tuple[int, int]] = []
        for first, last in pairwise([0, *borders, len(text)]):
            more, found = self._places_of(text[first:last])
            ids += more
            places += [(first + start, first + end) for start, end in found]
        return ids, places

    def _places_of(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        if self.tokenizer.is_fast:
            coded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            return self._with_embedding(coded["input_ids"]), [(start, end) for start, end in coded["offset_mapping"]]
        ids = self._encode(text)
        return ids, list(pairwise(len(self.tokenizer.decode(ids[:i])) for i in range(len(ids) + 1)))


def _own_template(tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        named = either(TEMPLATES)
        raise UserError(
            f"The checkpoint has no chat template; give one with --model.chat_template: a .jinja file, or {named}."
        ) from error


def _with_thoughts_closed(prompt: str) -> str:
    opened = OPEN_THINKING.search(prompt)
    return f"{prompt[: opened.start()]}<{opened[1]}>\n\n</{opened[1]}>\n\n" if opened else prompt


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
