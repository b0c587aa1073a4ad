"""Workers that Ray places over nodes: a real cluster of several nodes, all on 127.0.0.1."""

import importlib.util
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from rust_optuna.errors import MissingExtraError, RetiredError, RustOptunaError
from rust_optuna.fleet.devices import DeviceChoice
from rust_optuna.fleet.ray import cluster as ray_cluster
from rust_optuna.fleet.ray import slots as ray_engine
from rust_optuna.fleet.service import start_workers
from rust_optuna.fleet.workers import Workers
from rust_optuna.search.studies import load_study
from rust_optuna.storage.roster import list_workers
from rust_optuna.storage.site import Site
from tests.stand_ins import GATE
from tests.studies import (
    REPOSITORY,
    assert_in_step,
    attempts,
    make_study,
    points,
    random_document,
    site_of,
    wait_until,
)

REASON = "Ray is not installed (extra ray)"
without_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason=REASON)


def needs_ray(function):
    """Mark a test that needs Ray. None may import it before the cluster's settings stand: Ray reads them once."""
    return pytest.mark.ray(without_ray(function))


MEBIBYTE = 2**20
SETTINGS = {
    # A dead node is noticed within a few seconds; a slow one has time to answer.
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "prestart_worker_first_driver": False,
    "enable_worker_prestart": False,
}


class Nodes:
    """A cluster whose first node runs no workers."""

    def __init__(self, folder):
        from ray.cluster_utils import Cluster

        self.common = {"node_ip_address": "127.0.0.1", "object_store_memory": 80 * MEBIBYTE}
        first = {"num_cpus": 0, "memory": 500 * MEBIBYTE, "temp_dir": folder, "include_dashboard": False}
        self.cluster = Cluster(
            initialize_head=True, head_node_args={**self.common, **first, "_system_config": SETTINGS}
        )
        self.workers = []

    def ensure(self, count):
        """Let there be so many nodes with room for two workers each, and what they take for a GPU."""
        while len(self.workers) < count:
            room = {"num_cpus": 2, "num_gpus": 1, "memory": 2 * ray_cluster.WORKER_BYTES}
            self.workers.append(self.cluster.add_node(**self.common, **room))

    def kill(self, node_id):
        """Kill a node's processes, as a power cut would."""
        node = next(node for node in self.workers if node._node_id == node_id)
        self.workers.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def nodes():
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray-") as folder:
        for name, value in {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "tests" * 8,
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_TMPDIR": folder,
            # Workers on the nodes import the stand-ins.
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
        }.items():
            patch.setenv(name, value)
        temporary = Path(folder) / "ray"
        temporary.mkdir()
        made = Nodes(str(temporary))
        try:
            yield made
        finally:
            made.cluster.shutdown()


class Events(logging.Handler):
    """What the supervisor says, as it says it."""

    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)

    def of(self, event):
        return [record for record in list(self.records) if getattr(record, "event", None) == event]


@pytest.fixture
def events():
    handler, logger = Events(), logging.getLogger("rust_optuna")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def search_on(nodes, database, home, study, objective, *, workers, gpus="none", per_gpu=None):
    """Run workers until the study is done."""
    with ray_cluster.ray_engine(
        database.url, DeviceChoice(gpus, workers, per_gpu), address=nodes.cluster.address
    ) as engine:
        how = Workers(engine.devices, make_slot=engine.make_slot, objective=f"tests.stand_ins:{objective}")
        return start_workers(database, site_of(home, database.url), [study.name], how)


def holders(database):
    """Return the workers that are running a point."""
    return [worker.worker for worker in list_workers(database) if worker.study is not None]


def has_ended(pid):
    return not Path(f"/proc/{pid}").exists()


@needs_ray
@pytest.mark.parametrize("backend", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def test_a_node_killed_in_mid_search_costs_no_point(nodes, backend, request, home, tmp_path, monkeypatch, events):
    """A file and a server: what tells the servers apart is the ledger's business, and tested there."""
    database = request.getfixturevalue(backend)
    nodes.ensure(2)
    gate = tmp_path / "gate"
    gate.mkdir()
    study = make_study(database, home, random_document(16))
    # The nodes' environment was fixed when they started; a worker's is given to it.
    given = Site.environment
    monkeypatch.setattr(Site, "environment", lambda *about, **how: {**given(*about, **how), GATE: str(gate)})
    killed = []

    def disturb():
        try:
            wait_until(lambda: len(holders(database)) == 2, 120)
            wait_until(lambda: len(events.of("placed")) == 2)
            placed = {record.worker: record for record in events.of("placed")}
            victim = placed[holders(database)[0]]
            nodes.kill(victim.node)
            killed.append(victim)
            wait_until(lambda: len(events.of("placed")) == 3, 120)
        finally:
            (gate / "open").touch()

    thread = threading.Thread(target=disturb, daemon=True)
    thread.start()
    ended = search_on(nodes, database, home, study, "gated", workers=2)
    thread.join(10)

    assert ended.stopped_by is None
    assert not ended.holes
    assert load_study(database, study.name).state == "done"
    assert [row.state for row in points(database, study)] == ["complete"] * 16
    made = attempts(database, study)
    assert sorted(row.point for row in made if row.outcome == "complete") == list(range(16))
    lost = [row for row in made if row.outcome != "complete"]
    assert [(row.worker, row.outcome in ("lost", "released")) for row in lost] == [(killed[0].worker, True)]
    assert_in_step(database, study)
    first, second, replacement = events.of("placed")
    assert {first.node, second.node} == {killed[0].node, replacement.node}
    assert [record.deaths for record in events.of("died")] == [0]
    wait_until(lambda: has_ended(killed[0].pid))


@needs_ray
def test_a_worker_that_dies_is_replaced_on_the_gpu_that_ray_gives_it_and_its_point_waits_at_once(
    nodes, sqlite, home, events
):
    nodes.ensure(1)
    study = make_study(sqlite, home, random_document(4))
    search_on(nodes, sqlite, home, study, "dying_once", workers=1, gpus="all", per_gpu=2)
    lost, complete = attempts(sqlite, study, 2)
    assert (lost.outcome, complete.outcome) == ("lost", "complete")
    assert lost.reason == "the worker died with exit code 9"
    assert [record.deaths for record in events.of("died")] == [1]
    assert [record.device for record in events.of("placed")] == ["0", "0"]
    assert_in_step(sqlite, study)


@needs_ray
def test_workers_that_meet_the_same_error_again_and_again_are_given_up(nodes, sqlite, home, events):
    nodes.ensure(1)
    study = make_study(sqlite, home, random_document(2))
    with pytest.raises(RetiredError, match="All workers died"):
        search_on(nodes, sqlite, home, study, "breaking", workers=1)
    assert len(events.of("retired")) == 1
    assert [row.state for row in points(sqlite, study)] == ["waiting"] * 2


@needs_ray
def test_a_worker_on_another_machine_is_refused_an_sqlite_file(nodes, sqlite, home, monkeypatch):
    nodes.ensure(1)
    study = make_study(sqlite, home, random_document(2))
    monkeypatch.setattr(ray_engine.platform, "node", lambda: "elsewhere")
    with pytest.raises(RustOptunaError, match="cannot share the SQLite file of elsewhere"):
        search_on(nodes, sqlite, home, study, "peak", workers=1)
    assert not [row for row in points(sqlite, study) if row.state == "running"]


DRIVER = """
import sys
from rust_optuna.paths import Home
from rust_optuna import logs
from rust_optuna.fleet.devices import DeviceChoice
from rust_optuna.fleet.service import start_workers
from rust_optuna.fleet.workers import Workers
from rust_optuna.fleet.ray.cluster import ray_engine
from rust_optuna.storage.site import Site
from rust_optuna.storage.database import open_database
from rust_optuna.storage.url import parse_url

logs.configure("json")
home = Home.find()
with open_database(parse_url(sys.argv[1], home)) as database:
    with ray_engine(database.url, DeviceChoice("none", 1)) as engine:
        how = Workers(engine.devices, make_slot=engine.make_slot, objective="tests.stand_ins:gated")
        ended = start_workers(database, Site(home, sys.argv[1]), [], how)
print("stopped by", ended.stopped_by)
"""


def listening_addresses():
    """Return each listening TCP socket of this machine: its inode and address."""
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                found[words[9]] = words[1].partition(":")[0]
    return found


def sockets_of(session):
    """Return the inodes of the sockets of every process that a driver or its children started."""
    inodes = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"RAY_TEST_SESSION={session}".encode() not in (folder / "environ").read_bytes():
                continue
            names = [os.readlink(each) for each in (folder / "fd").iterdir()]
        except OSError:
            continue  # it has ended
        inodes |= {name[8:-1] for name in names if name.startswith("socket:[")}
    return inodes


@needs_ray
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's /proc")
def test_a_cluster_of_its_own_listens_on_127_0_0_1_only_and_stops_in_good_order(sqlite, home, sqlite_url, tmp_path):
    gate = tmp_path / "gate"
    gate.mkdir()
    study = make_study(sqlite, home, random_document(2))
    environment = {**os.environ, "RUST_OPTUNA_HOME": str(home.root), GATE: str(gate), "RAY_TEST_SESSION": tmp_path.name}
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    for name in [name for name in environment if name.startswith("RAY_") and name != "RAY_TEST_SESSION"]:
        del environment[name]
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, sqlite_url],
        env=environment,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_until(lambda: list(gate.iterdir()) or driver.poll() is not None, 90)
        listening = listening_addresses()
        ours = {listening[inode] for inode in sockets_of(tmp_path.name) if inode in listening}
        driver.send_signal(signal.SIGTERM)
        output, _ = driver.communicate(timeout=60)
    finally:
        driver.kill()
    assert driver.returncode == 0, output
    assert "stopped by" in output, output
    assert '"event": "placed"' in output
    assert ours, output
    assert ours <= {"0100007F", "0000000000000000FFFF00000100007F"}
    assert [row.state for row in points(sqlite, study)] == ["waiting"] * 2
    assert [row.outcome for row in attempts(sqlite, study)] == ["released"]
    assert_in_step(sqlite, study)
    wait_until(lambda: not sockets_of(tmp_path.name))


def cluster_of(*resources):
    return SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": each} for each in resources])


GIBIBYTES = {"memory": 64 * 2**30}


@pytest.mark.parametrize(
    ("workers", "per_gpu", "gpus", "count", "needs"),
    [
        (None, None, "all", 6, {"num_gpus": 1.0, "num_cpus": 0}),
        (None, 2, "all", 12, {"num_gpus": 0.5, "num_cpus": 0}),
        (9, None, "all", 9, {"num_gpus": 0.5, "num_cpus": 0}),
        (2, None, "all", 2, {"num_gpus": 1.0, "num_cpus": 0}),
        (None, None, "none", 12, {"num_cpus": 1, "num_gpus": 0, "memory": ray_cluster.WORKER_BYTES}),
    ],
)
def test_workers_take_gpus_where_there_are_any_else_cores_as_far_as_memory_goes(
    sqlite, workers, per_gpu, gpus, count, needs
):
    ray = cluster_of({"CPU": 8.0, "GPU": 2.0, **GIBIBYTES}, {"CPU": 32.0, "GPU": 4.0, "memory": 6.5 * 2**30})
    engine = ray_cluster._engine(ray, sqlite.url, DeviceChoice(gpus, workers, per_gpu))
    assert len(engine.devices) == count
    assert engine.make_slot.keywords["needs"] == needs


def test_a_cluster_without_room_is_refused_unless_workers_shall_wait(sqlite):
    with pytest.raises(RustOptunaError, match="no room"):
        ray_cluster._engine(cluster_of({"CPU": 4.0, "memory": 2.0**30}), sqlite.url, DeviceChoice())
    assert len(ray_cluster._engine(cluster_of({}), sqlite.url, DeviceChoice(workers=3)).devices) == 3


def test_gpus_cannot_be_chosen_by_number(sqlite):
    with (
        pytest.raises(RustOptunaError, match="Ray chooses the GPUs"),
        ray_cluster.ray_engine(sqlite.url, DeviceChoice("0,1")),
    ):
        pass


def test_missing_ray_names_the_extra(sqlite, monkeypatch):
    monkeypatch.setattr(ray_cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"\[ray\]"), ray_cluster.ray_engine(sqlite.url, DeviceChoice()):
        pass


@needs_ray
@pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH_9.6\r\n", b""], ids=["other words", "silence"])
def test_a_port_on_which_something_else_listens_is_told_at_once(monkeypatch, greeting):
    monkeypatch.setattr(ray_cluster, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("", 0)) as listener:  # Ray may take 127.0.0.1 for the outward address

        def answer():
            with listener.accept()[0] as caller, suppress(ConnectionResetError):
                caller.sendall(greeting)
                while caller.recv(64):
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        joining = ray_cluster.ray_engine(sa.make_url("sqlite://"), DeviceChoice(), address=address)
        with pytest.raises(RustOptunaError, match="is not the head of a Ray cluster"), joining:
            pass
        thread.join()
