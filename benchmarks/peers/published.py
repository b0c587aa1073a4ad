"""The published way, alone: one process, two threads, the design points one after another in a loop.

No tool, so nothing to go wrong and nothing to go on with: killed, it starts again from the first point.
"""

from __future__ import annotations

from benchmarks.peers.rows import report, tally
from benchmarks.peers.task import WORKERS, Arguments, Task, use_threads


def main() -> None:
    """Run every point and report."""
    arguments = Arguments(__doc__).parse_args()
    task = Task(arguments.films, arguments.quick)
    # As many threads as the other peers have in all.
    use_threads(WORKERS)
    report(tally(task.points, [(point, task.published_objective(point)) for point in task.points]))


if __name__ == "__main__":
    main()
