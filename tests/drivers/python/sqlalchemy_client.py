"""SQLAlchemy, with the driver named on the command line: https://docs.sqlalchemy.org/en/latest/dialects/postgresql.html"""

import asyncio
import datetime
import decimal
import os
import sys
import uuid

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import create_async_engine

from common import CLIENT, SHARDED, part, run, say

DRIVER = sys.argv[1]
# in seconds: so long a part may take
PATIENCE = 30
URL = sa.URL.create(f"postgresql+{DRIVER}", "app", "app", os.environ["PGHOST"], int(os.environ["PGPORT"]), os.environ["PGDATABASE"])


class Base(orm.DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = f"things_{CLIENT}"
    id = orm.mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)
    name = orm.mapped_column(sa.Text)
    exact = orm.mapped_column(sa.Numeric(20, 5))
    flag = orm.mapped_column(sa.Boolean)
    bytes = orm.mapped_column(sa.LargeBinary)
    instant = orm.mapped_column(sa.DateTime(timezone=True))
    span = orm.mapped_column(sa.Interval)
    identity = orm.mapped_column(sa.Uuid)
    document = orm.mapped_column(postgresql.JSONB)
    numbers = orm.mapped_column(postgresql.ARRAY(sa.BigInteger))
    parts = orm.relationship("Part", back_populates="owner", order_by="Part.number", cascade="all, delete-orphan")

    def shown(self):
        return [getattr(self, column.key) for column in self.__table__.columns]


class Part(Base):
    __tablename__ = f"parts_{CLIENT}"
    thing = orm.mapped_column(sa.BigInteger, sa.ForeignKey(Thing.id), primary_key=True)
    number = orm.mapped_column(sa.Integer, primary_key=True, autoincrement=False)
    word = orm.mapped_column(sa.Text)
    owner = orm.relationship(Thing, back_populates="parts")


class Note(Base):
    # named in no rule: a sharded database has it on one shard, with the sequence of its ids
    __tablename__ = f"notes_{CLIENT}"
    id = orm.mapped_column(sa.Integer, primary_key=True)
    words = orm.mapped_column(sa.Text, server_default="none", nullable=False, index=True)
    __table_args__ = (sa.UniqueConstraint("words", "id", name=f"words_{CLIENT}"),)


async def with_engine(body, **options):
    """Runs a function of a connection in a thread of its own, by an engine of either kind."""
    if DRIVER == "asyncpg":
        engine = create_async_engine(URL, **options)
        try:
            async with engine.connect() as connection:
                await connection.run_sync(body)
        finally:
            await engine.dispose()
    else:
        engine = sa.create_engine(URL, **options)
        try:
            with engine.connect() as connection:
                body(connection)
        finally:
            engine.dispose()


def connected(**options):
    """A part that is a function of a connection."""

    def decorated(function):
        def with_connection():
            asyncio.run(asyncio.wait_for(with_engine(function, **options), PATIENCE))

        with_connection.__name__ = function.__name__
        return part(with_connection)

    return decorated


def tried(connection, text, **parameters):
    try:
        say(connection.execute(sa.text(text), parameters).all())
    except sa.exc.DBAPIError as error:
        say(type(error).__name__, type(error.orig).__name__, getattr(error.orig, "sqlstate", None))
        connection.rollback()


@connected()
def schema(connection):
    # the tables one by one, each committed: a sharded table's children need it
    Base.metadata.create_all(connection)
    connection.commit()
    say(connection.dialect.server_version_info, connection.dialect.default_schema_name, connection.get_isolation_level())


@connected()
def inspection(connection):
    inspector = sa.inspect(connection)
    for table in (Thing, Part, Note):
        name = table.__tablename__
        say(inspector.has_table(name), inspector.get_pk_constraint(name), inspector.get_foreign_keys(name))
        say([(column["name"], str(column["type"]), column["nullable"], column["default"]) for column in inspector.get_columns(name)])
        say(inspector.get_indexes(name), inspector.get_unique_constraints(name), inspector.get_check_constraints(name))
    names = {table.__tablename__ for table in (Thing, Part, Note)}
    say(sorted(names & set(inspector.get_table_names())), inspector.get_view_names())
    if not SHARDED:
        reflected = sa.MetaData()
        reflected.reflect(connection, only=sorted(names))
        say([[repr(column.type) for column in table.columns] for table in reflected.sorted_tables])


@connected()
def mapping(connection):
    with orm.Session(connection) as session:
        thing = Thing(
            id=1, name=f"thing {CLIENT}", exact=decimal.Decimal("1234.56789"), flag=True, bytes=b"\x00\xff" + bytes([CLIENT]),
            instant=datetime.datetime(2024, 6, 1, 12, tzinfo=datetime.timezone.utc), span=datetime.timedelta(3, 4), identity=uuid.UUID(int=CLIENT),
            document={"client": CLIENT}, numbers=[1, None, 3],
        )
        thing.parts = [Part(number=number, word=f"word {number}") for number in range(300)]
        session.add(thing)
        session.commit()
        found = session.get(Thing, 1)
        say(found.shown(), len(found.parts), found.parts[-1].word)
        found.name = "renamed"
        found.document = None
        del found.parts[10:]
        session.commit()
        say(found.shown(), [part.number for part in found.parts])
        say(session.get(Thing, 2))
        joined = sa.select(Thing.name, sa.func.count(Part.number)).join(Part).where(Thing.id == 1).group_by(Thing.name)
        say(session.execute(joined).all())
        for words in ("first", "second"):
            session.add(Note(words=f"{words} {CLIENT}"))
            session.commit()
        session.add_all([Note() for _ in range(50)])
        session.commit()
        say([(note.id, note.words) for note in session.scalars(sa.select(Note).order_by(Note.id).limit(4))])
        with session.begin_nested():
            session.add(Note(id=1000, words="nested"))
        try:
            with session.begin_nested():
                session.add(Note(id=1, words="again"))
        except sa.exc.IntegrityError as error:
            say(type(error.orig).__name__, getattr(error.orig, "sqlstate", None))
        session.commit()
        say(session.scalar(sa.select(sa.func.count()).select_from(Note)))


@connected()
def statements(connection):
    for turn in range(30):
        tried(connection, f"SELECT name, CAST(:turn AS int) FROM {Thing.__tablename__} WHERE id = :id", id=turn % 3, turn=turn)
    upsert = postgresql.insert(Thing).values(id=1, name="upserted")
    upsert = upsert.on_conflict_do_update(index_elements=[Thing.id], set_={"name": upsert.excluded.name}).returning(Thing.name)
    say(connection.execute(upsert).all())
    connection.rollback()
    tried(connection, "SELECT 1 / 0")
    tried(connection, f"INSERT INTO {Thing.__tablename__} (id) VALUES (1)")
    tried(connection, "SELECT CAST(:client AS int)", client=CLIENT)
    streamed = connection.execution_options(stream_results=True, yield_per=10).execute(sa.text("SELECT generate_series(1, 35)"))
    say(sum(row[0] for row in streamed))
    connection.rollback()


@connected()
def mistakes(connection):
    tried(connection, "SELECT nothing")
    tried(connection, "SELECT * FROM nowhere")
    tried(connection, "SELECT CAST(:client AS int)", client=CLIENT)


@connected(isolation_level="AUTOCOMMIT", pool_size=1, max_overflow=0)
def autocommit(connection):
    say(connection.execute(sa.update(Thing).where(Thing.id == 1).values(name="by itself")).rowcount)
    connection.rollback()
    say(connection.execute(sa.select(Thing.name).where(Thing.id == 1)).all())


@connected(isolation_level="REPEATABLE READ")
def isolation(connection):
    say(connection.scalar(sa.text("SHOW transaction_isolation")), connection.get_isolation_level())
    connection.rollback()
    connection = connection.execution_options(isolation_level="SERIALIZABLE", postgresql_readonly=True, postgresql_deferrable=True)
    say(connection.scalar(sa.text("SHOW transaction_isolation")), connection.scalar(sa.text("SHOW transaction_read_only")))
    tried(connection, f"DELETE FROM {Thing.__tablename__} WHERE id = 1")


@connected(pool_pre_ping=True, pool_recycle=1)
def settings(connection):
    connection.execute(sa.text(f"SET work_mem = '{CLIENT + 1}MB'"))
    connection.commit()
    say(connection.scalar(sa.text("SHOW work_mem")))
    connection.execute(sa.text("SET LOCAL work_mem = '77MB'"))
    say(connection.scalar(sa.text("SHOW work_mem")))
    connection.rollback()
    say(connection.scalar(sa.text("SHOW work_mem")))


@connected()
def cleanup(connection):
    Base.metadata.drop_all(connection)
    connection.commit()
    say(sa.inspect(connection).has_table(Thing.__tablename__))


run("SQLAlchemy", sa.__version__)
