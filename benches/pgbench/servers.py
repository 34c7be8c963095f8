"""What is measured: Postgres servers, and the poolers ahead of them, each a process of its own on a free port of 127.0.0.1."""

import contextlib
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# as pgbench names a unit of its data: 100,000 accounts
SCALE = 20
SHARDS = 3
# server connections of a pooler
POOL = 20
CLIENTS = 1000


def binaries():
    """The folder of Postgres' newest server programs."""
    if given := os.environ.get("PGHERD_POSTGRES_BIN"):
        return pathlib.Path(given)
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/pgbench"), key=lambda path: int(path.parts[-3]))
    if not found:
        raise SystemExit("bench: no Postgres with pgbench in /usr/lib/postgresql; PGHERD_POSTGRES_BIN names another folder")
    return found[-1].parent


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until_open(process, port, log):
    """Until a process listens, at most 30 s."""
    for _ in range(300):
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise SystemExit(f"bench: {' '.join(map(str, process.args))} does not start:\n{pathlib.Path(log.name).read_text()}")


def wait_until_ready(folder, port):
    """Until a Postgres that listens lets clients in, at most 30 s."""
    for _ in range(300):
        if subprocess.run([folder / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]).returncode == 0:
            return
        time.sleep(0.1)
    raise SystemExit("bench: a Postgres lets nobody in")


class Server:
    """A process that clients connect to."""

    def __init__(self, process, port, database="bench"):
        self.process, self.port, self.database = process, port, database

    def cpu_seconds(self):
        """What the process has used of all cores, in user space and in the kernel."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def of(self, database):
        """The same process, another database."""
        return Server(self.process, self.port, database)


class Bench:
    """Everything that runs, in a temporary folder, ended with it."""

    def __init__(self, stack):
        # Postgres refuses to run as root
        self.user = "postgres" if os.geteuid() == 0 else None
        self.folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgherd-bench-")))
        if self.user:
            account = pwd.getpwnam(self.user)
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        self.stack = stack
        self.bin = binaries()

    def start(self, name, command, port, user=None):
        log = open(self.folder / f"{name}.log", "wb")
        process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, user=user, cwd=self.folder)
        self.stack.callback(stop, process)
        wait_until_open(process, port, log)
        return Server(process, port)

    def postgres(self, name):
        """A Postgres with pgbench's data, which never waits for a disk: what is measured is what lies ahead of it."""
        data, port = self.folder / name, free_port()
        initdb = [self.bin / "initdb", "-D", data, "-U", "bench", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, user=self.user, cwd=self.folder)
        settings = {
            "port": port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "shared_buffers": "512MB",
            "max_connections": 800,
            "max_wal_size": "4GB",
            "checkpoint_timeout": "1h",
            "autovacuum": "off",
        }
        with open(data / "postgresql.auto.conf", "a") as configuration:
            configuration.writelines(f"{key} = '{value}'\n" for key, value in settings.items())
        server = self.start(name, [self.bin / "postgres", "-D", data], port, self.user)
        # it listens before it lets anybody in
        wait_until_ready(self.bin, port)
        self.pgbench(server.of("postgres"), ["-i", "-q", "-s", SCALE])
        return server.of("postgres")

    def pgbouncer(self, postgres):
        port = free_port()
        users = self.folder / "users.txt"
        users.write_text('"bench" ""\n')
        configuration = self.folder / "pgbouncer.ini"
        configuration.write_text(
            f"[databases]\nbench = host=127.0.0.1 port={postgres.port} dbname=postgres user=bench\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = trust\nauth_file = {users}\n"
            f"pool_mode = transaction\ndefault_pool_size = {POOL}\nmax_client_conn = {CLIENTS}\nmax_prepared_statements = 200\n"
            "unix_socket_dir =\nlog_connections = 0\nlog_disconnections = 0\nserver_check_delay = 30\n"
        )
        return self.start("pgbouncer", [ROOT / "target/bench/pgbouncer", configuration], port, self.user)

    def pgherd(self, postgres, shards, workers=0):
        """`workers` threads, 0 for one for each core."""
        port, name = free_port(), f"pgherd-{workers}"
        configuration = self.folder / f"{name}.yaml"
        user = "users: [{ name: bench, password: bench, trust: 127.0.0.1 }]"
        database = f"server_database: postgres\n    pool: {{ size: {POOL} }}\n    failover: {{ mode: observe }}"
        configuration.write_text(
            f"workers: {workers}\nlisten: {{ address: '127.0.0.1:{port}', max_clients: {CLIENTS} }}\n"
            f"state: {{ file: {self.folder}/{name}.json }}\ntelemetry: {{ log: {{ level: warn }} }}\n"
            "databases:\n"
            f"  bench:\n    {user}\n    {database}\n    shards:\n{shard_lines([postgres])}"
            f"  socket:\n    {user}\n    {database}\n    shards:\n{shard_lines([postgres], self.folder)}"
            f"  sharded:\n    {user}\n    {database}\n    shards:\n{shard_lines(shards)}"
            f"    sharding:\n      tables: {{ pgbench_accounts: {{ key: aid }} }}\n      unlisted: s0\n"
        )
        # it is started in another folder
        program = pathlib.Path(os.environ.get("PGHERD", ROOT / "target/release/pgherd")).resolve()
        return self.start(name, [program, "serve", "--config", configuration], port)

    def pgbench(self, server, arguments, **environment):
        """Runs pgbench to its end; what it printed."""
        command = [self.bin / "pgbench", "-n", "-h", "127.0.0.1", "-p", server.port, "-U", "bench", *arguments, server.database]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=os.environ | environment, cwd=self.folder)
        if done.returncode != 0:
            raise SystemExit(f"bench: {' '.join(map(str, command))} failed:\n{done.stderr}")
        return done.stdout


def shard_lines(servers, host="127.0.0.1"):
    """`host` is an address, or the folder of a Unix socket."""
    return "".join(
        f"      - {{ name: s{number}, servers: [{{ name: s{number}a, address: '{host}:{server.port}' }}] }}\n"
        for number, server in enumerate(servers)
    )


def stop(process):
    # SIGINT is a fast shutdown to Postgres, and an immediate one to the poolers
    process.send_signal(2)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
