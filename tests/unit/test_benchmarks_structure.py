"""The counts of a checkout's structure, on a little tree that was made to hold one of each."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import structure
from tests.checkout import ROOT

FILES = {
    "beear/__init__.py": "",
    "beear/config/schema.py": '''
"""Finetune and over_refusal in a docstring count as nothing."""
class MethodConfig:
    layer: int | None = None
    name: str = "finetune"
    rows: str = "evaluate"
class RunConfig:
    method: MethodConfig
class BeearSettings:
    layer: int
''',
    "beear/run.py": '''
from typing import TYPE_CHECKING, Any
from beear.config.schema import BeearSettings, RunConfig
from beear.hook import perturb
from beear.parts import Parts
class Job:
    config: RunConfig
class Outer:
    def __init__(self, job: Job) -> None:
        self.job = job
class Handler:
    call: "Callable[[RunConfig], int]"
MADE: Parts[BeearSettings]
def work(config: RunConfig, other: Any) -> None:
    """Say it."""
    config = config.model_copy(deep=True)
    config.method.layer = 3
    method = config.method
    method.layer, other.field = 4, 5
    for part in (config.method, method):
        setattr(part, "name", "")
    other.config = config
    assert method.layer is not None, "the configuration is resolved first"
    assert other
    perturb(config.method.layer)
    _once()
    _twice()
    _twice()
def _once() -> None:
    """Do one thing.

    In many words,
    of several lines.
    """
    return None
def _twice() -> None:
    return None
''',
    "beear/parts.py": """
from typing import Generic, TypeVar
S = TypeVar("S")
class Parts(Generic[S]):
    settings: S
    @property
    def perturbed_layer(self) -> int:
        return self.settings.depth
""",
    "beear/hook.py": "def perturb(layer: int) -> None:\n    import beear.back\n    print(layer)\n",
    "beear/back.py": "from beear.hook import perturb\nfor layer in []:\n    perturb(layer)\n",
    "beear/alone.py": "layer = 1\nTHERE = 'over_refusal of', 'short-prefix'\n",
    "pipelines/sanitize.py": "import beear.run\nbeear.run.work(None, None)\nbeear.run.work(None, None)\n",
    "pipelines/evaluate.py": "from beear import run\nKIND = 'evaluate'\n",
    "tune_spaces/moe.py": "NAMES = ('MixtralForCausalLM',)\n",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.lstrip("\n"))
    return folder


@pytest.fixture(scope="module")
def found(root: Path) -> dict[str, Any]:
    return structure.measure(root)


def test_sizes(found: dict[str, Any]) -> None:
    counts = found["counts"]
    assert (counts["files"], counts["functions"], counts["lines of a file, median"]) == (10, 6, 3)
    assert counts["lines of a function's body, median"] == 1 and counts["lines of a function's body, nine in ten"] == 13
    assert (counts["asserts in beear/"], counts["the name Any"]) == (2, 2)


def test_a_function_with_one_caller_is_found_wherever_it_is_called(found: dict[str, Any]) -> None:
    names = [line.split()[-1] for line in found["lists"]["small functions with one caller"]]
    assert names == ["_once"], "work and _twice are called twice, perturb from two files"


def test_imports(found: dict[str, Any]) -> None:
    assert found["lists"]["import cycles"] == ["beear.back beear.hook"]
    assert found["lists"]["small files with one importer"] == ["beear/back.py", "beear/config/schema.py", "beear/parts.py"]


def test_what_is_done_to_a_configuration(found: dict[str, Any]) -> None:
    lists, text = found["lists"], FILES["beear/run.py"].lstrip("\n").splitlines()

    def said(name: str) -> list[str]:
        return [text[int(place.rpartition(":")[2]) - 1].strip() for place in lists[name]]

    assert said("deep copies of a configuration") == ["config = config.model_copy(deep=True)"]
    assert said("assignments to a configuration's fields") == [
        "config.method.layer = 3",
        "method.layer, other.field = 4, 5",
        'setattr(part, "name", "")',
    ]
    assert said("asserts about resolution") == ['assert method.layer is not None, "the configuration is resolved first"']
    assert lists["wrappers of a run's configuration"] == ["beear.parts.Parts", "beear.run.Job", "beear.run.Outer"]


def test_who_touches_what(found: dict[str, Any]) -> None:
    lists = found["lists"]
    assert lists["files that name the layer"] == ["beear/config/schema.py", "beear/hook.py", "beear/parts.py", "beear/run.py"]
    assert lists["files that carry it"] == lists["files that name the layer"]
    assert lists["files that name one: method (finetune)"] == ["beear/config/schema.py"]
    assert lists["files that name one: measure (over_refusal)"] == ["beear/alone.py"]
    assert lists["files that name one: attack (short-prefix)"] == ["beear/alone.py"]
    assert lists["files that name one: command (evaluate)"] == ["pipelines/evaluate.py"]
    assert lists["files that name one: family (mixtral)"] == ["tune_spaces/moe.py"]


def test_the_page_shows_before_beside_now(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, before = tmp_path / "page.md", tmp_path / "before.json"
    page.write_text(f"# Page\n\n{structure.BEGIN}\nold\n{structure.END}\n\nend\n")
    before.write_text(json.dumps({"counts": {"files": 12, "gone": 1}}))
    assert structure.main(["--root", str(root), "--page", str(page), "--before", str(before)]) == 0
    text = page.read_text()
    assert "| files | 12 | 10 |  |\n" in text and "| import cycles | – | 1 | 0 |\n" in text and "old" not in text
    assert text.startswith("# Page\n") and text.endswith("\n\nend\n") and "gone" not in text
    assert structure.renewed(text, "x").count("x\n") == 1
    with pytest.raises(ValueError, match="structure: begin"):
        structure.renewed("no marks", "x")


def test_counting_loads_nothing_of_the_package() -> None:
    script = (
        "import sys, benchmarks.structure; print(sorted({n.split('.')[0] for n in sys.modules} & {'beear', 'torch', 'yaml'}))"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True).stdout == "[]\n"
