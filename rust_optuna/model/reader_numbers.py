"""How far the readers of the films agree among each other, and how far the model agrees with the label.

The label is one reader's. Where further readers scored films, the agreement of all of them says what a model can reach;
the model's agreement with the label, by the same functions on the same films, stands beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rust_optuna.data.manifest import CORTICES
from rust_optuna.model.agreement import intraclass_correlation, krippendorff_alpha, quadratic_kappa
from rust_optuna.model.bootstrap import estimates
from rust_optuna.model.cortex_numbers import most_probable, subscore_distribution
from rust_optuna.model.scored import UNREADABLE, ScoredFilms
from rust_optuna.model.weighted import mean_of_defined

METRICS = {
    "quadratic_kappa": quadratic_kappa,
    "intraclass_correlation": intraclass_correlation,
    "krippendorff_alpha": krippendorff_alpha,
}


def reader_numbers(films: ScoredFilms, weights: np.ndarray) -> dict[str, Any]:
    """Return the agreement in each cortex, and its means over the cortices.

    Films count for a cortex where it has a label and a subscore by at least one further reader.

    Args:
        films: with the scores to judge, and with readers.
        weights: (resamples, n), of `rust_optuna.model.bootstrap.patient_weights`.

    Returns:
        ``cortices``: for each cortex that has such films how many ``films`` they are, and ``quadratic_kappa``,
        ``intraclass_correlation`` (ICC(2,1), on the films that all readers scored) and ``krippendorff_alpha``
        (ordinal), each for ``readers`` (the label and the further readers) and for the ``model`` (the label and its
        most probable subscore). ``mean``: these metrics, their means over the cortices that define them.

    Raises:
        ValueError: the films have no readers.
    """
    if films.readers is None:
        raise ValueError("the films have no readers")
    labels = np.where(films.classes == UNREADABLE, np.nan, films.classes + 1)
    model = most_probable(subscore_distribution(films.scores)[:, :, :UNREADABLE]) + 1.0
    ratings = {}
    for position, cortex in enumerate(CORTICES):
        by_readers, label = films.readers[:, :, position], labels[:, position]
        which = ~np.isnan(label) & ~np.isnan(by_readers).all(axis=0)
        if which.any():
            readers = np.concatenate([label[np.newaxis, which], by_readers[:, which]])
            ratings[cortex] = which, {"readers": readers, "model": np.stack([label[which], model[which, position]])}

    def statistics(weights: np.ndarray) -> dict[str, Any]:
        found = {
            cortex: {
                name: {who: metric(given, weights.T[which].T) for who, given in by.items()}
                for name, metric in METRICS.items()
            }
            for cortex, (which, by) in ratings.items()
        }
        means = {
            name: {
                who: mean_of_defined(np.stack([each[name][who] for each in found.values()], axis=1))
                for who in ("readers", "model")
            }
            for name in (METRICS if found else ())
        }
        return {"cortices": found, "mean": means}

    numbers = estimates(statistics, weights)
    counts = {cortex: int(which.sum()) for cortex, (which, _) in ratings.items()}
    cortices = {cortex: {"films": counts[cortex], **each} for cortex, each in numbers["cortices"].items()}
    return {"cortices": cortices, "mean": numbers["mean"]}
