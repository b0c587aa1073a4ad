"""Filling the feature cache for a study: a sample is compared with its other workers' features first."""

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
    """Compute the features that a cache lacks, unless they would not be those of the study's other workers.

    Args:
        cache: of one backbone.
        contents: the study's films, by content hash, in its order.
        index: finds them.
        pins: the features that the study's workers have; None to compare with nobody's.
        data_root: the folder in which films are looked for that the index lacks; None for nowhere.
        progress: called as films are done.
        on_hashed: called as files of that folder are hashed.

    Raises:
        FingerprintError: the features here are others.
        DataError: a film is not on this machine, or cannot be read.
        WeightsError: weights are missing or do not fit.
    """
    missing = cache.missing(contents)
    if not missing:
        # As building would: commands that have not loaded TensorFlow find the cache by it.
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
    """Compare the features of a few films with other workers', if there are any.

    Args:
        extractor: computes them.
        contents: the study's films, by content hash, in its order.
        index: finds them.
        pins: the features that the study's workers have; None to compare with nobody's.
        data_root: the folder in which films are looked for that the index lacks; None for nowhere.
        on_hashed: called as files of that folder are hashed.

    Raises:
        FingerprintError: they differ.
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
