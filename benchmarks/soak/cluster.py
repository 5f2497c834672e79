"""A Ray cluster of one node on this machine, for all commands of a soak: its address out; ended with all of its processes."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from .strikes import descendants

STORE = 80 * 2**20
"""bytes of the object store, about the least that Ray takes"""
VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_raylet_start_wait_time_s": "120",
    "OMP_NUM_THREADS": "1",
}


def is_installed() -> bool:
    try:
        import ray  # noqa: F401
    except ImportError:
        return False
    return True


@contextmanager
def cluster(folder: Path, variables: Mapping[str, str]) -> Iterator[str]:
    """Begin one that keeps its files in ``folder``; its processes have these environment variables."""
    os.environ.update({**VARIABLES, **variables})
    from ray.cluster_utils import Cluster

    # It is told its ports: a node that chooses them gives up when its agents take more than 15 s to do so.
    names = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {name: one.getsockname()[1] for name, one in zip(names, sockets, strict=True)}
    for one in sockets:
        one.close()
    node = {"num_cpus": 2, "object_store_memory": STORE, "temp_dir": str(folder), "include_dashboard": False, **ports}
    before = set(descendants(os.getpid()))
    started = Cluster(initialize_head=True, head_node_args=node)
    try:
        yield started.address
    finally:
        processes = set(descendants(os.getpid())) - before
        started.shutdown()
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
