"""The note that optuna-dashboard shows on a study: what ran, and what to know before believing its values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rust_optuna.config import StudyKind, plain
from rust_optuna.search.results import Status
from rust_optuna.study_file import pruner_document

if TYPE_CHECKING:
    import optuna

HEADING = "## What ran"
"""The heading of what this module writes; what a user writes above it stays."""
_VERSION, _TEXT = "dashboard:note_ver", "dashboard:note_str:"
_LONGEST = 2045
"""optuna-dashboard's own keys, and how many characters each holds. Its ``save_note`` would do the same, but importing
it takes longer than everything else that a worker does when it ends."""


def note_of(status: Status) -> str:
    """Return the note of a study, in Markdown."""
    study, caveats = status.study, status.caveats
    configuration, source = study.configuration, study.source
    lines = [f"{configuration.folds} folds, seed {configuration.seed}"]
    if configuration.kind == StudyKind.COMPARISON:
        lines.append("one configuration to compare with others: each point is a fold of it, none is the best")
    elif configuration.kind != StudyKind.SEARCH:
        evaluated = ", ".join(configuration.from_best_of)
        lines.append(f"evaluation of {evaluated}: each point is a fold of one model, none is the best")
    if configuration.adaptive:
        lines.append(f"{configuration.sampler} draws each point from the results so far, when a worker is free")
    if configuration.pruner is not None:
        options = _listed(pruner_document(configuration.pruner)["pruner"])
        lines.append(f"trials that fall behind are pruned: {options}")
    if study.stand_in:
        lines.append(f"**{study.stand_in}: its values are not real scores**")
    if configuration.fixed:
        lines.append(f"fixed: {_listed(configuration.fixed)}")
    if source is not None:
        point = source.words if source.point is None else f"{source.study}, point {source.point}"
        lines.append(f"inherited from {point}: {_listed(source.values)}")
        lines += [f"**differs from its source**: {difference.words(source.study)}" for difference in source.differences]
    if study.own_values:
        lines.append(f"model: {_listed(study.own_values)}")
    lines += [f"**the best trial**: {words}" for words in status.best_words]
    if source is not None and caveats.stale:
        lines.append(f"**stale**: the best of {source.study} is no longer the one it was created from")
    if words := caveats.foreign.words():
        best = f": `rust-optuna best {study.name}` shows this study's own best trial"
        lines.append(f"**{words}**{best if configuration.kind == StudyKind.SEARCH else ''}")
    if words := caveats.arithmetic_words():
        lines.append(words)
    head = [HEADING, "", "*(written by rust_optuna; notes of your own go above)*", ""]
    return "\n".join(head + [f"- {line}" for line in lines])


def write_note(storage: optuna.storages.BaseStorage, study_id: int, body: str) -> None:
    """Write the note of an Optuna study below what a user wrote; write nothing if the note is up to date.

    Args:
        storage: Optuna's storage.
        study_id: Optuna's identifier of the study.
        body: the note, from `note_of`.
    """
    attributes = storage.get_study_system_attrs(study_id)
    parts = {name: text for name, text in attributes.items() if name.startswith(_TEXT)}
    before = "".join(parts[f"{_TEXT}{number}"] for number in range(len(parts)))
    user_text = before.partition(HEADING)[0].rstrip()
    text = f"{user_text}\n\n{body}" if user_text else body
    if text == before:
        return
    storage.set_study_system_attr(study_id, _VERSION, attributes.get(_VERSION, 0) + 1)
    written = [text[start : start + _LONGEST] for start in range(0, len(text), _LONGEST)]
    for number, part in enumerate(written + [""] * (len(parts) - len(written))):
        storage.set_study_system_attr(study_id, f"{_TEXT}{number}", part)


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {plain(value)}" for name, value in values.items())
