"""Rules of the house that a machine can hold: file sizes, and every shipped configuration and page current."""

import importlib
import re
import statistics
import tomllib
from pathlib import Path

import pytest

from beear.config.fields import leaves
from beear.config.yaml_file import load_yaml
from beear.methods.configuration import run_config, tune_config
from beear.methods.reference import BEGIN, renewed
from beear.testbed.config import ImplantConfig
from tests.checkout import ROOT, sources

RUN = run_config()
LONGEST, MEDIAN, LONGEST_ENTRY = 400, 150, 60
CODE = [path for folder in ("beear", "pipelines", "tune_spaces", "benchmarks", "tests") for path in sources(folder)]
# YAML that is no run configuration.
NOT_RUNS = ("cluster.yaml", ".pre-commit-config.yaml", "deploy", ".github", ".venv", "outputs", ".cache", "mlruns")
DOCUMENTS = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if path.exists()]
BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def shipped_yaml() -> list[Path]:
    found = [*ROOT.rglob("*.yaml"), *ROOT.rglob("*.yml")]
    return sorted(path for path in found if not set(path.relative_to(ROOT).parts) & set(NOT_RUNS))


def test_no_file_is_too_long() -> None:
    assert {str(path.relative_to(ROOT)): lines(path) for path in CODE if lines(path) > LONGEST} == {}


def test_most_files_are_short() -> None:
    sizes = [lines(path) for path in sources("beear") if path.name != "__init__.py"]
    assert len(sizes) > 50 and statistics.median(sizes) < MEDIAN


def test_entry_points_parse_build_run_and_no_more() -> None:
    assert {path.name: lines(path) for path in sources("pipelines") if lines(path) >= LONGEST_ENTRY} == {}
    assert (ROOT / "pipelines" / "sanitize.py").exists()


def test_every_shipped_configuration_loads(tmp_path: Path) -> None:
    for path in shipped_yaml():
        load_yaml(path, RUN)
    blocks = [(path, block) for path in DOCUMENTS for block in BLOCK.findall(path.read_text(encoding="utf-8"))]
    assert blocks, "docs/configuration.md shows one"
    for number, (path, block) in enumerate(blocks):
        file = tmp_path / f"{path.stem}-{number}.yaml"
        file.write_text(block, encoding="utf-8")
        assert load_yaml(file, RUN) != RUN()


def test_the_table_of_fields_is_current() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert BEGIN in page
    assert page == renewed(page, RUN), "run: python -m beear.methods.reference docs/configuration.md"


def test_documents_name_fields_that_exist() -> None:
    """A field that was renamed must not live on in a page."""
    commands = (RUN, tune_config(), ImplantConfig)
    known = {name for command in commands for name in leaves(command)}
    tops = "|".join(sorted({top for command in commands for top in command.model_fields}))
    option = re.compile(rf"--((?:{tops})\.[a-z_.]*[a-z_])")
    wrong = {
        f"{path.name}: --{name}"
        for path in DOCUMENTS
        for name in option.findall(path.read_text(encoding="utf-8"))
        if name not in known and not any(field.startswith(f"{name}.") for field in known)
    }
    assert wrong == set()


SPACES = [path.stem for path in sources("tune_spaces") if path.stem != "__init__"]


@pytest.mark.parametrize("family", SPACES)
def test_every_key_of_a_search_space_is_a_field(family: str) -> None:
    module = importlib.import_module(f"tune_spaces.{family}")
    keys = [key for domains in (module.SPACE, *module.ASKED.values()) for key in domains]
    assert keys and set(keys) <= set(leaves(RUN))


def test_every_dependency_has_its_reason() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for group in project["optional-dependencies"].values() for line in group]
    names = [re.split(r"[\[<>=]", line)[0] for line in [*project["dependencies"], *extras]]
    assert len(names) > 20
    assert [name for name in names if not re.search(rf"`{re.escape(name)}[`\[]", page)] == []


def test_every_dependency_is_pinned_exactly() -> None:
    text = (ROOT / "constraints.txt").read_text()
    pins = dict(line.split("==") for line in text.splitlines() if line and not line.startswith("#"))
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in pins.values()), "no local versions, no ranges"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # vLLM brings the torch it was built with: no version of it has been tried beside the pinned one.
    del project["optional-dependencies"]["vllm"]
    extras = [line for group in project["optional-dependencies"].values() for line in group]
    plain = {name.lower().replace("-", "_") for name in pins}
    names = {re.split(r"[\[<>=]", line)[0].lower().replace("-", "_") for line in [*project["dependencies"], *extras]}
    assert names - plain == set()
