"""Faults cross a process as plain values, and are raised again where they arrive."""

import pickle

import pytest

from beear.errors import Diverged, Fault, UserError


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
