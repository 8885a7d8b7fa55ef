"""pfl-research: FedAvg on its `SimulatedBackend` with a central Gaussian mechanism, in its own environment.

Generous to pfl: every user's data set is made once, in the order of the mini-batches, so that pfl cuts it once and then
hands out views (its own cache); users are not evaluated in measured rounds; metrics are not printed.
"""

from __future__ import annotations

import os
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from pfl.privacy import CentrallyAppliedPrivacyMechanism, GaussianMechanism
from torch import Tensor, nn

from benchmarks.data import Data
from benchmarks.outcome import Outcome, cpu_seconds
from benchmarks.work import Work

__all__ = ["run_pfl"]

_NEVER = 10**9


class _Network(nn.Module):
    """The network with the two methods that pfl asks for."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.network = work.network()

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.network(inputs), targets)

    @torch.no_grad()
    def metrics(self, inputs: Tensor, targets: Tensor) -> dict[str, Weighted]:
        return {"loss": Weighted(self.loss(inputs, targets).item() * len(targets), len(targets))}


class _Clock(TrainingProcessCallback):
    """Stamps the end of every round."""

    def __init__(self, root: int) -> None:
        self.root = root
        self.ends: list[float] = []
        self.used: list[float] = []
        self.stamp()

    def stamp(self) -> None:
        self.used.append(cpu_seconds(self.root))
        self.ends.append(time.perf_counter())

    def after_central_iteration(
        self,
        aggregate_metrics: Metrics,  # noqa: ARG002
        model: PyTorchModel,  # noqa: ARG002
        *,
        central_iteration: int,  # noqa: ARG002
    ) -> tuple[bool, Metrics]:
        self.stamp()
        return False, Metrics()


def _users(work: Work, directory: Path, *, cached: bool) -> FederatedDataset:
    data = Data.open(work, directory)
    order = data.batches(1)

    def make(task: int) -> PyTorchTensorDataset:
        rows = order[task].reshape(-1)
        parts = (torch.from_numpy(data.inputs[task][rows]), torch.from_numpy(data.targets[task][rows]))
        return PyTorchTensorDataset(parts, user_id=str(task))

    sampler = get_user_sampler("minimize_reuse", list(range(work.tasks)))
    return FederatedDataset(lru_cache(maxsize=None)(make) if cached else make, sampler)


def run_pfl(
    work: Work,
    directory: Path,
    *,
    rounds: int,
    warm_up: int,
    processes: int,
    threads: int = 1,
    cached: bool = True,
    optimizer: str = "default",
) -> tuple[Outcome, dict[str, np.ndarray[Any, Any]]]:
    """Run the work; with several processes, torchrun started each of them and rank 0 reports."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    np.random.seed(work.seed)  # pfl's processes must draw the same users and the same noise
    options = {} if optimizer == "default" else {optimizer: True}
    network = _Network(work)
    model = PyTorchModel(
        network,
        lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, **options),
        torch.optim.SGD(network.parameters(), lr=1.0),
    )
    users = _users(work, directory, cached=cached)
    mechanism = CentrallyAppliedPrivacyMechanism(GaussianMechanism(work.clipping_norm, work.noise_multiplier))
    # The CPU time of the other processes counts, too: they and this one are children of torchrun.
    clock = _Clock(os.getppid() if processes > 1 else os.getpid())
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=warm_up + rounds,
            evaluation_frequency=_NEVER,  # the first round, number 0, is evaluated all the same
            train_cohort_size=work.tasks,
            val_cohort_size=None,
        ),
        SimulatedBackend(users, users, postprocessors=[mechanism]),
        model,
        NNTrainHyperParams(
            local_num_epochs=1,  # a user's data set holds as many examples as the steps use
            local_learning_rate=work.learning_rate,
            local_batch_size=work.batch_size,
        ),
        callbacks=[clock],
        send_metrics_to_platform=False,
    )
    seconds = np.diff(clock.ends)[warm_up:].tolist()
    outcome = Outcome(seconds, work.tasks, clock.used[-1] - clock.used[warm_up])
    arrays = {name: value.detach().numpy() for name, value in network.network.named_parameters()}
    return outcome, arrays
