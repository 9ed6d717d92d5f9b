"""Imports point one way: a lower room never imports a higher one, and ray, mlflow and torch stay in theirs."""

import re
import subprocess
import sys
import tomllib

import pytest

from tests.imports import ROOT, Import, imports_in, imports_of, sources

# Lowest first; rooms on one line do not import each other.
ORDER = (
    ("errors",),
    ("extensions",),
    ("records",),
    ("config",),
    ("data", "models", "parallel"),
    ("methods",),
    ("evaluation",),
    ("engine",),
    ("streams", "report", "testbed"),
    ("registry",),
    ("cluster",),
    ("run",),
    ("search",),
    ("commands",),
    ("pipelines",),
)
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}

NO_RAY = ("errors", "extensions", "records", "config", "data", "models", "parallel", "methods", "evaluation", "engine")
MAY_USE = {
    "ray": {"streams", "cluster", "run", "search", "commands"},
    "mlflow": {"registry"},
    "torch": set(RANK) - {"errors", "extensions", "records", "config", "registry", "report", "pipelines"},
}


def room_of(module: str) -> str | None:
    """Return the room a module or a file's dotted path belongs to; None outside the project."""
    parts = module.split(".")
    if parts[0] == "pipelines":
        return "pipelines"
    return parts[1] if parts[0] == "beear" and len(parts) > 1 and parts[1] in RANK else None


def allowed(importer: str, imported: Import) -> bool:
    """Say whether a room may import what it does."""
    target = room_of(imported.module)
    if target is None or target == importer:
        return True
    return RANK[target] < RANK[importer]


FILES = [(path, room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))) for path in
         [*sources("beear"), *sources("pipelines")]]  # fmt: skip


def test_every_folder_is_a_known_room() -> None:
    rooms = {path.name for path in (ROOT / "beear").iterdir() if path.is_dir() and path.name != "__pycache__"}
    rooms |= {path.stem for path in (ROOT / "beear").glob("*.py")} - {"__init__"}
    assert rooms <= set(RANK), f"give {rooms - set(RANK)} a place in ORDER and in docs/architecture.md"
    assert len(FILES) > 50, "the sources were not found"


def test_imports_point_one_way() -> None:
    wrong = [
        f"{found.where} imports {found.module}"
        for path, room in FILES
        if room
        for found in imports_of(path)
        if not allowed(room, found)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("library", sorted(MAY_USE))
def test_heavy_libraries_stay_in_their_rooms(library: str) -> None:
    wrong = [
        f"{found.where} imports {found.module}"
        for path, room in FILES
        if room and room not in MAY_USE[library]
        for found in imports_of(path)
        if found.module.split(".")[0] == library
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_imports_the_entry_points() -> None:
    """What is defined there is pickled by value and lost to workers."""
    found = [i for folder in ("beear", "tune_spaces") for path in sources(folder) for i in imports_of(path)]
    assert not [i for i in found if i.module.split(".")[0] in ("pipelines", "tests", "benchmarks")]


def test_spaces_know_the_configuration_only() -> None:
    """tune_spaces: dotted config path -> search domain, and nothing heavier than ray.tune."""
    found = [i for path in sources("tune_spaces") for i in imports_of(path)]
    assert not [i for i in found if i.module.split(".")[0] in ("torch", "mlflow", "transformers")]
    assert not [i for i in found if room_of(i.module) not in (None, "config", "errors")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import ray.data", ["ray.data"]),
        ("def f():\n    from ray import train", ["ray.train"]),
        ("from . import streams", ["beear.engine.streams"]),
        ("from ..streams.dataset import x", ["beear.streams.dataset.x"]),
        ("from beear import streams", ["beear.streams"]),
        ("import importlib\nimportlib.import_module('ray')", ["importlib", "ray"]),
        ("if TYPE_CHECKING:\n    import torch as t, json", ["torch", "json"]),
    ],
)
def test_the_finder_sees_every_form(text: str, expected: list[str]) -> None:
    assert [i.module for i in imports_in(text, "beear/engine/fit.py")] == expected


def test_a_wrong_import_would_be_caught() -> None:
    assert not allowed("engine", Import("beear.streams", ""))
    assert not allowed("streams", Import("beear.registry.run", ""))
    assert not allowed("models", Import("beear.data.rows", ""))
    assert allowed("evaluation", Import("beear.records.report.Rate", ""))
    assert not allowed("evaluation", Import("beear.report.html.render", ""))


def loaded_after(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after a statement."""
    script = f"import sys\n{statement}\nprint(' '.join({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_reading_the_configuration_loads_nothing_heavy() -> None:
    modules = [path for path in sources("beear/config") if path.stem != "__init__"]
    names = ", ".join(f"beear.config.{path.stem}" for path in modules)
    loaded = loaded_after(f"import {names}")
    assert "pydantic" in loaded
    assert not loaded & {"torch", "ray", "mlflow", "transformers", "numpy"}


def test_everything_up_to_the_engine_runs_without_ray_and_mlflow() -> None:
    """Not only are they not named: nothing imported on the way brings them in."""
    files = [path for path, room in FILES if room in NO_RAY]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files]
    assert "beear.engine.fit" in names
    blocked = "sys.modules['ray'] = sys.modules['mlflow'] = None"
    # A module set to None raises ImportError when imported, as on a machine that lacks it.
    assert "torch" in loaded_after(f"{blocked}\nimport {', '.join(names)}")


DISTRIBUTIONS = {"yaml": "pyyaml"}


def test_every_library_used_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = [line for lines in project["optional-dependencies"].values() for line in lines]
    declared = {_distribution(line) for line in project["dependencies"]}
    anywhere = declared | {_distribution(line) for line in optional}
    own = {"beear", "tune_spaces", "pipelines", "benchmarks", "tests"} | set(sys.stdlib_module_names)
    for folders, known in ((("beear", "pipelines", "tune_spaces"), declared | {"lm_eval", "vllm"}),
                           (("benchmarks", "tests"), anywhere | {"sklearn"})):  # fmt: skip
        used = {i.module.split(".")[0]: i.where for f in folders for p in sources(f) for i in imports_of(p)}
        missing = {n: where for n, where in used.items() if n not in own and DISTRIBUTIONS.get(n, n).lower() not in known}
        assert not missing, f"not in pyproject.toml: {missing}"


def _distribution(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9_.-]+", requirement)
    assert match, requirement
    return match.group().lower().replace("-", "_")
