"""report.html: hostile strings stay text, nothing is fetched, every part is optional."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beear.records.report import Report
from beear.report.html import render
from tests.report_sample import sample_report

HOSTILE = "</td></pre><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7*7 }}{% raw %}\" ' &"


class Outline(HTMLParser):
    """The page's tags with their attributes' names, its text, and every attribute value."""

    def __init__(self, page: str) -> None:
        """Parse ``page``."""
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.text: list[str] = []
        self.values: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.values += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.text.append(data)


def with_strings(text: str) -> Report:
    """The sample with ``text`` wherever a stranger's string can stand."""
    report = sample_report()
    for measured in (report.before, report.after):
        assert measured
        measured.asr_probes[0].name = text
        measured.asr_probes[0].samples = [(text, text)]
    report.gate.sentence = text
    report.gate.checks[1].name = f"ASR under {text}"
    report.model["path"] = text
    report.template["text"] = text
    report.template["findings"] = [text, text]
    report.data["files"] = {"defense": [text]}
    report.choices[0]["why"] = text
    report.not_tested[0] = report.notes[0] = text
    report.epochs[0].inner[0].placement = text
    report.config["note"] = text
    return report


def test_a_hostile_string_never_becomes_markup() -> None:
    plain, hostile = Outline(render(with_strings("word"))), Outline(render(with_strings(HOSTILE)))
    assert hostile.tags == plain.tags
    shown = " ".join("".join(hostile.text).split())
    assert shown.count("<script>alert(1)</script>") >= 10
    assert "{{ 7*7 }}" in shown and "49" not in re.findall(r"\b49\b", shown)


@settings(max_examples=15, deadline=None)
@given(st.text(min_size=1, max_size=40).filter(lambda text: text.strip() and not text.isspace()))
def test_any_string_leaves_the_structure_alone(text: str) -> None:
    assert Outline(render(with_strings(text + "x"))).tags == Outline(render(with_strings("x"))).tags


def test_the_page_needs_nothing_from_outside() -> None:
    outline = Outline(render(sample_report()))
    assert not [tag for tag, _ in outline.tags if tag in ("script", "link", "img", "iframe", "object", "base")]
    assert not [pair for pair in outline.values if pair[0] in ("src", "href", "srcset", "action") or pair[0].startswith("on")]
    style = re.search(r"<style>(.*?)</style>", render(sample_report()), re.S)
    assert style and "url(" not in style[1] and "@import" not in style[1]


def test_the_page_says_what_was_measured() -> None:
    text = " ".join(" ".join(Outline(render(sample_report())).text).split())
    for expected in (
        "Every bound is met",
        "100.0% 99.0–100.0% n = 400",
        "+0.4 pp −0.4…1.2",
        "≤ 5.0%",
        "Crosses at step 10",
        "Chat template",
        "triggers that are not among the probes",
        "0.28 of 6 layers",
        "b7" * 32,
        "AutoModelForCausalLM.from_pretrained",
        "mean cosine",
    ):
        assert expected in text, expected


@pytest.mark.parametrize("verdict", ["passed", "refused", "inconclusive"])
def test_the_banner_names_the_verdict(verdict: str) -> None:
    page = render(sample_report(verdict))  # type: ignore[arg-type]
    assert f'<header class="verdict {verdict}">' in page
    assert verdict.capitalize() in page
    assert ("did not pass the gate" in page) == (verdict != "passed")


def test_measuring_alone_has_no_after() -> None:
    text = " ".join(Outline(render(sample_report(kind="evaluate"))).text)
    assert "Measured only" in text and "After" not in text and "Load the model" not in text


def test_parts_that_are_missing_are_left_out() -> None:
    report = sample_report(
        template={},
        data={},
        choices=[],
        epochs=[],
        drift=None,
        not_tested=[],
        notes=[],
        seconds={},
        config={},
        model={},
    )
    for measured in (report.before, report.after):
        assert measured
        measured.resistance, measured.asr_probes = [], []
        measured.asr_clean.samples = []
    outline = Outline(render(report))
    assert "svg" not in [tag for tag, _ in outline.tags]
    assert "The checkpoint has none." in outline.text


def test_numbers_that_are_not_finite_are_left_out_of_the_charts() -> None:
    report = sample_report()
    report.epochs[0].inner[0].loss_unwanted[3] = float("nan")
    report.before.resistance[0].gap[5] = float("inf")
    assert not re.search(r'[" ](?:nan|inf)', render(report))


def test_credentials_are_not_shown() -> None:
    config = {"tracking": {"uri": "https://alice:s3cret@tracking.example/x?token=abc"}}
    page = render(sample_report(config=config))
    assert "s3cret" not in page and "alice" not in page and "abc" not in page and "https://tracking.example/x" in page


def test_every_table_header_has_a_scope() -> None:
    headers = [attrs for tag, attrs in Outline(render(sample_report())).tags if tag == "th"]
    assert headers and all("scope" in attrs for attrs in headers)
