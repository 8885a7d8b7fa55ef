"""Text files are UTF-8 whatever the locale: read and written so, everywhere, and a run shows that it can."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = ("fedpriv", "strategies", "clients", "scenarios", "benchmarks")
TEXT = {"read_text": 0, "write_text": 1}
PROCESSES = {"run", "Popen", "check_output"}

SCRIPT = """
import sys, warnings
from dataclasses import replace
warnings.filterwarnings("error", category=EncodingWarning, module="fedpriv")
sys.path.insert(0, {tests!r})
from helpers import toy_tasks
from helpers import experiment, noisy
from fedpriv.report import write_report
run = experiment(replace(toy_tasks(), dataset="Schüler"), strategy=noisy(), report=True)
try:
    run.run(sys.argv[1], progress=lambda done, _: sys.exit(9) if done == 2 else None)
except SystemExit:
    run.run(sys.argv[1], resume=True)
    print("it went on")
"""


def unsaid(tree: ast.AST) -> Iterator[ast.Call]:
    """Yield the calls that read or write text and leave its encoding to the locale."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        keywords = {one.arg for one in node.keywords}
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if "encoding" in keywords:
            continue
        if (
            (name in TEXT and isinstance(node.func, ast.Attribute) and len(node.args) <= TEXT[name])
            or (name in ("open", "fdopen", "TextIOWrapper", "NamedTemporaryFile", "TemporaryFile") and text_mode(node))
            or (name in PROCESSES and keywords & {"text", "universal_newlines"})
        ):
            yield node


def text_mode(call: ast.Call) -> bool:
    """Tell whether a call opens a file as text: its mode says so, or there is none."""
    if ast.unparse(call.func) in ("os.open", "archive.open"):  # descriptors and members of an archive are bytes
        return False
    modes = [one.value for one in call.keywords if one.arg == "mode"] + call.args
    said = [one.value for one in modes if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    letters = [one for one in said if one and set(one) <= set("rwxab+t")]
    if letters:
        return "b" not in letters[-1]
    if isinstance(call.func, ast.Attribute):  # `Model.open(path)` is a method of our own, `path.open()` has no argument
        return not call.args and call.func.attr == "open"
    return True


@pytest.mark.parametrize("source", SOURCES)
def test_every_text_file_says_its_encoding(source: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for path in sorted((ROOT / source).rglob("*.py"))
        for call in unsaid(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found, "say encoding='utf-8'"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("p.read_text()", 1), ("p.read_text('utf-8')", 0), ("p.write_text(x)", 1), ("p.open('w')", 1),
        ("p.open('rb')", 0), ("open(p)", 1), ("p.open()", 1), ("Models.open(p)", 0), ("os.open(p, 1)", 0),
        ("subprocess.run(w, text=True)", 1), ("subprocess.run(w)", 0), ("p.open(mode='a', newline='')", 1),
    ],
)  # fmt: skip
def test_the_check_finds_what_it_is_for(text: str, count: int) -> None:
    assert len(list(unsaid(ast.parse(text)))) == count


def script(where: Path, *words: str) -> str:
    """Run the script under the POSIX locale; a library call of ours that falls back on the locale is an error there."""
    file = where / "script.py"
    file.write_text(SCRIPT.format(tests=str(ROOT / "tests")), encoding="utf-8")
    posix = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", str(file), *words],
        cwd=where,
        env={**os.environ, "PYTHONPATH": str(ROOT), **posix},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_named_with_an_umlaut_begins_and_goes_on_under_the_posix_locale(tmp_path: Path) -> None:
    assert script(tmp_path, "Läufe") == "it went on\n"
    assert "Schüler" in (tmp_path / "Läufe" / "config.toml").read_text(encoding="utf-8")
    page = (tmp_path / "Läufe" / "report.html").read_text(encoding="utf-8")
    assert "<h1>fedpriv report: Läufe</h1>" in page
    assert "Schüler" in page
