"""The report on synthetic run folders: figures, page, escaping, odd values, damaged files, a browser."""

from __future__ import annotations

import base64
import json
import math
import random
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fedpriv.errors import ComponentFailure, FedprivError, InputError
from fedpriv.report import read_run, write_figures, write_report
from fedpriv.report.figures import FIGURES, accuracies, loss_and_epsilon, per_task
from fedpriv.report.tables import comparison, outputs
from fedpriv.report.words import delta_text, epsilon_text, mean_interval, number
from fedpriv.statistics import Interval

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SENTENCE = (
    "Every task's personal model is (1.99, 1e-5)-joint differentially private towards a coalition of all "
    "other tasks (add/remove of one task, PLD accountant)."
)
CONFIG = """scenario = "pmtl"

[data]
name = "digits"
tasks = 100

[strategy]
epsilon = 2.0
delta = 1e-5
"""


def make_run(folder: Path, *, rounds: int = 100, tasks: int = 100, **changes: Any) -> Path:
    """Write a run folder; ``changes`` are dotted keys of the summary, with ``__`` for the dot."""
    draw = random.Random(tasks)
    folder.mkdir(parents=True)
    accuracy = {
        "personal": [min(1.0, max(0.0, round(draw.gauss(0.88, 0.07), 2))) for _ in range(tasks)],
        "billboard": [min(1.0, max(0.0, round(draw.gauss(0.79, 0.11), 2))) for _ in range(tasks)],
        "local_only": [min(1.0, max(0.0, round(draw.gauss(0.81, 0.09), 2))) for _ in range(tasks)],
    }
    summary: dict[str, Any] = {
        "format": 1,
        "scenario": "pmtl",
        "preset": "digits",
        "finished": True,
        "seconds": {"total": 41.2, "training": 30.5, "start_up": 6.1, "baseline": 4.6},
        "tasks_per_second": 812.3,
        "rounds": rounds,
        "num_tasks": tasks,
        "versions": {"fedpriv": "0.1.0", "torch": "2.9.0", "flwr": "1.41.0", "ray": "2.51.0"},
        "grid": "ray",
        "engine": "auto",
        "seed": 0,
        "reproduce": None,
        "guarantee": {
            "notion": "joint differential privacy",
            "unit": "task",
            "relation": "add/remove",
            "observer": "coalition",
            "output": "the personal models of all other tasks",
            "epsilon": 1.99,
            "epsilon_replace_one": 3.9,
            "delta": 1e-5,
            "accountant": "pld",
            "rounds": rounds,
            "noise_multiplier": 4.2,
            "clipping_norm": 0.5,
            "num_tasks": tasks,
            "sampling": "poisson, rate 0.5, secret coins",
            "assumptions": ["the sampling coins stay secret", "the server adds its noise"],
            "reproduction": False,
            "warnings": [],
            "sentence": SENTENCE,
        },
        "diagnostics": {
            "released": False,
            "accuracy": {name: sum(values) / tasks for name, values in accuracy.items()},
            "loss": {"personal": 0.41, "billboard": 0.73, "local_only": 0.66},
            "per_task": accuracy,
            "local_compute": {"personal": 500_000, "local_only": 500_000},
        },
        "ledger": {"path": str(folder / "ledger.json"), "population": "digits-100", "declared": "benchmark"},
        "releases": [
            {
                "round": at,
                "group": "",
                "mechanism": "gaussian",
                "noise_multiplier": 4.2,
                "sampling_name": "poisson",
                "rate": 0.5,
                "clipping_norm": 0.5,
            }
            for at in range(1, rounds + 1)
        ],
    }
    for key, value in changes.items():
        where = summary
        *path, last = key.split("__")
        for part in path:
            where = where[part]
        where[last] = value
    lines = []
    for at in range(1, rounds + 1):
        lines.append({"round": at, "kind": "release", "epsilon": None})
        if at == 1 or at % 5 == 0:
            loss = {"personal": 0.4 + 1.9 * math.exp(-at / 20), "billboard": 0.7 + 1.6 * math.exp(-at / 25)}
            lines.append({"round": at, "kind": "evaluation", "released": False, "loss": loss, "accuracy": None})
            spent = {"epsilon": 0.199 * math.sqrt(at), "epsilon_replace_one": 0.39 * math.sqrt(at)}
            lines.append({"round": at, "kind": "privacy", "relation": "add/remove", **spent})
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.toml").write_text(CONFIG)
    return folder


def regression(folder: Path, **changes: Any) -> Path:
    """Write a run that has losses and no accuracy."""
    none = {"personal": None, "billboard": None, "local_only": None}
    losses = {
        "personal": [0.1 + 0.01 * at for at in range(20)],
        "billboard": [0.3] * 20,
        "local_only": [0.2] * 20,
    }
    changes = {"diagnostics__accuracy": none, "diagnostics__per_task": losses, "preset": "linear"} | changes
    return make_run(folder, tasks=20, **changes)


class Page(HTMLParser):
    """What the tests look at: text, tags, attributes, and whether tags are balanced."""

    VOID = frozenset({"meta", "img", "br", "link", "hr"})

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.source = file.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(self.source)
        self.close()
        assert self._open == []
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page]:
    folder = make_run(tmp_path_factory.mktemp("usual") / "first")
    return folder, Page(write_report([folder]))


@pytest.fixture
def words_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the figures where a test is about the words."""
    monkeypatch.setattr("fedpriv.report.html.write_figures", lambda run: {})


def test_the_figures_are_written_and_show_something(usual: tuple[Path, Page]) -> None:
    folder, _ = usual
    assert (folder / "report.html").exists()
    for name in FIGURES:
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / "figures" / f"{name}.png").stat().st_size > 10_000
        svg = (folder / "figures" / f"{name}.svg").read_text()
        assert svg.count("<path") + svg.count("<use") > 50


def test_the_figures_hold_the_data_of_the_run(usual: tuple[Path, Page]) -> None:
    run = read_run(usual[0])
    course = loss_and_epsilon(run)
    left, right = course.axes
    assert [len(line.get_xdata()) for line in left.lines] == [21, 21]
    assert list(right.lines[0].get_ydata()) == pytest.approx([0.199 * math.sqrt(r) for r in [1, *range(5, 101, 5)]])
    assert "add/remove, delta = 1e-5" in right.get_ylabel()
    assert "not released" in left.get_ylabel()
    assert "not released" in accuracies(run).axes[0].get_xlabel()
    assert sum(len(part.get_offsets()) for part in accuracies(run).axes[0].collections) == 300
    dots = [
        part for part in per_task(run).axes[0].collections if len(part.get_offsets()) and part.get_label()[0] != "_"
    ]
    assert sum(len(part.get_offsets()) for part in dots) == 100


def test_figures_are_the_same_bytes_twice(usual: tuple[Path, Page]) -> None:
    before = {name: (usual[0] / "figures" / f"{name}.svg").read_bytes() for name in FIGURES}
    assert before == {name: file.read_bytes() for name, file in write_figures(read_run(usual[0])).items()}


def test_the_page_needs_nothing_from_elsewhere(usual: tuple[Path, Page]) -> None:
    _, page = usual
    assert "http://" not in page.source
    assert "https://" not in page.source
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    assert "@import" not in page.source
    assert "url(" not in page.source
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/svg+xml;base64,")), tag
    for image in page.all("img"):
        svg = base64.b64decode((image["src"] or "").split(",")[1]).decode()
        assert set(re.findall(r'href="(.)', svg)) <= {"#", "d"}


def test_the_page_is_accessible(usual: tuple[Path, Page]) -> None:
    _, page = usual
    assert page.all("html")[0]["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(len(image["alt"] or "") > 40 for image in page.all("img"))
    assert len(page.all("img")) == 3
    assert all(head["scope"] in ("row", "col") for head in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) == 2


def test_the_page_says_what_is_claimed_and_what_is_not(usual: tuple[Path, Page]) -> None:
    _, page = usual
    assert SENTENCE in page.text
    assert "a coalition of all other tasks, which pool everything" in page.text
    assert "each run accounted alone" in page.text
    assert "The server. It receives the clipped updates or their sums before the noise is added" in page.text
    assert "100 (rounds 1 to 100)" in page.text
    assert "88." in page.text
    assert "812.3 tasks per second" in page.text
    assert 'name = "digits"' in page.text
    assert "reproduction, no guarantee" not in page.text
    assert not re.search(r"\bnan\b|\bNone\b", page.text, re.IGNORECASE) or "nan" not in page.text.lower().split()


def test_each_diagnostic_is_listed_as_not_released(usual: tuple[Path, Page]) -> None:
    table = outputs(read_run(usual[0]))
    assert [row[0].split(":")[0] for row in table.rows] == ["release"] + ["diagnostic"] * 5
    assert {row[-1] for row in table.rows[1:]} == {"not released"}
    assert "digits-100" in table.rows[0][-1]


@pytest.mark.parametrize("how", [{"reproduce": 7}, {"guarantee__reproduction": True}])
def test_a_reproduction_carries_its_banner(tmp_path: Path, how: dict[str, Any]) -> None:
    page = Page(write_report([make_run(tmp_path / "run", rounds=5, tasks=6, **how)]))
    assert "reproduction, no guarantee: noise and sampling coins were fixed" in page.text
    assert any("banner" in (attributes.get("class") or "") for attributes in page.all("p"))
    right = loss_and_epsilon(read_run(tmp_path / "run")).axes[1]
    assert "reproduction, no guarantee" in right.get_ylabel()


@pytest.mark.usefixtures("words_only")
def test_a_protected_population_is_not_called_a_benchmark(tmp_path: Path) -> None:
    page = Page(write_report([make_run(tmp_path / "run", rounds=2, tasks=3, ledger__declared="protected")]))
    assert "each run accounted alone" not in page.text


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&$x_{$"
    folder = make_run(
        tmp_path / "<script>run & co",
        rounds=3,
        tasks=4,
        scenario=evil,
        preset=evil,
        guarantee__sentence=evil,
        guarantee__relation=evil,
        guarantee__observer=evil,
        guarantee__warnings=[evil],
        versions={evil: evil},
        ledger={"path": evil, "population": evil, "declared": evil},
    )
    (folder / "config.toml").write_text("name = '</pre><script>alert(2)</script>'")
    page = Page(write_report([folder]))
    assert page.all("script") == []
    assert page.text.count("<script>") > 7
    assert "<script" not in page.source


def test_a_regression_run_has_losses_only(tmp_path: Path) -> None:
    folder = regression(tmp_path / "run")
    page = Page(write_report([folder]))
    assert "test accuracy" not in page.text.lower()
    assert "better for 10 of 20 tasks, equal for 1, worse for 9" in page.text
    assert "loss" in per_task(read_run(folder)).axes[0].get_ylabel()


@pytest.mark.parametrize(
    "changes",
    [
        {
            "guarantee__epsilon": "inf",
            "guarantee__epsilon_replace_one": "inf",
            "guarantee__noise_multiplier": 0.0,
        },
        {"guarantee__epsilon": None, "guarantee__epsilon_replace_one": None, "guarantee__delta": None},
        {"guarantee__epsilon": math.inf, "releases": []},
        {"guarantee__epsilon": math.nan, "diagnostics__loss": {"personal": math.nan, "billboard": math.inf}},
        {"releases": [], "ledger": None, "seconds": {}, "versions": {}, "tasks_per_second": None},
        {"diagnostics": {"released": False, "accuracy": {"personal": 0.5}, "loss": {}, "per_task": None}},
        {"diagnostics": {"released": False, "accuracy": None, "loss": None}, "guarantee__sampling": None},
        {"diagnostics__per_task": {"personal": [0.5, None, math.nan], "local_only": [0.5, 0.2, 0.1]}},
    ],
)
def test_odd_values_reach_the_page_in_words(tmp_path: Path, changes: dict[str, Any]) -> None:
    page = Page(write_report([make_run(tmp_path / "run", rounds=4, tasks=3, **changes)]))
    assert not {"nan", "inf", "None", "nan%"} & set(re.split(r"[\s(),;]+", page.text))
    if changes.get("guarantee__epsilon", 1.0) != 1.0:
        assert "There is no finite epsilon" in page.text
    if "releases" in changes:
        assert "This run made no release." in page.text


@pytest.mark.usefixtures("words_only")
@pytest.mark.parametrize(
    ("observer", "server_sees"), [("coalition", True), ("public", True), ("server", False), ("<other>", True)]
)
def test_what_is_not_protected_depends_on_the_observer(tmp_path: Path, observer: str, server_sees: bool) -> None:
    page = Page(write_report([make_run(tmp_path / "run", rounds=1, tasks=2, guarantee__observer=observer)]))
    assert ("noise that the server adds protects nobody" in page.text) is server_sees
    assert ("Personal models that are published" in page.text) is (observer == "public")
    assert "The diagnostics on this page" in page.text


@pytest.mark.parametrize("tasks", [1, 2])
def test_one_round_is_enough(tmp_path: Path, tasks: int) -> None:
    folder = make_run(tmp_path / "run", rounds=1, tasks=tasks)
    assert len(Page(write_report([folder])).all("img")) == 3
    assert len(loss_and_epsilon(read_run(folder)).axes[0].lines[0].get_xdata()) == 1


def test_no_metrics_means_no_curve_and_no_stale_file(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", rounds=2, tasks=3)
    write_report([folder])
    (folder / "metrics.jsonl").write_text("")
    page = Page(write_report([str(folder)]))
    assert len(page.all("img")) == 2
    assert not (folder / "figures" / "loss_and_epsilon.png").exists()
    assert "no figure, the run recorded nothing to draw" in page.text


def test_a_round_logged_twice_counts_once(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", rounds=1, tasks=2)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"round": 1, "kind": "evaluation", "loss": {"personal": 0.25}}\n\n')
        file.write('{"round": 1, "kind": "something new", "more": [1]}\n')
    assert read_run(folder).curve("loss", "personal") == ([1], [0.25])


def test_the_epsilon_of_the_releases_is_used_when_no_privacy_line_has_one(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", rounds=1, tasks=2)
    (folder / "metrics.jsonl").write_text('{"round": 3, "kind": "release", "epsilon": 0.4}')
    assert read_run(folder).epsilon_curve() == ([3], [0.4])


def test_several_runs_stand_side_by_side(tmp_path: Path) -> None:
    folders = [
        make_run(tmp_path / "a" / "run", rounds=3, tasks=4),
        make_run(tmp_path / "b" / "run", rounds=3, tasks=5, reproduce=1, guarantee__epsilon="inf"),
        regression(tmp_path / "c", guarantee__observer="public", guarantee__notion="differential privacy"),
    ]
    page = Page(write_report(folders))
    assert (tmp_path / "a" / "report.html").exists()
    assert len(page.all("img")) == 9
    assert "a/run" in page.text
    assert "b/run" in page.text
    assert page.text.index("The runs side by side") < page.text.index(SENTENCE)
    targets = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert all((link["href"] or "")[1:] in targets for link in page.all("a"))
    assert "do not compare directly" in page.text
    rows = comparison([read_run(folder) for folder in folders], ["a", "b", "c"]).rows
    assert [row[5] for row in rows] == [
        "1.99 (add/remove)",
        "∞ (no bound) (add/remove)",
        "1.99 (add/remove)",
    ]
    assert rows[2][2] == "0.41 (loss)"
    assert rows[1][8] == "reproduction, no guarantee"


@pytest.mark.usefixtures("words_only")
def test_the_report_goes_where_it_is_asked(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", rounds=1, tasks=2)
    assert write_report([folder], tmp_path / "new" / "page.html") == tmp_path / "new" / "page.html"
    with pytest.raises(InputError, match=rf"as {tmp_path / 'report.html'}"):
        write_report([folder], tmp_path)
    assert write_report([folder], tmp_path / "report.html") == tmp_path / "report.html"
    (tmp_path / "file").write_text("")
    with pytest.raises(ComponentFailure, match="cannot be written"):
        write_report([folder], tmp_path / "file" / "page.html")
    with pytest.raises(InputError, match="at least one run folder"):
        write_report([])
    assert not list(tmp_path.glob("**/.page*"))


def _break(folder: Path, how: str) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    if how.startswith("no "):
        (folder / how[3:]).unlink()
    elif how == "truncated summary":
        (folder / "summary.json").write_text('{"format": 1, "scen')
    elif how == "binary metrics":
        (folder / "metrics.jsonl").write_bytes(b"\xff\xfe\x00")
    elif how == "truncated metrics":
        (folder / "metrics.jsonl").write_text('{"round": 1, "kind": "release"}\n{"round": 2, "ki')
    elif how == "metrics list":
        (folder / "metrics.jsonl").write_text("[1]")
    elif how == "bad toml":
        (folder / "config.toml").write_text("= 3")
    elif how == "unfinished":
        (folder / "summary.json").write_text(json.dumps(summary | {"finished": False}))
    elif how == "format":
        (folder / "summary.json").write_text(json.dumps(summary | {"format": 2}))
    elif how == "released diagnostics":
        summary["diagnostics"]["released"] = True
        (folder / "summary.json").write_text(json.dumps(summary))
    elif how == "no-guarantee":
        del summary["guarantee"]
        (folder / "summary.json").write_text(json.dumps(summary))
    elif how == "summary list":
        (folder / "summary.json").write_text("[]")


@pytest.mark.parametrize(
    ("how", "names", "step"),
    [
        ("no summary.json", "unfinished", "--resume"),
        ("no metrics.jsonl", "metrics.jsonl is missing", "again"),
        ("no config.toml", "config.toml is missing", "again"),
        ("truncated summary", "summary.json is not valid JSON", "again"),
        ("binary metrics", "metrics.jsonl is damaged", "again"),
        ("truncated metrics", "line 2 of", "again"),
        ("metrics list", "line 1 of", "again"),
        ("bad toml", "config.toml is not valid TOML", "again"),
        ("unfinished", "unfinished", "--resume"),
        ("format", "'format'", "again"),
        ("released diagnostics", "'diagnostics.released'", "again"),
        ("no-guarantee", "'guarantee' is required", "again"),
        ("summary list", "summary.json", "again"),
    ],
)
def test_damaged_folders_are_told_in_a_sentence(tmp_path: Path, how: str, names: str, step: str) -> None:
    folder = make_run(tmp_path / "run", rounds=1, tasks=2)
    _break(folder, how)
    with pytest.raises(FedprivError) as caught:
        write_report([folder])
    said = str(caught.value)
    assert caught.value.exit_code == 2
    assert names in said
    assert step in said
    assert str(folder) in said
    assert said.endswith(".")
    assert "\n" not in said


def test_a_folder_that_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        read_run(tmp_path / "nothing")
    with pytest.raises(InputError, match="is not a run folder"):
        read_run(tmp_path)


def test_numbers_in_words() -> None:
    assert [number(v) for v in (None, math.nan, math.inf, -math.inf, 3.0, 500_000, 0.41234567)] == [
        *("–", "–", "∞", "−∞", "3", "500 000", "0.4123")
    ]
    assert [delta_text(v) for v in (1e-5, 2.5e-7, 0.01, 0.0, None)] == [
        "1e-5",
        "2.5e-7",
        "0.01",
        "0",
        "not stated",
    ]
    assert [epsilon_text(v) for v in (1.99, 1.9901, 0.00421, 12.0, 0.0)] == [
        "1.99",
        "2.00",
        "0.00421",
        "12.00",
        "0",
    ]


def test_the_interval_is_students() -> None:
    found = mean_interval([1.0, 2.0, None, 3.0, 4.0, 5.0])
    assert found is not None
    assert found.mean == 3.0
    assert found.high - found.mean == pytest.approx(2.7764451 * math.sqrt(2.5 / 5), rel=1e-6)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    assert mean_interval([]) is None
    assert mean_interval([2.0]) == Interval(2.0, None, 1)


@pytest.mark.skipif(BROWSER is None, reason="needs a chromium binary")
@pytest.mark.parametrize("width", [1200, 400])
def test_a_browser_shows_the_page(usual: tuple[Path, Page], tmp_path: Path, width: int) -> None:
    shot = screenshot(usual[0] / "report.html", tmp_path, width)
    assert shot.read_bytes().startswith(b"\x89PNG")
    assert shot.stat().st_size > 50_000


def screenshot(page: Path, folder: Path, width: int, height: int = 5200) -> Path:
    """Take a picture of a page with a headless browser that talks to nobody."""
    shot = folder / f"page-{width}.png"
    command = [
        *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *(
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
        ),
        f"--user-data-dir={folder / f'profile-{width}'}",
        f"--window-size={width},{height}",
        f"--screenshot={shot}",
        page.resolve().as_uri(),
    ]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    return shot
