"""The rival's side: Flower's stock Ray simulation engine, timed inside its ServerApp."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
    Strategy,
)
from flwr.simulation import run_simulation

from benchmarks.outcome import Outcome, cpu_seconds
from benchmarks.sides.flower_client import CLIENTS
from benchmarks.work import Work
from fedpriv.privacy.entropy import SystemEntropy
from fedpriv.privacy.ledger import Ledger
from fedpriv.privacy.mechanisms import Release, gaussian_sum
from fedpriv.protocol import ALL

__all__ = ["Clipping", "run_flower"]

Clipping = Literal["server", "client", "own"]
_POPULATION = "benchmark"


@dataclass(frozen=True)
class _Plan:
    """Rounds to warm up and to measure, and how many tasks take part in them."""

    warm_up: int
    warm_up_tasks: int
    rounds: int
    round_tasks: int


class _Cohort(FedAvg):
    """FedAvg over as many tasks as the plan says."""

    def __init__(self, work: Work, plan: _Plan) -> None:
        super().__init__(fraction_train=1e-9, fraction_evaluate=0.0, min_available_nodes=work.tasks)
        self.plan = plan

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        plan = self.plan
        self.min_train_nodes = plan.round_tasks if server_round > plan.warm_up else plan.warm_up_tasks
        return super().configure_train(server_round, arrays, config, grid)


class _SumOfClipped(_Cohort):
    """Sum drifts that the clients clipped, add noise, divide by the public number of tasks, step."""

    def __init__(self, work: Work, plan: _Plan) -> None:
        super().__init__(work, plan)
        self.work = work
        self.entropy = SystemEntropy()
        self.model: dict[str, np.ndarray[Any, Any]] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.model = {name: value.numpy() for name, value in arrays.items()}
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        totals = {name: np.zeros(value.shape) for name, value in self.model.items()}
        for reply in replies:
            if reply.has_error():
                raise RuntimeError(reply.error.reason)
            for name, value in reply.content.array_records["arrays"].items():
                totals[name] += value.numpy()
        noisy = gaussian_sum(
            list(totals.values()),
            self.work.clipping_norm,
            self.work.noise_multiplier,
            self.entropy,
            server_round,
            ALL,
        )
        stepped = {
            name: (value + total / self.work.tasks).astype(value.dtype)
            for (name, value), total in zip(self.model.items(), noisy, strict=True)
        }
        return ArrayRecord({name: Array(value) for name, value in stepped.items()}), None


@dataclass
class _TimedStrategy(Strategy):
    """Stamps the rounds of another strategy, and charges the ledger before the next round may start."""

    inner: Strategy
    ledger: Ledger
    release: Release
    started: dict[int, float] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    used: dict[int, float] = field(default_factory=dict)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.used.setdefault(server_round - 1, cpu_seconds())
        self.started[server_round] = time.perf_counter()
        return self.inner.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        arrays, metrics = self.inner.aggregate_train(server_round, replies)
        if arrays is None:
            raise RuntimeError(f"no model came out of round {server_round}")
        self.ledger.charge(_POPULATION, "flower", server_round, ALL, self.release)
        self.seconds[server_round] = time.perf_counter() - self.started[server_round]
        self.used[server_round] = cpu_seconds()
        return arrays, metrics

    def configure_evaluate(
        self,
        server_round: int,  # noqa: ARG002
        arrays: ArrayRecord,  # noqa: ARG002
        config: ConfigRecord,  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Iterable[Message]:
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:  # noqa: ARG002
        return None

    def summary(self) -> None:
        """Say nothing."""


def _ledger(work: Work, directory: Path) -> Ledger:
    ledger = Ledger(directory / "flower-ledger.sqlite")
    ledger.register(_POPULATION, fingerprint="synthetic", num_tasks=work.tasks, declared="benchmark")
    return ledger


def _strategy(work: Work, clipping: Clipping, plan: _Plan) -> Strategy:
    if clipping == "own":
        return _SumOfClipped(work, plan)
    inner = _Cohort(work, plan)
    if clipping == "server":
        return DifferentialPrivacyServerSideFixedClipping(inner, work.noise_multiplier, work.clipping_norm, work.tasks)
    return DifferentialPrivacyClientSideFixedClipping(inner, work.noise_multiplier, work.clipping_norm, work.tasks)


def run_flower(
    work: Work,
    directory: Path,
    *,
    rounds: int,
    warm_up: int,
    warm_up_tasks: int,
    clipping: Clipping,
    num_cpus: float,
    round_tasks: int | None = None,
) -> tuple[Outcome, dict[str, np.ndarray[Any, Any]]]:
    """Run the work on Flower's engine; return the times of the measured rounds and the last global model."""
    logging.getLogger("flwr").setLevel(logging.ERROR)  # it logs a line per client otherwise
    release = Release(
        noise_multiplier=work.noise_multiplier, sampling_name="full", rate=1.0, clipping_norm=work.clipping_norm
    )
    plan = _Plan(warm_up, warm_up_tasks, rounds, round_tasks or work.tasks)
    measured = _TimedStrategy(_strategy(work, clipping, plan), _ledger(work, directory), release)
    server, last = ServerApp(), ArrayRecord()

    @server.main()
    def _main(grid: Grid, context: Context) -> None:  # noqa: ARG001
        nonlocal last
        result = measured.start(
            grid,
            ArrayRecord(work.network().state_dict()),
            num_rounds=warm_up + rounds,
            train_config=ConfigRecord({"directory": str(directory), "work": json.dumps(asdict(work))}),
        )
        last = result.arrays

    run_simulation(
        server,
        CLIENTS[clipping],
        num_supernodes=work.tasks,
        backend_config={
            "init_args": {"num_gpus": 0, "include_dashboard": False, "_metrics_export_port": 0},
            "client_resources": {"num_cpus": num_cpus, "num_gpus": 0.0},
        },
    )
    seconds = [measured.seconds[number] for number in range(warm_up + 1, warm_up + rounds + 1)]
    used = measured.used[warm_up + rounds] - measured.used[warm_up]
    return Outcome(seconds, plan.round_tasks, used), {name: value.numpy() for name, value in last.items()}
