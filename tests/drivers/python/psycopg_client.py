"""psycopg 3: https://www.psycopg.org/psycopg3/docs/"""

import datetime
import decimal
import ipaddress
import threading
import time
import uuid

import psycopg
import psycopg.types.enum
from psycopg.types.json import Jsonb
from psycopg.types.range import Range

from common import CLIENT, SHARDED, part, run, say

THINGS = f"things_{CLIENT}"
NOTES = f"notes_{CLIENT}"
UTC = datetime.timezone.utc


def failure(error):
    diag = error.diag
    return (error.sqlstate, diag.severity, diag.message_primary, diag.message_detail, diag.message_hint, diag.statement_position,
            diag.schema_name, diag.table_name, diag.column_name, diag.constraint_name)


def connect(**keywords):
    return psycopg.connect(connect_timeout=60, **keywords)


@part
def login():
    with connect(application_name=f"client {CLIENT}", options=f"-c work_mem={CLIENT + 1}MB -c statement_timeout=55s") as connection:
        info = connection.info
        say(info.server_version, info.encoding, info.get_parameters()["user"], info.transaction_status.name)
        for name in ("client_encoding", "server_encoding", "standard_conforming_strings", "integer_datetimes", "DateStyle", "IntervalStyle",
                     "TimeZone", "application_name", "is_superuser", "session_authorization", "in_hot_standby", "default_transaction_read_only"):
            say(name, info.parameter_status(name))
        query = "SELECT current_user, current_setting('work_mem'), current_setting('statement_timeout'), current_setting('application_name')"
        for _ in range(12):
            say(connection.execute(query).fetchone())
    for keywords in ({"password": "wrong"}, {"user": "nobody", "password": "wrong"}):
        try:
            connect(**keywords)
        except psycopg.OperationalError as error:
            say(type(error).__name__, str(error).split("FATAL:")[-1].strip())
    for attributes in ("read-write", "primary", "prefer-standby", "any"):
        with connect(target_session_attrs=attributes) as connection:
            say(attributes, connection.execute("SELECT 1").fetchone())


ROWS = [
    (1, f"thing {CLIENT}", 32767, -5, 1.5, -2.25, decimal.Decimal("12345678901234567890.123456789"), True, b"\x00\xff\\" + bytes([CLIENT]),
     datetime.date(2024, 2, 29), datetime.time(23, 59, 59, 999999), datetime.datetime(1999, 12, 31, 23, 59, 59, 1),
     datetime.datetime(2024, 6, 1, 12, tzinfo=UTC), datetime.timedelta(days=3, seconds=4), uuid.UUID(int=CLIENT + 1),
     ipaddress.ip_interface("10.0.0.1/8"), Jsonb({"a": [1, None, "ä"], "client": CLIENT}), [1, None, 3], [["a", "b"], ["c,", 'd"']],
     Range(1, 10)),
    (2,) + (None,) * 19,
    (3, "", 0, 0, float("inf"), float("nan"), decimal.Decimal("NaN"), False, b"", datetime.date.min, datetime.time.min,
     datetime.datetime.min, datetime.datetime(1, 1, 2, tzinfo=UTC), datetime.timedelta(), uuid.UUID(int=0), ipaddress.ip_interface("::1"),
     Jsonb(None), [], [], Range(empty=True)),
    (4, "snow ☃ and 🦀 " * 1000, 1, 1, 0.1, 1e300, decimal.Decimal("1e-10"), True, bytes(range(256)) * 300, datetime.date.max, datetime.time.max,
     datetime.datetime.max, datetime.datetime(9999, 1, 1, tzinfo=UTC), datetime.timedelta(-1), uuid.UUID(int=2**128 - 1),
     ipaddress.ip_interface("255.255.255.255"), Jsonb([0.1, 10**20]), list(range(1000)), ["NULL", "null", None], Range(None, None)),
]
COLUMNS = """name text, small int2, middle int4, single float4, double float8, exact numeric, flag bool, bytes bytea, day date,
    hour time, moment timestamp, instant timestamptz, span interval, identity uuid, address inet, document jsonb, numbers int8[], words text[],
    bounds int4range"""


@part
def values():
    with connect() as connection:
        connection.execute(f"CREATE TABLE {THINGS} (id bigint PRIMARY KEY, {COLUMNS})")
        for row in ROWS:
            connection.execute(f"INSERT INTO {THINGS} VALUES ({', '.join(['%s'] * len(row))})", row)
    with connect(autocommit=True) as connection:
        for binary in (False, True):
            for row in ROWS:
                found = connection.execute(f"SELECT * FROM {THINGS} WHERE id = %s", row[:1], binary=binary)
                say(binary, [column.type_code for column in found.description], repr(found.fetchone()))
        say(connection.execute("SELECT %s::text, %s::int8[], %s::jsonb, %b::float8", (None, [], Jsonb({}), 0.1)).fetchone())
        # named, of the session's database: an enum is loaded by queries of the driver's own
        if not SHARDED:
            connection.execute(f"CREATE TYPE mood_{CLIENT} AS ENUM ('glad', 'sad')")
            info = psycopg.types.enum.EnumInfo.fetch(connection, f"mood_{CLIENT}")
            psycopg.types.enum.register_enum(info, connection)
            say(info.labels, str(connection.execute(f"SELECT 'sad'::mood_{CLIENT}").fetchone()))


@part
def prepared():
    with connect(autocommit=True) as connection:
        connection.prepare_threshold = 1
        for turn in range(30):
            id = turn % 4 + 1
            say(connection.execute(f"SELECT id, length(name), middle + %s FROM {THINGS} WHERE id = %s", (turn, id)).fetchone())
        # more texts than the driver keeps, so that it deallocates
        connection.prepared_max = 3
        for turn in range(20):
            say(connection.execute(f"SELECT {turn % 7} + %s, {CLIENT}", (turn,), prepare=True).fetchone())
        if not SHARDED:
            say(connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()[0] <= 4)
        # the table changes under a prepared statement
        text = f"SELECT * FROM {THINGS} WHERE id = %s"
        say(len(connection.execute(text, (1,), prepare=True).fetchone()))
        connection.execute(f"ALTER TABLE {THINGS} ADD COLUMN more int")
        try:
            say(len(connection.execute(text, (1,), prepare=True).fetchone()))
        except psycopg.Error as error:
            say(failure(error))
        connection.execute(f"ALTER TABLE {THINGS} DROP COLUMN more")


@part
def transactions():
    with connect() as connection:
        def name(id=1):
            return connection.execute(f"SELECT name FROM {THINGS} WHERE id = %s", (id,)).fetchone()

        def rename(to, id=1):
            return connection.execute(f"UPDATE {THINGS} SET name = %s WHERE id = %s", (to, id)).rowcount

        say(rename("kept"), connection.info.transaction_status.name)
        connection.commit()
        say(connection.info.transaction_status.name, name())
        rename("not kept")
        connection.rollback()
        say(name())
        with connection.transaction():
            rename("outer")
            try:
                with connection.transaction():
                    rename("inner")
                    raise ValueError("out")
            except ValueError:
                say("rolled back to the savepoint")
            say(name())
            with connection.transaction("named"):
                rename("inner again")
                raise psycopg.Rollback()
        say(name())
        try:
            connection.execute("SELECT 1 / 0")
        except psycopg.Error as error:
            say(failure(error))
        say(connection.info.transaction_status.name)
        try:
            connection.execute("SELECT 1")
        except psycopg.Error as error:
            say(failure(error))
        connection.rollback()
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        connection.deferrable = True
        say(rename("serializable"), connection.execute("SHOW transaction_deferrable").fetchone())
        connection.commit()
        say(name())
        connection.rollback()


@part
def read_only():
    with connect() as connection:
        connection.read_only = True
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        say(connection.execute("SHOW transaction_isolation").fetchone(), connection.execute("SHOW transaction_read_only").fetchone())
        try:
            connection.execute(f"UPDATE {THINGS} SET name = 'read only' WHERE id = %s", (1,))
        except psycopg.Error as error:
            say(failure(error))
        connection.rollback()


@part
def errors():
    with connect(autocommit=True) as connection:
        for text, parameters in (
            (f"INSERT INTO {THINGS} (id) VALUES (1)", None),
            (f"INSERT INTO {THINGS} (id) VALUES (%s)", (1,)),
            ("SELECT nothing", None),
            (f"SELECT nothing FROM {THINGS} WHERE id = %s", (1,)),
            ("SELECT %s::int", ("x",)),
            ("SELECT %s + %s", ("a", "b")),
            ("SELECT 1; SELECT 1 / 0; SELECT 2", None),
            ("", None),
            (f"INSERT INTO {THINGS} (id, small) VALUES (5, %s)", (100000,)),
            ("ROLLBACK", None),
            ("SAVEPOINT a", None),
        ):
            try:
                cursor = connection.execute(text, parameters)
                say(cursor.statusmessage, cursor.rowcount)
            except psycopg.Error as error:
                say(type(error).__name__, failure(error))
            say(connection.execute("SELECT %s", (CLIENT,)).fetchone())
        notices = []
        connection.add_notice_handler(lambda notice: notices.append((notice.severity, notice.message_primary)))
        connection.execute("DROP TABLE IF EXISTS nowhere")
        connection.execute("ROLLBACK")
        say(notices)


@part
def unknown():
    """Errors that pgherd has to find by itself on a sharded database."""
    with connect(autocommit=True) as connection:
        for text in ("SELEKT 1", "SELECT * FROM nowhere", "SELECT no_such_function(1)"):
            try:
                connection.execute(text)
            except psycopg.Error as error:
                say(type(error).__name__, failure(error))
            say(connection.execute("SELECT %s", (CLIENT,)).fetchone())


@part
def batches():
    with connect() as connection:
        cursor = connection.cursor()
        cursor.executemany(f"INSERT INTO {THINGS} (id, name) VALUES (%s, %s) RETURNING name", [(10, f"ten {CLIENT}")], returning=True)
        say(cursor.fetchall())
        cursor.executemany(f"UPDATE {THINGS} SET middle = coalesce(middle, 0) + %s WHERE id = %s", [(turn, 10) for turn in range(20)])
        say(cursor.rowcount)
        connection.commit()
        with connection.pipeline() as pipeline:
            cursors = [connection.execute("SELECT %s + %s", (turn, CLIENT)) for turn in range(20)]
            pipeline.sync()
            cursors.append(connection.execute(f"SELECT middle FROM {THINGS} WHERE id = %s", (10,)))
            say([cursor.fetchone() for cursor in cursors])
        connection.commit()
        try:
            with connection.pipeline() as pipeline:
                connection.execute("SELECT 1 / %s", (0,))
                connection.execute("SELECT 'skipped'")
        except psycopg.Error as error:
            say(failure(error))
        connection.rollback()
        say(connection.execute("SELECT 'on'").fetchone())
        cursor = connection.execute("SELECT 1; SELECT 2, 3; SELECT 'x' WHERE false")
        while True:
            say(cursor.statusmessage, cursor.fetchall())
            if not cursor.nextset():
                break
    with connect(autocommit=True) as connection:
        # many statements without a Sync in between are one transaction
        with connection.pipeline():
            for turn in range(5):
                connection.execute(f"UPDATE {THINGS} SET middle = middle + %s WHERE id = 10", (turn,))
        say(connection.execute(f"SELECT middle FROM {THINGS} WHERE id = 10").fetchone())


@part
def copy():
    with connect() as connection:
        connection.execute(f"CREATE TABLE {NOTES} (id int, words text, bytes bytea)")
        cursor = connection.cursor()
        with cursor.copy(f"COPY {NOTES} FROM STDIN") as copy:
            for id in range(2000):
                copy.write_row((id, f"client {CLIENT}\t{id}\n" if id % 3 else None, bytes([id % 256])))
        say(cursor.rowcount, cursor.statusmessage)
        with cursor.copy(f"COPY {NOTES} (id, words) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["int4", "text"])
            for id in range(2000, 2100):
                copy.write_row((id, str(id)))
        say(cursor.rowcount)
        with cursor.copy(f"COPY (SELECT * FROM {NOTES} ORDER BY id) TO STDOUT") as copy:
            rows = list(copy.rows())
            say(len(rows), rows[:4], rows[-1])
        connection.commit()
        for text, lines in ((f"COPY {NOTES} FROM STDIN", ["1\ttoo\tfew\tor many\n"]), (f"COPY {NOTES} (id) FROM STDIN", ["1\n", "x\n"])):
            try:
                with cursor.copy(text) as copy:
                    for line in lines:
                        copy.write(line)
            except psycopg.Error as error:
                say(failure(error), error.diag.context)
            connection.rollback()
        try:
            with cursor.copy(f"COPY {NOTES} FROM STDIN") as copy:
                copy.write("1\tx\t\n")
                raise ValueError("out of the middle")
        except ValueError as error:
            say(error, connection.info.transaction_status.name)
        connection.rollback()
        with cursor.copy(f"COPY {NOTES} TO STDOUT") as copy:
            say(sum(len(block) for block in copy))
        say(connection.execute(f"SELECT count(*), sum(id) FROM {NOTES}").fetchone())


@part
def notifications():
    with connect(autocommit=True) as listener, connect(autocommit=True) as sender:
        listener.execute(f"LISTEN news_{CLIENT}")
        sender.execute(f"NOTIFY news_{CLIENT}, 'one of {CLIENT}'")
        with sender.transaction():
            sender.execute("SELECT pg_notify(%s, %s)", (f"news_{CLIENT}", "two"))
            sender.execute(f"NOTIFY other_{CLIENT}, 'unheard'")
        pid = sender.info.backend_pid
        for notification in listener.notifies(timeout=30, stop_after=2):
            say(notification.channel, notification.payload, notification.pid == pid)
        listener.execute(f"NOTIFY news_{CLIENT}, 'to myself'")
        for notification in listener.notifies(timeout=30, stop_after=1):
            say(notification.payload, notification.pid == listener.info.backend_pid)
        listener.execute("UNLISTEN *")
        sender.execute(f"NOTIFY news_{CLIENT}, 'unheard'")
        say([notification.payload for notification in listener.notifies(timeout=0.3)])


@part
def cancel():
    with connect(autocommit=True) as connection:
        for canceler in (connection.cancel, connection.cancel_safe):
            def soon():
                time.sleep(0.3)
                canceler()
            thread = threading.Thread(target=soon)
            thread.start()
            try:
                connection.execute("SELECT pg_sleep(50)")
            except psycopg.Error as error:
                say(failure(error))
            thread.join()
            say(connection.execute("SELECT %s", (CLIENT,)).fetchone())
        connection.execute("SET statement_timeout = '100ms'")
        try:
            connection.execute("SELECT pg_sleep(50)")
        except psycopg.Error as error:
            say(failure(error))


@part
def settings():
    with connect(autocommit=True) as connection:
        def show(*names):
            say([connection.execute(f"SHOW {name}").fetchone()[0] for name in names])

        names = ("TimeZone", "DateStyle", "work_mem", "search_path")
        show(*names)
        connection.execute(f"SET work_mem = '{CLIENT + 1}MB'")
        connection.execute("SELECT set_config('TimeZone', 'Asia/Tokyo', false)")
        connection.execute("SET search_path = pg_catalog, public")
        say(connection.info.parameter_status("TimeZone"))
        show(*names)
        say(str(connection.execute("SELECT timestamptz '2024-06-01 12:00+00'").fetchone()))
        with connection.transaction():
            connection.execute("SET LOCAL TimeZone = 'Europe/Berlin'")
            show("TimeZone")
        show("TimeZone")
        try:
            with connection.transaction():
                connection.execute("SET TimeZone = 'Europe/Paris'")
                raise ValueError("out")
        except ValueError:
            show("TimeZone")
        connection.execute("RESET work_mem")
        show(*names)
        connection.execute("RESET ALL")
        show(*names)
        connection.execute("SET work_mem = '77MB'")
        connection.execute("DISCARD ALL")
        show(*names)
        for text in ("SET work_mem = 'much'", "SET nothing = 1", "SET TimeZone = 'Nowhere'"):
            try:
                connection.execute(text)
            except psycopg.Error as error:
                say(failure(error))


@part
def application_name():
    with connect(autocommit=True) as connection:
        def show():
            say(connection.execute("SHOW application_name").fetchone(), connection.info.parameter_status("application_name"))

        show()
        connection.execute(f"SET application_name TO 'renamed {CLIENT}'")
        show()
        connection.execute("RESET application_name")
        show()


@part
def leftovers():
    """What a session keeps: temporary tables, cursors, advisory locks, prepared statements."""
    with connect(autocommit=True) as connection, connect(autocommit=True) as other:
        connection.execute("CREATE TEMP TABLE mine (client int)")
        connection.execute("INSERT INTO mine VALUES (%s)", (CLIENT,))
        say(connection.execute("SELECT * FROM mine").fetchall())
        say(connection.execute("SELECT pg_try_advisory_lock(%s)", (CLIENT,)).fetchone(), other.execute("SELECT pg_try_advisory_lock(%s)", (CLIENT,)).fetchone())
        say(connection.execute("SELECT pg_advisory_unlock(%s)", (CLIENT,)).fetchone())
        with connection.transaction():
            with connection.cursor("scrolled", scrollable=True) as cursor:
                cursor.execute("SELECT generate_series(1, 100)")
                say(cursor.fetchmany(3))
                cursor.scroll(50)
                say(cursor.fetchone())
        with connection.cursor("held", withhold=True) as cursor:
            cursor.execute("SELECT generate_series(1, 5) + %s", (CLIENT,))
            say(cursor.fetchall())
        connection.execute("DISCARD ALL")
        try:
            connection.execute("SELECT * FROM mine")
        except psycopg.Error as error:
            say(error.sqlstate)
    if not SHARDED:
        with connect(autocommit=True) as connection:
            connection.execute(f"PREPARE plan AS SELECT {CLIENT} + $1::int")
            say(connection.execute("EXECUTE plan(1)").fetchone())
            connection.execute("DEALLOCATE plan")
            try:
                connection.execute("EXECUTE plan(1)")
            except psycopg.Error as error:
                say(failure(error))


@part
def cleanup():
    with connect(autocommit=True) as connection:
        connection.execute(f"DROP TABLE {THINGS}")
        connection.execute(f"DROP TABLE {NOTES}")
        if not SHARDED:
            connection.execute(f"DROP TYPE mood_{CLIENT}")


run("psycopg", psycopg.__version__)
