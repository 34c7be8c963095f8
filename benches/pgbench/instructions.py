#!/usr/bin/env python3
"""What a transaction costs a pooler in user space: instructions, as callgrind counts them.

    instructions.py [MODE]...      a MODE is pgbench's arguments: "-S -c1 -M prepared"

Unlike a time, the count is the same on a busy machine and on an idle one. Each pooler runs twice, for few transactions and for many; the difference, divided, leaves out
what starting costs. pgherd has one worker. It needs valgrind, a release build and target/bench/pgbouncer (`make bench` makes both).
"""

import contextlib
import re
import sys

import servers

FEW, MANY = 500, 2100
MODES = ["-S -c1", "-S -c1 -M extended", "-S -c1 -M prepared", "-S -c16", "-S -c16 -M prepared"]


class Counted(servers.Bench):
    """A bench whose poolers run within callgrind."""

    def start(self, name, command, port, user=None):
        if name in ("pgherd", "pgbouncer"):
            command = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={self.counts(name)}", *command]
        return super().start(name, command, port, user)

    def counts(self, name):
        return self.folder / f"{name}.callgrind"

    def instructions(self, name, run, transactions, arguments):
        """What one run of a pooler has counted."""
        pooler = run()
        clients = int(re.search(r"-c ?(\d+)", arguments)[1])
        self.pgbench(pooler, ["-t", transactions // clients, *arguments.split()])
        servers.stop(pooler.process)
        return int(re.findall(r"^(?:totals|summary): (\d+)", self.counts(name).read_text(errors="replace"), re.MULTILINE)[-1])


def main():
    servers.SCALE = 1
    with contextlib.ExitStack() as stack:
        bench = Counted(stack)
        postgres = bench.postgres("s0")
        poolers = {"pgbouncer": lambda: bench.pgbouncer(postgres), "pgherd": lambda: bench.pgherd(postgres, [postgres], 1).of("bench")}
        print(f"instructions of a transaction | {' | '.join(poolers)}")
        for mode in sys.argv[1:] or MODES:
            counted = []
            for name, run in poolers.items():
                few, many = (bench.instructions(name, run, transactions, mode) for transactions in (FEW, MANY))
                counted.append((many - few) / (MANY - FEW))
            print(f"{mode} | {' | '.join(f'{count:,.0f}' for count in counted)}", flush=True)


main()
