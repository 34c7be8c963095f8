#!/usr/bin/env python3
"""Runs Postgres' own regression tests through pgherd on an unsharded database and on a plain Postgres, and compares what psql prints.

    regress_endpoints tests/regress/run.py [FILE]...

All files of parallel_schedule, one after the other, or those named here and before them the ones that all others need:

- in mode transaction, where SET SESSION AUTHORIZATION is refused: both are sent SET ROLE in its place,
- in mode session, as they are.

The tests are Postgres' source package from the sources of apt, of the version that is installed, fetched into target/regress; they are no part of this repository.
What differs stands in differences.txt, one to a line as `MODE FILE LINES | reason`. Exits with 1 if another number of lines differs there; with
UPDATE_DIFFERENCES=1 the numbers are written there instead, and the reason of what is new is left to be found.
"""

import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
BUILT = HERE.parent.parent / "target" / "regress"
DIFFERENCES = HERE / "differences.txt"
MODES = ("transaction", "session")
# what all others need
FIRST = ["test_setup"]
# in seconds: a psql that hangs is a failure, not a hanging run
LIMIT = 900

AS_ROLE = [
    (re.compile(r"^(\s*)SET\s+SESSION\s+AUTHORIZATION\s+DEFAULT\b", re.I | re.M), r"\1RESET ROLE"),
    (re.compile(r"^(\s*)SET\s+(LOCAL\s+)?SESSION\s+AUTHORIZATION\b", re.I | re.M), r"\1SET \2ROLE"),
    (re.compile(r"^(\s*)RESET\s+SESSION\s+AUTHORIZATION\b", re.I | re.M), r"\1RESET ROLE"),
]


def output(*command, **options):
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, **options).stdout.strip()


def fetch():
    """The folder src/test/regress of the version that is installed, with regress.so in it."""
    major = psql_value("SHOW server_version_num")[:-4]
    package = f"postgresql-{major}"
    version = output("dpkg-query", "-W", "-f", "${Version}", package)
    folder = BUILT / f"{package}-{version}"
    if folder.exists():
        return folder
    apt = BUILT / "apt"
    for needed in (BUILT, apt / "sources", apt / "lists/partial", apt / "cache/archives/partial"):
        needed.mkdir(parents=True, exist_ok=True)
    # the machine's own sources, asked for source packages; those that have none do not matter
    for listed in [pathlib.Path("/etc/apt/sources.list"), *pathlib.Path("/etc/apt/sources.list.d").glob("*")]:
        if listed.suffix in (".list", ".sources") and listed.exists():
            text = re.sub(r"^Types:.*", "Types: deb-src", re.sub(r"^deb ", "deb-src ", listed.read_text(), flags=re.M), flags=re.M)
            (apt / "sources" / listed.name).write_text(text)
    options = ["-q", "-o", "Dir::Etc::sourcelist=/dev/null", "-o", f"Dir::Etc::sourceparts={apt / 'sources'}", "-o", f"Dir::State::lists={apt / 'lists'}"]
    options += ["-o", f"Dir::Cache={apt / 'cache'}", "-o", "APT::Sandbox::User=root"]
    subprocess.run(["apt-get", *options, "update"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    fresh = folder.with_suffix(".unfinished")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for command in (["apt-get", *options, "source", "--download-only", "--tar-only"], ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download"]):
        wanted = package if "source" in command else f"postgresql-server-dev-{major}"
        # another release of the same major version where this one is not offered any more
        if subprocess.run([*command, f"{wanted}={version}"], cwd=fresh, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode != 0:
            output(*command, wanted, cwd=fresh)
    output("tar", "-xf", next(fresh.glob("*.orig.tar.*")), "--strip-components=4", "--wildcards", "*/src/test/regress/*", cwd=fresh)
    # the functions in C; the package with the headers is not installed, since it brings a compiler of its own
    output("dpkg", "-x", next(fresh.glob("*.deb")), "headers", cwd=fresh)
    output("cc", "-shared", "-fPIC", f"-Iheaders/usr/include/postgresql/{major}/server", "regress.c", "-o", "regress.so", cwd=fresh)
    shutil.rmtree(fresh / "headers")
    for package in [*fresh.glob("*.deb"), *fresh.glob("*.orig.tar.*")]:
        package.unlink()
    shutil.rmtree(apt)
    fresh.rename(folder)
    return folder


def environment(endpoint):
    """As pg_regress has it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return kept | {
        "PGHOST": "127.0.0.1",
        "PGPORT": os.environ[endpoint],
        "PGUSER": "postgres",
        "PGPASSWORD": "postgres",
        "PGDATABASE": "regression",
        "PGTZ": "America/Los_Angeles",
        "PGDATESTYLE": "Postgres, MDY",
        "PGOPTIONS": "-c intervalstyle=postgres_verbose",
        "LC_MESSAGES": "C",
    }


def psql_value(query, endpoint="SESSION_PLAIN"):
    return output("psql", "-XAtc", query, env=environment(endpoint))


def wait_for(endpoint):
    """Until pgherd knows of the database, which was made after its start."""
    for _ in range(100):
        asked = subprocess.run(["psql", "-XAtc", "SELECT 1"], env=environment(endpoint), capture_output=True, text=True, check=False)
        if asked.returncode == 0:
            return
        time.sleep(0.2)
    sys.exit(f"regress: no answer of {endpoint}: {asked.stderr}")


class Run:
    """One endpoint's files, which run in a directory that its server can read and write."""

    def __init__(self, endpoint, tests, shared):
        self.endpoint = endpoint
        self.tests = tests
        self.port = os.environ[endpoint]
        self.build = shared / endpoint.lower()
        (self.build / "results").mkdir(parents=True)
        for folder in (self.build, self.build / "results"):
            folder.chmod(0o777)
        self.environment = environment(endpoint) | {
            "PG_ABS_SRCDIR": str(shared / "tests"),
            "PG_ABS_BUILDDIR": str(self.build),
            "PG_LIBDIR": str(shared / "tests"),
            "PG_DLSUFFIX": ".so",
        }
        self.kept = BUILT / "results" / endpoint.lower()
        self.kept.mkdir(parents=True, exist_ok=True)

    def file(self, name):
        """Runs a file; what psql printed, without what differs from place to place, is kept; the number of its lines."""
        text = (self.tests / "sql" / f"{name}.sql").read_bytes().decode("utf-8", "surrogateescape")
        if self.endpoint.startswith("TRANSACTION"):
            for pattern, role in AS_ROLE:
                text = pattern.sub(role, text)
        command = ["psql", "-X", "-a", "-q", "-v", "HIDE_TABLEAM=on", "-v", "HIDE_TOAST_COMPRESSION=on"]
        try:
            printed = subprocess.run(
                command, input=text.encode("utf-8", "surrogateescape"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=LIMIT,
                env=self.environment | {"PGAPPNAME": f"pg_regress/{name}"},
            ).stdout
        except subprocess.TimeoutExpired as late:
            printed = (late.stdout or b"") + b"\nregress: psql did not end\n"
        printed = printed.replace(str(self.build).encode(), b"BUILDDIR").replace(f"port {self.port}".encode(), b"port PORT")
        (self.kept / f"{name}.out").write_bytes(printed)
        return printed.count(b"\n")

    def all(self, names):
        return sum(self.file(name) for name in names)


def read_known():
    """The number of lines that are known to differ and the reason, by mode and file."""
    known = {}
    for line in DIFFERENCES.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            place, reason = line.split("|", 1)
            mode, name, lines = place.split()
            known[mode, name] = int(lines), reason.strip()
    return known


def write_known(found, known, names):
    """Writes what was found for these files, and leaves what is known of others."""
    found = found | {place: lines for place, (lines, _) in known.items() if place[1] not in names}
    comments = [line for line in DIFFERENCES.read_text().splitlines() if line.startswith("#")]
    lines = [f"{mode} {name} {lines} | {known.get((mode, name), (0, 'to be explained'))[1]}" for (mode, name), lines in found.items()]
    DIFFERENCES.write_text("\n".join(comments + lines) + "\n")


def main():
    for endpoint in ("TRANSACTION", "SESSION"):
        wait_for(endpoint)
    tests = fetch()
    schedule = re.findall(r"^test:(.*)", (tests / "parallel_schedule").read_text(), re.M)
    names = [name for line in schedule for name in line.split()]
    unknown = set(sys.argv[1:]) - set(names)
    if unknown:
        sys.exit(f"regress: no such test: {', '.join(sorted(unknown))}")
    if sys.argv[1:]:
        names = [name for name in names if name in FIRST or name in sys.argv[1:]]
    with tempfile.TemporaryDirectory(prefix="pgherd-regress-") as directory:
        shared = pathlib.Path(directory)
        shared.chmod(0o755)
        shutil.copytree(tests, shared / "tests")
        for library in ("autoinc", "refint"):
            # of contrib, and looked for beside regress.so
            shutil.copy(pathlib.Path(psql_value("SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR'")) / f"{library}.so", shared / "tests")
        with concurrent.futures.ThreadPoolExecutor() as threads:
            runs = {endpoint: threads.submit(Run(endpoint, tests, shared).all, names) for mode in MODES for endpoint in (mode.upper(), f"{mode.upper()}_PLAIN")}
        lines_of = {endpoint: run.result() for endpoint, run in runs.items()}
    known, found = read_known(), {}
    for mode in MODES:
        for name in names:
            plain, ours = (BUILT / "results" / endpoint / f"{name}.out" for endpoint in (f"{mode}_plain", mode))
            difference = subprocess.run(["diff", "-a", "-U3", plain, ours], stdout=subprocess.PIPE, check=False).stdout
            (BUILT / "results" / f"{mode}-{name}.diff").write_bytes(difference)
            if difference:
                found[mode, name] = len(re.findall(rb"^[-+]", difference, re.M)) - 2
        alike = sum((mode, name) not in found for name in names)
        lines = sum(lines for (of, _), lines in found.items() if of == mode)
        print(f"| {mode} | {len(names)} files | {alike} alike | {lines_of[f'{mode.upper()}_PLAIN']} lines | {lines} differ |")
    if os.environ.get("UPDATE_DIFFERENCES"):
        write_known(found, known, names)
        return 0
    wrong = [(mode, name) for mode in MODES for name in names if found.get((mode, name), 0) != known.get((mode, name), (0, ""))[0]]
    for mode, name in wrong:
        expected = known.get((mode, name), (0, ""))[0]
        print(f"{mode} {name}: {found.get((mode, name), 0)} lines differ and not {expected}: see {BUILT}/results/{mode}-{name}.diff")
    print("regress: NOT as expected, see above" if wrong else "regress: all as expected")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
