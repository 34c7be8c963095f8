#!/usr/bin/env python3
"""Runs test suites that others wrote through pgherd on an unsharded database.

    endpoints tests/suites/run.py [SUITE]...

A suite runs on a plain Postgres first: each test has to end through pgherd as it ended there, passed, failed or skipped. Tests that are known not to
stand in SUITE.txt, one to a line as `test | reason`; a reason that begins with "sometimes" is of a test that may end alike. The suites are fetched into
target/suites and are no part of this repository. Exits with 1 if a test ends otherwise that does not stand there, or stands there and ends alike.
"""

import collections
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree

HERE = pathlib.Path(__file__).resolve().parent
BUILT = HERE.parent.parent / "target" / "suites"
PYTHON = HERE.parent.parent / "target" / "drivers" / "venv/bin/python"


@dataclasses.dataclass
class Suite:
    """A suite that pytest runs, of a source package on PyPI."""

    package: str
    # the folders and files in the package that are the suite
    content: list
    # of the content, what pytest is given
    tests: list
    # options of pytest; `{url}` is user, password, host, port and database
    options: list = dataclasses.field(default_factory=list)
    environment: dict = dataclasses.field(default_factory=dict)
    # the installed package of the same version, where it is called otherwise
    installed: str = ""
    # what it wants to find in the database
    prepare: str = ""


def sqlalchemy(driver):
    """SQLAlchemy's suite for dialects, with a driver."""
    return Suite(
        "sqlalchemy",
        ["test", "lib/sqlalchemy/testing", "pyproject.toml", "setup.cfg"],
        ["test/dialect/test_suite.py"],
        [f"--dburi=postgresql+{driver}://{{url}}", "--maxfail=1000000"],
        # the installed one is tested, which is compiled, not the one of the source package
        {"PYTHONNOUSERSITE": "1"},
        prepare="CREATE SCHEMA test_schema; CREATE SCHEMA test_schema_2; CREATE EXTENSION hstore; CREATE EXTENSION citext",
    )


SUITES = {
    "asyncpg": Suite("asyncpg", ["tests"], ["tests"]),
    "psycopg2": Suite(
        "psycopg2",
        ["tests"],
        ["tests"],
        environment={"PSYCOPG2_TESTDB": "shop", "PSYCOPG2_TEST_REPL_DSN": ""},
        installed="psycopg2-binary",
        prepare="CREATE EXTENSION hstore",
    ),
    "sqlalchemy-psycopg": sqlalchemy("psycopg"),
    "sqlalchemy-psycopg2": sqlalchemy("psycopg2"),
    "sqlalchemy-asyncpg": sqlalchemy("asyncpg"),
}


def fetch(suite):
    """The suite's folder, with the version of the package that is installed."""
    version = subprocess.run(
        [PYTHON, "-c", f"import importlib.metadata; print(importlib.metadata.version('{suite.installed or suite.package}'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()
    source = f"{suite.package}-{version}"
    folder = BUILT / source
    if not folder.exists():
        BUILT.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [PYTHON, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", suite.package, "--dest", BUILT, f"{suite.package}=={version}"],
            check=True,
        )
        fresh = folder.with_name(f"{source}.unfinished")
        shutil.rmtree(fresh, ignore_errors=True)
        with tarfile.open(next(BUILT.glob(f"{source}.tar.*"))) as archive:
            # the driver itself is the installed one, which is compiled
            wanted = [f"{source}/{name}" for name in suite.content]
            members = [member for member in archive if any(member.name == name or member.name.startswith(f"{name}/") for name in wanted)]
            archive.extractall(fresh, members, filter="data")
        (fresh / source).rename(folder)
        fresh.rmdir()
    return folder, version


def prepare(suite, environment):
    """Empties the database, and makes in it what the suite wants to find."""
    # what a suite leaves behind is another one's surprise
    left = "SELECT format('DROP SCHEMA %I CASCADE', nspname) FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'pgherd') \\gexec\n"
    subprocess.run(
        ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1"], input=f"{left}CREATE SCHEMA public;\n{suite.prepare};\n",
        env=environment | {"PGOPTIONS": "-c client_min_messages=warning"}, stdout=subprocess.DEVNULL, text=True, check=True,
    )


def run(name, suite, folder, endpoint):
    """Runs a suite at an endpoint; how each test ended: passed, failed or skipped, and why."""
    report, log = (BUILT / f"{name}-{endpoint.lower()}.{kind}" for kind in ("xml", "log"))
    report.unlink(missing_ok=True)
    environment = os.environ | {
        "PGHOST": "127.0.0.1",
        "PGPORT": os.environ[endpoint],
        "PGUSER": "root",
        "PGPASSWORD": "root",
        "PGDATABASE": "shop",
    } | suite.environment
    prepare(suite, environment)
    options = [option.format(url=f"root:root@127.0.0.1:{os.environ[endpoint]}/shop") for option in suite.options]
    with open(log, "wb") as output:
        subprocess.run(
            [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=30", "--tb=native", f"--junitxml={report}", *options, *suite.tests],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False,
        )
    outcomes = {}
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        # SQLAlchemy puts the driver and the version of the server into its names
        test = re.sub(r"_postgresql\+\w+?_[0-9_]+", "", f"{case.get('classname')}.{case.get('name')}").removeprefix("tests.")
        problem = next((child for child in case if child.tag in ("failure", "error")), None)
        if problem is not None:
            outcomes[test] = "failed", " ".join((problem.get("message") or "").split())
        elif case.find("skipped") is not None:
            outcomes.setdefault(test, ("skipped", case.find("skipped").get("message") or ""))
        else:
            outcomes.setdefault(test, ("passed", ""))
    return outcomes


def read_expected(name):
    """The tests that are known to end otherwise through pgherd, each with the reason."""
    lines = [line for line in (HERE / f"{name}.txt").read_text().splitlines() if line.strip() and not line.startswith("#")]
    return {test.strip(): reason.strip() for test, reason in (line.rsplit(" | ", 1) for line in lines)}


def counted(outcomes):
    """How many tests ended in which way."""
    counts = collections.Counter(end for end, _ in outcomes.values())
    return ", ".join(f"{counts[end]:,} {end}" for end in ("passed", "failed", "skipped"))


def check(name):
    """Runs a suite at both; its row of the table, and whether all is as expected."""
    suite = SUITES[name]
    folder, version = fetch(suite)
    plain, ours = (run(name, suite, folder, endpoint) for endpoint in ("PLAIN", "UNSHARDED"))
    known, absent = read_expected(name), ("no such test", "")
    different = {test for test in plain.keys() | ours.keys() if plain.get(test, absent)[0] != ours.get(test, absent)[0]}
    for test in sorted(different - known.keys()):
        ends = " but ".join(f"{end} {where} ({why[:300]})" for (end, why), where in ((plain.get(test, absent), "there"), (ours.get(test, absent), "here")))
        print(f"{name}: {test}: {ends}")
    alike = sorted(test for test, reason in known.items() if test not in different and not reason.startswith("sometimes"))
    for test in alike:
        print(f"{name}: {test} does not differ any more: take it out of {name}.txt")
    row = [name, version, counted(plain), counted(ours), f"{len(plain.keys() - different):,} of {len(plain):,}"]
    print(" | ".join(row), flush=True)
    return row, not alike and different <= known.keys() and any(end == "passed" for end, _ in plain.values())


def main():
    rows, good = [], True
    for name in sys.argv[1:] or SUITES:
        row, as_expected = check(name)
        rows.append(row)
        good = good and as_expected
    heads = ["suite", "version", "plain Postgres", "pgherd", "alike"]
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * 4}---:|")
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    print("\nsuites: all as expected" if good else "\nsuites: NOT as expected, see above")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
