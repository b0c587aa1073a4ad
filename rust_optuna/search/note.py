"""The note that optuna-dashboard shows on a study: what ran, and what a reader must know before believing it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rust_optuna.config import plain
from rust_optuna.search.results import Status

if TYPE_CHECKING:
    import optuna

HEADING = "## What ran"
"""Begins what this module writes; what a user writes above it stays."""
_VERSION, _TEXT = "dashboard:note_ver", "dashboard:note_str:"
_LONGEST = 2045
"""optuna-dashboard's own keys, and how many characters one holds. Its ``save_note`` does the same; to import it takes
longer than all else that a worker does in the end."""


def note_of(status: Status) -> str:
    """Return the note of a study, in Markdown."""
    study, caveats = status.study, status.caveats
    configuration, source = study.configuration, study.source
    lines = [f"{configuration.folds} folds, seed {configuration.seed}"]
    if study.stand_in:
        lines.append(f"**{study.stand_in}: its values are no real scores**")
    if configuration.fixed:
        lines.append(f"fixed: {_listed(configuration.fixed)}")
    if source is not None:
        lines.append(f"inherited from {source.study}, point {source.point}: {_listed(source.values)}")
        lines += [f"**differs from its source**: {each.words(source.study)}" for each in source.differences]
    if study.own_values:
        lines.append(f"model: {_listed(study.own_values)}")
    lines += [f"**the best trial**: {words}" for words in status.best_words]
    if source is not None and caveats.stale:
        lines.append(f"**stale**: the best of {source.study} is no longer the one it was created from")
    if words := caveats.foreign.words():
        lines.append(f"**{words}**: `rust-optuna best {study.name}` shows the study's own")
    if words := caveats.arithmetic_words():
        lines.append(words)
    head = [HEADING, "", "*(written by rust_optuna; notes of your own go above)*", ""]
    return "\n".join(head + [f"- {line}" for line in lines])


def write_note(storage: optuna.storages.BaseStorage, study_id: int, body: str) -> None:
    """Write the note of an Optuna study where it is not there already, below what a user wrote.

    Args:
        storage: Optuna's.
        study_id: Optuna's, too.
        body: from `note_of`.
    """
    attributes = storage.get_study_system_attrs(study_id)
    parts = {name: text for name, text in attributes.items() if name.startswith(_TEXT)}
    before = "".join(parts[f"{_TEXT}{number}"] for number in range(len(parts)))
    users = before.partition(HEADING)[0].rstrip()
    text = f"{users}\n\n{body}" if users else body
    if text == before:
        return
    storage.set_study_system_attr(study_id, _VERSION, attributes.get(_VERSION, 0) + 1)
    written = [text[start : start + _LONGEST] for start in range(0, len(text), _LONGEST)]
    for number, part in enumerate(written + [""] * (len(parts) - len(written))):
        storage.set_study_system_attr(study_id, f"{_TEXT}{number}", part)


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {plain(value)}" for name, value in values.items())
