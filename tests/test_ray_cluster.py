"""A Ray cluster of two nodes on this machine: shards on both, and one node lost in the middle of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import personal, same

from fedpriv.runtime.ray_grid import RayGrid


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_lost_node_of_a_cluster_is_survived(tmp_path: Path, monkeypatch: Any) -> None:
    from ray.cluster_utils import Cluster

    reference = personal().run(reproduce=6)
    quiet = {"num_cpus": 1, "num_gpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**quiet, "num_cpus": 2})
    try:
        second: Any = cluster.add_node(**quiet)
        original, lost, homes = RayGrid.deliver, [], set()

        def deliver(self: RayGrid, messages: Any, timeout: Any) -> Any:
            if messages[0].metadata.group_id == "6" and not lost:
                import ray

                homes.update(
                    ray.get(actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()))
                    for actor in self.actors.values()
                )
                lost.append(second)
                cluster.remove_node(second)
            return original(self, messages, timeout)

        monkeypatch.setattr(RayGrid, "deliver", deliver)
        result = personal(grid="ray", shards=2, address=cluster.address).run(tmp_path / "run", reproduce=6)
    finally:
        cluster.shutdown()
    assert lost
    assert len(homes) == 2, "the shards were on both nodes"
    same(reference, result, 1e-9)
