"""The one command for all experiments, on toys: what is run again and what not, and its report."""

import argparse
import base64
import html.parser
import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

import experiments
from experiments import common, reproduce
from experiments.reproduce import Stage

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
)
TOY = '''
"""Measure <nothing> & ``all``.

Claim: one is ``1 < 2``,
and so on.

Command: none.
"""
import argparse, pathlib, time

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=pathlib.Path)
parser.add_argument("--quick", action="store_true")
args = parser.parse_args()
runs = args.out / "runs"
runs.write_text((runs.read_text() if runs.exists() else "") + ("q" if args.quick else "f"))
'''
GOOD = f"""
(args.out / "toy.txt").write_text("a<b>&c")
(args.out / "toy.png").write_bytes({PIXEL!r})
(args.out / "toy.json").write_text('{{"seed": "<7>", "arrays": {{"x": [12345]}}}}')
"""
BAD = 'raise SystemExit("it <broke>")'
SLOW = """
try:
    (args.out / "started").touch()
    for _ in range(1200):
        if len(runs.read_text()) > 1:
            break
        time.sleep(0.05)
except KeyboardInterrupt:
    (args.out / "kept").touch()
    raise
"""


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """Return a function that writes a module and returns its stage."""
    folder = tmp_path / "toys"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")

    def write(name, body):
        (folder / f"{name}.py").write_text(TOY + textwrap.dedent(body))
        return Stage(name, 0.5, f"{name} differs <a little>")

    return write


def runs(out, stage):
    return (out / stage.name / "runs").read_text()


def test_every_experiment_with_a_command_line_is_a_stage():
    folder = pathlib.Path(experiments.__file__).parent
    programs = {f.stem for f in folder.glob("*.py") if '__name__ == "__main__"' in f.read_text()}
    names = [stage.name for stage in reproduce.STAGES]
    assert len(set(names)) == len(names)
    assert set(names) == programs - {"reproduce"}
    for stage in reproduce.STAGES:
        title, claim = reproduce.described(reproduce.source(stage.module))
        assert title.endswith((".", "?")) and len(claim) > 40, stage.name
        assert stage.hours > 0 and stage.differences.endswith("."), stage.name
        text = reproduce.source(stage.module).read_text()
        assert "common.parser(" in text and ("quick" in text or stage.name == "flop_audit")


@pytest.mark.parametrize("page", ["README.md", "Makefile", "docs/results/README.md"])
def test_pages_state_the_hours_of_all_stages(page):
    hours = sum(stage.hours for stage in reproduce.STAGES)
    assert f"{hours:.0f} hours" in (reproduce.ROOT / page).read_text()


def test_code_of_a_stage_is_that_of_what_it_imports():
    found = {file.stem for file in reproduce.imported("experiments.natural_images")}
    assert found == {"natural_images", "common", "truth_free", "plots", "paper"}
    first, second = (reproduce.imported(f"experiments.{name}") for name in ("bias", "theory"))
    assert common.code_of(first) != common.code_of(second)
    assert common.code_of(first) == common.code_of(list(first))


def test_what_is_done_is_not_run_again_unless_its_code_changes(toys, tmp_path, capsys):
    one, two = toys("one", GOOD), toys("two", GOOD)
    assert reproduce.run_stages([one, two], tmp_path, False)
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\[ 1/2\] one \(about 30 min\) \.\.\. done in 0\.\d min", lines[0])
    assert len(lines) == 3 and lines[2].endswith("2 of 2 stages done")
    toys("two", GOOD + "# other code")
    assert reproduce.run_stages([one, two], tmp_path, False)
    assert "done before" in capsys.readouterr().out.splitlines()[0]
    assert (runs(tmp_path, one), runs(tmp_path, two)) == ("f", "ff")


def test_short_versions_are_asked_for_and_are_not_the_full_ones(toys, tmp_path, capsys):
    stage = toys("one", GOOD)
    for quick in (True, False):
        options = argparse.Namespace(out=tmp_path, quick=quick, only=None)
        assert reproduce.main(options, [stage]) == 0
    assert (runs(tmp_path / "quick", stage), runs(tmp_path, stage)) == ("q", "f")
    assert "short versions" in (tmp_path / "quick" / "report.html").read_text()
    assert "short versions" not in (tmp_path / "report.html").read_text()
    assert "about" not in capsys.readouterr().out.splitlines()[0]
    assert reproduce.run_stages([stage], tmp_path, True)  # another run in the same folder
    assert runs(tmp_path, stage) == "fq"


def test_a_stage_that_fails_is_named_and_the_others_go_on(toys, tmp_path, capsys):
    bad, good = toys("bad", BAD), toys("good", GOOD)
    options = argparse.Namespace(out=tmp_path, quick=False, only=None)
    assert reproduce.main(options, [bad, good]) == 1
    lines = capsys.readouterr().out.splitlines()
    log = tmp_path / "bad" / "log.txt"
    assert lines[0].endswith(f"FAILED, exit code 1: it <broke>; log: {log}")
    assert "done in" in lines[1] and "1 of 2 stages done" in lines[2]
    assert log.read_text() == "it <broke>\n"
    page = (tmp_path / "report.html").read_text()
    assert "it &lt;broke&gt;" in page and "<broke>" not in page
    toys("bad", GOOD)
    assert reproduce.main(options, [bad, good]) == 0
    assert (runs(tmp_path, bad), runs(tmp_path, good)) == ("ff", "f")


def test_a_stage_that_another_process_works_on_is_left_to_it(toys, tmp_path, capsys):
    stage = toys("one", GOOD)
    with reproduce.opened(stage, tmp_path, False):
        assert not reproduce.run_stages([stage], tmp_path, False)
    assert f"is being written by process {os.getpid()}" in capsys.readouterr().out
    assert not (tmp_path / "one" / "runs").exists()


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_interrupted_it_goes_on_where_it_was(kind, toys, tmp_path, capsys):
    stages = [toys("first", GOOD), toys("second", SLOW + GOOD)]
    script = f"""
        import argparse, pathlib
        from experiments import reproduce
        stages = [reproduce.Stage("first", 1, "."), reproduce.Stage("second", 1, ".")]
        options = argparse.Namespace(out=pathlib.Path({str(tmp_path)!r}), quick=False, only=None)
        raise SystemExit(reproduce.main(options, stages))
    """
    program = [sys.executable, "-c", textwrap.dedent(script)]
    child = subprocess.Popen(program, cwd=reproduce.ROOT, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "second" / "started").exists():
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(kind)
    printed, _ = child.communicate(timeout=60)
    assert "second (about 1 h)" in printed
    kept = tmp_path / "second" / "kept"
    if kind == signal.SIGTERM:
        assert child.returncode == 130 and kept.exists()
        assert "the same command goes on" in printed
    assert reproduce.run_stages(stages, tmp_path, False)  # an orphan of SIGKILL sees it and ends
    assert (runs(tmp_path, stages[0]), runs(tmp_path, stages[1])) == ("f", "ff")
    assert "[ 1/2] first (about 30 min) ... done before" in capsys.readouterr().out


class Page(html.parser.HTMLParser):
    """Elements of a page, each with its attributes; closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag, attribute):
        return [attrs[attribute] for name, attrs in self.tags if name == tag]


def test_the_report_holds_everything_and_needs_nothing_else(toys, tmp_path):
    stages = [toys("one", GOOD), toys("two", GOOD), Stage("experiments.bias", 0.2, "None.")]
    assert reproduce.run_stages(stages, tmp_path, False, only=["one"])
    assert not (tmp_path / "two").exists() and not (tmp_path / "bias").exists()
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert page.all("section", "id") == ["one", "two", "bias"]
    assert page.all("a", "href") == ["https://arxiv.org/abs/2411.13117", "#one", "#two", "#bias"]
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    (picture,) = page.all("img", "src")
    assert base64.b64decode(picture.removeprefix("data:image/png;base64,")) == PIXEL
    assert "url(" not in text and "@import" not in text
    for shown in (
        "Measure <nothing> & all.", "Claim: one is 1 < 2, and so on.", "one differs <a little>",
        "-m one --out", "a<b>&c", '"seed": "<7>"', "two differs", "30 min in full, as stated",
    ):  # fmt: skip
        assert shown in page.text, shown
    assert "12345" not in page.text  # shapes
    assert "<code>1 &lt; 2</code>" in text
    statuses = [attrs["class"] for tag, attrs in page.tags if tag == "td" and attrs.get("class")]
    assert statuses == ["done", "not-run", "not-run"]
    kept = (reproduce.KEPT / "bias.txt").read_text()
    assert kept in page.text and page.text.count("as docs/results keeps it") == 1


def test_without_names_only_the_report_is_written(toys, tmp_path, capsys):
    stage = toys("one", BAD)
    assert reproduce.run_stages([stage], tmp_path, False, only=[])
    assert capsys.readouterr().out == f"{tmp_path / 'report.html'}: 0 of 1 stages done\n"
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize("compiles", [True, False])
def test_short_versions_that_compile_most_ask_xla_for_less(compiles, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--mine")
    options = common.parser("doc", compiles=compiles)
    assert not options.parse_args([]).quick and os.environ["XLA_FLAGS"] == "--mine"
    assert options.parse_args(["--quick"]).quick
    flags = os.environ["XLA_FLAGS"].split()
    assert flags[-1] == "--mine"
    assert ("--xla_backend_optimization_level=0" in flags) == compiles
