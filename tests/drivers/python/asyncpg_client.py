"""asyncpg: https://magicstack.github.io/asyncpg/current/"""

import asyncio
import datetime
import decimal
import io
import ipaddress
import json
import uuid

import asyncpg

from common import CLIENT, SHARDED, part, run, say

THINGS = f"things_{CLIENT}"
PARTS = f"parts_{CLIENT}"
NOTES = f"notes_{CLIENT}"
UTC = datetime.timezone.utc
# in seconds: so long a part may take
PATIENCE = 30


def failure(error):
    return (error.sqlstate, error.severity, error.message, error.detail, error.hint, error.position, error.schema_name, error.table_name,
            error.column_name, error.constraint_name)


async def tried(awaitable):
    try:
        say(await awaitable)
    except asyncpg.PostgresError as error:
        say(type(error).__name__, failure(error))
    except asyncpg.InterfaceError as error:
        say(type(error).__name__, error)


def asynchronous(function):
    """A part that is a coroutine with a connection."""

    def with_connection():
        async def body():
            connection = await asyncpg.connect(timeout=60)
            try:
                await asyncio.wait_for(function(connection), PATIENCE)
                await connection.close(timeout=60)
            finally:
                connection.terminate()

        asyncio.run(body())

    with_connection.__name__ = function.__name__
    return part(with_connection)


@asynchronous
async def login(connection):
    say(connection.get_server_version())
    settings = connection.get_settings()
    say(settings.client_encoding, settings.TimeZone, settings.is_superuser, settings.server_encoding, settings.standard_conforming_strings)
    other = await asyncpg.connect(server_settings={"application_name": f"client {CLIENT}", "work_mem": f"{CLIENT + 1}MB", "jit": "off"})
    for name in ("application_name", "work_mem", "jit", "TimeZone"):
        say(name, await other.fetchval("SELECT current_setting($1)", name))
    await other.close()
    try:
        await asyncpg.connect(password="wrong")
    except asyncpg.PostgresError as error:
        say(type(error).__name__, error.sqlstate, error.message)
    for attributes in ("primary", "read-write", "prefer-standby", "any"):
        other = await asyncpg.connect(target_session_attrs=attributes)
        say(attributes, await other.fetchval("SELECT $1::int", CLIENT))
        await other.close()


TYPES = {
    "small int2": 32767,
    "middle int4": -5,
    "big int8": 2**62,
    "single float4": 1.5,
    "double float8": -2.25,
    "exact numeric": decimal.Decimal("12345678901234567890.123456789"),
    "flag bool": True,
    "bytes bytea": b"\x00\xff\\" + bytes([CLIENT]),
    "day date": datetime.date(2024, 2, 29),
    "hour time": datetime.time(23, 59, 59, 999999),
    "moment timestamp": datetime.datetime(1999, 12, 31, 23, 59, 59, 1),
    "instant timestamptz": datetime.datetime(2024, 6, 1, 12, tzinfo=UTC),
    "span interval": datetime.timedelta(days=3, seconds=4),
    "identity uuid": uuid.UUID(int=CLIENT + 1),
    "address inet": ipaddress.ip_interface("10.0.0.1/8"),
    "document jsonb": json.dumps({"client": CLIENT}),
    "plain json": "[1, null]",
    "words text[]": [["a", "b"], ["c,", 'd"']],
    "bits bit varying": asyncpg.BitString("10101"),
    "place point": asyncpg.Point(1, 2.5),
    "letter \"char\"": b"x",
}


@asynchronous
async def values(connection):
    await connection.execute(f"CREATE TABLE {THINGS} (id bigint PRIMARY KEY, name text, {', '.join(TYPES)})")
    places = ", ".join(f"${number}" for number in range(1, len(TYPES) + 3))
    insert = f"INSERT INTO {THINGS} VALUES ({places})"
    say(await connection.execute(insert, 1, f"thing {CLIENT}", *TYPES.values()))
    say(await connection.execute(insert, 2, *[None] * (len(TYPES) + 1)))
    for id in (1, 2, 3):
        row = await connection.fetchrow(f"SELECT * FROM {THINGS} WHERE id = $1", id)
        say(row and list(row.items()))
    say(await connection.fetchval("SELECT $1::text[]", ["x" * 100000, None]) == ["x" * 100000, None])


@asynchronous
async def introspection(connection):
    """Types that the driver asks the catalogs for."""
    say(await connection.fetchval("SELECT $1::int8[]", [1, None, 3]))
    say(await connection.fetchval("SELECT $1::int4range", asyncpg.Range(1, 10)))
    say(await connection.fetchval("SELECT $1::nummultirange", [asyncpg.Range(1, 2), asyncpg.Range(5, None)]))
    if not SHARDED:
        await connection.execute(f"CREATE TYPE mood_{CLIENT} AS ENUM ('glad', 'sad')")
        await connection.execute(f"CREATE TYPE pair_{CLIENT} AS (a int, b mood_{CLIENT}[])")
        await connection.execute(f"CREATE DOMAIN even_{CLIENT} AS int CHECK (value % 2 = 0)")
        say(await connection.fetchval(f"SELECT $1::pair_{CLIENT}", (CLIENT, ["sad", None])))
        say(await connection.fetch(f"SELECT array_agg(x) FROM unnest($1::pair_{CLIENT}[]) x", [(1, []), (2, ["glad"])]))
        await tried(connection.fetchval(f"SELECT $1::even_{CLIENT}", 3))
        await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        say(await connection.fetchval("SELECT $1::jsonb", {"client": CLIENT}))


@asynchronous
async def prepared(connection):
    for turn in range(40):
        say(await connection.fetchrow(f"SELECT id, length(name), $2::int FROM {THINGS} WHERE id = $1", turn % 3, turn))
    # two that are open at once, and one that outlives its use
    first = await connection.prepare(f"SELECT $1::int + {CLIENT}")
    second = await connection.prepare(f"SELECT name, $2::text FROM {THINGS} WHERE id = $1")
    say([parameter.name for parameter in second.get_parameters()], [(column.name, column.type.name) for column in second.get_attributes()])
    for turn in range(5):
        say(await first.fetchval(turn), await second.fetchrow(1, str(turn)))
    say(await second.executemany([(1, "a"), (1, "b")]))
    for size in range(150):
        await connection.fetchval(f"SELECT {size} + $1::int", CLIENT)
    small = await asyncpg.connect(statement_cache_size=0)
    say([await small.fetchval("SELECT $1::int", turn) for turn in range(5)])
    await small.close()


@asynchronous
async def transactions(connection):
    async def name():
        return await connection.fetchval(f"SELECT name FROM {THINGS} WHERE id = $1", 1)

    def rename(to):
        return connection.execute(f"UPDATE {THINGS} SET name = $1 WHERE id = $2", to, 1)

    async with connection.transaction():
        say(await rename("kept"), connection.is_in_transaction())
    say(await name(), connection.is_in_transaction())
    try:
        async with connection.transaction():
            await rename("not kept")
            raise ValueError("out")
    except ValueError:
        say(await name())
    async with connection.transaction():
        await rename("outer")
        try:
            async with connection.transaction():
                await rename("inner")
                await connection.fetchval("SELECT 1 / $1::int", 0)
        except asyncpg.DivisionByZeroError as error:
            say(failure(error))
        say(await name())
    say(await name())
    transaction = connection.transaction()
    await transaction.start()
    await tried(connection.fetchval("SELECT 1 / 0"))
    await tried(connection.fetchval("SELECT 1"))
    await tried(connection.execute("SELECT 1"))
    await transaction.rollback()
    for keywords in ({"isolation": "serializable", "readonly": True, "deferrable": True}, {"isolation": "repeatable_read"}):
        transaction = connection.transaction(**keywords)
        await transaction.start()
        say(await connection.fetchval("SHOW transaction_isolation"), await connection.fetchval("SHOW transaction_read_only"))
        await tried(rename("perhaps"))
        await transaction.rollback()
    say(await name())


@asynchronous
async def unprepared(connection):
    """A statement that cannot be prepared, within a transaction."""
    transaction = connection.transaction()
    await transaction.start()
    await tried(connection.prepare("SELECT nothing"))
    await asyncio.wait_for(transaction.rollback(), 10)
    say(await connection.fetchval("SELECT 1"))


@asynchronous
async def errors(connection):
    for text, parameters in (
        (f"INSERT INTO {THINGS} (id) VALUES ($1)", [1]),
        ("SELECT nothing", []),
        (f"SELECT nothing FROM {THINGS} WHERE id = $1", [1]),
        ("SELECT 1 / $1::int", [0]),
        ("SELECT $1::int", ["x"]),
        ("SELECT $1::int", []),
        (f"INSERT INTO {THINGS} (id, small) VALUES (5, $1)", [100000]),
        ("SELECT 1; SELECT 2", []),
        ("SAVEPOINT a", []),
        ("", []),
    ):
        try:
            say(await connection.fetch(text, *parameters))
        except asyncpg.PostgresError as error:
            say(type(error).__name__, failure(error))
        except (asyncpg.InterfaceError, asyncpg.DataError) as error:
            say(type(error).__name__, error)
        say(await connection.fetchval("SELECT $1::int", CLIENT))
    await tried(connection.execute("SELECT 1; SELECT 1 / 0; SELECT 2"))
    notices = []
    connection.add_log_listener(lambda _, message: notices.append((message.severity, message.message)))
    await connection.execute("DROP TABLE IF EXISTS nowhere")
    await connection.fetch("DROP TABLE IF EXISTS nowhere")
    await asyncio.sleep(0)
    say(notices)


@asynchronous
async def unknown(connection):
    """Errors that pgherd has to find by itself on a sharded database."""
    for text in ("SELEKT 1", "SELECT * FROM nowhere", "SELECT no_such_function(1)"):
        await tried(connection.fetch(text))
        say(await connection.fetchval("SELECT $1::int", CLIENT))


@asynchronous
async def batches(connection):
    await connection.execute(f"CREATE TABLE {PARTS} (thing bigint, id int, word text, PRIMARY KEY (thing, id))")
    # one key: all rows of a batch are one transaction
    await connection.executemany(f"INSERT INTO {PARTS} VALUES ($1, $2, $3)", [(7, id, f"{CLIENT} {id}") for id in range(1000)])
    say(await connection.fetchrow(f"SELECT count(*), min(word), max(word) FROM {PARTS} WHERE thing = $1", 7))
    await tried(connection.executemany(f"INSERT INTO {PARTS} VALUES ($1, $2, $3)", [(7, id, "again") for id in (2000, 2001, 1)]))
    say(await connection.fetchval(f"SELECT count(*) FROM {PARTS} WHERE thing = $1", 7))
    say(await connection.fetchmany(f"UPDATE {PARTS} SET word = $3 WHERE thing = $1 AND id = $2 RETURNING id, word", [(7, id, "x") for id in range(5)]))
    async with connection.transaction():
        cursor = await connection.cursor(f"SELECT id FROM {PARTS} WHERE thing = $1 ORDER BY id", 7)
        say(await cursor.fetch(3), await cursor.fetchrow())
        numbers = [row[0] async for row in connection.cursor("SELECT generate_series(1, $1::int)", 130, prefetch=50)]
        say(len(numbers), numbers[-1])


@asynchronous
async def moves(connection):
    """A portal of the protocol, moved by a statement."""
    for id in range(5):
        async with connection.transaction():
            cursor = await connection.cursor(f"SELECT id FROM {PARTS} WHERE thing = $1 ORDER BY id", 7)
            say(await cursor.fetch(1), await cursor.forward(100), await cursor.fetchrow())


@asynchronous
async def scripts(connection):
    say(await connection.execute("CREATE TEMP TABLE a (a int); INSERT INTO a VALUES (1), (2); SELECT * FROM a"))
    say(await connection.fetchval("SELECT $1::int", CLIENT))


@asynchronous
async def copy(connection):
    await connection.execute(f"CREATE TABLE {NOTES} (id int, words text, bytes bytea)")
    records = [(id, f"client {CLIENT}\t{id}\n" if id % 3 else None, bytes([id % 256])) for id in range(3000)]
    say(await connection.copy_records_to_table(NOTES, records=records))
    say(await connection.copy_to_table(NOTES, source=io.BytesIO(b"5000;x;\\x00\n5001;;\n"), format="csv", delimiter=";", null=""))
    output = io.BytesIO()
    say(await connection.copy_from_query(f"SELECT * FROM {NOTES} WHERE id < $1 ORDER BY id", 5, output=output))
    say(output.getvalue())
    output = io.BytesIO()
    say(await connection.copy_from_table(NOTES, output=output, format="binary"), len(output.getvalue()))
    await tried(connection.copy_to_table(NOTES, source=io.BytesIO(b"x\n")))
    await tried(connection.copy_to_table(NOTES, source=io.BytesIO(b"1\n"), columns=["nothing"]))
    await tried(connection.copy_from_query("SELECT 1 / 0", output=io.BytesIO()))
    say(await connection.fetchrow(f"SELECT count(*), sum(id) FROM {NOTES}"))


@asynchronous
async def notifications(listener):
    heard = asyncio.Queue()
    sender = await asyncpg.connect()

    def hear(connection, pid, channel, payload):
        heard.put_nowait((pid, channel, payload))

    await listener.add_listener(f"news_{CLIENT}", hear)
    await sender.execute(f"NOTIFY news_{CLIENT}, 'one of {CLIENT}'")
    async with sender.transaction():
        await sender.execute("SELECT pg_notify($1, $2)", f"news_{CLIENT}", "two")
    await sender.execute(f"NOTIFY other_{CLIENT}, 'unheard'")
    for _ in range(2):
        pid, channel, payload = await asyncio.wait_for(heard.get(), 30)
        say(channel, payload, pid == sender.get_server_pid())
    await listener.execute(f"NOTIFY news_{CLIENT}, 'to myself'")
    pid, channel, payload = await asyncio.wait_for(heard.get(), 30)
    say(payload, pid == listener.get_server_pid())
    await listener.remove_listener(f"news_{CLIENT}", hear)
    await sender.execute(f"NOTIFY news_{CLIENT}, 'unheard'")
    say(await listener.fetchval("SELECT 1"), heard.qsize())
    await sender.close()


@asynchronous
async def cancel(connection):
    # the driver cancels what takes longer than its timeout, by a request of its own
    for _ in range(3):
        try:
            await connection.fetchval("SELECT pg_sleep(50)", timeout=0.3)
        except asyncio.TimeoutError:
            say("timed out")
        say(await connection.fetchval("SELECT $1::int", CLIENT))
    task = asyncio.ensure_future(connection.execute("SELECT pg_sleep(50)"))
    await asyncio.sleep(0.3)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        say("cancelled")
    say(await connection.fetchval("SELECT $1::int", CLIENT))


@part
def pools():
    """The driver's own pool, whose connections are reset between uses."""

    async def body():
        async with asyncpg.create_pool(min_size=1, max_size=2, server_settings={"application_name": f"pool {CLIENT}"}) as pool:
            async def use(turn):
                async with pool.acquire() as connection:
                    await connection.execute(f"SET work_mem = '{turn + 1}MB'")
                    await connection.execute("CREATE TEMP TABLE mine (turn int)")
                    await connection.execute("INSERT INTO mine VALUES ($1)", turn)
                    await connection.execute("SELECT pg_advisory_lock($1)", CLIENT * 1000 + turn)
                    async with connection.transaction():
                        found = await connection.fetchrow("SELECT turn, current_setting('work_mem') FROM mine")
                    await connection.execute("DROP TABLE mine")
                    return tuple(found)

            say(await asyncio.gather(*[use(turn) for turn in range(12)]))
            async with pool.acquire() as connection:
                say(await connection.fetchval("SHOW work_mem"), await connection.fetchval("SHOW application_name"))
                say(await connection.fetchval("SELECT pg_try_advisory_lock($1)", CLIENT * 1000))
                say(connection.get_reset_query().split())

    asyncio.run(body())


@asynchronous
async def settings(connection):
    async def show():
        say([await connection.fetchval(f"SHOW {name}") for name in ("TimeZone", "DateStyle", "work_mem", "search_path")])

    await show()
    await connection.execute(f"SET work_mem = '{CLIENT + 1}MB'; SET TimeZone = 'Asia/Tokyo'")
    await connection.execute("SET search_path = pg_catalog, public")
    say(connection.get_settings().TimeZone)
    await show()
    async with connection.transaction():
        await connection.execute("SET LOCAL TimeZone = 'Europe/Berlin'")
        await show()
    await show()
    await connection.reset()
    await show()
    # DISCARD ALL takes the statements that the driver has cached
    bare = await asyncpg.connect(statement_cache_size=0)
    await bare.execute("SET work_mem = '77MB'")
    await bare.execute("DISCARD ALL")
    say(await bare.fetchval("SHOW work_mem"))
    await bare.close()
    await connection.execute("DISCARD ALL")
    try:
        say(await connection.fetchval("SHOW work_mem"))
    except asyncpg.InvalidSQLStatementNameError as error:
        say(error.sqlstate)


@asynchronous
async def redefinitions(connection):
    """A table changes under a statement that the driver and the server know."""
    text = f"SELECT * FROM {THINGS} WHERE id = $1"
    say(len(await connection.fetchrow(text, 1)))
    await connection.execute(f"ALTER TABLE {THINGS} ADD COLUMN more int")
    # a replica may answer again what it has prepared
    await asyncio.sleep(0.5)
    say(len(await connection.fetchrow(text, 1)))
    await connection.execute(f"ALTER TABLE {THINGS} DROP COLUMN more")
    # in a transaction the driver cannot try again
    async with connection.transaction():
        await tried(connection.fetchrow(text, 1))
    say(len(await connection.fetchrow(text, 1)))


@asynchronous
async def cleanup(connection):
    for table in (PARTS, THINGS, NOTES):
        await connection.execute(f"DROP TABLE {table}")
    if not SHARDED:
        await connection.execute(f"DROP TYPE pair_{CLIENT}; DROP TYPE mood_{CLIENT}; DROP DOMAIN even_{CLIENT}")


run("asyncpg", asyncpg.__version__)
