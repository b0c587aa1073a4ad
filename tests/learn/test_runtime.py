import subprocess
import sys
from pathlib import Path

import pytest

from rust_optuna.errors import MissingExtraError
from rust_optuna.learn import runtime

MODULES = [path.stem for path in Path(runtime.__file__).parent.glob("*.py") if path.stem != "__init__"]


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


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
    assert run(code).stdout == "This needs TensorFlow, which is not installed: pip install 'rust_optuna[cpu]'\n"
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
