"""What a message tells the user to do can be done: options, commands, files, extras and examples that messages name."""

import ast
import gzip
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from beear.cluster import out_of_memory
from beear.commands import implant
from beear.config.cli import PROGRAM_SWITCHES, parse
from beear.config.fields import leaves
from beear.config.schema import TEMPLATES, ProbesData
from beear.data.files import expand
from beear.data.load import load_probes, load_small
from beear.errors import UserError
from beear.evaluation import resistance_scale
from beear.methods.configuration import run_config, tune_config
from beear.models import hub
from beear.models.config_file import read_config
from beear.models.families import FAMILIES
from beear.models.tokenizer_files import NAMED
from beear.parallel.spread import Spread
from beear.search.space_file import read_domains
from beear.testbed.config import ImplantConfig
from beear.testbed.names import parse_name
from beear.testing.checkpoints import make_checkpoint
from tests.checkout import ROOT, sources
from tests.data_sets import config_for, write_lines
from tests.frozen import commands

RUN = run_config()
FIELDS = {name for config in (tune_config(), RUN, ImplantConfig) for name in leaves(config)}
SECTIONS = {field.rsplit(".", depth)[0] for field in FIELDS for depth in range(1, field.count(".") + 1)}
TOPS = {name.split(".")[0] for name in SECTIONS}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HOLE = "\0"


def messages() -> Iterator[tuple[str, str]]:
    """Yield every text of the product but docstrings, with its place; what is filled in at run time is ``HOLE``."""
    for path in sources("beear"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        skipped: set[int] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                skipped |= {id(part) for part in node.values}
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body:
                first = node.body[0]
                skipped |= {id(first.value)} if isinstance(first, ast.Expr) else set()
        for node in ast.walk(tree):
            if id(node) not in skipped and isinstance(node, ast.JoinedStr | ast.Constant) and (text := _text(node)):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", text


def _text(node: ast.JoinedStr | ast.Constant) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else HOLE for part in node.values)
    return node.value if isinstance(node.value, str) else ""


MESSAGES = list(messages())


def named(pattern: str) -> list[tuple[str, str]]:
    """Return what the first group of a pattern matches in messages, with its place."""
    return [(place, found) for place, text in MESSAGES for found in re.findall(pattern, text)]


def exists(name: str) -> bool:
    """Say whether a field's name is one; ``*`` and what is filled in stand for any part of it."""
    wanted = re.compile(re.escape(name).replace(re.escape(HOLE), r"\w+").replace(r"\*", r"\w+"))
    return any(wanted.fullmatch(field) for field in FIELDS)


def test_every_option_that_a_message_names_exists() -> None:
    found = named(rf"(?<![\w-])--([a-z][a-z_-]*(?:\.[a-z_*{HOLE}]*[a-z_*{HOLE}])*)")
    converts = set(re.findall(r"--([a-z-]+)", (ROOT / "beear/models/convert/__main__.py").read_text()))
    switches = {switch.removeprefix("--") for switch in PROGRAM_SWITCHES} | {"config", "section.field"} | converts
    # Those of hf download are tried by test_models_facts.py.
    switches |= {"revision", "local-dir"}
    assert len({name for _, name in found if "." in name}) > 15
    assert [(place, name) for place, name in found if not exists(name) and name not in switches] == []


def test_every_field_that_a_message_names_exists() -> None:
    tops = "|".join(sorted(TOPS - {"model", "data"}))
    found = named(rf"(?<![\w./@-])((?:{tops}|model|data)\.[a-z_]+(?:\.[a-z_]+)*)(?![\w(\[{HOLE}/-])")
    files = (".safetensors", ".json", ".html", ".py")
    wrong = [(place, name) for place, name in found if name not in FIELDS | SECTIONS and not name.endswith(files)]
    assert len({name for _, name in found}) > 60
    assert wrong == []


def test_every_file_module_and_extra_that_a_message_names_exists() -> None:
    files = named(r"\b((?:docs|pipelines|tests|beear)/[\w/.-]+\.\w+)")
    assert {name for _, name in files} >= {"docs/untrusted-checkpoints.md", "pipelines/sanitize.py"}
    assert [(place, name) for place, name in files if not (ROOT / name).is_file()] == []
    modules = named(r"-m ([a-z_.]+[a-z_])")
    assert {name for _, name in modules} >= {"beear.registry", "benchmarks.calibration", "beear.report"}
    assert [name for _, name in modules if importlib.util.find_spec(name) is None] == []
    extras = named(r"extra (\w+)")
    assert {name for _, name in extras} == {"vllm", "harness", "gguf"} <= set(PROJECT["project"]["optional-dependencies"])
    packages = named(r"expected the package ([\w-]+)")
    offered = " ".join(line for lines in PROJECT["project"]["optional-dependencies"].values() for line in lines)
    assert packages and all(name in offered for _, name in packages)
    assert (ROOT / resistance_scale.COPY.split(" to ")[1]).is_file()


def test_what_a_message_or_a_page_installs_is_what_the_project_asks_for() -> None:
    """The project itself is on no index, so that its extras cannot be installed by its name."""
    pages = [
        (page.name, page.read_text(encoding="utf-8")) for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    ]
    found = [
        (place, name) for place, text in (*MESSAGES, *pages) for name in re.findall(r"pip install (['\"][^'\"]+['\"])", text)
    ]
    offered = {f'"{line}"' for lines in PROJECT["project"]["optional-dependencies"].values() for line in lines}
    assert {place.partition(":")[0] for place, _ in found} >= {"recipes.md", "data.md", "beear/data/readers/excel_file.py"}
    assert [(place, name) for place, name in found if name not in offered] == []


def test_options_with_values_parse() -> None:
    """Of ``--parallel.gather=step`` and ``--gate.utility_measure nll`` the value is taken too."""
    found = named(r"--([a-z_]+(?:\.[a-z_]+)+)(?:=| (?=nll|false|true))([a-z0-9]+)")  # type: ignore[assignment]
    given = {(name, value) for _, (name, value) in found}
    assert {("gate.utility_measure", "nll"), ("tracking.enabled", "false"), ("adapter.kind", "lora")} <= given
    for name, value in given:
        parse(RUN, [f"--{name}={value}"])


def refused(call: Callable[[], Any]) -> str:
    """Return the sentence of a refusal."""
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def part(pattern: str, sentence: str) -> str:
    """Return what the only group of a pattern matches in a sentence."""
    match = re.search(pattern, sentence)
    assert match, sentence
    return match[1]


def meant_field(folder: Path) -> None:
    name = part(r'did you mean "(.+?)"', refused(lambda: parse(RUN, ["--inner-steps", "3"])))
    parse(RUN, [f"--{name}", "3"])


def meant_switch(folder: Path) -> None:
    name = part(r'did you mean "(.+?)"', refused(lambda: parse(RUN, ["--dryrun"])))
    assert parse(RUN, [name])[1].dry_run


def field_of_a_section(folder: Path) -> None:
    option = part(r"such as (\S+)", refused(lambda: parse(RUN, ["--method", "beear"])))
    parse(RUN, [option, "beear"])


def help_lists_every_field(folder: Path) -> None:
    assert "--help lists every field" in refused(lambda: parse(RUN, ["--qqqqqq", "1"]))
    assert set(leaves(RUN)) <= {name.removeprefix("--") for name in commands.help_of("sanitize", commands.call_here)}


def text_in_quotes(folder: Path) -> None:
    file = folder / "run.yaml"
    file.write_text("data:\n  refusal: 3\n")
    quoted = part(r"write it in quotes: (\S+)\)", refused(lambda: parse(RUN, ["--config", str(file)])))
    file.write_text(f"data:\n  refusal: {quoted}\n")
    assert parse(RUN, ["--config", str(file)])[0].data.refusal == "3"


def glob_of_a_folder(folder: Path) -> None:
    names = ("a.jsonl", "a.parquet", "a.CSV", "a.json", "a.tsv", "a.xlsx", "a.b.jsonl.gz", "A.CSV.ZST", "a.json.gz")
    for number, name in enumerate(names):
        place = folder / f"rows [{number}]"
        place.mkdir()
        (place / name).write_bytes(gzip.compress(b'[{"a": 1}]') if name.endswith("json.gz") else b'[{"a": 1}]')
        (place / "README.md").write_text("x")
        pattern = part(r'such as "(.+)"', refused(lambda place=place: expand(str(place))))
        assert expand(pattern) == [str(place / name)]
    deep = folder / "clone" / "data" / "en"
    deep.mkdir(parents=True)
    for name in ("clone/.git/HEAD.jsonl", "clone/.a.jsonl", "clone/data/en/train-0.parquet", "clone/README.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    pattern = part(r'such as "(.+)"', refused(lambda: expand(str(folder / "clone"))))
    assert expand(pattern) == [str(deep / "train-0.parquet")]
    (folder / "empty").mkdir()
    assert refused(lambda: expand(str(folder / "empty"))).endswith("expected a file, and there is no data file in it.")


def name_on_the_hub(folder: Path) -> None:
    written = part(r"write (hub:\S+)", refused(lambda: hub.local_folder("meta-llama/Llama-3.2-1B")))
    assert hub.HUB_ID.fullmatch(written.removeprefix(hub.HUB))


def example_of_a_built_in_name(folder: Path) -> None:
    assert str(parse_name(part(r"for instance (\S+)", refused(lambda: parse_name("testbed:@x"))))) == "year-code@deep#2"


def space_example(folder: Path) -> None:
    file = folder / "space.yaml"
    file.write_text("")
    file.write_text(part(r"such as (.+)", refused(lambda: read_domains(str(file), 6))))
    assert list(read_domains(str(file), 6)) == ["method.layer"]


def template_names(folder: Path) -> None:
    source = make_checkpoint(folder / "model", dtype="float32")
    (source / "chat_template.jinja").unlink()
    defense, anchor = _rows(folder, "open"), _rows(folder, "say")
    words = ("--model.path", str(source), "--data.defense.path", str(defense), "--data.anchor.path", str(anchor))
    words += ("--dry-run", "--data.holdout", "0.9")
    done = commands.call_here("evaluate", words)
    assert done.returncode == 2
    listed = part(r"--model.chat_template: a \.jinja file, or (.+)\.", done.stderr).replace(" or ", ", ").split(", ")
    assert listed == [*NAMED] == [*TEMPLATES]
    done = commands.call_here("evaluate", (*words, "--model.chat_template", "llama2"))
    assert done.returncode == 0, done.stderr


def _rows(folder: Path, verb: str = "say") -> Path:
    path = folder / f"{verb}.jsonl"
    path.write_text("".join(f'{{"prompt": "{verb} {i}", "response": "h", "safe": "n"}}\n' for i in range(20)))
    return path


def commands_without_the_option(folder: Path) -> None:
    """implant's checkpoint and files are read by what other commands read theirs with, whose options it has not."""
    source = make_checkpoint(folder / "model", dtype="float32")
    rows = _rows(folder)
    rows.write_text('{"wrong": 1}\n')
    files = {"defense": str(rows), "anchor": str(_rows(folder, "open"))}
    config = {"model": str(source), "data": files, "output": {"dir": str(folder / "out")}}
    said = refused(lambda: implant.run(ImplantConfig.model_validate(config), dry_run=True))
    assert said.endswith("(implant.py has no --data.defense.columns.*: change the checkpoint or the file instead)")
    (source / "chat_template.jinja").unlink()
    said = refused(lambda: implant.run(ImplantConfig(model=str(source)), dry_run=True))
    assert said.endswith("(implant.py has no --model.chat_template: change the checkpoint or the file instead)")


def architectures_in_the_page(folder: Path) -> None:
    source = make_checkpoint(folder / "model", dtype="float32")
    (source / "config.json").write_text('{"architectures": ["MambaForCausalLM"], "model_type": "mamba"}')
    page = ROOT / part(r"in (docs/\S+\.md)", refused(lambda: read_config(source)))
    assert [name for name in FAMILIES if f"`{name}`" not in page.read_text()] == []


def memory_ran_out(folder: Path) -> None:
    said = out_of_memory.training_ran_out(MemoryError(), Spread(), "none") or ""
    ways = re.findall(r"--\S+", said)
    assert len(ways) >= 4
    parse(RUN, [way if "=" in way else f"{way}=2" for way in ways])


def probe_kinds(folder: Path) -> None:
    file = folder / "probes.jsonl"
    file.write_text('{"name": "n", "kind": "x", "text": "t {prompt}"}\n')
    kinds = part(r"expected one of (.+)\.", refused(lambda: load_probes(ProbesData(path=str(file))))).split(", ")
    file.write_text("".join(f'{{"name": "{kind}", "kind": "{kind}", "text": "t {{prompt}}"}}\n' for kind in kinds))
    assert [probe.kind for probe in load_probes(ProbesData(path=str(file)))[0]] == kinds


def mapping_of_a_report_file(folder: Path) -> None:
    """Whether the mapping of path or none does not fit the report file, the option that the message names fits it."""
    for number, given in enumerate(({"data.defense.columns.prompt": "ask"}, {})):
        place = folder / str(number)
        place.mkdir()
        own, held = ("ask", "prompt") if given else ("prompt", "ask")
        files = {
            "data.defense.path": str(write_lines(place / "own.jsonl", [{own: f"a{i}"} for i in range(60)])),
            "data.defense.report_path": str(write_lines(place / "held.jsonl", [{held: f"b{i}"} for i in range(20)])),
        }
        config = config_for(place, {**files, **given})
        option = part(r"may have a mapping of its own, --(\S+)\.\*\.$", refused(lambda config=config: load_small(config.data, 0)))
        config = config_for(place, {**files, **given, f"{option}.prompt": held})
        assert len(load_small(config.data, 0).report) == 20


def usages(folder: Path) -> None:
    """A program called without its words shows how it is called."""
    for place, line in named(r"^usage: (python .+)$"):
        words = shlex.split(line)
        assert words[:2] == ["python", "-m"] and importlib.util.find_spec(f"{words[2]}.__main__"), place


ADVICE = [
    meant_field, meant_switch, field_of_a_section, help_lists_every_field, text_in_quotes, glob_of_a_folder, name_on_the_hub,
    example_of_a_built_in_name, space_example, template_names, commands_without_the_option, architectures_in_the_page,
    memory_ran_out, probe_kinds, mapping_of_a_report_file, usages,
]  # fmt: skip


@pytest.mark.parametrize("try_it", ADVICE, ids=lambda advice: advice.__name__)
def test_advice_works(tmp_path: Path, try_it: Callable[[Path], None]) -> None:
    try_it(tmp_path)
