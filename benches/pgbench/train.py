#!/usr/bin/env python3
"""What a profile-guided build is optimised for: pgbench through the pgherd that PGHERD names, in every mode, on one shard and over several."""

import contextlib

import run
import servers

# of each workload, in seconds
LONG = 6


def main():
    servers.SCALE = 2
    with contextlib.ExitStack() as stack:
        bench = servers.Bench(stack)
        shards = [bench.postgres(f"s{number}") for number in range(servers.SHARDS)]
        pgherd = bench.pgherd(shards[0], shards)
        for name, workload in run.workloads().items():
            if workload.processes > 1 or workload.clients > 100:
                continue
            sharded = "pgherd, sharded" in workload.endpoints
            run.measure(bench, pgherd.of("sharded" if sharded else "bench"), workload, LONG)
            print(f"ran {name}", flush=True)


main()
