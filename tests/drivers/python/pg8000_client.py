"""pg8000, in pure Python: https://codeberg.org/tlocke/pg8000"""

import datetime
import decimal
import io
import os
import uuid
from importlib.metadata import version

import pg8000.dbapi
import pg8000.native

from common import CLIENT, part, run, say

THINGS = f"things_{CLIENT}"
NOTES = f"notes_{CLIENT}"
WHERE = {"host": os.environ["PGHOST"], "port": int(os.environ["PGPORT"]), "database": os.environ["PGDATABASE"], "user": "app", "password": "app"}


def failure(error):
    fields = error.args[0]
    return [fields.get(field) for field in "SVCMDHPstcn"] if isinstance(fields, dict) else str(error)


def tried(connection, text, **parameters):
    try:
        say(connection.run(text, **parameters), connection.row_count)
    except (pg8000.native.DatabaseError, pg8000.native.InterfaceError) as error:
        say(type(error).__name__, failure(error))


@part
def login():
    with pg8000.native.Connection(**WHERE, application_name=f"client {CLIENT}") as connection:
        say(connection.run("SELECT current_user, current_setting('application_name')"))
        for name in ("server_version", "client_encoding", "TimeZone", "application_name"):
            say(name, connection.parameter_statuses[name])
    try:
        pg8000.native.Connection(**WHERE | {"password": "wrong"})
    except pg8000.native.DatabaseError as error:
        say(failure(error))


TYPES = {
    "double float8": 1.5,
    "exact numeric": decimal.Decimal("1234567890.123456789"),
    "flag bool": True,
    "bytes bytea": b"\x00\xff" + bytes([CLIENT]),
    "day date": datetime.date(2024, 2, 29),
    "hour time": datetime.time(23, 59, 59, 999999),
    "moment timestamp": datetime.datetime(1999, 12, 31, 23, 59, 59, 1),
    "instant timestamptz": datetime.datetime(2024, 6, 1, 12, tzinfo=datetime.timezone.utc),
    "span interval": datetime.timedelta(days=3, seconds=4),
    "identity uuid": uuid.UUID(int=CLIENT),
    "document jsonb": {"client": CLIENT},
    "numbers int8[]": [1, None, 3],
    "words text[]": ["a", 'b"', None],
}


@part
def values():
    with pg8000.native.Connection(**WHERE) as connection:
        connection.run(f"CREATE TABLE {THINGS} (id bigint PRIMARY KEY, name text, {', '.join(TYPES)})")
        names = [column.split()[0] for column in TYPES]
        insert = f"INSERT INTO {THINGS} VALUES (:id, :name, {', '.join(':' + name for name in names)})"
        connection.run(insert, id=1, name=f"thing {CLIENT}", **dict(zip(names, TYPES.values())))
        connection.run(insert, id=2, name=None, **dict.fromkeys(names))
        for id in (1, 2, 3):
            say(connection.run(f"SELECT * FROM {THINGS} WHERE id = :id", id=id), connection.row_count)
        say([(column["name"], column["type_oid"]) for column in connection.columns])


@part
def prepared():
    with pg8000.native.Connection(**WHERE) as connection:
        first = connection.prepare(f"SELECT {CLIENT} + CAST(:a AS int)")
        second = connection.prepare(f"SELECT name, CAST(:a AS int) FROM {THINGS} WHERE id = CAST(:id AS bigint)")
        for turn in range(20):
            say(first.run(a=turn), second.run(a=turn, id=turn % 3))
        first.close()
        say(second.run(a=1, id=1), second.columns[0]["name"])
        second.close()


@part
def transactions():
    connection = pg8000.dbapi.connect(**WHERE)
    cursor = connection.cursor()

    def name():
        cursor.execute(f"SELECT name FROM {THINGS} WHERE id = %s", (1,))
        return cursor.fetchall()

    def rename(to):
        cursor.execute(f"UPDATE {THINGS} SET name = %s WHERE id = %s", (to, 1))
        return cursor.rowcount

    say(rename("kept"))
    connection.commit()
    rename("not kept")
    connection.rollback()
    say(name())
    cursor.execute("SAVEPOINT a")
    rename("not kept either")
    for text in ("SELECT 1 / 0", "SELECT 1"):
        try:
            cursor.execute(text)
        except pg8000.dbapi.Error as error:
            say(failure(error))
    cursor.execute("ROLLBACK TO SAVEPOINT a")
    say(name())
    connection.commit()
    connection.autocommit = True
    cursor.executemany(f"INSERT INTO {THINGS} (id, name) VALUES (%s, %s)", [(10, f"ten {CLIENT}")])
    cursor.executemany(f"UPDATE {THINGS} SET name = name || %s WHERE id = %s", [(f" {turn}", 10) for turn in range(5)])
    cursor.execute(f"SELECT name FROM {THINGS} WHERE id = %s", (10,))
    say(cursor.fetchone(), cursor.description)
    connection.close()


@part
def errors():
    with pg8000.native.Connection(**WHERE) as connection:
        tried(connection, f"INSERT INTO {THINGS} (id) VALUES (:id)", id=1)
        tried(connection, "SELECT nothing")
        tried(connection, "SELECT CAST(:a AS int)", a="x")
        tried(connection, "SELECT 1; SELECT 1 / 0")
        tried(connection, "SELECT 1; SELECT 2, 3")
        tried(connection, "")
        connection.run("DROP TABLE IF EXISTS nowhere")
        say([notice[b"M"] for notice in connection.notices])
        tried(connection, "SELECT CAST(:client AS int)", client=CLIENT)


@part
def copy():
    with pg8000.native.Connection(**WHERE) as connection:
        connection.run(f"CREATE TABLE {NOTES} (id int, words text)")
        lines = io.StringIO("".join(f"{id}\tclient {CLIENT}\n" for id in range(500)))
        connection.run(f"COPY {NOTES} FROM STDIN", stream=lines)
        say(connection.row_count)
        connection.run(f"COPY {NOTES} FROM STDIN (FORMAT csv)", stream=["-1,x\n", '-2,"y"\n'])
        output = io.StringIO()
        connection.run(f"COPY (SELECT * FROM {NOTES} ORDER BY id LIMIT 3) TO STDOUT (FORMAT csv)", stream=output)
        say(repr(output.getvalue()))
        try:
            connection.run(f"COPY {NOTES} FROM STDIN", stream=io.StringIO("x\n"))
        except pg8000.native.DatabaseError as error:
            say(failure(error))
        tried(connection, f"SELECT count(*) FROM {NOTES}")


@part
def notifications():
    with pg8000.native.Connection(**WHERE) as listener, pg8000.native.Connection(**WHERE) as sender:
        listener.run(f"LISTEN news_{CLIENT}")
        sender.run(f"NOTIFY news_{CLIENT}, 'one of {CLIENT}'")
        # it hears with the next answer that comes after them
        for _ in range(100):
            listener.run("SELECT pg_sleep(0.1)")
            if listener.notifications:
                break
        say([(channel, payload) for _, channel, payload in listener.notifications])


@part
def settings():
    with pg8000.native.Connection(**WHERE) as connection:
        def show():
            say([connection.run(f"SHOW {name}")[0][0] for name in ("TimeZone", "DateStyle", "work_mem", "search_path")])

        show()
        connection.run(f"SET work_mem = '{CLIENT + 1}MB'")
        connection.run("SET TimeZone = 'Asia/Tokyo'")
        show()
        say(connection.parameter_statuses["TimeZone"])
        connection.run("DISCARD ALL")
        show()


@part
def cleanup():
    with pg8000.native.Connection(**WHERE) as connection:
        connection.run(f"DROP TABLE {THINGS}")
        connection.run(f"DROP TABLE {NOTES}")


run("pg8000", version("pg8000"))
