"""Exit codes and last words of an entry point, as a caller sees them."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from beear.config.entry import one_line
from tests.checkout import ROOT

HEAD = "import select, sys, time\nfrom beear.config.entry import run_entry\nfrom beear.errors import UserError\n"
# Waits until nobody reads standard output any more.
GONE = "poll = select.poll(); poll.register(1, select.POLLERR); poll.poll()"


def run(body: str) -> subprocess.CompletedProcess[str]:
    script = f"{HEAD}def main():\n    {body}\nrun_entry(main)"
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("code", [0, 3])
def test_the_code_of_main_is_the_process(code: int) -> None:
    done = run(f"print('x'); return {code}")
    assert (done.returncode, done.stdout, done.stderr) == (code, "x\n", "")


def test_a_users_mistake_is_one_line_and_code_2() -> None:
    done = run(r"raise UserError('a.yaml: found \n  \x1b[31mred')")
    assert (done.returncode, done.stderr) == (2, "error: a.yaml: found \\x1b[31mred\n")


def test_several_mistakes_are_a_line_each() -> None:
    done = run("raise UserError('a is 1', 'b is\\n2')")
    assert (done.returncode, done.stderr) == (2, "error: a is 1\nerror: b is 2\n")


def test_a_crash_shows_its_traceback_and_code_1() -> None:
    done = run("raise ValueError('odd')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and done.stderr.endswith("ValueError: odd\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_says_how_to_go_on(number: signal.Signals) -> None:
    script = f"{HEAD}def main():\n    print('ready', flush=True)\n    while True: time.sleep(0.1)\nrun_entry(main)"
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors == "interrupted; run the same command again to resume\n"


@pytest.mark.parametrize("lines", [10, 100_000])
def test_a_reader_that_leaves_early_hears_nothing(tmp_path: Path, lines: int) -> None:
    script = tmp_path / "entry.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{HEAD}def main():\n    {GONE}\n"
        f"    for i in range({lines}): print(i)\n    return 0\nrun_entry(main)"
    )
    done = subprocess.run(f"{sys.executable} {script} | true", shell=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr == ""


def test_another_broken_pipe_is_a_crash() -> None:
    done = run("raise BrokenPipeError(32, 'a server left')")
    assert done.returncode == 1
    assert "a server left" in done.stderr


def test_one_line_keeps_letters_and_writes_controls_out() -> None:
    assert one_line("Prüfung\n\n  zwei\tdrei") == "Prüfung zwei\\tdrei"
