"""Which parts of an experiment go together: one rule after the other, each with the sentence that refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from fedpriv.cohort import PARTS, Population, Tasks, strange_tasks
from fedpriv.names import kebab
from fedpriv.privacy.terms import Relation
from fedpriv.roster import Roster

if TYPE_CHECKING:
    from fedpriv.experiment.specification import Experiment

__all__ = ["misfits"]

Rule = Callable[["Experiment"], Iterator[str]]


def misfits(experiment: Experiment) -> Iterator[str]:
    """Yield a sentence for each thing that does not fit; a rule may rely on those before it."""
    for rule in _RULES:
        yield from rule(experiment)


def _parts(run: Experiment) -> Iterator[str]:
    if run.strategy.publishes != run.client.sends_update:
        client, strategy = kebab(type(run.client).__name__), kebab(type(run.strategy).__name__)
        verb = "sends updates" if run.client.sends_update else "sends nothing"
        other = "billboard" if run.client.sends_update else "silent"
        yield f"the client {client!r} {verb}, which the strategy {strategy!r} cannot use; use {other!r}."
    largest = None if run.policy is None else run.policy.max_clipping_norm
    run.strategy.plan.check_nodes(classes=run.tasks.num_classes is not None, largest_norm=largest)


def _protected(run: Experiment) -> Iterator[str]:
    if run.declared != "protected":
        return
    if run.population is None or run.ledger is None:
        yield "protected data spend one budget over all runs: give run.population (a name) and run.ledger (a file)."
    if not run.public_weights and _has_constants(run):
        yield (
            "the model has frozen parameters or buffers, which everybody gets as they are: set run.public_weights "
            "= true if they are public (trained on none of these people), or unfreeze them."
        )


def _budget(run: Experiment) -> Iterator[str]:
    if run.budget is None:
        if run.budget_filter != "renyi":
            yield f"budget_filter={run.budget_filter!r} cuts off a budget, and there is none; give 'budget'."
        return
    if run.budget.relation is Relation.REPLACE_ONE:
        return
    if run.strategy.plan.at_node:
        yield (
            "a budget under add/remove cannot pay for noise on the nodes, where a missing row is seen missing; "
            "set run.budget_relation = 'replace-one', or strategy.noise_at = 'server'."
        )
    if (scheme := run.strategy.plan.participation).replaces and not scheme.fixed_cohorts:
        yield (
            f"a budget under add/remove cannot pay for the scheme {kebab(type(scheme).__name__)!r}, whose 'relations' "
            "lack it; set run.budget_relation = 'replace-one'."
        )
    if scheme.fixed_cohorts:
        yield (
            "a budget under add/remove cannot pay for cohorts of fixed size, where another task takes the place of "
            "one that is removed; set run.budget_relation = 'replace-one', or strategy.sampling = 'poisson'."
        )


def _noise(run: Experiment) -> Iterator[str]:
    metrics = run.strategy.plan.metrics.metrics
    if run.client.draws_noise and metrics:
        yield (
            "tasks that add local noise hide from the server, and published metrics would send it their "
            "scores without any; leave out strategy.metrics, or the client's noise."
        )
    still, mechanism = run.client.leaves_still, run.strategy.plan.mechanism
    if still is not None and (mechanism is None or mechanism.noise_multiplier != 0.0):
        yield (
            f"{still} leaves part of the billboard as it is, and noise would move it all the same; set "
            "strategy.noise_multiplier = 0, or a rate above 0."
        )
    idle = [name for name in metrics if name.startswith("billboard.")]
    if idle and not run.client.billboard_predicts:
        yield (
            f"strategy.metrics would publish {', '.join(idle)}, at a cost, of a model that nobody uses before "
            "it is adapted (client.from_zero, client.permute_labels, client.share); publish personal.* instead."
        )


def _time(run: Experiment) -> Iterator[str]:
    if run.task_limit >= run.timeout:
        yield (
            f"a task may take {run.task_limit:g} s ('task_seconds') where its node must answer within "
            f"{run.timeout:g} s ('timeout'); raise the second, or lower the first."
        )


def _tasks(run: Experiment) -> Iterator[str]:
    run.tasks.check()
    if run.held_out is not None:
        yield from _held_out(run.tasks, run.held_out)
    # Protected values decide nothing.
    for part in PARTS if run.declared == "benchmark" and not isinstance(run.tasks, Roster) else ():
        # What fits into float64 may be infinite in the type that is computed with.
        found = strange_tasks(run.data.part(part), run.tasks.num_classes, run.torch_dtype)
        if found.any():
            yield (
                f"task {run.tasks.names[int(np.argmax(found))]!r} holds a number in its {part} part that is too "
                f"large for {run.dtype}; scale its values, or set run.dtype = 'float64'."
            )


def _held_out(tasks: Population, held_out: Tasks) -> Iterator[str]:
    """Refuse people held out who are not like the population, or belong to it."""
    if (held_out.input_shape, held_out.num_classes) != (tasks.input_shape, tasks.num_classes):
        yield (
            f"held-out people need examples of shape {tasks.input_shape} with {tasks.num_classes} classes, got "
            f"{held_out.input_shape} with {held_out.num_classes}."
        )
    held_out.check()  # after what it is compared with, which explains more
    both = set(tasks.spellings) & set(held_out.spellings)
    if both:
        yield f"held-out people take no part, but {sorted(both)[0]!r} is in the population, too; leave it out."
    kinds = (tasks.input_dtype, held_out.input_dtype)
    if kinds[0].startswith("float") != kinds[1].startswith("float"):
        yield f"held-out people need inputs of type {kinds[0]}, got {kinds[1]}; give both one type."


def _has_constants(run: Experiment) -> bool:
    if not run.own_model:
        return False
    model = run.model if isinstance(run.model, nn.Module) else run.problem().model
    return any(True for _ in model.buffers()) or not all(value.requires_grad for value in model.parameters())


_RULES: tuple[Rule, ...] = (_parts, _protected, _budget, _noise, _time, _tasks)
