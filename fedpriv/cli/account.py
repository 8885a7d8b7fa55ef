"""``fedpriv account``: how much privacy, for how much noise, over how many rounds, with how many tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fedpriv.cli.options import JsonFlag, path_option, say, say_json

__all__ = ["account"]


def account(
    epsilon: Annotated[float | None, typer.Option(help="What all rounds together may cost.")] = None,
    noise_multiplier: Annotated[float | None, typer.Option(help="Noise, in clipping norms.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Number of releases.")] = None,
    sampling_rate: Annotated[float | None, typer.Option(help="Probability that a task takes part in a round.")] = None,
    cohort: Annotated[int | None, typer.Option(help="Tasks in a round, instead of a rate.")] = None,
    population: Annotated[int | None, typer.Option(help="Number of tasks.")] = None,
    delta: Annotated[float | None, typer.Option(help="Delta; 1/(100 population) unless given.")] = None,
    sampling: Annotated[
        # The last is the name of the third until version 0.1.
        Literal["poisson", "fixed-size", "fixed-size-unamplified", "full", "fixed-size-counted"],
        typer.Option(help="How tasks are chosen; 'unamplified': every round counts in full."),
    ] = "poisson",
    relation: Annotated[
        Literal["add-remove", "replace-one"] | None,
        typer.Option(help="Neighbouring relation; add-remove where it holds, unless given."),
    ] = None,
    observer: Annotated[
        Literal["public", "coalition", "server", "experimenter"],
        typer.Option(help="Who looks: public at billboards, coalition at personal models, server at rows."),
    ] = "public",
    noise_at: Annotated[Literal["server", "node"], typer.Option(help="Where the noise is added.")] = "server",
    tasks_per_person: Annotated[int, typer.Option(help="Show also what a person with so many tasks spends.")] = 1,
    figure: Annotated[Path | None, path_option("Draw epsilon over the rounds (.svg or .png).")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Solve for epsilon, the noise multiplier, rounds, the sampling rate or the number of tasks: leave one out."""
    from fedpriv.cli.account_figure import check_file, write_figure
    from fedpriv.cli.account_words import as_json as to_json
    from fedpriv.cli.account_words import as_text
    from fedpriv.privacy.account import Account
    from fedpriv.privacy.solve import solve
    from fedpriv.privacy.terms import NoiseAt, Observer, Relation

    question = Account(
        epsilon=epsilon,
        noise_multiplier=noise_multiplier,
        rounds=rounds,
        sampling_rate=sampling_rate,
        cohort=cohort,
        population=population,
        delta=delta,
        sampling=sampling,
        relation=None if relation is None else Relation(relation.replace("add-", "add/")),
        observer=Observer(observer),
        noise_at=NoiseAt(noise_at),
        tasks_per_person=tasks_per_person,
    )
    if figure is not None:
        check_file(figure)
    answer = solve(question)
    if as_json:
        say_json({**to_json(answer), **({} if figure is None else {"figure": str(figure)})})
    else:
        say(as_text(answer))
    if figure is not None:
        write_figure(answer, figure)
        if not as_json:
            say(f"wrote {figure}")
