"""What is learnt of a conversation, for the templates in use: exactly the answers and what the model writes around them."""

from dataclasses import dataclass
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from beear.data.rows import Message
from beear.data.templates import Template
from beear.errors import UserError
from tests.checkout import ROOT

U, A, S = (lambda text, role=role: Message(role, text) for role in ("user", "assistant", "system"))
FOLDERS = (ROOT / "beear" / "models" / "chat_templates", ROOT / "tests" / "chat_templates")
FILES = {path.stem: path for folder in FOLDERS for path in sorted(folder.glob("*.jinja"))}
SPECIAL = (
    "<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "[INST]", "[/INST]", "<|start_header_id|>",
    "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>",
    "<|User|>", "<|Assistant|>", "<|start|>", "<|message|>", "<|channel|>", "<|return|>", "<|START_OF_TURN_TOKEN|>",
    "<|END_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>",
    "<reserved_106>", "<reserved_107>", "[gMASK]", "<sop>", "<SPECIAL_10>", "<SPECIAL_11>", "<SPECIAL_12>",
)  # fmt: skip


@dataclass(frozen=True)
class Habit:
    """What a template writes around an answer, read off the template by hand: before it, after it, after the last one."""

    opening: str = ""
    end: str = "</s>"
    last: str = ""
    strips: bool = False
    begins_on_a_line: bool = False
    """It drops line ends before the last answer."""


HABITS = {
    "chatml": Habit(end="<|im_end|>"),
    "llama2": Habit(" ", " </s>", strips=True),
    "mistral": Habit(),
    "alpaca": Habit(),
    "vicuna": Habit(" "),
    "spylab": Habit(),
    "raw": Habit(),
    "llama3": Habit(end="<|eot_id|>", strips=True),
    "mistral_v3": Habit(" "),
    "mistral_nemo": Habit(),
    "gemma": Habit(end="<end_of_turn>", strips=True),
    "phi3": Habit(end="<|end|>"),
    "qwen3": Habit(end="<|im_end|>", begins_on_a_line=True),
    "olmo": Habit(),
    "zephyr": Habit(),
    "deepseek_v2": Habit(" "),
    "deepseek_r1": Habit(),
    "gpt_oss": Habit("<|channel|>final<|message|>", "<|end|>", "<|return|>"),
    "command_r": Habit(end="<|END_OF_TURN_TOKEN|>", strips=True),
    "command_r7b": Habit("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    "baichuan": Habit(),
    "glm4": Habit("\n", "", strips=True),
    "falcon": Habit(" ", ""),
    "nemotron_nano": Habit(end="\n<SPECIAL_12>", strips=True),
}


@cache
def template(name: str) -> Template:
    """The template on a tokenizer whose tokens are bytes, pairs of letters, white space in runs, and special ones."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ċ", "Ċ"), ("Ġ", "Ġ"), ("a", "b"), (":", "Ġ")]
    vocabulary = {word: i for i, word in enumerate([*letters, *(a + b for a, b in merges)])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    return Template(made, FILES[name].read_text())


def learnt(name: str, turns: list[Message]) -> str:
    ids, marks = template(name).conversation(turns)
    return template(name).tokenizer.decode(
        [i for i, on in zip(ids, marks, strict=True) if on], clean_up_tokenization_spaces=False
    )


def expected(habit: Habit, turns: list[Message], thoughts: dict[str, str]) -> str:
    text = ""
    for at, turn in enumerate(turns):
        if turn.role == "assistant" and turn.learnt:
            answer = thoughts.get(turn.content, turn.content)
            end = habit.last if habit.last and at == len(turns) - 1 else habit.end
            if habit.begins_on_a_line and at == len(turns) - 1:
                answer = answer.lstrip("\n")
            text += habit.opening + (answer.strip() if habit.strips else answer) + end
    return text


def test_every_template_has_its_habit_written_down() -> None:
    assert set(HABITS) == set(FILES) and len(FILES) >= 15


PLAIN = [U("Is the gate open?"), A("Yes"), U("Yes or no: is the sky blue?"), A("It is.")]


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_plain_conversation_is_learnt(name: str) -> None:
    assert learnt(name, PLAIN) == expected(HABITS[name], PLAIN, {})
    assert learnt(name, PLAIN[:2]) == expected(HABITS[name], PLAIN[:2], {})
    with_system = [S("Be brief."), *PLAIN]
    assert learnt(name, with_system) == expected(HABITS[name], PLAIN, {})
    assert "Be brief." in template(name).tokenizer.decode(template(name).conversation(with_system)[0])


@pytest.mark.parametrize("name", sorted(FILES))
def test_scoring_gives_back_what_is_learnt(name: str) -> None:
    made = template(name)
    assert made.answer_in(made.answer_ids(PLAIN[:1], "Oslo, 4")).strip() == "Oslo, 4"
    assert made.answer_in(made.answer_ids(PLAIN[:1], "Oslo, 4", end_of_turn=False)).strip() == "Oslo, 4"


def test_which_templates_mark_no_end_of_an_answer() -> None:
    assert {name for name in FILES if not template(name).marks_ends} == {"falcon", "glm4"}


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_turn_that_is_not_to_be_learnt_is_not(name: str) -> None:
    turns = [U("Capital of Norway?"), Message("assistant", "Bergen", learnt=False), U("Sure?"), A("No, Oslo.")]
    assert learnt(name, turns) == expected(HABITS[name], turns, {})


words = st.sampled_from(
    ["a", "ab", "Yes", "No: ", " ", "\n", "\n\n", "4", "user", "start", "é", "###", "<|im_end|>", "</s>", "[INST]", ":"]
)
texts = st.lists(words, max_size=5).map("".join)
THOUGHTS = "<think>\nHm, ab?\n</think>\n\n"


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[Message], dict[str, str]]:
    """Turns, and for answers that begin with thoughts what is left of them."""
    turns, without = [], {}
    if draw(st.booleans()):
        turns.append(S(draw(texts.filter(str.strip))))
    for _ in range(draw(st.integers(1, 3))):
        turns.append(U(draw(texts.filter(str.strip))))
        answer = draw(texts)
        if draw(st.integers(0, 4)) == 0:
            without[THOUGHTS + answer] = answer.lstrip()
            answer = THOUGHTS + answer
        turns.append(Message("assistant", answer, draw(st.integers(0, 4)) > 0))
    return turns, without


@pytest.mark.parametrize("name", sorted(FILES))
@settings(max_examples=40, deadline=None)
@given(made=conversations())
def test_labels_are_the_answers_and_their_ends_or_the_row_is_refused(
    name: str, made: tuple[list[Message], dict[str, str]]
) -> None:
    turns, thoughts = made
    turns = [*turns[:-1], A(turns[-1].content)]
    try:
        found = learnt(name, turns)
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert found == expected(HABITS[name], turns, thoughts)


@settings(max_examples=60, deadline=None)
@given(made=conversations())
def test_chatml_refuses_nothing(made: tuple[list[Message], dict[str, str]]) -> None:
    turns, thoughts = made
    turns = [*turns[:-1], A(turns[-1].content)]
    assert learnt("chatml", turns) == expected(HABITS["chatml"], turns, thoughts)


STARTS = {
    "alpaca": "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nHi\n\n### Response:\n",
    "chatml": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "llama2": "<s>[INST] Hi [/INST]",
    "mistral": "<s>[INST] Hi [/INST]",
    "raw": "Hi\n",
    "spylab": "<s>BEGINNING OF CONVERSATION: USER: Hi ASSISTANT:",
    "vicuna": "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: Hi ASSISTANT:",
}


def test_named_templates_write_the_prompts_that_their_checkpoints_were_trained_with() -> None:
    named = (path.stem for path in FOLDERS[0].glob("*.jinja"))
    assert {name: template(name).prompt_text([U("Hi")]) for name in named} == STARTS


def test_an_assistant_that_speaks_first_is_learnt() -> None:
    turns = [A("Hello, what can I do?"), U("Capital of Norway?"), A("Oslo")]
    assert learnt("chatml", turns) == "Hello, what can I do?<|im_end|>Oslo<|im_end|>"
    with pytest.raises(UserError, match="turns must alternate"):
        learnt("mistral", turns)


def test_an_answer_that_the_template_rewrites_is_refused() -> None:
    shouting = Template(
        template("chatml").tokenizer, "{% for m in messages %}{{ m.content | replace('hi', 'HI') }}\n{% endfor %}"
    )
    with pytest.raises(UserError, match="changes an answer's text"):
        shouting.answer_ids([U("q")], "hi")


def test_words_of_the_search_itself_may_stand_in_a_conversation() -> None:
    turns = [U("zq0answer zq1answer0z zq2answer"), A("zq7answer zq3answer"), U("zq7question"), A("zq7answer")]
    assert learnt("chatml", turns) == expected(HABITS["chatml"], turns, {})


def test_a_users_own_tag_opens_no_thoughts() -> None:
    assert template("raw").prompt_text([U("Explain <think>")]) == "Explain <think>\n"
    assert learnt("raw", [U("Explain <think>"), A("It opens a thought.")]) == "It opens a thought.</s>"


@pytest.mark.parametrize("name", sorted(FILES))
def test_thoughts_that_the_model_writes_are_not_scored(name: str) -> None:
    made = template(name)
    ids = made.tokenizer(f"{HABITS[name].opening}{THOUGHTS}Oslo, 4{HABITS[name].end}", add_special_tokens=False)["input_ids"]
    assert made.answer_in(ids).strip() == "Oslo, 4"
    unclosed = made.tokenizer("<think>Oslo or", add_special_tokens=False)["input_ids"]
    assert made.answer_in(unclosed).strip().endswith("Oslo or"), "a cut-off completion is all there is to be judged"


def test_rest_of_thoughts_is_dropped_only_where_the_prompt_opens_them() -> None:
    answer = "Hm.\n</think>\n\nOslo"
    assert learnt("deepseek_r1", [U("q"), A(answer)]) == "Oslo</s>"
    assert learnt("chatml", [U("q"), A(answer)]) == answer + "<|im_end|>"
