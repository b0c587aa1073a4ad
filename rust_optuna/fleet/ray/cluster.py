"""The Ray cluster that workers run on: an existing one, or one made on this machine."""

from __future__ import annotations

import functools
import importlib.util
import logging
import math
import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL

from rust_optuna.errors import InvalidValueError, MissingExtraError, RustOptunaError
from rust_optuna.fleet import devices
from rust_optuna.fleet.devices import WORKER_GIGABYTES, Device, DeviceChoice
from rust_optuna.fleet.ray.slots import RaySlot
from rust_optuna.fleet.slot import Slot
from rust_optuna.processes import variables_set

WORKER_BYTES = int(WORKER_GIGABYTES * 2**30)
STORE_BYTES = 80 * 2**20
"""The size of Ray's object store, in which nothing is kept: about the smallest that Ray accepts."""
ANSWER_SECONDS = 10.0
"""How long a cluster's head may take to accept a connection and to send its greeting."""
SETTINGS = b"\x04"
"""The type of the frame with which each side of an HTTP/2 connection, on which Ray's gRPC runs, greets the other."""
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + SETTINGS + b"\0" * 5
"""A client's greeting: the preface of HTTP/2 and an empty settings frame."""
ADDRESS = "RAY_ADDRESS"
"""Ray's own variable for the address of a cluster."""


@dataclass(frozen=True)
class RayEngine:
    """What a supervisor needs to run its workers on a cluster.

    Args:
        devices: a description of each worker's device, for which Ray finds the real one.
        make_slot: makes a slot from its number, device and log.
    """

    devices: list[Device]
    make_slot: Callable[[int, Device, Path], Slot]


@contextmanager
def ray_engine(url: URL, choice: DeviceChoice, *, address: str | None = None) -> Iterator[RayEngine]:
    """Connect to a Ray cluster while the block runs, and yield the devices and the slots of its workers.

    Args:
        url: the URL of the database.
        choice: the devices on which workers run; Ray chooses which GPUs. If there are more workers than GPUs, they
            share the GPUs. Workers that find no room wait for it.
        address: the address of the cluster (``host:port`` or ``auto``). None means the one in RAY_ADDRESS, or if that
            is not set, a cluster of this machine alone, which listens on 127.0.0.1 only and ends with the block.

    Raises:
        MissingExtraError: Ray is not installed.
        InvalidValueError: GPUs are named by number.
        RustOptunaError: the cluster cannot be reached, or has no room at all.
    """
    if choice.gpus not in ("all", "none"):
        raise InvalidValueError(f"With Ray, --gpus takes all or none, not {choice.gpus}: Ray chooses the GPUs")
    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError("Ray", "ray")
    address = address or os.environ.get(ADDRESS)
    with _joined_cluster(address) if address else _local_cluster(choice) as ray:
        yield _engine(ray, url, choice)


def _engine(ray: Any, url: URL, choice: DeviceChoice) -> RayEngine:
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cards = 0 if choice.gpus == "none" else int(sum(resources.get("GPU", 0) for resources in alive))
    needs: Mapping[str, Any]
    if cards:
        share = choice.per_gpu or math.ceil((choice.workers or cards) / cards)
        count, name = choice.workers or cards * share, f"1/{share} GPU"
        needs = {"num_gpus": 1 / share, "num_cpus": 0}
    else:
        share = None
        needs = {"num_cpus": 1, "num_gpus": 0, "memory": WORKER_BYTES}
        count, name = choice.workers or sum(map(_room, alive)), "1 CPU"
    if not count:
        raise RustOptunaError(
            f"The Ray cluster has no room for a worker: none of its {len(alive)} nodes has a GPU, or a CPU and "
            f"{WORKER_GIGABYTES} GiB of memory. To let N workers wait for room, use --workers N"
        )
    make_slot = functools.partial(RaySlot, needs=needs, per_gpu=share, one_machine=url.get_backend_name() == "sqlite")
    return RayEngine([Device(f"Ray ({name})", {}) for _ in range(count)], make_slot)


def _room(resources: Mapping[str, float]) -> int:
    """Return how many workers fit on a node, by its processors and its memory."""
    return min(int(resources.get("CPU", 0)), int(resources.get("memory", 0) // WORKER_BYTES))


@contextmanager
def _joined_cluster(address: str) -> Iterator[Any]:
    """Connect to an existing cluster while the block runs.

    Raises:
        RustOptunaError: the cluster cannot be reached.
    """
    with variables_set({"RAY_USAGE_STATS_ENABLED": "0"}):
        import ray

        try:
            _require_answer(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        except (OSError, RuntimeError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            reason = reason.partition(". Please specify")[0].rstrip(".")  # the next sentence gives the advice
            raise RustOptunaError(
                f"The Ray cluster {address} cannot be joined: {reason}. --address takes the HOST:PORT that "
                "`ray start --head` printed; that node must be running and reachable from this machine"
            ) from error
        try:
            yield ray
        finally:
            ray.shutdown()


def _require_answer(address: str) -> None:
    """Greet a cluster's head once, because Ray itself would try for many minutes and print its own messages.

    Raises:
        OSError: nothing answers at the address, or something that does not speak gRPC, or ``auto`` finds no cluster.
        ValueError: the address is invalid.
    """
    if "://" in address:
        return  # Ray's client handles such an address, and gives up after half a minute
    from ray._private.services import canonicalize_bootstrap_address  # the only way to learn what ``auto`` stands for

    resolved = canonicalize_bootstrap_address(address)
    if resolved is not None:
        host, _, port = resolved.rpartition(":")
        if not port.isdecimal():
            raise ValueError(f"{port!r} is not a port")
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS) as head:
            if os.environ.get("RAY_USE_TLS", "0") == "0":
                _require_greeting(head)


def _require_greeting(head: socket.socket) -> None:
    """Greet a server in HTTP/2, and check the first four bytes of its answer: a frame's length and type.

    Raises:
        ConnectionError: the server does not greet in HTTP/2.
    """
    try:
        head.sendall(GREETING)
        answer = head.recv(4, socket.MSG_WAITALL)
    except OSError:
        answer = b""
    if answer[3:] != SETTINGS:
        raise ConnectionError("the server at this address is not the head of a Ray cluster")


@contextmanager
def _local_cluster(choice: DeviceChoice) -> Iterator[Any]:
    """Run a cluster of this machine alone while the block runs; it listens on 127.0.0.1 and needs a token."""
    cards = 0 if choice.gpus == "none" else len(devices.gpus())
    count = 1 if cards else len(replace(choice, gpus="none", per_gpu=None).devices())
    variables = {
        "RAY_USAGE_STATS_ENABLED": "0",
        # A worker whose keeper has died gives its point back, which it could not do if it were killed along with it.
        "RAY_kill_child_processes_on_worker_exit": "false",
        # Anyone who reaches Ray's ports can run anything as this user, and other users of this machine reach them.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # Ray replaces 127.0.0.1 by this machine's external address unless it knows that there are no other machines.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    # Ray's sockets need a short path.
    with variables_set(variables), tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        import ray

        ray.init(
            address="local",
            num_cpus=count,
            num_gpus=cards,
            _memory=max(1, count) * WORKER_BYTES,
            object_store_memory=STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
        )
        try:
            listening = {node["NodeManagerAddress"] for node in ray.nodes()}
            if listening != {"127.0.0.1"}:
                raise RuntimeError(f"Ray was loaded too early, and listens on {', '.join(sorted(listening))}")
            yield ray
        finally:
            ray.shutdown()
