import os

import pytest

from rust_optuna import cgroup, machine
from rust_optuna.fleet import devices
from rust_optuna.fleet.devices import DeviceChoice


@pytest.fixture
def group(tmp_path, monkeypatch):
    """This process lies in the group /pod/container; returns a function that writes a file of a group."""
    root = tmp_path / "cgroup"
    membership = tmp_path / "membership"
    membership.write_text("0::/pod/container\n")
    monkeypatch.setattr(cgroup, "ROOT", root)
    monkeypatch.setattr(cgroup, "MEMBERSHIP", membership)

    def write(path, text):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)

    return write


def test_without_control_groups_there_is_no_limit(group):
    assert cgroup.cpu_quota() is None
    assert cgroup.memory_left() is None


def test_the_tightest_quota_of_all_groups_holds(group):
    group("pod/container/cpu.max", "max 100000\n")
    assert cgroup.cpu_quota() is None
    group("pod/cpu.max", "150000 100000\n")
    group("cpu.max", "800000 100000\n")
    assert cgroup.cpu_quota() == 1.5


def test_a_container_that_sees_only_its_own_group_finds_its_quota(group):
    group("cpu.max", "50000 100000\n")
    assert cgroup.cpu_quota() == 0.5


@pytest.mark.parametrize(("quota", "cores"), [("50000", 1), ("150000", 1), ("250000", 2), ("6400000", 4), ("max", 4)])
def test_a_quota_limits_the_cores_that_workers_divide(group, monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    group("cpu.max", f"{quota} 100000\n")
    assert machine.cpu_cores() == cores


def test_files_read_and_not_used_lately_count_as_free_memory(group):
    group("pod/container/memory.max", "max\n")
    group("pod/container/memory.current", "700\n")
    assert cgroup.memory_left() is None
    group("pod/memory.max", "1000\n")
    group("pod/memory.current", "900\n")
    group("pod/memory.stat", "anon 500\nfile 400\ninactive_file 300\n")
    assert cgroup.memory_left() == 400


def test_no_more_workers_are_started_than_fit_into_the_containers_memory(group, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    monkeypatch.setattr(devices, "gpus", list)
    group("memory.max", str(int(3.5 * devices.WORKER_GIGABYTES * 2**30)))
    group("memory.current", "0")
    assert len(DeviceChoice("all", None).devices()) <= 3
