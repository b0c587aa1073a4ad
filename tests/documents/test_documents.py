"""README and docs say what is there: commands that run, modules that exist, study files that are valid."""

import configparser
import doctest
import importlib
import itertools
import re
import shlex

import click
import pytest

from rust_optuna.cli import cli
from rust_optuna.cli.results import SCORE_COLUMNS
from rust_optuna.cli.tables import print_table
from rust_optuna.config import FOLDS, KEYS, LEASE_SECONDS, SEED, plain
from rust_optuna.study_file import toml_value
from tests.deploy.test_commands import take
from tests.studies import REPOSITORY
from tests.test_layers import MAY_IMPORT, MODULES, layer, module_name

DOCUMENTS = sorted([REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *REPOSITORY.glob("docs/*.md")])
PROGRAM = re.compile(r"^\s*(?:\$ )?(?:\.venv/bin/)?rust-optuna (.*)$")
INLINE = re.compile(r"`(?:\.venv/bin/)?rust-optuna ([^`]*)`")
PACKAGES = "|".join(MAY_IMPORT)
ARCHITECTURE = (REPOSITORY / "docs" / "architecture.md").read_text()


def on_lines(text):
    """Yield the words of each command of this program that stands on a line of its own."""
    for line in text.replace("\\\n", " ").splitlines():
        if found := PROGRAM.match(line):
            yield shlex.split(re.split(r" [|>&]", found[1])[0], comments=True)


def in_sentences(text):
    """Yield the words of each command that is mentioned between backticks; arguments may be left out there."""
    for line in text.splitlines():
        if not PROGRAM.match(line):
            yield from map(shlex.split, INLINE.findall(line))


def of_all(find):
    return sorted({(path.name, tuple(each)) for path in DOCUMENTS for each in find(path.read_text())})


def name_of(value):
    return value if isinstance(value, str) else " ".join(value)


@pytest.mark.parametrize(("document", "command"), of_all(on_lines), ids=name_of)
def test_a_command_in_a_document_is_one_that_the_program_takes(document, command):
    take(command)


@pytest.mark.parametrize(("document", "command"), of_all(in_sentences), ids=name_of)
def test_a_command_that_a_sentence_mentions_is_there_with_its_options(document, command):
    names = list(itertools.takewhile(str.islower, command))
    found, context = cli, click.Context(cli)
    while isinstance(found, click.Group) and names:
        found = found.get_command(context, names.pop(0))
        assert found is not None
    options = {option for parameter in found.params for option in parameter.opts}
    assert {word for word in command if word.startswith("--")} <= options


def test_commands_are_found():
    assert len(of_all(on_lines)) > 20
    assert len(of_all(in_sentences)) > 5


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_make_has_the_targets_that_a_document_names(path):
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^    |`)make ([a-z]+)", path.read_text(), re.MULTILINE))
    assert named <= targets


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_and_pages_that_a_document_names_are_there(path):
    text = path.read_text()
    linked = {link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link}
    named = set(re.findall(r"`((?:rust_optuna|tests|benchmarks|docs|deploy|studies)/[\w/.]+\w)`", text))
    # Modules are named below their package: `search/ledger.py`.
    below = {f"rust_optuna/{name}" for name in re.findall(rf"`((?:{PACKAGES})/\w+\.py)`", text)}
    missing = [each for each in linked if not (path.parent / each).exists()]
    assert missing + [each for each in sorted(named | below) if not (REPOSITORY / each).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_line_for_a_shell_names_are_there(path):
    """Those that come with the repository; what such a line makes, or takes from a user, lies elsewhere."""
    words = {word for line in shell_lines(path.read_text()) for word in line.partition(" #")[0].split()}
    ours = [word for word in words if re.match(r"(\.ci|benchmarks|deploy|docs|studies|tests)/", word)]
    assert [word for word in ours if not (REPOSITORY / word).exists()] == []


def shell_lines(text):
    """Return the indented lines of a page, most of which are there to be typed."""
    return re.findall(r"^ {4,}(\S.*)$", text.replace("\\\n", " "), re.MULTILINE)


def test_lines_for_a_shell_are_found():
    named = {line.split()[0] for path in DOCUMENTS for line in shell_lines(path.read_text())}
    assert {"rust-optuna", "make", "python", "bash", "sbatch", "kubectl", "docker", "export"} <= named


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_extras_that_a_document_installs_are_there(path):
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    named = {name for names in re.findall(r"'\.\[([\w,]+)\]'", path.read_text()) for name in names.split(",")}
    assert named <= set(setup["options.extras_require"])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_variable_that_a_document_names_is_one_that_something_reads(path):
    readers = [*MODULES, *REPOSITORY.glob("docker-compose*.yml"), *REPOSITORY.glob("tests/**/*.py")]
    read = set(re.findall(r"RUST_OPTUNA_[A-Z_]+", "\n".join(each.read_text() for each in readers)))
    assert set(re.findall(r"RUST_OPTUNA_[A-Z_]+", path.read_text())) <= read


def test_the_readme_shows_scores_as_the_program_does(capsys):
    """Its numbers are of a run that takes minutes; how they stand there is checked."""
    lines = (REPOSITORY / "README.md").read_text().splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("  average precision  ")]
    assert len(starts) == 2
    for start in starts:
        shown = lines[start : start + 4]
        print_table(SCORE_COLUMNS, [re.split(" {2,}", row.strip()) for row in shown[2:]], indent=2)
        assert capsys.readouterr().out.splitlines() == shown


@pytest.mark.parametrize("path", [path for path in MODULES if path.name != "__main__.py"], ids=module_name)
def test_the_architecture_s_table_has_every_module_in_its_layer(path):
    relative = path.relative_to(REPOSITORY / "rust_optuna")
    here = layer(module_name(path))
    if path.name == "__init__.py" or here == "cli" or "versions" in relative.parts or relative.name == "env.py":
        return
    (row,) = [line for line in ARCHITECTURE.splitlines() if re.match(rf"\| `?{here}`?( \(no package\))? \|", line)]
    assert f"`{path.stem}`" in row


@pytest.mark.parametrize("path", [path for path in MODULES if ">>>" in path.read_text()], ids=module_name)
def test_examples_in_docstrings_are_true(path):
    done = doctest.testmod(importlib.import_module(module_name(path)))
    assert (done.attempted > 0, done.failed) == (True, 0)


def test_the_defaults_of_a_study_file_are_those_that_the_page_about_it_tells():
    page = (REPOSITORY / "docs" / "study_files.md").read_text()
    told = {name: default for name, _, default in re.findall(r"^\| `([\w.]+)` \| ([^|]*) \| ([^|]*) \|", page, re.M)}
    of_studies = {"lease_seconds": LEASE_SECONDS, "cross_validation.folds": FOLDS, "cross_validation.seed": SEED}
    defaults = of_studies | {name: key.default for name, key in KEYS.items() if key.default is not None}
    shown = {name: told[name].removesuffix(", or inherited").strip("`") for name in defaults}
    assert shown == {name: toml_value(plain(default)) for name, default in defaults.items()}
