"""Do the tests notice? ``python -m tests.mutants --sample 300 --seed 1 --results FILE.jsonl``.

Plants a seeded sample of faults, one at a time, into copies of the working tree, and runs the tests that belong to the
faulty module, each time in a fresh process. Mutants that stand in the file are not run again unless their module or its
tests have changed (of a caught one, the test that caught it). The exit code is 1 while mutants survive that
``harmless.toml`` does not name, or are still to be run, and 2 if the tests fail with nothing planted.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

from tests.mutants.planting import Mutant, draw
from tests.mutants.results import (
    Outcome,
    Results,
    Row,
    States,
    describe,
    key_of,
    read_harmless,
    summarise,
    survivors,
)
from tests.mutants.running import LONGEST_BASELINE, Copies, Run, copies_of
from tests.mutants.table import Subject, this_project

PATIENCE = 3
"""A mutant's tests may take this many times what they take with nothing planted, and `GRACE` seconds more."""
GRACE = 30

Given = TypeVar("Given")
Made = TypeVar("Made")


class FailsUnmutatedError(Exception):
    """Tests fail with nothing planted, so they cannot tell anything of mutants."""


def main(subject: Subject, arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit code."""
    options = _options(arguments)
    # Asked to stop, it still ends the tests that run and deletes its copies.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    drawn = draw(subject.root, list(subject.tests), options.sample, options.seed)
    sample = [mutant for mutant in drawn if options.only in mutant.module]
    results = Results(options.results, States(subject))
    try:
        run_sample(subject, sample, results, options.processes, options.minutes)
    except FailsUnmutatedError as error:
        print(error)
        return 2
    harmless = read_harmless()
    rows = [row for mutant in sample if (row := results.of(mutant))]
    print("", *summarise(rows, harmless), sep="\n")
    if left := len(sample) - len(rows):
        print(f"\n{left} mutants of {len(sample)} are still to be run: the same command goes on.")
    return 1 if left or survivors(rows, harmless) else 0


def run_sample(
    subject: Subject, sample: Sequence[Mutant], results: Results, processes: int, minutes: float | None = None
) -> None:
    """Run the mutants of a sample that have no result yet, and print a line for each.

    Args:
        subject: what they are planted into.
        sample: the mutants.
        results: takes each outcome as soon as it is known.
        processes: how many run at a time.
        minutes: after which no other is begun; None for no limit.

    Raises:
        FailsUnmutatedError: tests of one of their modules fail with nothing planted.
    """
    end = None if minutes is None else time.monotonic() + 60 * minutes
    # In the order of a hash, so that a run that is stopped has seen something of every module.
    to_run = sorted((mutant for mutant in sample if results.of(mutant) is None), key=key_of)
    print(f"{len(sample)} mutants, of which {len(sample) - len(to_run)} have been run before", flush=True)
    if not to_run:
        return
    with copies_of(subject, min(processes, len(to_run))) as copies:
        modules = list(dict.fromkeys(mutant.module for mutant in to_run))
        for module in modules:
            copies.check(module)
        seconds = _baselines(subject, copies, modules)

        def run(mutant: Mutant) -> Row | None:
            if end is not None and time.monotonic() > end:
                return None
            tests = subject.tests[mutant.module]
            allowed = PATIENCE * seconds[mutant.module] + GRACE
            done = copies.run(tests, allowed, mutant.module, mutant.source)
            return results.add(mutant, _outcome(done), done.by, done.seconds)

        for ended, row in enumerate(_at_a_time(copies, run, to_run), 1):
            if row is not None:
                print(f"{ended}/{len(to_run)} {row.seconds} s, {row.outcome}: {row.by or ''}", flush=True)
                print(*(f"    {line}" for line in describe(row)), sep="\n", flush=True)


def _baselines(subject: Subject, copies: Copies, modules: Sequence[str]) -> dict[str, float]:
    """Return the seconds that each module's tests take with nothing planted."""

    def run(module: str) -> tuple[str, Run]:
        return module, copies.run(subject.tests[module], LONGEST_BASELINE)

    seconds = {}
    for module, done in _at_a_time(copies, run, modules):
        if not done.passed:
            end = "\n".join(done.output.splitlines()[-30:])
            took = f" within {LONGEST_BASELINE} seconds" if done.timed_out else ""
            raise FailsUnmutatedError(f"{end}\n\nThe tests of {module} do not pass{took} with nothing planted.")
        seconds[module] = done.seconds
        print(f"{done.seconds:.1f} s: the tests of {module}, with nothing planted", flush=True)
    return seconds


def _at_a_time(copies: Copies, function: Callable[[Given], Made], items: Sequence[Given]) -> Iterable[Made]:
    """Yield what a function makes of each item, in threads, as many at a time as there are copies."""
    with ThreadPoolExecutor(copies.count) as threads:
        waiting = [threads.submit(function, item) for item in items]
        try:
            for future in as_completed(waiting):
                yield future.result()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            copies.stop()
            raise


def _outcome(done: Run) -> Outcome:
    if done.passed:
        return Outcome.SURVIVED
    return Outcome.TIMED_OUT if done.timed_out else Outcome.CAUGHT


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Planted faults, and who notices.")
    parser.add_argument("--sample", type=int, default=300, help="how many faults are planted (300)")
    parser.add_argument("--seed", type=int, default=1, help="another seed, another sample (1)")
    parser.add_argument("--results", type=Path, help="a JSON line for each; mutants that stand in it are not run again")
    parser.add_argument("--processes", type=int, default=_cores(), help="how many run at a time (one a core)")
    parser.add_argument("--minutes", type=float, help="begin no other mutant after so many minutes")
    parser.add_argument("--only", default="", help="those of the sample in modules whose path contains this")
    return parser.parse_args(arguments)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main(this_project()))
