"""Faults cross a process as plain values, and are raised again where they arrive."""

import pickle

import pytest

from beear.errors import Diverged, Fault, UserError, nearest


@pytest.mark.parametrize(
    ("error", "kind", "arrives"),
    [
        (UserError("row 3"), "user", UserError),
        (FloatingPointError("the loss is not finite"), "diverged", Diverged),
        (Diverged("the loss is not finite"), "diverged", Diverged),
    ],
)
def test_a_fault_is_raised_again_as_it_was(error: Exception, kind: str, arrives: type[Exception]) -> None:
    fault = Fault.of(error)
    assert fault is not None and (fault.kind, fault.sentence) == (kind, str(error))
    found = pickle.loads(pickle.dumps(fault))
    assert found == fault
    again = found.error()
    assert type(again) is arrives and str(again) == str(error)
    assert Fault.of(again) == fault, "it may cross another process"


@pytest.mark.parametrize("error", [RuntimeError("a worker died"), ValueError("odd"), KeyboardInterrupt()])
def test_what_another_try_may_not_meet_is_no_fault(error: BaseException) -> None:
    assert Fault.of(error) is None


def test_several_sentences_cross_as_they_were() -> None:
    fault = Fault.of(UserError("row 3", "row 5"))
    assert fault is not None and str(fault.error()) == "row 3\nrow 5"


PLACEMENTS = ["suffix", "prefix", "prompt", "broadcast", "everywhere"]
KINDS = ["prefix", "suffix", "infix", "system", "template"]
COLUMNS = ["messages", "instruction", "output", "unsafe", "context", "id"]
FIELDS = ["model.path", "model.base", "data.defense.path", "data.defense.report_path", "method.layer", "seed"]


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("sufix", KINDS, "suffix"),
        ("infx", KINDS, "infix"),
        ("Template", KINDS, "template"),
        ("brodcast", PLACEMENTS, "broadcast"),
        ("mesages", COLUMNS, "messages"),
        ("instruct", COLUMNS, "instruction"),
        ("model_output", COLUMNS, "output"),
        ("idd", COLUMNS, "id"),
        ("modle.path", FIELDS, "model.path"),
        ("defense.path", FIELDS, "data.defense.path"),
        ("method-layer", FIELDS, "method.layer"),
        ("lo", ["low", "high"], "low"),
        ("refusal", ["refusal-v1"], "refusal-v1"),
    ],
)
def test_a_slip_is_answered_with_the_name_that_was_meant(name: str, known: list[str], meant: str) -> None:
    assert nearest(name, known) == f' (did you mean "{meant}"?)'


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("question", COLUMNS),
        ("safe", COLUMNS),
        ("text", COLUMNS),
        ("de", COLUMNS),
        ("", COLUMNS),
        ("middle", KINDS),
        ("postfix", KINDS),
        ("user", KINDS),
        ("head", PLACEMENTS),
        ("foo.path", FIELDS),
        ("speed", ["batch", "device"]),
        ("llama3", ["llama2", "alpaca", "vicuna"]),
        ("T5ForConditionalGeneration", ["BertModel", "GPT2LMHeadModel"]),
        ("rouge", ["gptq", "ddp", "fsdp"]),
    ],
)
def test_an_unrelated_name_is_answered_with_none(name: str, known: list[str]) -> None:
    assert nearest(name, known) == ""
