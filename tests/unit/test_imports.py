"""What import-linter (pyproject.toml) cannot say of imports: what is loaded in the end, and what is declared."""

import re
import subprocess
import sys
import tomllib

import grimp
import pytest

from tests.checkout import ROOT, sources

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Measures are listed without torch, and still say of what type a subject is. import-linter counts that import like any other.
TYPES_ALONE = {"beear/evaluation/shard.py"}
CONTRACTS = {contract["id"]: contract for contract in PROJECT["tool"]["importlinter"]["contracts"]}


def modules_up_to(room: str) -> list[str]:
    """Return the dotted names of the modules of ``room`` and of the rooms below it, which are folders or single files."""
    layers = CONTRACTS["layers"]["layers"]
    rooms = {name for layer in layers[layers.index(room) :] for name in layer.split(" | ")}
    files = [path.relative_to(ROOT).with_suffix("") for path in sources("beear")]
    return [".".join(file.parts).removesuffix(".__init__") for file in files if file.parts[1] in rooms]


def loaded_after(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after a statement."""
    script = f"import sys\n{statement}\nprint(' '.join({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_reading_the_configuration_loads_nothing_heavy() -> None:
    loaded = loaded_after(f"import {', '.join(modules_up_to('config'))}")
    assert "pydantic" in loaded
    assert not loaded & {"torch", "ray", "mlflow", "transformers", "numpy"}


def test_everything_up_to_the_engine_runs_without_ray_and_mlflow() -> None:
    """No library that is imported on the way brings them in either."""
    names = modules_up_to("engine")
    assert "beear.engine.fit" in names
    # A module set to None raises ImportError when imported, as on a machine that lacks it.
    blocked = "sys.modules['ray'] = sys.modules['mlflow'] = None"
    assert "torch" in loaded_after(f"{blocked}\nimport {', '.join(names)}")


def test_what_rays_own_actors_unpickle_loads_no_model_code() -> None:
    """The controller asks for the epoch to resume after, data actors hold the task that reads: each would import for seconds."""
    loaded = loaded_after("import beear.streams.datasets, beear.cluster.train_storage")
    assert "ray" in loaded and not loaded & {"torch", "peft", "accelerate"}


def test_no_module_imports_its_own_package() -> None:
    """A package whose __init__ imports its modules is then in a cycle that import-linter does not look for."""
    graph = grimp.build_graph("beear", cache_dir=None)
    wrong = {module for module in graph.modules if module.rpartition(".")[0] in graph.find_modules_directly_imported_by(module)}
    assert wrong == set()


def test_no_import_is_hidden_from_the_interpreter() -> None:
    found = {path.relative_to(ROOT).as_posix() for path in sources("beear") if "TYPE_CHECKING" in path.read_text("utf-8")}
    assert found <= TYPES_ALONE


DISTRIBUTIONS = {"xdist": "pytest_xdist", "yaml": "pyyaml", "sklearn": "scikit_learn", "importlinter": "import_linter"}


@pytest.mark.parametrize(
    ("folders", "extras"),
    [(("beear", "pipelines", "tune_spaces"), ("gguf", "harness", "vllm", "xlsx")), (("benchmarks", "tests"), ("dev",))],
)
def test_every_library_used_is_declared(folders: tuple[str, ...], extras: tuple[str, ...]) -> None:
    project = PROJECT["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    declared = {_distribution(line) for line in lines}
    own = {"beear", "tune_spaces", "pipelines", "benchmarks", "tests", *sys.stdlib_module_names}
    graph = grimp.build_graph(*folders, include_external_packages=True, cache_dir=None)
    used = {module for module in graph.modules if graph.is_module_squashed(module)} - own
    assert len(used) > 3
    assert {name for name in used if DISTRIBUTIONS.get(name, name).lower() not in declared} == set()


def _distribution(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9_.-]+", requirement)
    assert match, requirement
    return match.group().lower().replace("-", "_")
