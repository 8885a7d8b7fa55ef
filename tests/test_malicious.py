"""The malicious meta-learner: it reads along, attacks inside the rounds, and changes nothing."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Unbending

from fedpriv import Experiment, InputError
from fedpriv.adversary import (
    Sighting,
    Watch,
    as_text,
    read_scores,
    read_sighting,
    record,
    recorded_rounds,
    results_of,
    with_watch,
)
from fedpriv.cli.attack import attack as attack_run
from fedpriv.clients import MAML, GlobalModel
from fedpriv.data import FewShot, few_shot, load
from fedpriv.errors import ComponentFailure
from fedpriv.privacy.ledger import Ledger
from fedpriv.protocol import ALL
from fedpriv.runs.checkpoint import CheckpointStore
from fedpriv.strategies import Billboard, MaliciousMetaLearner, Silent

GAMES = {"games": 5, "validation": 3, "iterations": 2}


def experiment(**changes: Any) -> Experiment:
    tasks, held_out = few_shot(
        load("digits"), FewShot(ways=3, examples=5, tasks=9, held_out=2, held_out_classes=0, seed=1)
    )
    strategy = {"clipping_norm": 2.0, "noise_multiplier": 0.5, "rounds": 4, "reply": "rows", "evaluate_every": 1}
    settings = {
        "tasks": tasks,
        "held_out": held_out,
        "model": "mlp",
        "client": MAML(queries=1, permute_labels=True),
        "strategy": Billboard(**{**strategy, **changes.pop("strategy", {})}),
        "grid": "in-process",
        "shards": 2,
        "baseline": False,
    }
    return Experiment(**{**settings, **changes})


def without_times(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_run_is_the_same_bit_by_bit_while_it_is_attacked(tmp_path: Path) -> None:
    """Done-when 1. Noise, coins, personal scores, and what every round published (by the ledger's digests)."""
    plain, attacked = experiment(), with_watch(experiment(), Watch(**GAMES, rounds=(1, 3)))
    found = []
    for name, one in (("plain", plain), ("attacked", attacked)):
        result = one.run(tmp_path / name, reproduce=5)
        ledger = Ledger(tmp_path / name / "ledger.sqlite")
        digests = [entry.digest for entry in ledger.entries(ledger.populations()[0])]
        found.append((result.billboards[ALL], digests, result.scores))
    (first, digests, scores), (second, others, again) = found
    assert len(digests) == 4
    assert digests == others
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
    for name, value in scores.items():
        np.testing.assert_array_equal(value, again[name])
    lines = [without_times(tmp_path / name / "metrics.jsonl") for name in ("plain", "attacked")]
    assert lines[0] == lines[1]
    configs = [(tmp_path / name / "config.toml").read_text() for name in ("plain", "attacked")]
    assert configs[0] == configs[1], "the strategy that ran has its own name and settings"
    results = results_of(tmp_path / "attacked")
    assert [one["round"] for one in results["attacked"]] == [1, 3]
    for name in ("query", "support"):
        assert results[name]["inversion"]["controlled"]["games"] == 5
        assert results[name]["observer"] == "server"
    assert results["auc_bound"] is None, "noise of the server bounds nothing against the server"


def test_time_of_the_attack_is_not_time_of_the_training(tmp_path: Path) -> None:
    """A listener that takes its time slows the run down, and its training by nothing."""
    strategy = MaliciousMetaLearner.around(experiment().strategy, rounds=(1, 2), listener=lambda *_: time.sleep(0.5))
    result = experiment().model_copy(update={"strategy": strategy}).run(tmp_path / "run")
    seconds = result.summary["seconds"]
    assert seconds["attack"] >= 1.0
    assert seconds["rounds"] >= 1.0 + seconds["training"]
    assert "attack" not in experiment().run(tmp_path / "plain").summary["seconds"]


def test_an_attack_shows_how_far_it_is_and_uses_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[str, int, int]] = []
    threads = set()

    def show(what: str, unit: str, done: int, total: int) -> None:
        assert unit == "batches of games"
        steps.append((what, done, total))
        threads.add(torch.get_num_threads())

    monkeypatch.setattr("fedpriv.adversary.watch.show_part", show)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        watch = Watch(**GAMES, rounds=(2,), together=4, sets=("query",), global_game=False)
        with_watch(experiment(), watch).run(tmp_path / "run")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert threads == {1}
    assert steps == [("attack in round 2, query set", done, 6) for done in range(7)]


def test_what_is_seen_is_before_the_servers_noise(tmp_path: Path) -> None:
    """The rows sum to what was published, up to the noise, and without noise exactly."""
    quiet = with_watch(experiment(strategy={"noise_multiplier": 0.0}), Watch(rounds=(2,), during=False))
    noisy = with_watch(experiment(), Watch(rounds=(2,), during=False))
    seen = []
    for name, one in (("quiet", quiet), ("noisy", noisy)):
        one.run(tmp_path / name, reproduce=5)
        assert recorded_rounds(tmp_path / name) == [2]
        seen.append(read_sighting(tmp_path / name, 2))
    from fedpriv.runs.checkpoint import CheckpointStore

    after = CheckpointStore(tmp_path / "quiet/checkpoints").load(2).billboards[ALL]
    sighting = seen[0]
    assert sighting.kind == "rows"
    assert sighting.tasks[ALL].tolist() == list(range(9))
    for name, before in sighting.billboards[ALL].items():
        moved = before + sighting.updates[ALL][name].sum(axis=0) / 9
        np.testing.assert_allclose(moved, after[name], rtol=1e-5, atol=1e-7)
    norms = np.sqrt(sum(np.square(value).reshape(9, -1).sum(axis=1) for value in seen[1].updates[ALL].values()))
    assert (norms <= 2.0 + 1e-5).all(), "noise of 1.0 in each of thousands of coordinates would show"
    private = tmp_path / "quiet/private"
    assert private.stat().st_mode & 0o077 == 0
    assert "PRIVATE" in (private / "PRIVATE.txt").read_text()


def test_sums_are_recorded_as_sums_and_say_so(tmp_path: Path, capsys: Any) -> None:
    summed = experiment(strategy={"reply": "sum"})
    with pytest.raises(InputError, match=r"strategy\.reply = 'sum' the server sees one clipped sum per node"):
        with_watch(summed, Watch(**GAMES))
    watched = with_watch(summed, Watch(rounds=(1,), during=False))
    watched.run(tmp_path / "run", reproduce=1)
    sighting = read_sighting(tmp_path / "run", 1)
    assert sighting.kind == "sum"
    assert len(next(iter(sighting.updates[ALL].values()))) == 2, "one for each node"


def test_what_was_only_recorded_is_said_to_be(tmp_path: Path) -> None:
    with_watch(experiment(), Watch(rounds=(1, 2), during=False)).run(tmp_path / "run")
    said = as_text(results_of(tmp_path / "run"))
    assert not (tmp_path / "run/private/report.html").exists()
    assert "Nothing was attacked: the rounds 1, 2 were recorded only; fedpriv attack RUN" in said
    assert "TPR" not in said


def test_a_recorded_run_stays_what_it_was(tmp_path: Path) -> None:
    with_watch(experiment(), Watch(rounds=(1,), during=False)).run(tmp_path / "run")
    with pytest.raises(InputError, match=r"only keys of \[attack\] may be set, got 'data\.name'; start a new run"):
        attack_run(tmp_path / "run", assignments=["data.name=mnist"], as_json=True)
    seen = tmp_path / "run/private/seen-000001.npz"
    seen.write_bytes(seen.read_bytes()[:500])
    with pytest.raises(ComponentFailure, match="damaged, so the rows of round 1 are lost; delete it, and run again"):
        read_sighting(tmp_path / "run", 1)


def test_sentences_name_the_section_that_users_know() -> None:
    with pytest.raises(InputError, match=r"^attack: 'labels' must be 'known' or 'counted', got 'unknown'\.$"):
        Watch(labels="unknown")  # type: ignore[arg-type]


def test_disk_is_bounded(tmp_path: Path) -> None:
    rows = {"w": np.ones((10, 100), dtype=np.float32)}
    sighting = Sighting(3, "rows", {ALL: {"w": np.zeros(100, np.float32)}}, {ALL: np.arange(10)}, {ALL: rows})
    assert record(sighting, tmp_path, 400 + 4 * 400) == 6
    back = read_sighting(tmp_path, 3)
    assert back.tasks[ALL].tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(back.updates[ALL]["w"], rows["w"][:4])
    with pytest.raises(InputError, match=r"round 4 of .* was not recorded; recorded are 3"):
        read_sighting(tmp_path, 4)


def test_any_strategy_can_be_wrapped() -> None:
    heard: list[int] = []
    silent = Silent(rounds=2)
    made = MaliciousMetaLearner.around(silent, rounds=(2,), listener=lambda seen, run: heard.append(seen.round))
    assert isinstance(made, Silent)
    assert type(made).__name__ == "Silent"
    assert made.model_dump() == silent.model_dump()
    with pytest.raises(InputError, match=r"rounds from 1 to 2, got \[3\]"):
        MaliciousMetaLearner.around(silent, rounds=(1, 3), listener=lambda seen, run: None)
    with pytest.raises(
        InputError, match=r"use MaliciousMetaLearner\.around\(strategy, \.\.\.\), or the keys of \[attack\]"
    ):
        experiment().model_copy(update={"strategy": _bare()}).run()
    strategy = MaliciousMetaLearner.around(
        experiment().strategy, rounds=(1, 3), listener=lambda seen, run: heard.append(seen.round)
    )
    experiment().model_copy(update={"strategy": strategy}).run()
    assert heard == [1, 3]


@dataclass(frozen=True)
class Scribbler:
    """Notes when it is told, and spoils all that it is shown."""

    rounds: tuple[int, ...]
    told: list[tuple[int, int, bool]] = field(default_factory=list)

    def see(self, sighting: Sighting) -> None:
        assert sighting.folder is not None
        published = CheckpointStore(sighting.folder / "checkpoints").rounds()[-1]
        shown = (*sighting.billboards.values(), *sighting.updates.values())
        whole = all(np.isfinite(value).all() for one in shown for value in one.values())
        whole &= all(len(np.unique(ids)) == len(ids) > 1 for ids in sighting.tasks.values())
        self.told.append((sighting.round, published, whole))
        for arrays in shown:
            for value in arrays.values():
                value[...] = np.nan
        for ids in sighting.tasks.values():
            ids[...] = 0


@pytest.mark.parametrize("kind", ["rows", "sum"])
def test_observers_are_told_after_the_release_and_get_copies(tmp_path: Path, kind: str) -> None:
    """Whatever they do with what they see, the run is the same to the bit; each hears of its own rounds."""
    one = experiment(strategy={"reply": kind, "sampling_rate": 0.6, "rounds": 3})
    first, second = Scribbler((1, 3)), Scribbler((3,))
    observed = one.strategy.observed_by(first).observed_by(second)
    assert one.strategy.observed_by() == one.strategy
    found = []
    for name, strategy in (("plain", one.strategy), ("observed", observed)):
        one.model_copy(update={"strategy": strategy}).run(tmp_path / name, reproduce=3)
        checkpoint = CheckpointStore(tmp_path / name / "checkpoints").load(3)
        found.append((checkpoint.digest(), {group: ids.tolist() for group, ids in checkpoint.sampled.items()}))
    assert found[0] == found[1]
    assert first.told == [(1, 1, True), (3, 3, True)]
    assert second.told == [(3, 3, True)]


def _bare() -> Any:
    return MaliciousMetaLearner(rounds=2)


def test_a_failing_attack_does_not_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="540 rows of one round, and there are 9 tasks"):
        with_watch(experiment(), Watch(games=500))
    few = experiment(strategy={"sampling_rate": 0.2, "sampling": "fixed-size"})
    with_watch(few, Watch(games=6, validation=3, rounds=(1,))).run(tmp_path / "run", reproduce=1)
    failed = results_of(tmp_path / "run")["attacked"][0]["failed"]
    assert "need 9 rows, and 2 were seen" in failed


def test_pictures_that_cannot_be_made_do_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any) -> Any:
        raise ValueError("no such picture")

    monkeypatch.setattr("fedpriv.adversary.watch.write_pictures", fails)
    with_watch(experiment(), Watch(**GAMES, rounds=(1,))).run(tmp_path / "run", reproduce=1)
    assert "no pictures of the attack in round 1: no such picture" in caplog.text
    assert results_of(tmp_path / "run")["query"]["accuracy"] >= 0


def test_a_global_game_alone_has_a_page_without_pictures(tmp_path: Path) -> None:
    with_watch(experiment(), Watch(**{**GAMES, "sets": ()}, rounds=(1,))).run(tmp_path / "run", reproduce=1)
    source = (tmp_path / "run/private/report.html").read_text()
    assert "In whose query set is it?" in source
    assert "<img" not in source


def test_models_that_cannot_be_differentiated_twice_are_refused() -> None:
    """In first order MAML itself does without; the attacks do not."""
    first = experiment(model=Unbending(), client=MAML(queries=1, order="first"))
    with pytest.raises(InputError, match="Unbending cannot be differentiated twice"):
        with_watch(first, Watch(**GAMES))


def test_protected_data_are_not_recorded(tmp_path: Path) -> None:
    from dataclasses import replace

    tasks = replace(experiment().tasks, declared="protected")
    theirs = experiment(tasks=tasks, held_out=None, population="people", ledger=tmp_path / "people.sqlite")
    with pytest.raises(InputError, match="declared protected; attack a run on benchmark data"):
        with_watch(theirs, Watch(rounds=(1,), during=False))


def test_only_meta_gradients_are_attacked() -> None:
    with pytest.raises(
        InputError,
        match=r"client 'global-model' sends something else, .* from_zero\); use the client 'maml'",
    ):
        with_watch(experiment(client=GlobalModel(), held_out=None), Watch(**GAMES))


def test_query_sets_are_not_attacked_where_arrays_start_from_zero(tmp_path: Path) -> None:
    client = MAML(queries=1, from_zero=("3.weight", "3.bias"))
    for games in ({}, {"sets": ("support",)}, {"global_game": False}):
        with pytest.raises(
            InputError, match=r"weights that start from zero \(3\.weight\) let nothing through; that protects nobody"
        ):
            with_watch(experiment(client=client), Watch(**GAMES | games))
    with_watch(experiment(client=MAML(queries=1, from_zero=("3.bias",))), Watch(**GAMES))  # biases hide nothing
    only = with_watch(experiment(client=client), Watch(**GAMES, sets=("support",), global_game=False))
    only.run(out=tmp_path / "run")
    found = results_of(tmp_path / "run")
    assert all("failed" not in one and 0 <= one["support"]["accuracy"] <= 1 for one in found["attacked"])


def test_noise_of_the_nodes_is_in_the_rows_and_bounds_the_auc(tmp_path: Path) -> None:
    local = with_watch(
        experiment(strategy={"noise_at": "node", "noise_multiplier": 4.0, "rounds": 1}), Watch(**GAMES, rounds=(1,))
    )
    local.run(tmp_path / "run", reproduce=1)
    results = results_of(tmp_path / "run")
    # mu = 2 / 4; Phi(mu / sqrt 2)
    assert results["auc_bound"] == pytest.approx(0.6382, abs=1e-4)
    for name in ("query", "support"):
        for attack in ("inversion", "score"):
            assert results[name][attack]["controlled"]["auc"]["low"] <= results["auc_bound"]


def test_the_command_attacks_a_recorded_run(tmp_path: Path, fedpriv: Any) -> None:
    sets = [
        "--set=data.examples=6", "--set=data.tasks=12", "--set=strategy.rounds=2", "--set=attack.games=8",
        "--set=attack.validation=4", "--set=attack.iterations=2", "--set=data.held_out=2",
    ]  # fmt: skip
    code, out, err = fedpriv("run", "maml-attack", *sets, "--seed=1", "--out=run", "--json")
    assert code == 0, err
    found = json.loads(out)
    for name in ("query", "support"):
        assert 0 <= found[name]["accuracy"] <= 1
        assert 0 <= found[name]["controlled_accuracy"] <= 1
    code, out, err = fedpriv("attack", "run", "--set=attack.games=6", "--set=attack.validation=6", "--json")
    assert code == 0, err
    again = json.loads(out)
    assert again["query"]["inversion"]["paper"]["games"] == 6
    assert all(Path(path).stat().st_size > 5000 for path in again["pictures"])
    page = Path("run/private/report.html")
    assert all(file.stat().st_mode & 0o077 == 0 for file in Path("run/private").iterdir())
    source = page.read_text()
    assert "Private: this page shows what tasks hold" in source
    assert source.count("data:image/svg+xml;base64,") == 4, "reconstructions and ROC of two rounds"
    assert f"{again['query']['accuracy']:.1%}" in source
    assert "6 games with a member" in source
    assert not re.search(r"https?://|<script|url\(", source)
    assert "private/report.html" in Path("run/report.html").read_text()
    code, out, err = fedpriv("attack", "run", "--set=attack.rounds=[7]")
    assert code == 2
    assert "none of the recorded rounds (1, 2)" in err
    assert fedpriv("attack", "nothing")[0] == 2
    experiment().run("unwatched", reproduce=1)
    code, _, err = fedpriv("attack", "unwatched")
    assert code == 2
    assert "holds no rows to attack" in err
    for words, part in (("data.shots=9", "shots"), ("data.ways=1", "ways"), ("attack.game=3", "games")):
        code, _, err = fedpriv("run", "maml-attack", f"--set={words}", "--out=bad")
        assert (code, part in err) == (2, True), err
        assert not Path("bad").exists()


def test_what_the_command_advises_helps(tmp_path: Path, fedpriv: Any) -> None:
    few = ["--set=data.examples=8", "--set=data.ways=3", "--set=data.tasks=8", "--set=data.held_out=2"]
    few += ["--set=data.turns=false", "--set=model.hidden=4", "--set=client.order=first"]
    few += ["--set=strategy.rounds=2", "--set=run.grid=in-process", "--set=run.report=false"]
    play = ["--set=attack.games=3", "--set=attack.validation=2", "--set=attack.iterations=1"]
    play += ["--set=attack.global_game=false", "--set=attack.sets=['query']"]

    def refused(*words: str, code: int = 2) -> str:
        found, _, err = fedpriv("attack", *words)
        assert found == code, err
        return str(err)

    assert "give the --out of a run." in refused("nowhere")
    assert fedpriv("run", "maml", *few, "--out=plain")[0] == 0
    told = refused("plain")
    assert "run it again, into another --out, with --set attack.during=false --set strategy.reply=rows." in told
    record = [f"--set={words}" for words in re.findall(r"--set (\S+=\w+)", told)]
    assert "start a new run with other settings." in refused("plain", record[1])
    assert fedpriv("run", "maml", *few, *record, "--out=seen")[0] == 0
    with pytest.raises(InputError, match=r"recorded are 1, 2: choose rounds with attack\.rounds before a run starts"):
        read_sighting(tmp_path / "seen", 3)
    told = refused("seen", *play, "--set=attack.rounds=[3]")
    (known,) = re.findall(r"recorded rounds \(([\d, ]+)\); choose among these\.", told)
    (tmp_path / "seen/private/seen-000001.npz").write_bytes(b"PK")
    assert "delete it, and run again (into another folder) to record them." in refused("seen", *play, code=4)
    (tmp_path / "seen/private/seen-000001.npz").unlink()
    with pytest.raises(
        InputError, match=r"attack\.rounds = \[2\], or with `fedpriv attack` if rows of this round were"
    ):
        read_scores(tmp_path / "seen", 2)
    code, _, err = fedpriv("attack", "seen", *play, f"--set=attack.rounds=[{known}]")
    assert code == 0, err
    assert recorded_rounds(tmp_path / "seen") == [2]
    assert list(read_scores(tmp_path / "seen", 2)) == ["query"]
    code, _, err = fedpriv("run", "maml", *few, *play, record[1], "--set=attack.rounds=[1]", "--out=again")
    assert code == 0, err
    assert read_sighting(tmp_path / "again", 1).round == 1
    assert list(read_scores(tmp_path / "again", 1)) == ["query"]


def test_the_command_does_not_advise_to_record_what_it_could_not_attack(tmp_path: Path, fedpriv: Any) -> None:
    small = ["--set=data.tasks=20", "--set=strategy.rounds=1", "--set=run.grid=in-process", "--set=run.report=false"]
    theirs = ["--set=run.declared=protected", "--set=run.population=p", "--set=run.ledger=p.sqlite"]
    for more, said in (
        ([], "from_zero); use the client 'maml'.\n"),
        (["--set=attack.during=false", "--set=strategy.reply=rows"], "from_zero); use the client 'maml'.\n"),
        (theirs, "declared protected; attack a run on benchmark data with the same settings.\n"),
    ):
        out = f"run-{len(more)}"
        assert fedpriv("run", "pmtl", *small, *more, f"--out={out}")[0] == 0
        code, _, err = fedpriv("attack", out)
        assert (code, err.endswith(said)) == (2, True), err


def test_a_run_without_a_folder_keeps_nothing() -> None:
    with_watch(experiment(), Watch(**GAMES, rounds=(1,))).run(reproduce=1)


def test_attack_needs_rows(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a run folder"):
        attack_run(tmp_path)
