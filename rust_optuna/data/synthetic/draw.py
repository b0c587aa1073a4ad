"""Synthetic films with known RUST scores, for demonstrations and tests.

Nothing learnt from them says anything about patients: the films, their metadata and the patients' names all say
SYNTHETIC. What is drawn is decided in ``synthetic_cohort``, how in ``synthetic_film`` (the exposure),
``synthetic_leg`` and ``synthetic_fracture``.
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

# Starting a process costs about as much as drawing this many films.
FILMS_WORTH_A_PROCESS = 16


@dataclass(frozen=True)
class Job:
    """One film to draw and where to put it: what is sent to a process."""

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
    """Draw the films of made-up patients and return the path of their manifest.

    The same ``patients``, ``seed`` and ``contrast`` give the same bytes, whatever the number of processes. The manifest
    is written last, so a directory that holds one is complete.

    Args:
        directory: where ``films/`` and ``manifest.csv`` go; created if it does not exist.
        patients: how many patients; each has about 2.4 films.
        seed: decides everything about the data set.
        contrast: how plainly callus and fracture line show: 0 not at all (the films then carry no trace of the scores),
            1 as in a real film, above 1 exaggerated. Nothing else depends on it but window and gamma, which suit the
            whole film.
        shuffle_scores: a negative control: draw the same films, but permute the scores in the manifest among the films
            of the same view, so that nothing can be learnt from them.
        processes: how many processes draw; by default as many as there are CPUs to run on, and films to occupy them.
        progress: called with the number of films drawn so far and in all.

    Raises:
        DataError: if the directory already holds a manifest or other films than these, or an argument is out of its
            range.
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
    """Raise ``DataError`` unless these films can be drawn here."""
    if manifest.exists():
        raise DataError(f"{manifest} already exists: name another folder, or remove this one")
    if patients < 1:
        raise DataValueError(f"The number of patients must be at least 1, not {patients}")
    if seed < 0:
        raise DataValueError(f"The seed must not be negative, and is {seed}")
    if not 0 <= contrast <= 10:
        raise DataValueError(f"The contrast must lie between 0 and 10, and is {contrast}")


def _refuse_others(folder: Path, names: set[str]) -> None:
    """Raise ``DataError`` where a folder holds files that would be left beside the films and are none of them.

    The films of an interrupted call are drawn again, so the same call is not refused.
    """
    others = sorted(path.name for path in folder.iterdir() if path.name not in names) if folder.is_dir() else []
    if others:
        count = "1 file that is" if len(others) == 1 else f"{len(others):,} files that are"
        raise DataError(
            f"{folder} holds {count} not of these films, such as {others[0]}: name another folder, or remove that one "
            f"(rm -r {shlex.quote(str(folder))})"
        )


def _draw_all(jobs: Sequence[Job], processes: int | None) -> Iterator[None]:
    """Draw every job's film, and yield once for each."""
    if processes is None:
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        processes = min(cpus, len(jobs) // FILMS_WORTH_A_PROCESS)
    if processes <= 1:
        yield from map(_draw_one, jobs)
        return
    # "spawn": forking a process in which TensorFlow runs its threads can hang.
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
    """Return the film's row of the manifest, with the subscores of ``reading``."""
    return Film(
        row=row,
        image=(directory / "films" / film.name).resolve(),
        patient=film.patient_id,
        visit=str(film.visit),
        view=film.view,
        subscores=tuple(reading.get(cortex) for cortex in CORTICES),
    )
