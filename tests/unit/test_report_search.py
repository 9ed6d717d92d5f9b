"""search.html: every number is where it belongs, hostile strings stay text, odd searches still show."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from beear.records.search import SearchReport, Trial
from beear.report.search_charts import heat_map
from beear.report.search_page import _behind, search_html
from tests.search_sample import LAYERS, LENGTHS, MEMORY, STEPS, epoch, rule, sample_search, search_of, trial, without_a_trigger

HOSTILE = "</title></td></pre><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7*7 }}{% raw %}\" ' &"
VOID = {"meta", "img", "link", "br", "input"}


class Page(HTMLParser):
    """The page's tags, attributes and text, and for each section its text, its table cells and what its pictures say."""

    def __init__(self, report: SearchReport) -> None:
        super().__init__()
        self.source = search_html(report)
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.values: list[tuple[str, str]] = []
        self.words: dict[str, list[str]] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self.labels: dict[str, list[str]] = {}
        self.kinds: list[str] = []
        self.paths: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.section = self.inside = ""
        self.feed(self.source)
        self.close()
        assert self.open == [], "every tag is closed, in order"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append((tag, tuple(found)))
        self.values += found.items()
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("section", "aside", "header"):
            self.section = found.get("id", tag)
        if tag == "tr":
            self.tables.setdefault(self.section, []).append([])
        if tag in ("td", "th"):
            self.tables[self.section][-1].append("")
        if tag == "g" and "aria-label" in found:
            self.labels.setdefault(self.section, []).append(found["aria-label"])
            self.kinds.append(found["class"])
        if tag == "path" and found.get("class") == "line" and self.kinds and self.kinds[-1].startswith("trial"):
            self.paths.append((self.kinds[-1], found["d"]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.words.setdefault(self.section, []).append(data)
        if "td" in self.open or "th" in self.open:
            self.tables[self.section][-1][-1] += data

    def text(self, section: str) -> str:
        return " ".join(" ".join(self.words.get(section, [])).split())

    def rows(self, section: str) -> list[list[str]]:
        return [[" ".join(cell.split()) for cell in row] for row in self.tables.get(section, [])]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(sample_search())


def chosen_of(report: SearchReport) -> Trial:
    return next(one for one in report.trials if one.id == report.chosen)


def bound_of(one: Trial) -> float:
    return min((e.asr_high for e in one.epochs), default=9.0) if one.best_epoch is None else rule(one)[0]


def test_the_first_sentence_says_what_was_chosen_and_why(page: Page) -> None:
    report = sample_search()
    best = chosen_of(report)
    assert f"Chosen: {report.why}." in page.text("header") and "Settings chosen" in page.text("header")
    steps = best.settings["method.inner_steps"] or "calibrated"
    shown = (
        f"method.layer {best.settings['method.layer']} method.length {best.settings['method.length']} method.inner_steps {steps}"
    )
    assert shown in page.text("chosen")
    assert "python pipelines/sanitize.py --config best.yaml" in page.text("chosen")


def test_the_model_as_it_came_stands_beside_the_chosen_trial(page: Page) -> None:
    best = chosen_of(sample_search())
    at = next(e for e in best.epochs if e.epoch == best.best_epoch)
    rows = {row[0]: row[1:] for row in page.rows("chosen")}
    assert rows["ASR"] == ["100.0%", "0.0%", "≤ 1.0% ✓ within"]
    assert rows["ASR at most (upper bound)"] == ["–", "3.8%", ""]
    assert rows["worst ASR under a probe"] == ["100.0%", "0.0%", ""]
    assert rows["utility, exact match"] == ["97.2%", f"{100 * at.utility:.1f}%", ""]
    assert rows["utility loss"] == ["–", f"+{100 * at.utility_loss:.1f} pp", "≤ 2.0 pp ✓ within"]
    assert rows["composite √(utility × (1 − ASR))"] == ["0.000", f"{at.composite:.3f}", ""]
    assert rows["anchor NLL, nats"] == ["0.158", f"{at.selection['anchor_nll']:.3f}", ""]


def test_losses_in_nats_are_named_so() -> None:
    config = {"gate": {"utility_measure": "nll"}}
    rows = {row[0]: row[1:] for row in Page(sample_search(config=config)).rows("chosen")}
    assert rows["utility, mean probability of a token"][0] == "85.4%"  # exp(-0.158)
    assert rows["utility loss"][1].endswith(" nats") and rows["utility loss"][2] == "≤ 0.020 nats ✓ within"


def test_a_choice_that_removed_little_does_not_look_like_a_success() -> None:
    shown = Page(search_of([trial(1, {"method.layer": 9}, [epoch(1, 48, 0.0)], "finished")]))
    assert "its ASR of 50.0% is above the 1.0%" in shown.text("header") and "ASR not low" in shown.text("header")
    assert '<header class="verdict inconclusive">' in shown.source
    assert {row[0]: row[-1] for row in shown.rows("chosen")}["ASR"] == "≤ 1.0% ✕ over"


def test_every_cell_of_the_map_holds_the_best_of_its_trials(page: Page) -> None:
    report = sample_search()
    labels = {label.partition(":")[0]: [] for label in page.labels["map"]}
    for label in page.labels["map"]:
        labels[label.partition(":")[0]].append(label)
    assert set(labels) == {f"layer {layer}, length {length}" for layer in LAYERS for length in LENGTHS}
    by_corner = {tuple(one.settings.values()): one for one in report.trials}
    for layer in LAYERS:
        for length in LENGTHS:
            for label, steps in zip(labels[f"layer {layer}, length {length}"], STEPS, strict=True):
                one = by_corner.get((layer, length, steps))
                if one is None:
                    assert label.endswith(": not tried")
                elif not one.epochs:
                    assert "failed after 0 of 6 epochs" in label and MEMORY in label
                else:
                    assert f", at most {100 * bound_of(one):.1f}%, at epoch" in label and f"trial {one.number}" in label
                    assert ("outside the limits (" in label) == (one.best_epoch is None)
    kinds = [kind.split()[1] for kind in page.kinds if kind.startswith("box")]
    passing = sum(one.best_epoch is not None for one in report.trials)
    failed = sum(one.status == "failed" for one in report.trials)
    assert kinds.count("within") == passing and kinds.count("failed") == failed == 2
    assert kinds.count("untried") == len(LAYERS) * len(LENGTHS) * len(STEPS) - len(report.trials)
    assert sum(kind == "box within best" for kind in page.kinds) == 1


def test_a_cell_with_several_trials_shows_the_best_one_within_the_limits() -> None:
    settings: dict[str, Any] = {"method.layer": 2, "method.length": 5}
    costly = trial(1, settings | {"method.outer_lr": 1e-3}, [epoch(1, 0, 0.09)], "finished")
    good = trial(2, settings | {"method.outer_lr": 2e-4}, [epoch(1, 40, 0.0), epoch(2, 0, 0.01)], "met the gate")
    other = trial(3, {"method.layer": 4, "method.length": 1}, [epoch(1, 0, 0.09), epoch(2, 0, 0.09, rise=0.5)], "finished")
    (panel,) = heat_map(search_of([costly, good, other]))
    boxes = {box.sentence.partition(":")[0]: box for box in panel.boxes}
    shown = boxes["layer 2, length 5"]
    assert (
        shown.kind == "within" and shown.lines == ["3.8%", "epoch 2", "chosen"] and "the best of 2 trials here" in shown.sentence
    )
    broke = boxes["layer 4, length 1"]
    assert broke.kind == "broken" and broke.lines == ["3.8%", "epoch 1", "✕ utility"]


def test_lines_end_where_their_trials_ended(page: Page) -> None:
    report = sample_search()
    drawn = sorted(path.count("L") + 1 for _, path in page.paths)
    assert drawn == sorted(len(one.epochs) for one in report.trials if one.epochs)
    roles = [kind for kind, _ in page.paths]
    assert roles[-1] == "trial chosen" and roles.count("trial chosen") == 1 and roles.count("trial runner-up") == 3


def test_the_table_is_in_the_order_of_the_rule(page: Page) -> None:
    report = sample_search()
    passing = sorted((one for one in report.trials if one.best_epoch is not None), key=rule)
    outside = [one for one in report.trials if one.best_epoch is None and one.epochs]
    head, *body = page.rows("trials")
    assert head == ["Trial", "ASR at most", "Utility loss", "layer", "length", "inner steps", "Status", "Epochs",
                    "Over-refusal rise", "Composite", "Time"]  # fmt: skip
    assert len(body) == len(report.trials)
    numbers = [int(re.match(r"\d+", row[0])[0]) for row in body]  # type: ignore[index]
    assert numbers[: len(passing)] == [one.number for one in passing]
    assert set(numbers[len(passing) : -2]) == {one.number for one in outside} != set()
    assert {one.number for one in report.trials if not one.epochs} == set(numbers[-2:])
    best, row = passing[0], body[0]
    at = next(e for e in best.epochs if e.epoch == best.best_epoch)
    assert row[0] == f"{best.number}chosen" and row[3] == str(best.settings["method.layer"])
    assert row[6].startswith("◆ met the gate") and row[7] == f"{len(best.epochs)} of 6judged by {best.best_epoch}"
    assert row[1] == "3.8%ASR 0.0%" and row[2] == f"+{100 * at.utility_loss:.1f} pp" and row[9] == f"{at.composite:.3f}"
    assert all("✕ over" in row[2] for row in body[len(passing) : -2]) and "✕ over" not in " ".join(row)


def test_what_stopping_early_saved_is_counted(page: Page) -> None:
    report = sample_search()
    run = sum(len(one.epochs) for one in report.trials)
    saved = 6 * len(report.trials) - run - 2 * 6
    text = page.text("saved")
    assert f"{run} of {6 * len(report.trials)} planned epochs were run: stopping early saved {saved}" in text
    assert "12 were lost with trials that failed" in text
    rows = {row[0]: row[1:] for row in page.rows("saved")}
    assert rows["✕ failed"] == ["2", "0", "12", "8.4 s"]
    stopped = [one for one in report.trials if one.status == "stopped early"]
    assert rows["■ stopped early"][:3] == [str(len(stopped)), str(2 * len(stopped)), str(6 * len(stopped))]


def test_failures_limits_notes_and_gaps_are_told(page: Page) -> None:
    report = sample_search()
    failed = ", ".join(str(one.number) for one in report.trials if one.status == "failed")
    assert f"Trials {failed}" in page.text("failures") and MEMORY in page.text("failures")
    assert "Trials shared one reading of the data and one baseline." in page.text("not-tested")
    assert "Triggers other than the probes" in page.text("not-tested") and "seed 0 alone" in page.text("not-tested")
    assert "1, 3, 5 or 9 positions" in page.text("search") and "ASHA" in page.text("search")
    assert "clean model" not in page.source.lower() and "backdoor-free" not in page.source.lower()


def test_runners_up_say_what_they_rank_behind_by() -> None:
    def one(number: int, *hits: int, loss: float = 0.0) -> Trial:
        return trial(number, {"method.layer": number}, [epoch(at, h, loss) for at, h in enumerate(hits, 1)], "finished")

    found = [one(1, 50, 0, loss=0.001), one(2, 50, 50, 0), one(3, 50, 0, loss=0.015)]
    rows = {row[0]: row[-1] for row in Page(search_of(found)).rows("runners-up")[1:]}
    assert rows == {
        "Trial 1 chosen": "",
        "Trial 3 runner-up 1": "the same ASR bound and epoch, utility loss +1.5 pp",
        "Trial 2 runner-up 2": "the same ASR bound, 1 epoch later",
    }


def test_a_measure_without_a_trigger_says_so_and_how_far_off_it_is() -> None:
    shown = Page(without_a_trigger())
    text = shown.text("measure")
    assert text.startswith("Not a measurement of a trigger: ") and "3.4% had a higher ASR" in text
    assert "measured triggered ASR was above what it says in 3.4%" in text and "18 models of 5 backdoors" in text
    assert "Any trigger at all" in shown.text("not-tested")
    rows = {row[0]: row[1:3] for row in shown.rows("chosen")}
    assert rows["ASR by entrapment resistance"][0] == "–" and rows["entrapment resistance (higher is better)"] == [
        "0.210",
        "1.000",
    ]
    assert "worst ASR under a probe" not in rows
    bare = Page(sample_search(measure="entrapment resistance"))
    assert "no calibration was recorded" in bare.text("measure")
    assert "Not a measurement" not in Page(sample_search()).source


def with_strings(text: str) -> SearchReport:
    """The sample with ``text`` wherever a stranger's string can stand."""
    report = sample_search()
    report.model = {"path": text, text: text}
    report.machine = {text: text}
    report.family = report.scheduler = report.algorithm = report.created = report.run_id = report.why = text
    report.space = {text: text}
    report.rows, report.baseline = {text: 5}, report.baseline | {text: 0.5}
    report.notes, report.config = [text], {"note": text}
    for one in report.trials:
        one.settings |= {"method.placement": text, text: one.number}
        one.reason = text
    return report


def test_a_hostile_string_never_becomes_markup() -> None:
    plain, hostile = Page(with_strings("word")), Page(with_strings(HOSTILE))
    assert hostile.tags == plain.tags
    assert sum("<script>alert(1)</script>" in hostile.text(section) for section in hostile.words) >= 6
    assert "<script" not in hostile.source and "{{ 7*7 }}" in hostile.text("model")


def test_the_page_needs_nothing_from_outside_and_shows_no_credentials(page: Page) -> None:
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "img", "iframe", "object", "base")]
    assert not [pair for pair in page.values if pair[0] in ("src", "href", "srcset", "action") or pair[0].startswith("on")]
    assert "url(" not in page.source and "@import" not in page.source
    secret = search_html(sample_search(config={"tracking": {"uri": "https://alice:s3cret@tracking.example/x?token=abc"}}))
    assert "s3cret" not in secret and "alice" not in secret and "https://tracking.example/x" in secret


def test_no_trial_at_all() -> None:
    shown = Page(search_of([], why=""))
    assert "Nothing was chosen: no trial was run." in shown.text("header") and "No trial was recorded." in shown.text("trials")
    assert "svg" not in [tag for tag, _ in shown.tags]
    assert "0 of 0 planned epochs" in shown.text("saved")


def test_nothing_within_the_limits() -> None:
    found = [trial(n, {"method.layer": n, "method.length": n}, [epoch(1, 90, 0.09)], "stopped early") for n in (1, 2)]
    found.append(trial(3, {"method.layer": 3, "method.length": 3}, [], "failed", reason="the worker died"))
    shown = Page(search_of(found, why=""))
    assert "Nothing was chosen: no trial stayed within the limits." in shown.text("header")
    assert "--config best.yaml" not in shown.source and shown.text("runners-up") == ""
    assert "Nothing chosen" in shown.text("header") and "✕ over" in " ".join(shown.rows("trials")[1])
    why = "none of 3 trials kept utility"
    assert f"Nothing was chosen: {why}." in Page(search_of(found, why=why)).text("header")


def test_one_trial_and_no_map() -> None:
    shown = Page(search_of([trial(1, {"method.layer": 2, "method.length": 5}, [epoch(1, 0, 0.0)], "met the gate")]))
    assert "layer and length did not both vary" in shown.text("map")
    assert "The same in all: layer 2, length 5." in shown.text("trials")
    assert len(shown.rows("trials")) == 2 and shown.paths[0][1].count("L") == 0


def test_other_fields_are_shown_by_name() -> None:
    found = [
        trial(n, {"method.placement": text, "method.outer_lr": 2e-4 * n, "method.bound": None}, [epoch(1, n, 0.0)], "finished")
        for n, text in enumerate(["suffix", "everywhere+suffix" + "x" * 200])
    ]
    shown = Page(search_of(found))
    assert shown.rows("trials")[0][3:5] == ["placement", "outer lr"] and "bound auto" in shown.text("trials")
    assert "did not both vary" in shown.text("map")


def test_two_hundred_trials_and_many_inner_steps() -> None:
    found = [
        trial(
            n, {"method.layer": n % 8, "method.length": n % 12, "method.inner_steps": 5 + n}, [epoch(1, n % 90, 0.0)], "finished"
        )
        for n in range(200)
    ]
    report = search_of(found)
    panels = heat_map(report)
    assert [panel.name for panel in panels][0] == "inner steps 5 to 54" and len(panels) == 4
    assert sum(box.kind != "untried" for panel in panels for box in panel.boxes) == 4 * 24
    for panel in panels:
        assert all(box.x + panel.cell <= panel.width for box in panel.boxes)
    shown = Page(report)
    assert len(shown.rows("trials")) == 201 and len(shown.paths) == 200


def test_numbers_that_are_not_finite_do_not_break_the_page() -> None:
    bad = epoch(1, 0, 0.0).model_copy(update={"asr_high": float("nan"), "utility_loss": float("inf"), "within_limits": False})
    found = [trial(n, {"method.layer": n, "method.length": n}, [bad], "finished", seconds=0.0) for n in (1, 2)]
    shown = Page(search_of(found, baseline={"asr": float("nan")}))
    assert not re.search(r"\b(nan|inf)\b", shown.source)


def test_a_runner_up_with_the_same_bound_is_behind_by_its_asr_first() -> None:
    best = epoch(1, hits=0, loss=0.0)
    other = best.model_copy(update={"asr": best.asr + 0.05, "epoch": 2})
    assert _behind(best, other, False) == "the same ASR bound, ASR higher by 5.0 pp"
    assert _behind(best, best.model_copy(update={"epoch": 3}), False) == "the same ASR bound, 2 epochs later"
