"""Search spaces: domains sampled and resolved, YAML files read, and every mistake one sentence that names its place."""

import math
import pickle
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beear.errors import UserError
from beear.search.space import Between, Depth, OneOf, Space, family_of, known_families, load_space

SEEDS = st.integers(0, 2**32)
SHARES = st.floats(min_value=0, max_value=1, exclude_min=True, exclude_max=True)


@pytest.mark.parametrize(
    ("layers", "expected"),
    # 0.15, 0.28, 0.4 and 0.55 of L, by hand: 6: 0.9 1.68 2.4 3.3; 16: 2.4 4.48 6.4 8.8; 32: 4.8 8.96 12.8 17.6.
    [(2, (1,)), (6, (1, 2, 3)), (16, (2, 4, 6, 9)), (32, (5, 9, 13, 18)), (80, (12, 22, 32, 44))],
)
def test_depths_become_layers(layers: int, expected: tuple[int, ...]) -> None:
    assert Depth(0.55, 0.15, 0.28, 0.4).one_of(layers) == OneOf(*expected)


@given(st.lists(SHARES, min_size=1, max_size=8), st.integers(2, 200))
def test_layers_of_depths_are_near_distinct_and_inside(shares: list[float], layers: int) -> None:
    options = Depth(*shares).one_of(layers).options
    assert list(options) == sorted(set(options))
    assert all(1 <= layer <= layers - 1 for layer in options)
    assert all(min(abs(layer - share * layers) for layer in options) <= 1 for share in shares), "no share is lost"
    assert all(min(abs(layer - share * layers) for share in shares) <= 1 for layer in options), "no layer is made up"


@given(SEEDS, st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_a_number_is_within_its_range(seed: int, low: float, width: float) -> None:
    assert low <= Between(low, low + width).sample(random.Random(seed)) <= low + width


@given(SEEDS, st.floats(1e-9, 1e3), st.floats(1.001, 1e6))
def test_a_number_on_a_log_scale_is_within_its_range(seed: int, low: float, factor: float) -> None:
    assert low <= Between(low, low * factor, log=True).sample(random.Random(seed)) <= low * factor


@given(SEEDS, st.integers(1, 50), st.integers(1, 50), st.booleans())
def test_whole_numbers_are_ints_of_the_range(seed: int, low: int, width: int, log: bool) -> None:
    domain = Between(low, low + width, log=log, whole=True)
    value = domain.sample(random.Random(seed))
    assert isinstance(value, int)
    assert value in domain.values() == tuple(range(low, low + width + 1))


def test_whole_numbers_are_equally_likely() -> None:
    draw, domain = random.Random(0), Between(1, 4, whole=True)
    counts = Counter(domain.sample(draw) for _ in range(8000))
    # 2000 each, with a standard deviation of 39.
    assert sorted(counts) == [1, 2, 3, 4] and all(1850 < count < 2150 for count in counts.values())


def test_a_log_scale_gives_each_decade_its_share() -> None:
    draw, domain = random.Random(0), Between(1e-6, 1e-2, log=True)
    decades = Counter(math.floor(math.log10(domain.sample(draw))) for _ in range(8000))
    assert sorted(decades) == [-6, -5, -4, -3] and all(1850 < count < 2150 for count in decades.values())


SPACE = Space(
    "llama",
    {"method.layer": OneOf(2, 3), "method.inner_steps": OneOf(None, 10), "method.length": Between(4, 6, whole=True)},
)
ENDLESS = Space("llama", {"method.layer": OneOf(2, 3), "method.inner_lr": Between(1e-5, 1e-3, log=True)})


def test_a_grid_is_every_setting_once() -> None:
    grid = SPACE.grid()
    assert SPACE.size() == len(grid) == 2 * 2 * 3
    assert grid[0] == {"method.layer": 2, "method.inner_steps": None, "method.length": 4}
    assert grid[-1] == {"method.layer": 3, "method.inner_steps": 10, "method.length": 6}
    assert len({tuple(setting.items()) for setting in grid}) == 12


@given(SEEDS)
def test_a_sample_is_a_setting_of_the_grid_and_goes_by_the_seed(seed: int) -> None:
    assert SPACE.sample(random.Random(seed)) in SPACE.grid()
    assert SPACE.sample(random.Random(seed)) == SPACE.sample(random.Random(seed))


def test_samples_reach_every_setting() -> None:
    draw = random.Random(1)
    assert len({tuple(SPACE.sample(draw).items()) for _ in range(300)}) == 12


def test_a_grid_needs_an_end_of_values() -> None:
    assert ENDLESS.size() is None
    with pytest.raises(UserError, match=r"grid and method.inner_lr is searched from 1e-05 to 0.001 \(log\); expected a list"):
        ENDLESS.grid()


def test_a_space_in_words() -> None:
    assert SPACE.described() == {
        "method.layer": "2, 3",
        "method.inner_steps": "calibrated, 10",
        "method.length": "4 to 6 (whole numbers)",
    }
    assert ENDLESS.described()["method.inner_lr"] == "1e-05 to 0.001 (log)"
    unset = Space("x", {"method.bound": OneOf(None, 1.5), "method.outer_lr": OneOf(None, 1e-4)})
    assert unset.described() == {"method.bound": "none, 1.5", "method.outer_lr": "auto, 0.0001"}
    assert Space("x", {"adapter.rank": Between(4, 64, log=True, whole=True)}).described() == {
        "adapter.rank": "4 to 64 (log, whole numbers)"
    }


def test_a_space_survives_the_way_to_a_worker() -> None:
    assert pickle.loads(pickle.dumps(SPACE)) == SPACE
    assert pickle.loads(pickle.dumps(Depth(0.2, 0.4))) == Depth(0.2, 0.4)


def test_families_are_found_by_name_and_by_architecture() -> None:
    assert known_families() == ["gemma", "generic", "gpt_neox", "llama", "mistral", "moe", "olmo", "phi", "qwen"]
    found = {name: family_of(name) for name in ("LlamaForCausalLM", "Qwen3ForCausalLM", "MixtralForCausalLM", "GPT2LMHeadModel")}
    assert list(found.values()) == ["llama", "qwen", "moe", "generic"]


def test_groups_add_fields_to_the_core() -> None:
    core, more = load_space("mistral", (), 32), load_space("mistral", ("placement", "outer_steps"), 32)
    assert set(core.domains) == {"method.layer", "method.length", "method.inner_steps"}
    assert set(more.domains) - set(core.domains) == {"method.placement", "method.outer_steps"}
    assert more.family == "mistral" and 16 in more.domains["method.layer"].values(), "the paper's layer for Mistral-7B"


@pytest.mark.parametrize(
    ("name", "also", "words"),
    [
        ("lama", (), r'search.space is "lama" \(did you mean "llama"\?\); expected gemma, .*, or a file ending in .yaml'),
        ("llama", ("placment",), r'search.also names "placment" \(did you mean "placement"\?\); expected learning_rates, '),
        ("missing.yaml", (), r"missing.yaml: no such file; expected a YAML file"),
        ("mine.yaml", ("bound", "placement"), r'search.also is "bound\+placement" and search.space a file'),
    ],
)
def test_an_unknown_space_or_group_is_one_sentence(name: str, also: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_space(name, also, 32)


def read(folder: Path, text: str, layers: int = 32) -> Space:
    file = folder / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    return load_space(str(file), (), layers)


def test_a_file_with_sections_and_dotted_names(tmp_path: Path) -> None:
    text = """
method:
  layer: {depth: [0.2, 0.28, 0.281]}
  length: [2, 5]
  inner_steps: [calibrated, 10]
  inner_lr: {low: 1e-3, high: 0.3, log: true}
  outer_steps: {low: 5, high: 20}
  bound: [none, 1.5]
  outer_lr: [auto, 1e-5]
  placement: [suffix, suffix+everywhere]
method.batch_size: {low: 8, high: 64, log: true, whole: true}
"""
    space = read(tmp_path, text)
    assert space == Space(
        str(tmp_path / "mine.yaml"),
        {
            "method.layer": OneOf(6, 9),
            "method.length": OneOf(2, 5),
            "method.inner_steps": OneOf(None, 10),
            "method.inner_lr": Between(0.001, 0.3, log=True),
            "method.outer_steps": Between(5, 20, whole=True),
            "method.bound": OneOf(None, 1.5),
            "method.outer_lr": OneOf(None, 1e-5),
            "method.placement": OneOf("suffix", "suffix+everywhere"),
            "method.batch_size": Between(8, 64, log=True, whole=True),
        },
    )


# auto: round(0.28 * 32) = 9.
@pytest.mark.parametrize(("written", "options"), [("[auto, 31, 1]", (9, 31, 1)), ("[null]", (9,)), ("['3']", (3,))])
def test_layers_in_a_file_are_those_of_the_model(tmp_path: Path, written: str, options: tuple[int, ...]) -> None:
    assert read(tmp_path, f"method.layer: {written}").domains == {"method.layer": OneOf(*options)}


@given(st.lists(st.integers(1, 500), min_size=1, unique=True), st.floats(1e-6, 1.0), st.floats(1.01, 100))
def test_what_is_written_is_searched(tmp_path_factory: Any, lengths: list[int], low: float, factor: float) -> None:
    text = f"method:\n  length: {lengths}\n  inner_lr: {{low: {low!r}, high: {low * factor!r}}}\n"
    domains = read(tmp_path_factory.mktemp("space"), text).domains
    assert domains == {"method.length": OneOf(*lengths), "method.inner_lr": Between(low, low * factor)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"mine.yaml: names no field; expected at least one to search"),
        ("- 1", r"mine.yaml, line 1: found a list; expected a mapping of sections"),
        ("method:\n  lenght: [2]", r'line 2: unknown field method.lenght \(did you mean "method.length"\?\)'),
        ("method: [2]", r"line 1: method is a section; expected one of its fields"),
        ("gate.asr: [0.1]", r"line 1: gate.asr is not searched; expected a field of method, so that"),
        ("method.length: 5", r"line 1: method.length is 5; expected a list of values, or a mapping with low and high$"),
        ("method.layer:", r"line 1: method.layer is null; expected a list of values, .* low and high, or a mapping with depth$"),
        ("method.length: []", r"line 1: method.length has no value to try; expected at least one"),
        ("method.length: [2, 0]", r"line 1: method.length is 0; expected a whole number, at least 1"),
        ("method.length: [2, null]", r"line 1: method.length is null; expected a whole number, at least 1"),
        ("method.length: [calibrated]", r'method.length is "calibrated"; expected a whole number, at least 1'),
        ("method.length: [[2]]", r"method.length is a list; expected a whole number, at least 1"),
        ("method.length: [true]", r"method.length is true; expected a whole number, at least 1"),
        ("method.length: [2, '2']", r"line 1: method.length names 2 twice; expected each value once"),
        ("method.layer: [9, auto]", r"line 1: method.layer names 9 twice"),
        ("method.placement: [sufix]", r'unknown placement "sufix" \(did you mean "suffix"\?\)'),
        ("method.layer: [9, 32]", r"line 1: method.layer is 32; expected 1 to 31 \(the model has 32 decoder layers\)"),
        ("method.layer: {low: 3, high: 40}", r"line 1: method.layer is 40; expected 1 to 31"),
        ("method.layer: {depth: [0.2, 1.2]}", r"method.layer has depth 1.2; expected shares of the depth, above 0 and below 1"),
        ("method.layer: {depth: [deep]}", r'method.layer has depth "deep"; expected shares of the depth'),
        ("method.layer: {depth: 0.2}", r"method.layer has depth 0.2; expected a list of shares of the depth"),
        ("method.layer: {depth: []}", r"method.layer has no depth to try; expected at least one"),
        ("method.layer: {depth: [0.2], low: 1}", r"method.layer has other keys beside depth; expected depth alone"),
        ("method.length: {depth: [0.2]}", r'method.length has the key "depth"; expected low, high, log, whole'),
        ("method.length: {lo: 2, high: 5}", r'method.length has the key "lo" \(did you mean "low"\?\); expected low, high, log'),
        ("method.length: {high: 5}", r"line 1: method.length has no low; expected low and high"),
        ("method.length: {}", r"line 1: method.length has no low; expected low and high"),
        ("method.length: {low: 5, high: 5}", r"line 1: method.length runs from low 5 to high 5; expected low below high"),
        ("method.length: {low: 0, high: 5}", r"line 1: method.length is 0; expected a whole number, at least 1"),
        ("method.length: {low: 1.5, high: 5}", r"line 1: method.length is 1.5; expected a whole number, at least 1"),
        ("method.length: {low: 1, high: 5, whole: false}", r"method.length has whole false; expected true, for it takes a whole"),
        ("method.epochs: [4, 12]", r"method.epochs is not searched: trials are compared by epoch"),
        ("method.inner_lr: {low: 1, high: 5, log: 2}", r"method.inner_lr has log 2; expected true or false"),
        ("method.inner_lr: {low: .nan, high: 5}", r"method.inner_lr is nan; expected a finite number, above 0"),
        ("method.inner_lr: {low: 0.5, high: 5, whole: true}", r"whole numbers from 0.5 to 5; expected whole ends"),
        ("method.margin: {low: -1, high: 2, log: true}", r"method.margin has low -1 on a log scale; expected low above"),
        ("method.bound: {low: none, high: 2}", r'line 1: method.bound has low "none"; expected a number'),
        ("method.placement: {low: 1, high: 2}", r"method.placement has low and high; expected a list of values, each text"),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert "mine.yaml" in message and "\n" not in message
