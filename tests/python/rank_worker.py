"""A rank in a process of its own: ADDRESS SESSION RANKS RANK LAST_STEP. Takes steps up to LAST_STEP from where the
session is, and prints each when it has its result."""

from __future__ import annotations

import sys

from calibd.channel import Connection
from rank_support import LONG, given, open_rank


def main() -> None:
    address, session = sys.argv[1:3]
    ranks, rank, last = map(int, sys.argv[3:])
    with open_rank(Connection(address), session, rank) as worker:
        for step in range(worker.next_step, last + 1):
            result = worker.step(given(ranks, rank, step), step=step, timeout=LONG)
            print(result.step, flush=True)


if __name__ == "__main__":
    main()
