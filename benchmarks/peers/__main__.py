"""``python -m benchmarks.peers [--quick] [--json PATH] [--only WORD]``: run the peers, print a table."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.peers.rows import as_table
from benchmarks.peers.runner import PEERS, run_peers


def main() -> int:
    """Run, print, write; 1 if a peer could not be run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="4 design points of 1 epoch instead of 8 of 2")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the rows there")
    parser.add_argument("--only", metavar="WORD", default="", help="only peers whose name contains this")
    arguments = parser.parse_args()
    chosen = [peer for peer in PEERS if arguments.only.lower() in peer.name.lower()]
    if not chosen:
        parser.error(f"no peer is named so; there are: {', '.join(peer.name for peer in PEERS)}")
    rows = run_peers(arguments.quick, chosen, on_start=lambda peer: print(f"{peer.name} …", file=sys.stderr))
    print(as_table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")
    return int(any(row.error for row in rows))


if __name__ == "__main__":
    sys.exit(main())
