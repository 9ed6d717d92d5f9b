"""The lm-evaluation-harness adapter on a task that lies in a local folder."""

from pathlib import Path
from typing import Any

import pytest

from beear.config.schema import EvaluateConfig
from beear.errors import UserError
from beear.evaluation import harness
from beear.evaluation.likelihood import labelled_nll
from beear.evaluation.subject import Subject
from tests.data_sets import write_lines
from tests.subjects import random_subject

TASK = """\
task: local_pick
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
ROWS = [{"question": f"Pick {i}: ", "choices": ["red", "blue", "gray"], "answer": i % 3} for i in range(9)]


def local_task(folder: Path) -> EvaluateConfig:
    data = folder / "rows.jsonl"
    write_lines(data, ROWS)
    (folder / "local_pick.yaml").write_text(TASK.format(data=data))
    return EvaluateConfig(tasks="local_pick", tasks_path=str(folder), batch_size=4)


def own_accuracy(subject: Subject) -> float:
    """Score the same rows by summed log-likelihood, one choice at a time."""
    right = 0
    for row in ROWS:
        context = subject.tokenizer(str(row["question"]), add_special_tokens=False)["input_ids"]
        sums = []
        for choice in row["choices"]:  # type: ignore[attr-defined]
            answer = subject.tokenizer(choice, add_special_tokens=False)["input_ids"]
            labelled = [False] * len(context) + [True] * len(answer)
            sums.append(labelled_nll(subject, [(context + answer, labelled)], 1)[0] * len(answer))
        right += sums.index(min(sums)) == row["answer"]
    return right / len(ROWS)


def test_a_local_task_scores_as_computed_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    subject = random_subject()
    (tmp_path / "tasks").mkdir()
    found = harness.run_tasks(subject, local_task(tmp_path / "tasks"))
    assert found["local_pick/acc"] == pytest.approx(own_accuracy(subject))
    assert 0 < found["local_pick/acc_stderr"] < 1


def _local_only(manager: Any, include_path: str, include_defaults: bool) -> Any:
    """Stand in for the manager without the harness's own tasks, which take long to read."""
    return manager(include_path=include_path, include_defaults=False)


def test_an_unknown_task_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from functools import partial

    tasks = pytest.importorskip("lm_eval.tasks")
    only_local = partial(_local_only, tasks.TaskManager)
    monkeypatch.setattr(harness, "_harness", lambda: (None, only_local, None))
    config = local_task(tmp_path).model_copy(update={"tasks": "local_pik"})
    with pytest.raises(UserError, match=r'unknown task "local_pik" \(did you mean "local_pick"\?\)'):
        harness.run_tasks(random_subject(), config)


def test_a_missing_folder_is_named() -> None:
    pytest.importorskip("lm_eval")
    with pytest.raises(UserError, match='evaluate.tasks_path "/nowhere" is no folder'):
        harness.run_tasks(random_subject(), EvaluateConfig(tasks="x", tasks_path="/nowhere"))


def test_nothing_is_imported_where_no_task_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "_harness", lambda: pytest.fail("imported"))
    assert harness.run_tasks(random_subject(), EvaluateConfig()) == {}


def test_without_the_extra_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    with pytest.raises(UserError, match=r"expected the package lm-eval"):
        harness.run_tasks(random_subject(), EvaluateConfig(tasks="x"))


def test_only_numbers_are_kept() -> None:
    results = {"t": {"alias": "t", "acc,none": 0.5, "acc_stderr,none": "N/A", "em,strict": 1, "sample_len": 9}}
    assert harness.numbers(results) == {"t/acc": 0.5, "t/em,strict": 1.0}
