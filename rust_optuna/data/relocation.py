"""A manifest whose films lie in another folder on this machine than where it says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rust_optuna.data.film_index import FilmIndex, require_folder
from rust_optuna.data.manifest import Film, Manifest
from rust_optuna.data.threads import Progress


def relocated(manifest: Manifest, index: FilmIndex, root: Path, progress: Progress | None = None) -> Manifest:
    """Return a manifest with those films found below a folder that are not where it says.

    A film that this machine hashed at its old place is known again by its content, whatever its name is now. The others
    are looked for by name: all of them below the folder as the manifest has them, but for as many leading folders as
    have to be left out. Films that are found in neither way stay where the manifest says.

    Args:
        manifest: keeps its rules.
        index: learns what the folder holds.
        root: the folder.
        progress: called as files are hashed.

    Raises:
        DataValueError: there is no such folder.
        MissingFilmsError: films that are known by their content are not below it.
    """
    absent = [film for film in manifest.films if not film.image.is_file()]
    if not absent:
        return manifest
    require_folder(root)
    known = {film.image: content for film in absent if (content := index.content_of(film.image)) is not None}
    index.scan(root, list(known.values()), progress)
    found = {image: index.locate(content) for image, content in known.items()}
    found |= _by_name([film for film in absent if film.image not in found], manifest.path.parent.resolve(), root)
    films = tuple(replace(film, image=found.get(film.image, film.image)) for film in manifest.films)
    return replace(manifest, films=films)


def _by_name(films: Sequence[Film], folder: Path, root: Path) -> dict[Path, Path]:
    """Return where each film is below the root if the same leading folders are left out of all their names."""
    written = {film.image: Path(os.path.relpath(film.image, folder)).parts for film in films}
    names = {image: [part for part in parts if part != os.pardir] for image, parts in written.items()}
    for left_out in range(min((len(parts) for parts in names.values()), default=0)):
        found = {image: root.joinpath(*parts[left_out:]) for image, parts in names.items()}
        # Two films in one file: what was left out told them apart.
        if len(set(found.values())) == len(found) and all(map(Path.is_file, found.values())):
            return found
    return {}
