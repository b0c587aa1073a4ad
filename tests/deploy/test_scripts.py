"""The scripts of deploy/, run: the real program, a stand-in objective, a scheduler that only notes what it is told."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from tests.deploy.files import KUBERNETES, SBATCH, load_kubernetes
from tests.studies import (
    REPOSITORY,
    assert_each_once,
    assert_in_step,
    attempts,
    make_study,
    points,
    random_document,
    wait_until,
)

JOB = "4711"


@pytest.fixture
def study(sqlite, home):
    return make_study(sqlite, home, random_document(3))


@pytest.fixture
def start(sqlite, home, tmp_path):
    """Start a script with the program and a scheduler on its PATH; end what is left of it."""
    folder, gate, started = tmp_path / "bin", tmp_path / "gate", []
    folder.mkdir()
    gate.mkdir()

    def on_path(name, text):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)

    on_path("scontrol", f'echo "$@" >> {tmp_path / "scontrol"}')

    def start_script(command, objective, **options):
        # What only a test says: the objective, and one worker on the processor.
        more = f"--objective tests.stand_ins:{objective} --gpus none --workers 1"
        more += "".join(f" --{name} {value}" for name, value in options.items())
        on_path("rust-optuna", f'exec {sys.executable} -m rust_optuna "$@" {more}')
        environment = {
            **os.environ,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "RUST_OPTUNA_HOME": str(home.root),
            "RUST_OPTUNA_STORAGE": sqlite.url.render_as_string(),
            "RUST_OPTUNA_TEST_GATE": str(gate),
            "SLURM_JOB_ID": JOB,
        }
        with (tmp_path / "output").open("w") as output:
            process = subprocess.Popen(
                command, env=environment, cwd=home.root, stdout=output, stderr=output, start_new_session=True
            )
        started.append(process)
        return process

    yield start_script
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def began(tmp_path):
    """Wait until a point runs."""
    return lambda: wait_until(lambda: list((tmp_path / "gate").glob("*.began")), 240)


def end(process, tmp_path):
    """Wait for a script; return its exit code, its output and what the scheduler was told."""
    process.wait(240)
    told = tmp_path / "scontrol"
    return process.returncode, (tmp_path / "output").read_text(), told.read_text() if told.exists() else ""


def pod_command():
    (job,) = [each for path in KUBERNETES if (each := load_kubernetes(path))["kind"] == "Job"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return [*container["command"], *container["args"]]


def slurm_command():
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    return ["bash", str(SBATCH), "regime-1"]


@pytest.mark.parametrize("command", [slurm_command, pod_command], ids=["slurm", "kubernetes"])
def test_a_task_runs_until_its_studies_are_done(sqlite, study, start, tmp_path, command):
    code, output, told = end(start(command(), "peak"), tmp_path)
    assert (code, told) == (0, ""), output
    assert_each_once(sqlite, study, 3)


def test_a_slurm_task_whose_time_is_over_gives_its_point_back_and_is_requeued(sqlite, study, start, began, tmp_path):
    task = start(slurm_command(), "gated", grace=0)
    began()
    task.send_signal(signal.SIGUSR1)
    code, output, told = end(task, tmp_path)
    assert (code, told) == (0, f"requeue {JOB}\n"), output
    assert [row.outcome for row in attempts(sqlite, study)] == ["released"]
    assert {row.state for row in points(sqlite, study)} == {"waiting"}
    assert_in_step(sqlite, study)


def test_a_slurm_task_that_is_cancelled_gives_its_point_back_and_is_not_requeued(sqlite, study, start, began, tmp_path):
    task = start(slurm_command(), "gated", grace=0)
    began()
    task.send_signal(signal.SIGTERM)
    code, output, told = end(task, tmp_path)
    assert (code, told) == (0, ""), output
    assert [row.outcome for row in attempts(sqlite, study)] == ["released"]


def test_a_slurm_task_without_a_database_says_so(home):
    done = subprocess.run(slurm_command(), cwd=home.root, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "RUST_OPTUNA_STORAGE" in done.stderr


def test_a_pod_that_is_stopped_ends_its_point_and_does_not_count_as_done(sqlite, study, start, began, tmp_path):
    pod = start(pod_command(), "gated")
    began()
    pod.send_signal(signal.SIGTERM)
    (tmp_path / "gate" / "open").touch()
    code, output, _ = end(pod, tmp_path)
    assert code == 143, output
    assert {row.outcome for row in attempts(sqlite, study)} == {"complete"}
    assert_in_step(sqlite, study)


def test_a_pod_whose_worker_fails_hands_its_exit_code_on(start, tmp_path):
    code, output, _ = end(start(pod_command(), "peak"), tmp_path)
    assert (code, "regime-1" in output) == (1, True)
