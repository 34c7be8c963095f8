#!/usr/bin/env python3
"""Runs drivers' own test suites through pgherd on an unsharded database.

    endpoints tests/suites/run.py [SUITE]...

A suite runs on a plain Postgres first: what passes there has to pass through pgherd. Tests that are known not to stand in SUITE.txt, one to a line
as `test | reason`; a reason that begins with "sometimes" is of a test that may pass. The suites are fetched into target/suites and are no part of
this repository. Exits with 1 if a test fails that does not stand there, or stands there and passes.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree

HERE = pathlib.Path(__file__).resolve().parent
BUILT = HERE.parent.parent / "target" / "suites"
PYTHON = HERE.parent.parent / "target" / "drivers" / "venv/bin/python"

# the source package on PyPI, and the folders in it that are the suite
SUITES = {"asyncpg": ("asyncpg", ["tests"])}


def fetch(suite):
    """The suite's folder, with the version of the driver that is installed."""
    package, folders = SUITES[suite]
    version = subprocess.run(
        [PYTHON, "-c", f"import importlib.metadata; print(importlib.metadata.version('{package}'))"], capture_output=True, text=True, check=True
    ).stdout.strip()
    folder = BUILT / f"{suite}-{version}"
    if not folder.exists():
        BUILT.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [PYTHON, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", package, "--dest", BUILT, f"{package}=={version}"], check=True
        )
        fresh = folder.with_suffix(".unfinished")
        shutil.rmtree(fresh, ignore_errors=True)
        with tarfile.open(next(BUILT.glob(f"{package}-{version}.tar.*"))) as archive:
            # the driver itself is the installed one, which is compiled
            wanted = tuple(f"{package}-{version}/{name}/" for name in folders)
            archive.extractall(fresh, [member for member in archive if member.name.startswith(wanted)], filter="data")
        (fresh / f"{package}-{version}").rename(folder)
        fresh.rmdir()
    return folder, version


def run(suite, folder, endpoint):
    """Runs a suite at an endpoint; the outcome of each test."""
    report = BUILT / f"{suite}-{endpoint.lower()}.xml"
    report.unlink(missing_ok=True)
    environment = os.environ | {
        "PGHOST": "127.0.0.1",
        "PGPORT": os.environ[endpoint],
        "PGUSER": "root",
        "PGPASSWORD": "root",
        "PGDATABASE": "shop",
    }
    with open(BUILT / f"{suite}-{endpoint.lower()}.log", "wb") as log:
        subprocess.run(
            [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=30", "--tb=native", f"--junitxml={report}", "tests"],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False,
        )
    outcomes = {}
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}".removeprefix("tests.")
        problem = next((child for child in case if child.tag in ("failure", "error")), None)
        if problem is not None:
            outcomes[name] = (problem.get("message") or "failed").splitlines()[0]
        elif case.find("skipped") is None:
            outcomes.setdefault(name, "")
    return outcomes


def read_expected(suite):
    """The tests that are known to fail through pgherd, each with the reason."""
    lines = [line for line in (HERE / f"{suite}.txt").read_text().splitlines() if line.strip() and not line.startswith("#")]
    return {name.strip(): reason.strip() for name, reason in (line.split("|", 1) for line in lines)}


def check(suite):
    """Runs a suite at both; whether all is as expected."""
    folder, version = fetch(suite)
    plain, ours, known = run(suite, folder, "PLAIN"), run(suite, folder, "UNSHARDED"), read_expected(suite)
    passing = [name for name, problem in plain.items() if not problem]
    failed = {name: ours.get(name, "did not run") for name in passing if ours.get(name, "did not run")}
    for name, problem in failed.items():
        if name not in known:
            print(f"{suite}: {name}: {problem[:200]}")
    gone = [name for name, reason in known.items() if name not in failed and not reason.startswith("sometimes")]
    for name in gone:
        print(f"{suite}: {name} passes: take it out of {suite}.txt")
    print(f"| {suite} {version} | {len(passing)} pass on Postgres | {len(passing) - len(failed)} pass through pgherd | {len(known)} are known not to |")
    return not gone and failed.keys() <= known.keys() and len(passing) > 0


def main():
    results = [check(suite) for suite in sys.argv[1:] or SUITES]
    print("suites: all as expected" if all(results) else "suites: NOT as expected, see above")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
