"""The layers: who may import whom, and what works where TensorFlow is not installed."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rust_optuna.paths import Home
from rust_optuna.storage.database import Database
from tests.studies import REPOSITORY, make_study, random_document, run_study, write_study

PACKAGE = REPOSITORY / "rust_optuna"
MAY_IMPORT = {
    "base": set(),
    "data": {"base"},
    "learn": {"base", "data"},
    "storage": {"base"},
    "search": {"base", "data", "learn", "storage"},
    "model": {"base", "data", "learn", "storage", "search"},
    "report": {"base"},
    "worker": {"base", "data", "learn", "storage", "search"},
    "fleet": {"base", "storage", "search"},
    "web": {"base", "storage", "search"},
    "run": {"base", "data", "learn", "storage", "search", "model", "report", "worker", "fleet"},
    "cli": {"base", "data", "learn", "storage", "search", "model", "report", "worker", "fleet", "web", "run"},
}
"""Each layer (the modules that stand in no package are the base) and those that it may import.

A supervisor (`fleet`) knows its workers by their command line, the ledger and their exit codes alone.
"""
ONLY_IN = {
    "optuna": {"storage", "search", "worker"},
    "optuna_dashboard": {"web"},
    "tensorflow": {"learn"},
    "keras": {"learn"},
    "click": {"cli"},
    "rich": {"cli"},
    "ray": {"fleet"},
    "sqlalchemy": {"storage", "search", "worker", "fleet", "model", "run"},
    "alembic": {"storage"},
}
"""Each library that not every layer may use, and those that may."""
MODULES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else "base"


def type_checking_only(tree: ast.AST) -> set[ast.AST]:
    """Return the nodes that only type checkers see."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }


@functools.cache
def imports(path: Path) -> set[str]:
    """Return the modules that a module imports, early or late, but for those that only type checkers see."""
    tree = ast.parse(path.read_text())
    unseen = type_checking_only(tree)
    found = set()
    for node in ast.walk(tree):
        if node in unseen:
            continue
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = {f"{node.module}.{name.name}" for name in node.names}
            found |= names if node.module == "rust_optuna" or layer(str(node.module)) != "base" else {str(node.module)}
    return found


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_layer_imports_what_it_may(path):
    if path.name == "__main__.py":
        return  # the other way in
    here = layer(module_name(path))
    ours = {name for name in imports(path) if name.startswith("rust_optuna")}
    assert [name for name in sorted(ours) if layer(name) not in MAY_IMPORT[here] | {here}] == []


def test_no_two_layers_import_each_other():
    order = list(MAY_IMPORT)
    assert all(order.index(lower) < order.index(upper) for upper in order for lower in MAY_IMPORT[upper])


def test_every_package_is_a_layer():
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages == set(MAY_IMPORT) - {"base"}


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_library_is_used_in_its_own_layers_only(path):
    used = {name.split(".")[0] for name in imports(path)}
    for library in used & set(ONLY_IN):
        assert layer(module_name(path)) in ONLY_IN[library], f"{library} in {module_name(path)}"


def test_the_checks_see_what_they_should():
    assert "rust_optuna.run.local" in {name.rpartition(".")[0] for name in imports(PACKAGE / "cli" / "search.py")}
    assert "optuna" in imports(PACKAGE / "search" / "mirror.py")
    assert layer("rust_optuna.search.ledger") == "search"
    assert layer("rust_optuna.config") == layer("rust_optuna") == "base"
    assert len(MODULES) > 50


def test_hold_out_films_are_read_in_one_place():
    """Search and training cannot reach them: nothing else asks a manifest for them, or knows where they are kept."""
    for path in MODULES:
        tree = ast.parse(path.read_text())
        asks = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "part"
            if not (isinstance(node.args[0], ast.Constant) and node.args[0].value == "development")
        ]
        reaches = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "holdout"]
        makes = re.search(r"\bHoldOut\b", path.read_text())
        if module_name(path) != "rust_optuna.model.evaluation":
            counts = module_name(path) == "rust_optuna.cli.data"  # how many films `data split` put where
            assert not asks or counts, path
            assert not reaches, path
            assert not makes, path
        else:
            assert asks
            assert reaches
            assert makes


WITHOUT_TENSORFLOW = """
import importlib.machinery, importlib.metadata, sys

def hidden(name):
    return name.split(".")[0].split("-")[0] in ("tensorflow", "keras")

find, version = importlib.machinery.PathFinder.find_spec, importlib.metadata.version

def find_spec(name, path=None, target=None):
    return None if hidden(name) else find(name, path, target)

def find_version(name):
    if hidden(name):
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)

importlib.machinery.PathFinder.find_spec = find_spec
importlib.metadata.version = find_version
"""


def without_tensorflow(script: str, *arguments: str | Path, home: Home | None = None, url: str = ""):
    """Run a script in a process in which TensorFlow and Keras are not installed."""
    environment = {"RUST_OPTUNA_HOME": str(home.root) if home else "", "RUST_OPTUNA_STORAGE": url}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW + script, *map(str, arguments)],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


MAIN = "from rust_optuna.cli import main\nmain()"


def test_every_module_is_imported_without_tensorflow():
    # `env.py` is a script that Alembic runs.
    names = [module_name(path) for path in MODULES if path.name not in ("__main__.py", "env.py")]
    script = (
        "import importlib\n"
        "for name in sys.argv[1:]:\n    importlib.import_module(name)\n"
        "try:\n    import tensorflow\n"
        "except ImportError:\n    print('imported', len(sys.argv) - 1)\n"
    )
    done = without_tensorflow(script, *names)
    assert done.stdout == f"imported {len(names)}\n", done.stderr


@pytest.mark.parametrize("command", ["best", "status", "study list", "study show regime-1", "dashboard --help"])
def test_what_only_reads_runs_without_tensorflow(sqlite: Database, home: Home, command: str):
    run_study(sqlite, home, random_document(2))
    done = without_tensorflow(MAIN, *command.split(), home=home, url=sqlite.url.render_as_string())
    assert done.returncode == 0, done.stderr
    assert "regime-1" in done.stdout or "dashboard" in done.stdout


def test_the_dashboard_is_served_without_tensorflow(sqlite: Database, home: Home):
    make_study(sqlite, home)
    script = (
        "import threading, urllib.request\n"
        "from rust_optuna.web import dashboard\n"
        "serve = dashboard.serve\n"
        "def once(*arguments):\n"
        "    server = serve(*arguments)\n"
        "    def ask():\n"
        "        url = f'http://127.0.0.1:{server.server_port}/api/studies'\n"
        "        print(urllib.request.urlopen(url, timeout=30).read().decode())\n"
        "        server.shutdown()\n"
        "    threading.Thread(target=ask).start()\n"
        "    return server\n"
        "dashboard.serve = once\n"
    )
    url = sqlite.url.render_as_string()
    done = without_tensorflow(script + MAIN, "dashboard", "--port", "0", home=home, url=url)
    assert done.returncode == 0, done.stderr
    assert '"study_name": "regime-1"' in done.stdout


@pytest.mark.parametrize(
    "command", ["worker run", "features build regime-1.toml", "search regime-1.toml --workers 1 --gpus none"]
)
def test_what_needs_tensorflow_names_the_extra(sqlite: Database, home: Home, command: str):
    write_study(home, random_document(2))
    make_study(sqlite, home, random_document(2))
    patched = (
        "import os\n"
        "from rust_optuna.run import local\n"
        # The child processes of a search are to miss TensorFlow too.
        "local.program = lambda words: [sys.executable, '-c', os.environ['CHILD'], *words]\n"
        "os.environ['CHILD'] = sys.orig_argv[2]\n"
    )
    done = without_tensorflow(patched + MAIN, *command.split(), home=home, url=sqlite.url.render_as_string())
    assert done.returncode == 1
    assert "[cpu]'" in done.stderr
    assert "Traceback" not in done.stderr
