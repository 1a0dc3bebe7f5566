"""The Ray cluster that scores: which one, whether it answers, and how many actors its nodes have room for."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from typing import Any

from resx.errors import MissingCapability, UsageError
from resx.machine import usable_cores
from resx.scoring.in_process import Device
from resx.serving.client.loopback import grpc_options

AUTO, LOCAL = "auto", "local"
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")
_ANSWER_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """What is asked of a cluster."""

    address: str
    """HOST:PORT of the head, `auto` (the cluster that this machine is a node of) or `local` (one made for this run)."""
    actors: int = 0
    """0: as many as the nodes have room for at the start; more than that begin when a node is added."""
    cpus: int = 1
    """Of each actor: onnxruntime's threads in it, too."""
    device: Device = "cpu"
    """cuda: a GPU for each actor."""

    def __post_init__(self) -> None:
        if self.address.startswith("ray://"):
            raise UsageError(
                f"--ray {self.address}: Ray Data does not run through Ray's client; run this on a node of the cluster "
                f"with --ray {AUTO}, by `ray job submit` for example"
            )
        if self.address not in (AUTO, LOCAL) and not _ADDRESS.fullmatch(self.address):
            raise UsageError(f"--ray {self.address}: give the head's HOST:6379, {AUTO} or {LOCAL}")

    @property
    def gpus(self) -> int:
        """Of each actor."""
        return int(self.device == "cuda")


def connect(address: str) -> None:
    """Connect this process to a cluster, or make one.

    Raises:
        MissingCapability: Ray is not installed, or no cluster answers.
    """
    # Read when Ray is imported: else its native part writes to stderr what it writes to its logs.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # A zero of GPUs shall not hide them from whoever asks: Ray says that this is to come, at every start.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingCapability(f"ray[data] is not installed ({error}); pip install 'resx[ray]'") from error
    try:
        if address == LOCAL:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(
                address=address,
                num_cpus=usable_cores(),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
            )
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as error:
        if address == AUTO:
            words = (
                "no Ray cluster runs on this machine, and RAY_ADDRESS is not set; run `ray start --head`, or give "
                "HOST:6379"
            )
        else:
            words = f"{last_line(error)}; run `ray status` on its nodes"
        raise MissingCapability(f"--ray {address}: {words}") from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False


def require_answer(address: str) -> None:
    """Check that something answers: Ray itself goes on asking for minutes, and then ends the process.

    Raises:
        MissingCapability: nothing does.
    """
    if address in (AUTO, LOCAL) or os.environ.get("RAY_USE_TLS", "0") != "0":
        return
    import grpc

    with grpc.insecure_channel(address, options=grpc_options(address)) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=_ANSWER_S)
        except grpc.FutureTimeoutError:
            raise MissingCapability(
                f"--ray {address}: no Ray cluster answers there; start one (`ray start --head`), or give the head's "
                "HOST:6379"
            ) from None


def live_nodes() -> dict[str, dict[str, float]]:
    """Return the resources of the nodes that are alive."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}


def actors_on(resources: dict[str, float], pool: Pool) -> int:
    """Return how many actors a node can hold when nobody else uses it."""
    room = int(resources.get("CPU", 0)) // pool.cpus
    return min(room, int(resources.get("GPU", 0))) if pool.gpus else room


def explain_no_room(nodes: dict[str, dict[str, float]], pool: Pool) -> str:
    """Return why none of the nodes holds an actor."""
    wanted = f"{pool.cpus} CPU{'s' * (pool.cpus != 1)}" + " and a GPU" * pool.gpus
    most = ", ".join(f"{int(one.get('CPU', 0))} CPUs and {int(one.get('GPU', 0))} GPUs" for one in nodes.values())
    return f"--ray {pool.address}: no node has {wanted} for an actor, they have {most}; add a node, or request less"


def last_line(error: Exception) -> str:
    """Return what an error says; Ray's errors bring a traceback along, whose last line it is."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
