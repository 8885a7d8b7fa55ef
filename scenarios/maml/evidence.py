"""Regenerates the pages of docs/ on what MAML learns, from their protocols; finished runs are kept."""

from __future__ import annotations

from pathlib import Path

from fedpriv.config import apply, build_experiment, read_toml
from fedpriv.evidence import Study, collect, ending, opening, page_root, read_protocol
from fedpriv.scenarios.maml.learning import held_out_gains, learning_table, no_gain

__all__ = ["main"]

_HERE = Path(__file__).parent
_COMMON = {"run.grid": "in-process", "run.checkpoint_every": 10_000, "strategy.evaluate_every": 0}

_BOTH = """\
From each start people take one step on their shots. The pre-trained network was trained on the pooled images of the
population and gets a new last layer, which starts from zero. No noise, so no guarantee. Mean and 95% interval over
fresh seeds, each with people (and held-out classes) of its own."""


_ZERO = """\
The last layer starts from zero in every adaptation and is no part of the meta-model (`client.from_zero`). Where classes
change their names from task to task nothing else can be right, and a last layer that is learned has to find it out
([the first protocol](evidence-maml.md)). With one step from there, no rate of adaptation changes which class either
reference chooses, so the last two gains are equal: nothing was, or could be, tuned for them there."""

_STUDIES = (
    Study(
        "protocol.toml",
        "maml",
        "What MAML learns with enough rounds",
        """\
People who took no part: of classes that nobody had (mnist-long: 4 of 10 digits, images turned by quarters), or other
writers (femnist). References take the one of five rates that is best for them on these very people. That favours the
public start; the pre-trained network's last layer starts from zero, and with one step from there no rate changes which
class it chooses.""",
    ),
    Study(
        "even-protocol.toml",
        "maml-even",
        "What MAML learns where outputs start even",
        f"""\
{_ZERO}

People who took no part: of classes that nobody had (mnist-even: 4 of 10 digits; femnist-classes: 20 of 62 characters;
both turned by quarters), or other writers (femnist-even). In femnist-classes, characters that look alike (0 and O,
n and u) may lie on both sides, which favours both trained starts; [they do not here](evidence-maml-apart.md).
Report seeds score images of 6 to 15 of the 20 characters, those with most images.""",
    ),
    Study(
        "apart-protocol.toml",
        "maml-apart",
        "What MAML learns of characters without look-alikes",
        f"""\
{_ZERO}

People who took no part have 5 of 20 held-out characters, turned by quarters like all others. Characters that look
alike (in another case, in handwriting, or turned) are on one side, in groups made by eye. A person has the characters
with the most images left, so report seeds score 5 to 13 of the 20, digits above all.""",
    ),
    Study(
        "people-protocol.toml",
        "maml-people",
        "What MAML learns on the network that is attacked",
        """\
Network, inner step, people and rounds are those of [the attacks](evidence-attacks.md) on MNIST. People who took no part
have images of their own, of classes that others had, too, under names of their own. Here the last layer is learned.
References take the one of five rates that is best for them on these very people; for the pre-trained network, whose
last layer starts from zero, no rate changes which class it chooses.""",
    ),
)


def main(root: Path | None = None) -> None:
    """Run what is missing, then write the pages of docs/ on what MAML learns."""
    root = page_root(root)
    for study in _STUDIES:
        _write(study, root)


def _write(study: Study, root: Path) -> None:
    protocol = read_protocol(_HERE / study.protocol, own=("shots", "claimed"))
    wanted, claimed = (
        [(name, shots) for name, several in protocol.own[which].items() for shots in several]
        for which in ("shots", "claimed")
    )
    configs = {
        (name, f"{shots}-shot"): apply(read_toml(_HERE / f"{name}.toml"), {**_COMMON, "data.shots": shots})
        for name, shots in wanted
    }
    runs = root / "runs/evidence" / study.name
    evidence = collect(configs, protocol.report_seeds, build=build_experiment, out=runs)
    gains = {
        (name, shots): held_out_gains(runs / f"{name}-{shots}-shot/seed-{seed}" for seed in protocol.report_seeds)
        for name, shots in wanted
    }
    lines = [
        *opening(protocol, study.title, f"maml/{study.protocol}"),
        *study.explained.splitlines(),
        "",
        *_BOTH.splitlines(),
        "",
        *learning_table(gains, claimed),
        "",
        *ending(protocol, evidence, list(no_gain({one: gains[one] for one in claimed}))),
        "",
    ]
    (root / f"docs/evidence-{study.name}.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
