#!/usr/bin/env python3
"""pgbench beside plain Postgres, through PgBouncer and through pgherd: what each costs.

    run.py [--rounds N] [--seconds S] [WORKLOAD]...

A workload is run in turn on each of them, round by round, so that whatever else the machine does meets all alike. Printed are medians, and their ratios to
PgBouncer's: throughput, latency (average and 99th percentile), and the CPU time of the pooler per transaction, in user space and kernel together, as /proc has it.
The same as JSON and as a picture (SVG) lies in target/bench. A WORKLOAD is a name, or the beginning of several.
"""

import argparse
import concurrent.futures
import contextlib
import json
import pathlib
import re
import statistics
import sys
import time

import report
import servers

# through which endpoints a workload runs; Postgres has no pooler's CPU, PgBouncer no shards. PgBouncer has one thread, pgherd one for each core, or one too
ALL = ("postgres", "pgbouncer", "pgherd", "pgherd, 1 worker")
OF_SHARDS = ("pgherd", "pgherd, sharded")
OF_SOCKETS = ("pgherd", "pgherd, Unix socket")

# one account by its key, as `pgbench -S` has it, over shards
SELECT = """\\set aid random(1, 100000 * :scale)
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
"""
# a transaction of one account, over shards
UPDATE = """\\set aid random(1, 100000 * :scale)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
END;
"""
# a row of a megabyte
MEGABYTE = "SELECT repeat('x', 1000000);\n"


class Workload:
    """Arguments of pgbench, and how many of it run at once."""

    def __init__(self, clients, *arguments, endpoints=ALL, script=None, processes=1):
        self.clients, self.arguments, self.endpoints, self.script, self.processes = clients, arguments, endpoints, script, processes


def workloads():
    found = {}
    for mode in ("simple", "extended", "prepared"):
        for clients in (1, 32, 500):
            found[f"select {mode} {clients}"] = Workload(clients, "-S", "-M", mode)
        for clients in (1, 16):
            found[f"tpcb {mode} {clients}"] = Workload(clients, "-M", mode)
        found[f"shards select {mode} 32"] = Workload(32, "-M", mode, endpoints=OF_SHARDS, script=SELECT)
        found[f"shards update {mode} 16"] = Workload(16, "-M", mode, endpoints=OF_SHARDS, script=UPDATE)
    found["socket select prepared 32"] = Workload(32, "-S", "-M", "prepared", endpoints=OF_SOCKETS)
    found["connect 16"] = Workload(16, "-S", "-C")
    # each process has a name of its own
    found["names 32"] = Workload(4, "-S", processes=8)
    found["megabytes 8"] = Workload(8, script=MEGABYTE)
    return found


def measure(bench, server, workload, seconds):
    """Runs a workload on an endpoint once."""
    arguments = ["-c", workload.clients, "-j", min(2, workload.clients), "-T", seconds, *workload.arguments]
    if workload.script:
        script = bench.folder / "script.sql"
        script.write_text(workload.script)
        arguments += ["-f", script, "-D", f"scale={servers.SCALE}"]
    # one log for each thread of each process
    for old in bench.folder.glob("transactions*"):
        old.unlink()
    arguments += ["-l", "--sampling-rate=0.2"]
    before, began = server.cpu_seconds(), time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(workload.processes) as pool:
        runs = [
            pool.submit(bench.pgbench, server, [*arguments, f"--log-prefix=transactions{number}"], PGAPPNAME=f"bench {number}")
            for number in range(workload.processes)
        ]
        printed = [run.result() for run in runs]
    used = server.cpu_seconds() - before
    transactions = sum(int(re.search(r"actually processed: (\d+)", text)[1]) for text in printed)
    if not transactions:
        raise SystemExit(f"bench: no transaction ended within {seconds} s:\n{printed[0]}")
    latencies = sorted(int(line.split()[2]) for log in bench.folder.glob("transactions*") for line in log.read_text().splitlines())
    return {
        "throughput": sum(float(re.search(r"tps = ([\d.]+)", text)[1]) for text in printed),
        "latency_ms": statistics.mean(float(re.search(r"latency average = ([\d.]+)", text)[1]) for text in printed),
        "p99_ms": latencies[int(len(latencies) * 0.99)] / 1000 if latencies else None,
        "cpu_us": used / transactions * 1e6,
        "seconds": time.monotonic() - began,
    }


def medians(rounds):
    """Of each figure, the median over the rounds."""
    return {
        figure: statistics.median(values)
        for figure in ("throughput", "latency_ms", "p99_ms", "cpu_us")
        if (values := [one[figure] for one in rounds if one[figure] is not None])
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD")
    options = parser.parse_args()
    chosen = {
        name: workload
        for name, workload in workloads().items()
        if not options.workloads or any(name.startswith(wanted) for wanted in options.workloads)
    }
    if not chosen:
        parser.error(f"there is no such workload; there are: {', '.join(workloads())}")
    with contextlib.ExitStack() as stack:
        bench = servers.Bench(stack)
        shards = [bench.postgres(f"s{number}") for number in range(servers.SHARDS)]
        plain = shards[0]
        pgherd = bench.pgherd(plain, shards)
        endpoints = {
            "postgres": plain,
            "pgbouncer": bench.pgbouncer(plain),
            "pgherd": pgherd.of("bench"),
            "pgherd, 1 worker": bench.pgherd(plain, shards, 1).of("bench"),
            "pgherd, Unix socket": pgherd.of("socket"),
            "pgherd, sharded": pgherd.of("sharded"),
        }
        measured = {name: {endpoint: [] for endpoint in workload.endpoints} for name, workload in chosen.items()}
        for number in range(options.rounds):
            for name, workload in chosen.items():
                # who is first changes from round to round
                turn = number % len(workload.endpoints)
                for endpoint in workload.endpoints[turn:] + workload.endpoints[:turn]:
                    measured[name][endpoint].append(measure(bench, endpoints[endpoint], workload, options.seconds))
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    results = {name: {endpoint: medians(rounds) for endpoint, rounds in of.items()} for name, of in measured.items()}
    place = servers.ROOT / "target/bench"
    place.mkdir(parents=True, exist_ok=True)
    machine = report.machine(bench.bin, servers.ROOT)
    (place / "pgbench.json").write_text(json.dumps({"machine": machine, "medians": results, "rounds": measured}, indent=1))
    (place / "pgbench.svg").write_text(report.picture(results, machine))
    print(report.table(results, machine))


if __name__ == "__main__":
    main()
