import json
from pathlib import Path

import pytest

from rust_optuna.errors import RustOptunaError
from rust_optuna.fleet import devices
from rust_optuna.fleet.devices import DeviceChoice
from rust_optuna.storage.database import create_database
from rust_optuna.storage.url import parse_url
from tests import stand_ins
from tests.studies import make_study, random_document, start_command, wait_until

CPU_CORES = devices.cores()


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Eight cores, memory for four workers, no GPU."""
    monkeypatch.setattr(devices, "cores", lambda: 8)
    monkeypatch.setattr(devices, "_workers_in_memory", lambda: 4)
    monkeypatch.setattr(devices, "DEVICE_FILES", Path("/nowhere"))
    monkeypatch.setattr(devices, "DRIVER", Path("/nowhere"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def fake_nvidia_smi(folder, monkeypatch, lines):
    """Put a program on the PATH that lists GPUs as nvidia-smi does."""
    listing = "\n".join(lines)
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<'END'\n{listing}\nEND\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")


def visible(made):
    return [device.environment["CUDA_VISIBLE_DEVICES"] for device in made]


def test_without_a_gpu_there_is_one_worker_a_core_as_far_as_memory_allows(monkeypatch):
    assert [device.name for device in DeviceChoice("all", None).devices()] == ["cpu"] * 4
    monkeypatch.setattr(devices, "_workers_in_memory", lambda: 99)
    assert len(DeviceChoice("all", None).devices()) == 8
    monkeypatch.setattr(devices, "_workers_in_memory", lambda: 0)
    assert len(DeviceChoice("all", None).devices()) == 1


def test_a_worker_on_the_processor_sees_no_gpu():
    assert visible(DeviceChoice("none", 2).devices()) == ["-1", "-1"]


@pytest.mark.parametrize(("workers", "cores"), [(1, "8"), (2, "4"), (3, "2"), (20, "1")])
def test_workers_divide_the_cores(workers, cores):
    for device in DeviceChoice("none", workers).devices():
        assert device.environment["RUST_OPTUNA_CORES"] == cores
        assert {value for name, value in device.environment.items() if name.endswith("THREADS")} == {"1"}


def test_every_gpu_gets_a_worker(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5,GPU-7f")
    made = DeviceChoice("all", None).devices()
    assert visible(made) == ["2", "5", "GPU-7f"]
    assert [device.name for device in made] == ["gpu 2", "gpu 5", "gpu GPU-7f"]


def test_more_workers_than_gpus_share_them_in_turn(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert visible(DeviceChoice("all", 5).devices()) == ["0", "1", "0", "1", "0"]
    assert visible(DeviceChoice("1", 2).devices()) == ["1", "1"]


def test_each_gpu_gets_as_many_workers_as_asked_for(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    made = DeviceChoice("all", None, 3).devices()
    assert sorted(visible(made)) == ["0", "0", "0", "1", "1", "1"]
    assert {device.environment["RUST_OPTUNA_CORES"] for device in made} == {"1"}  # of eight
    assert visible(DeviceChoice("1", None, 2).devices()) == ["1", "1"]
    with pytest.raises(RustOptunaError, match="give only one of them"):
        DeviceChoice("all", 2, 2).devices()


@pytest.mark.parametrize(
    ("named", "there"),
    [
        ("GPU-8932f937-d72c, MIG-GPU-8932/1/0 ,MIG-41b3", ["GPU-8932f937-d72c", "MIG-GPU-8932/1/0", "MIG-41b3"]),
        ("0,-1,1", ["0"]),  # CUDA stops at the first that is none
        ("NoDevFiles", []),  # what SLURM gives a job without one
    ],
)
def test_the_gpus_that_the_environment_names_are_those_that_cuda_takes(monkeypatch, named, there):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert devices.gpus() == there


def test_gpus_are_listed_by_nvidia_smi_where_none_are_named_and_numbered_as_there(tmp_path, monkeypatch):
    fake_nvidia_smi(tmp_path, monkeypatch, ["GPU 0: A (UUID: GPU-a)", "GPU 1: B (UUID: GPU-b)"])
    assert devices.gpus() == ["0", "1"]
    made = DeviceChoice("all", None).devices()
    assert visible(made) == ["0", "1"]
    assert {device.environment["CUDA_DEVICE_ORDER"] for device in made} == {"PCI_BUS_ID"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert "CUDA_DEVICE_ORDER" not in DeviceChoice("all", None).devices()[0].environment


def test_of_a_divided_gpu_each_part_is_a_device(tmp_path, monkeypatch):
    lines = [
        "GPU 0: NVIDIA A100 (UUID: GPU-a)",
        "  MIG 3g.20gb     Device  0: (UUID: MIG-c7)",
        "  MIG 3g.20gb     Device  1: (UUID: MIG-d8)",
        "GPU 1: NVIDIA A100 (UUID: GPU-b)",
    ]
    fake_nvidia_smi(tmp_path, monkeypatch, lines)
    assert visible(DeviceChoice("all", None).devices()) == ["MIG-c7", "MIG-d8", "1"]


def test_an_nvidia_smi_that_hangs_is_named(tmp_path, monkeypatch):
    fake_nvidia_smi(tmp_path, monkeypatch, [])
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec tail -f /dev/null\n")
    monkeypatch.setattr(devices, "NVIDIA_SMI_SECONDS", 0.1)
    with pytest.raises(RustOptunaError, match="nvidia-smi did not answer"):
        DeviceChoice("all", None).devices()


def test_without_nvidia_smi_the_gpus_that_the_driver_shows_are_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert devices.gpus() == []
    monkeypatch.setattr(devices, "DRIVER", tmp_path / "gpus")
    (tmp_path / "gpus" / "0000:3b:00.0").mkdir(parents=True)
    assert devices.gpus() == ["0"]
    monkeypatch.setattr(devices, "DEVICE_FILES", tmp_path)
    for name in ("nvidia3", "nvidia7", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert devices.gpus() == ["0", "1"]  # a container numbers those it sees from 0


def test_each_worker_process_sees_its_device_and_its_share_of_the_cores(sqlite_url, home, tmp_path, monkeypatch):
    """The whole way: listed by nvidia-smi, chosen by the options, seen by the objective in a process of its own."""
    fake_nvidia_smi(tmp_path, monkeypatch, [f"GPU {number}: A (UUID: GPU-{number})" for number in range(3)])
    with create_database(parse_url(sqlite_url, home), "storage/artifacts") as database:
        make_study(database, home, random_document(4))
    gate = tmp_path / "gate"
    gate.mkdir()
    options = ["--gpus", "0,2", "--per-gpu", "2", "--objective", "tests.stand_ins:reporting"]
    running = start_command(home, sqlite_url, "worker", "start", *options, **{stand_ins.GATE: str(gate)})
    try:
        wait_until(lambda: len(list(gate.glob("*.began"))) == 4, 120)
        (gate / "open").touch()
        output, _ = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 0, output
    seen = [json.loads(path.read_text()) for path in gate.glob("*.environment")]
    assert sorted(each["CUDA_VISIBLE_DEVICES"] for each in seen) == ["0", "0", "2", "2"]
    assert {each["CUDA_DEVICE_ORDER"] for each in seen} == {"PCI_BUS_ID"}
    share = str(max(1, CPU_CORES // 4))
    assert {each["RUST_OPTUNA_CORES"] for each in seen} == {share}


def test_an_nvidia_smi_that_fails_is_told_and_the_driver_asked(tmp_path, monkeypatch, caplog):
    fake_nvidia_smi(tmp_path, monkeypatch, [])
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n")
    assert devices.gpus() == []
    assert caplog.messages.pop() == "nvidia-smi failed, so no GPU is used: NVIDIA-SMI has failed"
    monkeypatch.setattr(devices, "DEVICE_FILES", tmp_path)
    (tmp_path / "nvidia0").touch()
    assert devices.gpus() == ["0"]
    message = "nvidia-smi failed, so the driver's count of GPUs is used (1): NVIDIA-SMI has failed"
    assert caplog.messages.pop() == message


def test_a_machine_whose_nvidia_smi_finds_nothing_has_no_gpu(tmp_path, monkeypatch):
    fake_nvidia_smi(tmp_path, monkeypatch, ["NVIDIA-SMI has failed"])
    assert devices.gpus() == []


def test_no_gpu_is_used_where_none_is_asked_for_or_hidden(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert visible(DeviceChoice("none", None).devices()) == ["-1"] * 4
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert devices.gpus() == []


@pytest.mark.parametrize(
    ("there", "said"), [("0,1", "No GPU 7 here; there are: 0, 1"), ("", "there is none; --gpus none")]
)
def test_a_gpu_that_is_not_there_is_named(monkeypatch, there, said):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", there)
    with pytest.raises(RustOptunaError, match=said):
        DeviceChoice("7", None).devices()


def test_a_gpu_named_by_nothing_is_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    for choice in ("", "0,", " "):
        with pytest.raises(RustOptunaError, match="all, none, or numbers"):
            DeviceChoice(choice, None).devices()


@pytest.mark.parametrize("choice", ["all,1", "0,none"])
def test_words_for_gpus_do_not_go_with_numbers(monkeypatch, choice):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(
        RustOptunaError, match=r"--gpus takes all, none, or numbers such as 0,1: (all|none) cannot be combined"
    ):
        DeviceChoice(choice, None).devices()
