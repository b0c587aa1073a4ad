import os
import subprocess
import sys
from pathlib import Path

import pytest

from rust_optuna import machine
from rust_optuna.errors import MissingExtraError
from rust_optuna.learn import runtime

MODULES = [path.stem for path in Path(runtime.__file__).parent.glob("*.py") if path.stem != "__init__"]


def run(code, **variables):
    environment = {**os.environ, **variables}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_importing_the_layer_does_not_load_tensorflow():
    imports = "".join(f"import rust_optuna.learn.{module}\n" for module in MODULES)
    done = run(f"{imports}import sys\nassert not {{'tensorflow', 'keras', 'h5py'}} & set(sys.modules)")
    assert done.returncode == 0, done.stderr


def test_without_tensorflow_the_extra_to_install_is_named():
    code = (
        "import importlib.util as u, rust_optuna.learn.runtime as r, rust_optuna.errors as e\n"
        "found = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'tensorflow' else found(name, *a)\n"
        "try: r.load_tensorflow()\n"
        "except e.MissingExtraError as error: print(error)"
    )
    assert run(code).stdout.startswith("This needs TensorFlow, which is not installed: pip install ")
    assert "[cpu]'" in run(code).stdout
    assert MissingExtraError.exit_code == 1


def test_versions_are_told_without_importing_anything():
    code = (
        "import sys\nfrom rust_optuna.learn.runtime import versions\nprint(versions())\n"
        "assert not {'tensorflow', 'keras', 'optuna'} & set(sys.modules)"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert {"python", "numpy", "rust_optuna"} <= runtime.versions().keys()


@pytest.mark.tensorflow
def test_loading_tensorflow_is_silent_but_drops_nothing_else():
    code = (
        "import os\nfrom rust_optuna.learn import runtime\n"
        "with runtime._without_chatter():\n"
        "    os.write(2, b'I0000 00:00 noise\\nE0000 an error\\n')\n"
        "runtime.load_keras()\nprint(runtime.describe_device())"
    )
    done = run(code)
    assert done.stderr == "E0000 an error\n"
    assert done.stdout.strip()


@pytest.mark.tensorflow
def test_loading_tensorflow_takes_no_longer_than_it_must_and_leaves_python_as_it_was():
    code = (
        "import gc, sys\nfrom rust_optuna.learn.runtime import load_keras\n"
        "collections = sum(each['collections'] for each in gc.get_stats())\n"
        "load_keras()\n"
        "assert sum(each['collections'] for each in gc.get_stats()) - collections < 100\n"
        "assert gc.isenabled() and 'sklearn' not in sys.modules\n"
        "import sklearn"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.tensorflow
def test_errors_of_memory_are_known_from_others():
    import tensorflow as tf

    errors = tf.errors
    for error in (
        MemoryError(),
        errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"),
        errors.InternalError(None, None, "CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
        errors.InternalError(None, None, "Failed copying input tensor: Dst tensor is not initialized."),
        errors.AbortedError(None, None, "Operation received an exception:Status: 1, message: could not execute"),
    ):
        assert runtime.out_of_memory(error)
    named_alike = type("ResourceExhaustedError", (Exception,), {})
    for error in (
        errors.InternalError(None, None, "launch failed"),
        errors.AbortedError(None, None, "Operation received an exception:Status: 2, message: could not execute"),
        errors.InvalidArgumentError(None, None, "x"),
        ValueError("out of memory"),
        named_alike(),
        OSError(28, "No space left on device"),
    ):
        assert not runtime.out_of_memory(error)


def test_looking_at_an_error_and_freeing_memory_load_nothing():
    done = run(
        "import sys, rust_optuna.learn.runtime as r\n"
        "assert r.out_of_memory(MemoryError()) and not r.out_of_memory(ValueError())\n"
        "r.free_memory()\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.tensorflow
def test_an_operation_runs_on_one_thread_whatever_the_environment_says():
    code = (
        "from rust_optuna.learn import runtime\n"
        "threads = runtime.load_tensorflow().config.threading\n"
        "print(threads.get_intra_op_parallelism_threads(), threads.get_inter_op_parallelism_threads())\n"
        "print(runtime.describe_device())"
    )
    others = {"TF_NUM_INTRAOP_THREADS": "4", "TF_NUM_INTEROP_THREADS": "5", "CUDA_VISIBLE_DEVICES": "-1"}
    done = run(code, RUST_OPTUNA_CORES="3", **others)
    assert done.stdout.splitlines() == ["1 3", f"CPU: {machine.processor()}"]


@pytest.mark.tensorflow
def test_a_user_without_a_home_folder_gets_no_folder_named_by_a_tilde(tmp_path):
    code = (
        "import os, pwd, tempfile\n"
        "def unknown(user): raise KeyError(user)\n"
        "pwd.getpwuid = unknown\n"
        "from rust_optuna.learn.runtime import keras_home, load_keras\n"
        "load_keras()\n"
        "print(keras_home(), os.listdir())"
    )
    here = {name: value for name, value in os.environ.items() if name not in ("HOME", "KERAS_HOME")}
    here |= {"PYTHONPATH": str(Path(runtime.__file__).parents[2]), "TMPDIR": str(tmp_path / "temporary")}
    for folder in ("work", "temporary"):
        (tmp_path / folder).mkdir()
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, cwd=tmp_path / "work", env=here, capture_output=True, text=True, check=False)
    assert done.stdout == f"{tmp_path / 'temporary' / '.keras'} []\n", done.stderr


def test_keras_home_may_begin_with_a_tilde_too(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for given, folder in (("~/keras", tmp_path / "keras"), ("", tmp_path / ".keras")):
        monkeypatch.setenv("KERAS_HOME", given)
        assert runtime.keras_home() == folder
