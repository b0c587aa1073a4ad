"""Manifests whose films are in another folder on this machine than the one they name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rust_optuna.data.film_index import FilmIndex, require_folder
from rust_optuna.data.manifest import Film, Manifest
from rust_optuna.data.threads import Progress


def relocated(manifest: Manifest, index: FilmIndex, root: Path, progress: Progress | None = None) -> Manifest:
    """Return a manifest whose missing films have been looked up below a folder.

    A film that this machine hashed at its old path is recognised by its content, whatever its name is now. The other
    films are looked up by name: all together below the folder, with as few leading folders of their names left out as
    possible. Films that are found in neither way keep their paths.

    Args:
        manifest: a manifest that follows its rules.
        index: the index that records the films of the folder.
        root: the folder.
        progress: called as files are hashed.

    Raises:
        DataValueError: the folder does not exist.
        MissingFilmsError: films that are known by their content are not below the folder.
    """
    absent = [film for film in manifest.films if not film.image.is_file()]
    if not absent:
        return manifest
    require_folder(root)
    known = {film.image: content for film in absent if (content := index.content_of(film.image)) is not None}
    index.scan(root, list(known.values()), progress)
    new_path = {image: index.locate(content) for image, content in known.items()}
    new_path |= _by_name([film for film in absent if film.image not in new_path], manifest.path.parent.resolve(), root)
    films = tuple(replace(film, image=new_path.get(film.image, film.image)) for film in manifest.films)
    return replace(manifest, films=films)


def _by_name(films: Sequence[Film], folder: Path, root: Path) -> dict[Path, Path]:
    """Return the path of each film below the root, with the same number of leading folders left out of every name."""
    written = {film.image: Path(os.path.relpath(film.image, folder)).parts for film in films}
    names = {image: [part for part in parts if part != os.pardir] for image, parts in written.items()}
    for left_out in range(min((len(parts) for parts in names.values()), default=0)):
        path_of = {image: root.joinpath(*parts[left_out:]) for image, parts in names.items()}
        # Two films must not end up at one path, which happens if only a left-out folder distinguished them.
        if len(set(path_of.values())) == len(path_of) and all(map(Path.is_file, path_of.values())):
            return path_of
    return {}
