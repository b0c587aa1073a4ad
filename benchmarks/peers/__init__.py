"""The same small search done by other tools and by this one: seconds, trials run twice, design points lost.

``python -m benchmarks.peers`` runs them all; ``task`` says what each of them has to do, and one module a peer how it
does it. The peers need packages that rust_optuna does not: ``pip install '.[bench]'``. Linux only: processes are
counted in ``/proc``.
"""

from benchmarks.peers.rows import Row, Tally
from benchmarks.peers.runner import PEERS, run_peers

__all__ = ["PEERS", "Row", "Tally", "run_peers"]
