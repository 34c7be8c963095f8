"""psycopg2: https://www.psycopg.org/docs/"""

import datetime
import decimal
import io
import select
import threading
import time
import uuid

import psycopg2
import psycopg2.extensions
import psycopg2.extras

from common import CLIENT, SHARDED, part, run, say

THINGS = f"things_{CLIENT}"
NOTES = f"notes_{CLIENT}"
psycopg2.extras.register_uuid()


def failure(error):
    diag = error.diag
    return (type(error).__name__, error.pgcode, diag.message_primary, diag.message_detail, diag.message_hint, diag.statement_position, diag.constraint_name)


class Connection:
    """A connection that is closed at the end; each cursor call says what it yields."""

    def __init__(self, autocommit=True, **keywords):
        self.raw = psycopg2.connect("", connect_timeout=60, **keywords)
        self.raw.autocommit = autocommit
        self.cursor = self.raw.cursor()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.raw.close()

    def __call__(self, text, parameters=None):
        self.cursor.execute(text, parameters)
        return self.cursor.fetchall() if self.cursor.description else self.cursor.statusmessage

    def tried(self, text, parameters=None):
        try:
            say(self(text, parameters))
        except psycopg2.Error as error:
            say(failure(error))


@part
def login():
    with Connection(application_name=f"client {CLIENT}", options=f"-c work_mem={CLIENT + 1}MB") as connection:
        raw = connection.raw
        say(raw.server_version, raw.encoding, raw.status, raw.get_transaction_status())
        for name in ("TimeZone", "DateStyle", "application_name", "client_encoding"):
            say(name, raw.get_parameter_status(name))
        say(connection("SELECT current_user, current_setting('work_mem'), current_setting('application_name')"))
    for keywords in ({"password": "wrong"}, {"user": "nobody"}):
        try:
            Connection(**keywords)
        except psycopg2.OperationalError as error:
            say(str(error).split("FATAL:")[-1].strip())


@part
def encodings():
    with Connection(client_encoding="LATIN1") as connection:
        say(connection("SELECT 'é', %s", ("ü",)), connection.raw.encoding)
        connection.raw.set_client_encoding("UTF8")
        say(connection("SELECT 'é', %s, octet_length('é')", ("ü",)), connection.raw.encoding)


ROWS = [
    (1, f"thing {CLIENT}", 1.5, decimal.Decimal("12345678901234567890.123456789"), True, b"\x00\xff" + bytes([CLIENT]), datetime.date(2024, 2, 29),
     datetime.time(23, 59, 59, 999999), datetime.datetime(2024, 6, 1, 12, tzinfo=datetime.timezone.utc), datetime.timedelta(3, 4), uuid.UUID(int=CLIENT),
     psycopg2.extras.Json({"client": CLIENT}), [1, None, 3], ["a", 'b"', None], psycopg2.extras.NumericRange(1, 10)),
    (2,) + (None,) * 14,
]


@part
def values():
    with Connection() as connection:
        connection(f"""CREATE TABLE {THINGS} (id bigint PRIMARY KEY, name text, double float8, exact numeric, flag bool, bytes bytea, day date,
            hour time, instant timestamptz, span interval, identity uuid, document jsonb, numbers int8[], words text[], bounds int4range)""")
        for row in ROWS:
            say(connection(f"INSERT INTO {THINGS} VALUES %s", (row,)))
        for row in ROWS:
            found = connection(f"SELECT * FROM {THINGS} WHERE id = %s", row[:1])[0]
            say([bytes(value) if isinstance(value, memoryview) else value for value in found])
        if not SHARDED:
            connection(f"CREATE TYPE pair_{CLIENT} AS (a int, b text)")
            psycopg2.extras.register_composite(f"pair_{CLIENT}", connection.raw)
            say(connection(f"SELECT (1, 'x')::pair_{CLIENT}"))
            connection(f"DROP TYPE pair_{CLIENT}")


@part
def transactions():
    with Connection(autocommit=False) as connection:
        def name():
            return connection(f"SELECT name FROM {THINGS} WHERE id = 1")

        def rename(to):
            return connection(f"UPDATE {THINGS} SET name = %s WHERE id = 1", (to,))

        say(rename("kept"), connection.raw.get_transaction_status())
        connection.raw.commit()
        rename("not kept")
        connection.raw.rollback()
        say(name())
        connection("SAVEPOINT a")
        rename("not kept either")
        connection.tried("SELECT 1 / 0")
        connection.tried("SELECT 1")
        connection("ROLLBACK TO SAVEPOINT a")
        say(name(), connection("RELEASE SAVEPOINT a"))
        connection.raw.commit()
        with connection.raw:
            rename("by a block")
        try:
            with connection.raw:
                rename("by a failed block")
                raise ValueError("out")
        except ValueError:
            say(name())
        connection.raw.rollback()


@part
def read_only():
    with Connection(autocommit=False) as connection:
        connection.raw.set_session(isolation_level="SERIALIZABLE", readonly=True, deferrable=True)
        say(connection("SHOW transaction_isolation"), connection("SHOW transaction_read_only"))
        connection.tried(f"DELETE FROM {THINGS} WHERE id = 1")
        connection.raw.rollback()
        connection.raw.set_session(readonly=False, autocommit=True)
        say(connection("SHOW default_transaction_isolation"), connection(f"UPDATE {THINGS} SET name = 'again' WHERE id = 1"))


@part
def two_phase():
    if SHARDED:
        return
    with Connection(autocommit=False) as connection:
        for commit in (True, False):
            xid = connection.raw.xid(CLIENT, "global", "branch")
            connection.raw.tpc_begin(xid)
            connection(f"UPDATE {THINGS} SET name = %s WHERE id = 1", (f"prepared {commit}",))
            connection.raw.tpc_prepare()
            if commit:
                connection.raw.tpc_commit()
            else:
                connection.raw.tpc_rollback()
            say(connection(f"SELECT name FROM {THINGS} WHERE id = 1"))
            connection.raw.rollback()


@part
def errors():
    with Connection() as connection:
        for text, parameters in (
            (f"INSERT INTO {THINGS} (id) VALUES (%s)", (1,)),
            ("SELECT nothing", None),
            ("SELECT %s::int", ("x",)),
            ("SELECT 1; SELECT 1 / 0; SELECT 2", None),
            ("SELECT 1; SELECT 2", None),
        ):
            connection.tried(text, parameters)
            say(connection("SELECT %s", (CLIENT,)))
        connection("DROP TABLE IF EXISTS nowhere")
        say(connection.raw.notices)


@part
def batches():
    with Connection() as connection:
        connection.cursor.executemany(f"UPDATE {THINGS} SET numbers = numbers || %s WHERE id = %s", [(n, 1) for n in (7, 8, 9)])
        psycopg2.extras.execute_batch(connection.cursor, f"UPDATE {THINGS} SET numbers = numbers || %s WHERE id = %s", [(n, 1) for n in range(50)])
        psycopg2.extras.execute_values(connection.cursor, f"INSERT INTO {THINGS} (id, name) VALUES %s", [(100, f"values {CLIENT}")])
        say(connection(f"SELECT numbers FROM {THINGS} WHERE id = 1"), connection(f"SELECT name FROM {THINGS} WHERE id = 100"))
    with Connection(autocommit=False) as connection:
        with connection.raw.cursor(f"named {CLIENT}") as cursor:
            cursor.itersize = 10
            cursor.execute("SELECT generate_series(1, 35) + %s", (CLIENT,))
            say(sum(row[0] for row in cursor))
        connection.raw.commit()
        with connection.raw.cursor("held", withhold=True, scrollable=True) as cursor:
            cursor.execute("SELECT generate_series(1, 35)")
            connection.raw.commit()
            cursor.scroll(30)
            say(cursor.fetchall())
        connection.raw.commit()


@part
def copy():
    with Connection() as connection:
        connection(f"CREATE TABLE {NOTES} (id int, words text)")
        connection.cursor.copy_from(io.StringIO("".join(f"{id}\tclient {CLIENT}\n" for id in range(5000))), NOTES)
        say(connection.cursor.rowcount)
        connection.cursor.copy_expert(f"COPY {NOTES} FROM STDIN (FORMAT csv, HEADER)", io.StringIO('id,words\n-1,"a\n""b"""\n'))
        output = io.StringIO()
        connection.cursor.copy_expert(f"COPY (SELECT * FROM {NOTES} ORDER BY id LIMIT 3) TO STDOUT (FORMAT csv, FORCE_QUOTE *)", output)
        say(repr(output.getvalue()))
        try:
            connection.cursor.copy_from(io.StringIO("x\ty\n"), NOTES)
        except psycopg2.Error as error:
            say(failure(error))
        say(connection(f"SELECT count(*) FROM {NOTES}"))


@part
def notifications():
    with Connection() as listener, Connection() as sender:
        def heard(count):
            limit = time.monotonic() + 30
            while len(listener.raw.notifies) < count and time.monotonic() < limit:
                select.select([listener.raw], [], [], 1)
                listener.raw.poll()
            found = [(n.channel, n.payload, n.pid == sender.raw.get_backend_pid()) for n in listener.raw.notifies]
            listener.raw.notifies.clear()
            return found

        listener(f"LISTEN news_{CLIENT}")
        sender(f"NOTIFY news_{CLIENT}, 'one of {CLIENT}'")
        sender("SELECT pg_notify(%s, %s)", (f"news_{CLIENT}", "two"))
        say(heard(2))
        listener(f"UNLISTEN news_{CLIENT}")
        sender(f"NOTIFY news_{CLIENT}, 'unheard'")
        say(listener("SELECT 1"), listener.raw.notifies)


@part
def cancel():
    with Connection() as connection:
        for _ in range(2):
            def soon():
                time.sleep(0.3)
                connection.raw.cancel()
            thread = threading.Thread(target=soon)
            thread.start()
            connection.tried("SELECT pg_sleep(50)")
            thread.join()
            say(connection("SELECT %s", (CLIENT,)))


@part
def settings():
    with Connection() as connection:
        def show():
            say([connection(f"SHOW {name}")[0][0] for name in ("TimeZone", "DateStyle", "work_mem", "search_path")])

        show()
        connection(f"SET work_mem = '{CLIENT + 1}MB'; SET TimeZone TO 'Asia/Tokyo'")
        connection("SET SESSION search_path TO pg_catalog, public")
        show()
        connection.raw.reset()
        connection.raw.autocommit = True
        show()
        connection("SET work_mem = '77MB'")
        connection("DISCARD ALL")
        show()


@part
def cleanup():
    with Connection() as connection:
        connection(f"DROP TABLE {THINGS}")
        connection(f"DROP TABLE {NOTES}")


run("psycopg2", psycopg2.__version__.split()[0])
