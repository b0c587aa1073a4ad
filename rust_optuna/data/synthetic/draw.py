"""Synthetic films with known RUST scores, for demonstrations and tests.

Nothing learnt from them says anything about patients: the films, their metadata and the patients' names all say
SYNTHETIC. ``cohort`` decides what is drawn; ``film`` (the exposure), ``leg`` and ``fracture`` decide how.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from rust_optuna.config import CONTRAST
from rust_optuna.data.manifest import CORTICES, Film, write_manifest
from rust_optuna.data.synthetic.cohort import SyntheticFilm, draw_cohort, shuffle_readings
from rust_optuna.data.synthetic.film import draw_film
from rust_optuna.errors import DataError, DataValueError

MANIFEST = "manifest.csv"

# The number of films whose drawing takes about as long as starting a process.
FILMS_WORTH_A_PROCESS = 16


@dataclass(frozen=True)
class Job:
    """One film to draw and its path, as sent to a process."""

    path: Path
    film: SyntheticFilm
    seed: int
    place: int
    contrast: float


def synthesize(
    directory: Path,
    *,
    patients: int,
    seed: int,
    contrast: float = CONTRAST,
    shuffle_scores: bool = False,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw the films of invented patients and return the path of their manifest.

    The same ``patients``, ``seed`` and ``contrast`` give the same bytes, whatever the number of processes. The manifest
    is written last, so a directory that holds one is complete.

    Args:
        directory: the directory for ``films/`` and ``manifest.csv``; created if it does not exist.
        patients: the number of patients; each has about 2.4 films.
        seed: the seed, which decides everything about the data set.
        contrast: how clearly callus and fracture line show: 0 for not at all (the films then carry no trace of the
            scores), 1 as in a real film, above 1 exaggerated. Besides these, only window and gamma depend on it,
            because they are adapted to the whole film.
        shuffle_scores: whether to make a negative control: the same films, with the scores in the manifest permuted
            among the films of the same view, so that nothing can be learnt from them.
        processes: the number of processes that draw; None for one per CPU, as far as there are enough films.
        progress: called with the number of films drawn so far and the total.

    Raises:
        DataError: the directory already holds a manifest or other films, or an argument is out of range.
    """
    manifest = directory / MANIFEST
    _check(manifest, patients, seed, contrast)
    films = draw_cohort(patients, seed)
    _refuse_others(directory / "films", {film.name for film in films})
    (directory / "films").mkdir(parents=True, exist_ok=True)
    jobs = [Job(directory / "films" / film.name, film, seed, place, contrast) for place, film in enumerate(films)]
    for drawn, _ in enumerate(_draw_all(jobs, processes), start=1):
        if progress is not None:
            progress(drawn, len(jobs))
    readings = shuffle_readings(films, seed) if shuffle_scores else [film.readable for film in films]
    rows = zip(itertools.count(2), films, readings, strict=False)
    write_manifest(manifest, [_row(number, directory, film, reading) for number, film, reading in rows])
    return manifest


def _check(manifest: Path, patients: int, seed: int, contrast: float) -> None:
    """Raise ``DataError`` unless these films can be drawn into this folder."""
    if manifest.exists():
        raise DataError(f"{manifest} already exists: name another folder, or remove this one")
    if patients < 1:
        raise DataValueError(f"The number of patients must be at least 1, not {patients}")
    if seed < 0:
        raise DataValueError(f"The seed must not be negative, but is {seed}")
    if not 0 <= contrast <= 10:
        raise DataValueError(f"The contrast must be between 0 and 10, but is {contrast}")


def _refuse_others(folder: Path, names: set[str]) -> None:
    """Raise ``DataError`` if a folder holds files other than these films.

    The films of an interrupted call are drawn again, so repeating the call is not refused.
    """
    others = sorted(path.name for path in folder.iterdir() if path.name not in names) if folder.is_dir() else []
    if others:
        files = (
            f"another file, {others[0]}" if len(others) == 1 else f"{len(others):,} other files, such as {others[0]}"
        )
        raise DataError(
            f"{folder} already holds {files}: name another folder, or remove this one "
            f"(rm -r {shlex.quote(str(folder))})"
        )


def _draw_all(jobs: Sequence[Job], processes: int | None) -> Iterator[None]:
    """Draw every job's film, and yield after each."""
    if processes is None:
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        processes = min(cpus, len(jobs) // FILMS_WORTH_A_PROCESS)
    if processes <= 1:
        yield from map(_draw_one, jobs)
        return
    # "spawn", because forking a process in which TensorFlow runs its threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        yield from pool.map(_draw_one, jobs, chunksize=8)


def _draw_one(job: Job) -> None:
    """Draw a film and write it as an 8-bit grey PNG."""
    levels = draw_film(job.film, seed=job.seed, place=job.place, contrast=job.contrast)
    text = PngInfo()
    text.add_text("Title", "SYNTHETIC")
    text.add_text("Description", "SYNTHETIC radiograph drawn by rust_optuna: no patient, not for diagnosis")
    Image.fromarray(levels).save(job.path, pnginfo=text, compress_level=1)


def _row(row: int, directory: Path, film: SyntheticFilm, reading: dict[str, int]) -> Film:
    """Return the film's row of the manifest with the subscores of ``reading``."""
    return Film(
        row=row,
        image=(directory / "films" / film.name).resolve(),
        patient=film.patient_id,
        visit=str(film.visit),
        view=film.view,
        subscores=tuple(reading.get(cortex) for cortex in CORTICES),
    )
