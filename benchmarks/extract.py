"""Films a second through the backbone, beside the peak, in float32 and bfloat16."""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from benchmarks.peak import Peak
from benchmarks.sections import wait_for_the_others
from rust_optuna.config import BackboneConfiguration
from rust_optuna.learn.extraction import Extractor

FLOP_A_FILM = 11.4e9


def main() -> None:
    """Print one JSON object: films a second and utilisation of one core's peak, by precision.

    Whole micro-batches are timed, two on each core: a place that must stay empty is work that a film has to pay for.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    peak = Peak()
    precisions = ("float32", "bfloat16")
    extractors = {p: Extractor(BackboneConfiguration("random", extraction_precision=p)) for p in precisions}
    films = {p: 2 * extractor.slots * extractor.threads for p, extractor in extractors.items()}
    images = np.random.default_rng(0).uniform(-1, 1, (max(films.values()), 299, 299)).astype(np.float32)
    flips = np.arange(len(images)) % 4
    for precision, extractor in extractors.items():
        extractor.extract(images[: films[precision]], flips[: films[precision]])
    wait_for_the_others()
    found: dict[str, dict[str, list[float]]] = {p: {"rate": [], "utilisation": []} for p in precisions}
    for _ in range(chosen.rounds):
        for precision, extractor in extractors.items():
            flops = peak.measure()
            began = time.perf_counter()
            extractor.extract(images[: films[precision]], flips[: films[precision]])
            rate = films[precision] / (time.perf_counter() - began)
            flops = (flops + peak.measure()) / 2
            found[precision]["rate"].append(rate)
            found[precision]["utilisation"].append(rate * FLOP_A_FILM / flops)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
