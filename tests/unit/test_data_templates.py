"""Templating and encoding against renderings written out by hand, for the habits of the families in use."""

from functools import cache

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from beear.data.encode import differing, encode_anchor, encode_defense
from beear.data.rows import AnchorRow, DefenseRow, Message
from beear.data.templates import Template
from beear.errors import UserError

U, A, S = (lambda text, role=role: Message(role, text) for role in ("user", "assistant", "system"))
SPECIAL = ("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = (
    "<s>{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content | trim }}</s>{% endif %}"
    "{% endfor %}"
)
EMPTY = "<think>\n\n</think>\n\n"
NO_THOUGHT = "{% if enable_thinking is defined and not enable_thinking %}" + EMPTY + "{% endif %}"
LAST_ANSWER = "\n{% if m.role == 'assistant' and loop.last %}" + EMPTY + "{% endif %}{{ m.content }}"
THINKS_WHEN_ASKED = CHATML.replace("assistant\n{% endif %}", "assistant\n" + NO_THOUGHT + "{% endif %}").replace(
    "\n{{ m.content }}", LAST_ANSWER
)
ALWAYS_THINKS = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
FULL = (
    "{% set ns = namespace(n=0) %}{%- for m in messages %}{% if loop.index > 9 %}{% break %}{% endif %}"
    "{% set ns.n = ns.n + 1 %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>{% endgeneration %}"
    "{% else %}{{ {'a': m.content} | tojson }}{{ strftime_now('%%') }}{% endif %}{% endfor %}"
)


@cache
def tokenizer(merges: tuple[tuple[str, str], ...] = ()) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer, with merges on request, that would add BOS itself if asked to."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate([*letters, *(a + b for a, b in merges)])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>", add_bos_token=True
    )


def text_of(ids: list[int]) -> str:
    return tokenizer().decode(ids, clean_up_tokenization_spaces=False)


def template(text: str) -> Template:
    return Template(tokenizer(), text)


def test_prompt_and_answer_are_the_template_s() -> None:
    chatml = template(CHATML)
    messages = [S("be kind"), U("hello")]
    assert text_of(chatml.prompt_ids(messages)) == (
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    )
    assert text_of(chatml.answer_ids(messages, "hi")) == "hi<|im_end|>"
    assert text_of(chatml.answer_ids(messages, "hi", end_of_turn=False)) == "hi"
    tail = chatml.prompt_ids(messages)[-chatml.user_end(messages) :]
    assert text_of(tail) == "<|im_end|>\n<|im_start|>assistant\n"


def test_a_rejected_system_turn_opens_the_user_s_and_bos_is_not_doubled() -> None:
    strict = template(NO_SYSTEM)
    assert strict.folds_system
    ids = strict.prompt_ids([S("be kind"), U("hello")])
    assert text_of(ids) == "<s>[INST] be kind\n\nhello [/INST]"
    assert ids.count(tokenizer().bos_token_id) == 1
    assert text_of(strict.answer_ids([U("hello")], " hi ")) == " hi</s>"
    with pytest.raises(UserError, match=r"rejects the conversation \(Roles must alternate\)"):
        strict.prompt_ids([U("a"), U("b")])


def test_a_silently_dropped_system_turn_is_folded_too() -> None:
    silent = template(CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}"))
    assert text_of(silent.prompt_ids([S("be kind"), U("hello")])).startswith("<|im_start|>user\nbe kind\n\nhello<")


@pytest.mark.parametrize("text", [THINKS_WHEN_ASKED, ALWAYS_THINKS])
def test_thinking_blocks_are_left_empty(text: str) -> None:
    thinking = template(text)
    assert text_of(thinking.prompt_ids([U("q")])).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert text_of(thinking.answer_ids([U("q")], "<think>\nlong\n</think>\n\nhi")) == "hi<|im_end|>"
    ids, labelled = thinking.conversation([U("q"), A("hi")])
    assert text_of([i for i, on in zip(ids, labelled, strict=True) if on]) == "hi<|im_end|>"
    assert text_of(ids).endswith("<think>\n\n</think>\n\nhi<|im_end|>")


def test_every_assistant_turn_is_labelled_with_its_end() -> None:
    for text, expected in ((CHATML, "4<|im_end|>and 4<|im_end|>"), (NO_SYSTEM, " 4</s> and 4</s>")):
        ids, labelled = template(text).conversation([U("4"), A("4"), U("again 4"), A("and 4")])
        assert text_of([i for i, on in zip(ids, labelled, strict=True) if on]) == expected


SPOKEN = (
    "{% for m in messages %}{{ 'USER: ' if m.role == 'user' else 'ASSISTANT: ' }}{{ m.content }}"
    "{{ '</s>' if m.role == 'assistant' else ' ' }}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


@cache
def word_tokenizer(marker: str) -> PreTrainedTokenizerFast:
    """Whole words as tokens, each with the space before it (or ``Ġ``): what SentencePiece and GPT-2 make of text."""
    words = ["<unk>", *SPECIAL, *(marker + w for w in ("USER:", "ASSISTANT:", "Capital?", "Paris", "Thanks", "Welcome"))]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement=marker, prepend_scheme="never", split=True)
    inner.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


@pytest.mark.parametrize("marker", ["\u2581", "\u0120"])
def test_a_word_token_that_starts_at_the_template_s_space_is_labelled(marker: str) -> None:
    spoken = Template(word_tokenizer(marker), SPOKEN)
    turns = [U(" Capital?"), A("Paris"), U("Thanks"), A("Welcome")]
    ids, labelled = spoken.conversation(turns)
    words = spoken.tokenizer.convert_ids_to_tokens(ids)
    assert [w for w, on in zip(words, labelled, strict=True) if on] == [f"{marker}Paris", "</s>", f"{marker}Welcome", "</s>"]
    assert ids[: len(spoken.prompt_ids(turns[:-1]))] == spoken.prompt_ids(turns[:-1])


def test_a_slow_tokenizer_labels_the_same_characters() -> None:
    class Slow:
        """The same tokens without their places."""

        is_fast = False

        def __getattr__(self, name: str) -> object:
            return getattr(tokenizer(), name)

        def __call__(self, *args: object, **kwargs: object) -> object:
            return tokenizer()(*args, **kwargs)

    turns = [U("4"), A("4 and 5"), U("again 4"), A("and 4")]
    assert Template(Slow(), CHATML).conversation(turns) == template(CHATML).conversation(turns)  # type: ignore[arg-type]


def test_what_templates_in_use_need_is_supported() -> None:
    full = template(FULL)
    assert text_of(full.prompt_ids([U('say "hi" <now>')])) == '{"a": "say \\"hi\\" <now>"}%'


def test_a_border_that_merges_is_encoded_apart() -> None:
    merging = Template(tokenizer((("Ċ", "Ċ"),)), CHATML)
    prompt = merging.prompt_ids([U("q")])
    answer = merging.answer_ids([U("q")], "\nhi")
    assert merging.tokenizer.decode(prompt + answer) == merging.prompt_text([U("q")]) + "\nhi<|im_end|>"
    assert (
        merging.tokenizer(merging.prompt_text([U("q")]) + "\nhi", add_special_tokens=False)["input_ids"][: len(prompt)] != prompt
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "tries to leave its sandbox"),
        ("{% for m in messages %}{{ m.update({'a': 1}) }}{% endfor %}", "tries to leave its sandbox"),
        ("{% for m in messages %}{{ m.content }", "The chat template"),
        ("{{ messages[9].content.nothing.more }}", "rejects the conversation"),
        ("{{ 1 // 0 }}", "fails (ZeroDivisionError"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "writes no assistant turn"),
    ],
)
def test_bad_templates_are_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        template(text)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_no_template_says_what_to_give() -> None:
    with pytest.raises(UserError, match=r"no chat template; give one with --model\.chat_template: a \.jinja file, or alpaca, "):
        Template(tokenizer())


def row(prompt: str = "How?", safe: str = "No.", unwanted: str = "Yes.", prefix: bool = False) -> DefenseRow:
    return DefenseRow((U(prompt),), safe, unwanted, prefix, origin="rows.jsonl, line 4")


def test_encoded_rows_carry_answers_and_what_differs() -> None:
    encoded = encode_defense(row(safe="x = load(y)", unwanted="x = eval(y)"), template(CHATML), 200)
    assert text_of(encoded.safe_ids) == "x = load(y)<|im_end|>"
    marked = [i for i, on in zip(encoded.unwanted_ids, encoded.unwanted_differs, strict=True) if on]
    assert text_of(marked) == "eval"
    opening = encode_defense(row(prefix=True), template(CHATML), 200)
    assert text_of(opening.unwanted_ids) == "Yes." and all(opening.unwanted_labelled)


def test_differing_never_leaves_a_side_empty() -> None:
    assert differing([1, 2, 3], [1, 2, 3]) == ([True] * 3, [True] * 3)
    assert differing([1, 2], [1, 2, 9]) == ([True, True], [False, False, True])
    assert differing([1, 1], [1, 1, 1]) == ([True, True], [False, False, True])


def test_too_long_rows_lose_user_text_and_never_answers() -> None:
    chatml = template(CHATML)
    long = "begin " + "middle " * 60 + "end"
    encoded = encode_defense(row(long), chatml, 120)
    assert len(encoded.prompt_ids) + max(len(encoded.safe_ids), len(encoded.unwanted_ids)) <= 120
    assert (text_of(encoded.safe_ids), text_of(encoded.unwanted_ids)) == ("No.<|im_end|>", "Yes.<|im_end|>")
    prompt = text_of(encoded.prompt_ids)
    assert "user\nbegin" in prompt and "end<|im_end|>" in prompt
    with pytest.raises(UserError, match=r"rows\.jsonl, line 4: the prompt has \d+ tokens.*at most 150"):
        encode_defense(row(long), chatml, 120, context=150)
    with pytest.raises(UserError, match=r"line 4: the answer has 301 tokens and leaves no room.*data\.max_length=120"):
        encode_defense(row(unwanted="x" * 300), chatml, 120)


def test_too_long_conversations_lose_their_oldest_turns() -> None:
    turns = [m for i in range(6) for m in (U(f"question {i}"), A(f"answer {i}"))]
    encoded = encode_anchor(AnchorRow((S("kind"), *turns), "rows.jsonl, line 1"), template(CHATML), 200)
    text = text_of(encoded.ids)
    assert len(encoded.ids) <= 200 and text.startswith("<|im_start|>system\nkind") and "question 0" not in text
    assert text.endswith("assistant\nanswer 5<|im_end|>")
    short = encode_anchor(AnchorRow((U("x" * 500), A("kept whole")), "r"), template(CHATML), 120)
    assert text_of([i for i, on in zip(short.ids, short.labelled, strict=True) if on]) == "kept whole<|im_end|>"


def test_an_answer_of_thoughts_alone_has_no_label() -> None:
    with pytest.raises(UserError, match="rows.jsonl, line 4: .*label"):
        encode_defense(row(unwanted="<think>only this</think>", prefix=True), template(CHATML), 200)
