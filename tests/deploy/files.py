"""The deployment files, read: documents, Compose's rules for merging them, and the command lines that stand in them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from dockerfile_parse import DockerfileParser

from tests.studies import REPOSITORY

COMPOSE, COMPOSE_CPU = REPOSITORY / "docker-compose.yml", REPOSITORY / "docker-compose.cpu.yml"
DOCKERFILE = REPOSITORY / "deploy" / "Dockerfile"
DOCKERIGNORE = REPOSITORY / ".dockerignore"
SBATCH = REPOSITORY / "deploy" / "slurm" / "worker.sbatch"
KUBERNETES = sorted((REPOSITORY / "deploy" / "kubernetes").glob("*.yaml"))
PAGE = REPOSITORY / "docs" / "deploy.md"
PROGRAM = "rust-optuna"
RESET = object()
"""What ``!reset`` stands for: the key is taken away."""


class ComposeLoader(yaml.SafeLoader):
    """Knows the one tag of Compose's that we use."""


ComposeLoader.add_constructor("!reset", lambda loader, node: RESET)


def load_compose(*paths: Path) -> dict[str, Any]:
    """Return Compose files merged as Compose does, as far as ours need it: mappings key by key, the rest replaced."""
    merged: dict[str, Any] = {}
    for path in paths:
        merged = _merge(merged, yaml.load(path.read_text(), ComposeLoader))
    return merged


def _merge(below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    merged = below | {key: _merge(below.get(key), value) for key, value in above.items()}
    return {key: value for key, value in merged.items() if value is not RESET}


def load_kubernetes(path: Path) -> dict[str, Any]:
    """Return the one object of a manifest."""
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    return document


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions with their values."""
    parser = DockerfileParser(path=str(DOCKERFILE), cache_content=True)
    return [(each["instruction"], each["value"]) for each in parser.structure if each["instruction"] != "COMMENT"]


def instruction(name: str) -> str:
    """Return the value of an instruction that stands there once."""
    (value,) = [value for each, value in instructions() if each == name]
    return value


def seconds(duration: str) -> int:
    """Return a duration as the Compose files write them: in seconds."""
    assert duration.endswith("s"), duration
    return int(duration.removesuffix("s"))


def grace(words: list[str]) -> int:
    """Return the grace that a command line gives."""
    return int(words[words.index("--grace") + 1])


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield each command line of this program in the deployment files: where it stands, and its arguments."""
    for name, value in instructions():
        if name == "HEALTHCHECK" and (found := re.search(r"\[.*\]", value)):
            yield f"Dockerfile {name}", _own(json.loads(found[0]))
    yield from _compose_commands()
    for path in KUBERNETES:
        for container in _containers(load_kubernetes(path)):
            where = f"{path.name} {container['name']}"
            if container.get("command") == ["sh", "-c"]:
                yield from ((where, words) for words in shell_commands(container["args"][0]))
            else:
                yield where, container["args"]
    for path in (SBATCH, COMPOSE, COMPOSE_CPU, PAGE):
        yield from ((path.name, words) for words in shell_commands(path.read_text()))


def _compose_commands() -> Iterator[tuple[str, list[str]]]:
    for name, service in load_compose(COMPOSE)["services"].items():
        if service["image"].startswith(PROGRAM) and "command" in service:
            yield f"{COMPOSE.name} {name}", service["command"]


def _own(words: list[str]) -> list[str]:
    assert words[0] == PROGRAM, words
    return words[1:]


def _containers(document: dict[str, Any]) -> list[dict[str, Any]]:
    pod = document.get("spec", {}).get("template", {}).get("spec", {})
    return [*pod.get("initContainers", []), *pod.get("containers", [])]


def shell_commands(text: str) -> Iterator[list[str]]:
    """Yield the arguments of this program wherever a line of a script, a comment or a page calls it, or code in a text.

    ``docker compose run --rm search FILE`` calls it too, and so does ``sbatch worker.sbatch NAME``.
    """
    for line in [*text.splitlines(), *re.findall("`([^`]+)`", text)]:
        line = line.strip().lstrip("#$ ").replace('"$@"', "regime-1")
        if line.startswith(f"{PROGRAM} "):
            yield _words(line)[1:]
        elif line.startswith("docker compose ") and " run --rm " in line:
            service, *words = _words(line.partition(" run --rm ")[2])
            yield words if service == PROGRAM else [service, *words]
        elif line.startswith("sbatch ") and SBATCH.name in line:
            yield ["worker", "start", *_words(line.partition(SBATCH.name)[2])]


def _words(line: str) -> list[str]:
    words = shlex.split(line, comments=True)
    return words[: next((number for number, word in enumerate(words) if word in ("&", "|", ">")), len(words))]
