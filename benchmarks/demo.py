"""How long ``rust-optuna demo`` takes on a machine that does nothing else, beside the machine's peak.

    python -m benchmarks.demo

Runs the demo in a folder of its own. Writes ``benchmarks/results/demo.json`` and its line in ``docs/performance.md``.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time

from benchmarks import sections
from benchmarks.peak import Peak
from benchmarks.table import put_into
from rust_optuna.machine import cpu_cores, instruction_set, processor

RESULTS = sections.ROOT / "benchmarks" / "results" / "demo.json"


def main() -> None:
    """Run the demo, and write what it took."""
    with tempfile.TemporaryDirectory() as home:
        began = time.perf_counter()
        command = [sys.executable, "-m", "rust_optuna", "demo", "--weights", "random"]
        subprocess.run(command, check=True, cwd=home, env={**os.environ, "PYTHONPATH": str(sections.ROOT)})
        seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = Peak()  # TensorFlow is loaded once the demo is over
    found = {
        "processor": processor(),
        "instructions": instruction_set(),
        "cores": cpu_cores(),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_gflops": round(max(peak.measure() for _ in range(3)) / 1e9, 1),
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    line = (
        f"`make demo` without its installation took {found['seconds']} s, of which the processors computed "
        f"{found['cpu_seconds']} s, on {found['cores']} cores of {found['processor']} with {found['instructions']}, "
        f"whose TensorFlow multiplies matrices at {found['peak_gflops']} GFLOP/s."
    )
    put_into(sections.ROOT / "docs" / "performance.md", line, "python -m benchmarks.demo")


if __name__ == "__main__":
    main()
