import pytest

from rust_optuna.errors import RustOptunaError
from rust_optuna.run import devices


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Eight cores, memory for four workers, no GPU."""
    monkeypatch.setattr(devices, "cpu_cores", lambda: 8)
    monkeypatch.setattr(devices, "_workers_in_memory", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def fake_nvidia_smi(folder, monkeypatch, lines):
    """Put a program on the PATH that lists GPUs as nvidia-smi does."""
    listing = "\n".join(lines)
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<'END'\n{listing}\nEND\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")


def visible(slots):
    return [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots]


def test_without_a_gpu_there_is_one_worker_a_core_as_far_as_memory_allows(monkeypatch):
    assert [slot.name for slot in devices.slots("all", None)] == ["cpu"] * 4
    monkeypatch.setattr(devices, "_workers_in_memory", lambda: 99)
    assert len(devices.slots("all", None)) == 8
    monkeypatch.setattr(devices, "_workers_in_memory", lambda: 0)
    assert len(devices.slots("all", None)) == 1


def test_a_worker_on_the_processor_sees_no_gpu():
    assert visible(devices.slots("none", 2)) == ["-1", "-1"]


@pytest.mark.parametrize(("workers", "threads"), [(1, "8"), (2, "4"), (3, "2"), (20, "1")])
def test_workers_divide_the_cores(workers, threads):
    for slot in devices.slots("none", workers):
        assert {value for name, value in slot.environment.items() if name.endswith("THREADS")} == {threads}


def test_every_gpu_gets_a_worker(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5,GPU-7f")
    slots = devices.slots("all", None)
    assert visible(slots) == ["2", "5", "GPU-7f"]
    assert [slot.name for slot in slots] == ["gpu 2", "gpu 5", "gpu GPU-7f"]


def test_more_workers_than_gpus_share_them_in_turn(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert visible(devices.slots("all", 5)) == ["0", "1", "0", "1", "0"]
    assert visible(devices.slots("1", 2)) == ["1", "1"]


def test_gpus_are_counted_by_nvidia_smi_where_none_are_named(tmp_path, monkeypatch):
    fake_nvidia_smi(tmp_path, monkeypatch, ["GPU 0: A (UUID: GPU-a)", "  MIG 1g", "GPU 1: B (UUID: GPU-b)"])
    assert devices.gpus() == ["0", "1"]
    assert visible(devices.slots("all", None)) == ["0", "1"]


def test_a_machine_whose_nvidia_smi_finds_nothing_has_no_gpu(tmp_path, monkeypatch):
    fake_nvidia_smi(tmp_path, monkeypatch, ["NVIDIA-SMI has failed"])
    assert devices.gpus() == []


def test_no_gpu_is_used_where_none_is_asked_for_or_hidden(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert visible(devices.slots("none", None)) == ["-1"] * 4
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert devices.gpus() == []


@pytest.mark.parametrize(("there", "said"), [("0,1", "No GPU 7 here; there are: 0, 1"), ("", "there are: none")])
def test_a_gpu_that_is_not_there_is_named(monkeypatch, there, said):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", there)
    with pytest.raises(RustOptunaError, match=said):
        devices.slots("7", None)
