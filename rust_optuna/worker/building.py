"""How a worker fills the feature cache for a study, after comparing a sample with its other workers' features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rust_optuna.data.film_index import FilmIndex
from rust_optuna.learn.arithmetic import arithmetic, remember_arithmetic
from rust_optuna.learn.extraction import Extractor, extraction_identity, read_film
from rust_optuna.learn.features import FeatureCache
from rust_optuna.search.pins import FeaturePins, sampled

Progress = Callable[[int, int], None]


def fill_cache(
    cache: FeatureCache,
    contents: Sequence[str],
    index: FilmIndex,
    *,
    pins: FeaturePins | None = None,
    data_root: Path | None = None,
    progress: Progress | None = None,
    on_hashed: Progress | None = None,
) -> None:
    """Compute the features that a cache lacks, unless they would differ from those of the study's other workers.

    Args:
        cache: the cache of one backbone.
        contents: the content hashes of the study's films, in the study's order.
        index: the index that finds the films.
        pins: the features of the study's workers; None to skip the comparison.
        data_root: the folder that is searched for films that the index lacks; None for no folder.
        progress: a callback for each film whose features are computed.
        on_hashed: a callback for each file in ``data_root`` that is hashed.

    Raises:
        FingerprintError: the features computed here differ from the study's.
        DataError: a film is not on this machine, or cannot be read.
        WeightsError: weights are missing or do not fit.
    """
    missing = cache.missing(contents)
    if not missing:
        # Building would do the same; commands that have not loaded TensorFlow find the cache by it.
        remember_arithmetic(cache.folder.parent, cache.backbone.extraction_precision)
        return
    if data_root is not None:
        index.scan(data_root, missing, on_hashed)
    index.require(missing)
    extractor = Extractor(cache.backbone)
    check_sample(extractor, contents, index, pins, data_root, on_hashed)
    cache.build(contents, index.read, progress, extractor)


def check_sample(
    extractor: Extractor,
    contents: Sequence[str],
    index: FilmIndex,
    pins: FeaturePins | None,
    data_root: Path | None = None,
    on_hashed: Progress | None = None,
) -> None:
    """Compare the features of a sample of films with those of other workers, if other workers have pinned any.

    Args:
        extractor: the extractor of this worker.
        contents: of the study's films, in order.
        index: finds them.
        pins: of the study; None to skip the comparison.
        data_root: see `fill_cache`.
        on_hashed: see `fill_cache`.

    Raises:
        FingerprintError: the features differ.
        DataError: a film is not on this machine, or cannot be read.
    """
    backbone = extractor.backbone
    identity = extraction_identity(backbone)
    if pins is None or not pins.of(identity):
        return
    films, flips = sampled(len(contents))
    chosen = [contents[film] for film in films]
    if data_root is not None:
        index.scan(data_root, chosen, on_hashed)
    images = np.stack([read_film(backbone, content, index.read) for content in chosen])
    pins.check(identity, arithmetic(backbone.extraction_precision), extractor.extract(images, flips))
