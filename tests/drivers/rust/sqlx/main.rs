//! sqlx, which prepares every statement under a name, keeps it, and reads all values in binary: <https://docs.rs/sqlx>
#![allow(clippy::unwrap_used)]

use std::env::var;
use std::fmt::Debug;
use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::postgres::types::{PgInterval, PgRange};
use sqlx::postgres::{
    PgArguments, PgConnectOptions, PgConnection, PgDatabaseError, PgListener, PgPool,
    PgPoolCopyExt, PgPoolOptions, PgRow, Postgres,
};
use sqlx::query::Query;
use sqlx::types::time::OffsetDateTime;
use sqlx::{
    AssertSqlSafe, Column, ConnectOptions, Connection, Error, Executor, Row, SqlSafeStr, Statement,
    TypeInfo,
};

struct Program {
    number: String,
    things: String,
    notes: String,
}

type Outcome = Result<(), Error>;

fn configuration() -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .host(&var("PGHOST").unwrap())
        .port(var("PGPORT").unwrap().parse().unwrap())
        .username(&var("PGUSER").unwrap())
        .password(&var("PGPASSWORD").unwrap())
        .database(&var("PGDATABASE").unwrap())
}

async fn connect() -> Result<PgConnection, Error> {
    configuration().connect().await
}

async fn pool(connections: u32) -> Result<PgPool, Error> {
    let options = PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(60));
    options.connect_with(configuration()).await
}

/// A statement made of a client's own names.
fn query(text: impl Into<String>) -> Query<'static, Postgres, PgArguments> {
    sqlx::query(AssertSqlSafe(text.into()))
}

fn say(line: impl Debug) {
    println!("{line:?}");
}

fn failure(error: &Error) -> String {
    let Some(error) = error.as_database_error() else {
        return error.to_string();
    };
    let error = error.downcast_ref::<PgDatabaseError>();
    format!(
        "{:?} {} {} {:?} {:?} {:?} {:?} {:?}",
        error.severity(),
        error.code(),
        error.message(),
        error.detail(),
        error.hint(),
        error.position(),
        error.table(),
        error.constraint()
    )
}

fn tried<T: Debug>(outcome: Result<T, Error>) {
    match outcome {
        Ok(value) => say(value),
        Err(error) => say(failure(&error)),
    }
}

fn integers(rows: &[PgRow]) -> Vec<Option<i32>> {
    rows.iter().map(|row| row.get(0)).collect()
}

fn texts(rows: &[PgRow]) -> Vec<Vec<Option<String>>> {
    let columns = |row: &PgRow| (0..row.len()).map(|column| row.get(column)).collect();
    rows.iter().map(columns).collect()
}

impl Program {
    async fn name(&self, connection: &mut PgConnection) -> Outcome {
        let select = format!("SELECT name FROM {} WHERE id = $1", self.things);
        say(texts(
            &query(select).bind(1_i64).fetch_all(connection).await?,
        ));
        Ok(())
    }

    async fn rename(&self, connection: &mut PgConnection, to: &str) -> Result<u64, Error> {
        let update = format!("UPDATE {} SET name = $1 WHERE id = $2", self.things);
        let done = query(update).bind(to.to_owned()).bind(1_i64);
        Ok(done.execute(connection).await?.rows_affected())
    }

    async fn login(&self) -> Outcome {
        let mut connection = configuration()
            .application_name(&format!("client {}", self.number))
            .options([("work_mem", format!("1{}MB", self.number))])
            .connect()
            .await?;
        for name in [
            "application_name",
            "work_mem",
            "TimeZone",
            "extra_float_digits",
        ] {
            let shown = query("SELECT current_setting($1)").bind(name);
            say((name, texts(&shown.fetch_all(&mut connection).await?)));
        }
        connection.ping().await?;
        connection.close().await?;
        tried(
            configuration()
                .password("wrong")
                .connect()
                .await
                .map(|_| ()),
        );
        Ok(())
    }

    async fn values(&self) -> Outcome {
        let mut connection = connect().await?;
        let create = format!(
            "CREATE TABLE {} (id bigint PRIMARY KEY, name text, small int2, double float8, flag bool, bytes bytea, instant timestamptz, \
             span interval, range int8range, document jsonb, numbers int8[], words text[])",
            self.things
        );
        connection.execute(AssertSqlSafe(create)).await?;
        let insert = format!(
            "INSERT INTO {} VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::text::jsonb, $11, $12)",
            self.things
        );
        let span = PgInterval {
            months: 1,
            days: -2,
            microseconds: 3,
        };
        let inserted = query(insert)
            .bind(1_i64)
            .bind(format!("thing {}", self.number))
            .bind(i16::MAX)
            .bind(1.5_f64)
            .bind(true)
            .bind(&b"\x00\xff"[..])
            .bind(OffsetDateTime::UNIX_EPOCH)
            .bind(span)
            .bind(PgRange::from(1_i64..10))
            .bind(format!("[{}]", self.number))
            .bind(vec![Some(1_i64), None, Some(3)])
            .bind(vec!["a", "b\""]);
        say(inserted.execute(&mut connection).await?.rows_affected());
        let nulls = format!("INSERT INTO {} (id, name) VALUES ($1, $2)", self.things);
        let nulls = query(nulls).bind(2_i64).bind(None::<String>);
        say(nulls.execute(&mut connection).await?.rows_affected());
        for id in 1..4_i64 {
            let select = format!(
                "SELECT id, name, small, double, flag, bytes, instant, span, range, document::text, numbers, words FROM {} WHERE id = $1",
                self.things
            );
            for row in query(select).bind(id).fetch_all(&mut connection).await? {
                say((
                    row.get::<i64, _>(0),
                    row.get::<Option<String>, _>("name"),
                    row.get::<Option<i16>, _>(2),
                    row.get::<Option<f64>, _>(3),
                    row.get::<Option<bool>, _>(4),
                    row.get::<Option<Vec<u8>>, _>(5),
                ));
                say((
                    row.get::<Option<OffsetDateTime>, _>(6),
                    row.get::<Option<PgInterval>, _>(7),
                    row.get::<Option<PgRange<i64>>, _>(8),
                    row.get::<Option<String>, _>(9),
                    row.get::<Option<Vec<Option<i64>>>, _>(10),
                    row.get::<Option<Vec<String>>, _>(11),
                ));
                let types = row.columns().iter().map(|column| column.type_info().name());
                say(types.collect::<Vec<_>>());
            }
        }
        // the simple protocol, whose values are text
        let simple = format!(
            "SELECT id, small, double, flag, bytes, numbers FROM {}",
            self.things
        );
        for row in sqlx::raw_sql(AssertSqlSafe(simple + " WHERE id = 1"))
            .fetch_all(&mut connection)
            .await?
        {
            say((
                row.get::<i64, _>(0),
                row.get::<Option<i16>, _>(1),
                row.get::<Option<f64>, _>(2),
                row.get::<Option<bool>, _>(3),
                row.get::<Option<Vec<u8>>, _>(4),
                row.get::<Option<Vec<Option<i64>>>, _>(5),
            ));
        }
        Ok(())
    }

    /// Types that the driver asks the catalogs for, by statements of its own.
    async fn introspection(&self) -> Outcome {
        let mut connection = connect().await?;
        let select = format!(
            "SELECT '[1,2)'::numrange, 'a'::information_schema.sql_identifier, t FROM {} t WHERE id = 1",
            self.things
        );
        let row = query(select).fetch_one(&mut connection).await?;
        let types = row.columns().iter().map(|column| column.type_info().name());
        say(types.collect::<Vec<_>>());
        let select = format!("SELECT name, small + $1 FROM {} WHERE id = $2", self.things);
        let statement = connection
            .prepare(AssertSqlSafe(select).into_sql_str())
            .await?;
        say(statement.parameters());
        let columns = statement
            .columns()
            .iter()
            .map(|column| (column.name(), column.type_info().name()));
        say(columns.collect::<Vec<_>>());
        Ok(())
    }

    async fn prepared(&self) -> Outcome {
        // its cache holds two: others are closed, and made anew
        let mut connection = configuration()
            .statement_cache_capacity(2)
            .connect()
            .await?;
        let select = format!("SELECT name, $2::int FROM {} WHERE id = $1", self.things);
        let add = format!("SELECT $1 + {}", self.number);
        for turn in 0..30_i32 {
            let named = query(select.clone()).bind(i64::from(turn % 3)).bind(turn);
            let rows = named.fetch_all(&mut connection).await?;
            say(rows
                .iter()
                .map(|row| (row.get::<Option<String>, _>(0), row.get::<i32, _>(1)))
                .collect::<Vec<_>>());
            say(integers(
                &query(add.clone())
                    .bind(turn)
                    .fetch_all(&mut connection)
                    .await?,
            ));
            let other = query(format!("SELECT {} * $1::int", turn % 5)).bind(turn);
            say(integers(&other.fetch_all(&mut connection).await?));
            let unnamed = query("SELECT $1::int").bind(turn).persistent(false);
            say(integers(&unnamed.fetch_all(&mut connection).await?));
        }
        say(connection.cached_statements_size());
        connection.clear_cached_statements().await?;
        say(integers(
            &query(add).bind(1).fetch_all(&mut connection).await?,
        ));
        Ok(())
    }

    async fn transactions(&self) -> Outcome {
        let mut connection = connect().await?;
        let mut transaction = connection.begin().await?;
        say(self.rename(&mut transaction, "kept").await?);
        transaction.commit().await?;
        // dropped, it is rolled back
        let mut transaction = connection.begin().await?;
        self.rename(&mut transaction, "not kept").await?;
        drop(transaction);
        self.name(&mut connection).await?;
        let mut transaction = connection
            .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ")
            .await?;
        let mut inner = transaction.begin().await?;
        self.rename(&mut inner, "not kept either").await?;
        tried(
            query("SELECT 1 / $1::int")
                .bind(0)
                .fetch_all(&mut *inner)
                .await
                .map(|rows| integers(&rows)),
        );
        tried(
            query("SELECT 1")
                .fetch_all(&mut *inner)
                .await
                .map(|rows| integers(&rows)),
        );
        inner.rollback().await?;
        self.name(&mut transaction).await?;
        tried(
            transaction
                .prepare("SELECT nothing".into_sql_str())
                .await
                .map(|_| ()),
        );
        transaction.rollback().await?;
        let mut transaction = connection.begin_with("BEGIN READ ONLY").await?;
        tried(self.rename(&mut transaction, "read only").await);
        drop(transaction);
        self.name(&mut connection).await
    }

    async fn errors(&self) -> Outcome {
        let mut connection = connect().await?;
        let again = format!("INSERT INTO {} (id) VALUES ($1)", self.things);
        tried(
            query(again)
                .bind(1_i64)
                .execute(&mut connection)
                .await
                .map(|_| ()),
        );
        tried(
            sqlx::raw_sql("SELECT 1; SELECT 1 / 0")
                .fetch_all(&mut connection)
                .await
                .map(|rows| integers(&rows)),
        );
        tried(
            query("SELECT nothing")
                .fetch_all(&mut connection)
                .await
                .map(|_| ()),
        );
        tried(
            query("SELECT 1 / $1::int")
                .bind(0)
                .fetch_all(&mut connection)
                .await
                .map(|_| ()),
        );
        tried(
            query("SELECT $1::int")
                .fetch_all(&mut connection)
                .await
                .map(|_| ()),
        );
        say(integers(
            &sqlx::raw_sql("SELECT 1; SELECT 2; SELECT NULL::int")
                .fetch_all(&mut connection)
                .await?,
        ));
        say(integers(
            &query("SELECT $1::int")
                .bind(7)
                .fetch_all(&mut connection)
                .await?,
        ));
        Ok(())
    }

    /// Rows one by one, the rest of which is read when the next statement needs the connection.
    async fn streams(&self) -> Outcome {
        let mut connection = connect().await?;
        {
            let mut rows = query("SELECT generate_series(1, $1::int)")
                .bind(5000)
                .fetch(&mut connection);
            for _ in 0..3 {
                say(rows.try_next().await?.map(|row| row.get::<i32, _>(0)));
            }
        }
        say(integers(
            &query("SELECT $1::int")
                .bind(7)
                .fetch_all(&mut connection)
                .await?,
        ));
        // one row is all it asks the server for
        let one = query("SELECT generate_series(1, 1000)")
            .fetch_one(&mut connection)
            .await?;
        say(one.get::<i32, _>(0));
        let none = query("SELECT 1 WHERE false")
            .fetch_optional(&mut connection)
            .await?;
        say(none.is_some());
        // given up while it runs
        let slow = query("SELECT pg_sleep(0.5)").fetch_all(&mut connection);
        say(tokio::time::timeout(Duration::from_millis(100), slow)
            .await
            .is_ok());
        say(integers(
            &query("SELECT $1::int")
                .bind(8)
                .fetch_all(&mut connection)
                .await?,
        ));
        Ok(())
    }

    async fn pools(&self) -> Outcome {
        let pool = pool(3).await?;
        let tasks = (0..30).map(|turn| {
            let pool = pool.clone();
            tokio::spawn(async move {
                query("SELECT $1::int * 2")
                    .bind(turn)
                    .fetch_one(&pool)
                    .await
            })
        });
        let mut doubled = Vec::new();
        for task in tasks.collect::<Vec<_>>() {
            doubled.push(task.await.unwrap()?.get::<i32, _>(0));
        }
        say(doubled);
        let mut transaction = pool.begin().await?;
        say(self.rename(&mut transaction, "by a pool").await?);
        transaction.commit().await?;
        self.name(&mut *pool.acquire().await?).await?;
        pool.close().await;
        Ok(())
    }

    async fn copy(&self) -> Outcome {
        let pool = pool(1).await?;
        let notes = &self.notes;
        let create = format!("CREATE TABLE {notes} (id int, words text)");
        query(create).execute(&pool).await?;
        let mut copy = pool
            .copy_in_raw(&format!("COPY {notes} FROM STDIN"))
            .await?;
        for id in 0..500 {
            copy.send(format!("{id}\tclient {}\n", self.number).into_bytes())
                .await?;
        }
        say(copy.finish().await?);
        let output = pool
            .copy_out_raw(&format!(
                "COPY (SELECT * FROM {notes} ORDER BY id) TO STDOUT"
            ))
            .await?;
        say(output
            .try_fold(0, async |length, block| Ok(length + block.len()))
            .await?);
        let mut wrong = pool
            .copy_in_raw(&format!("COPY {notes} FROM STDIN"))
            .await?;
        wrong.send(&b"x\ty\n"[..]).await?;
        tried(wrong.finish().await);
        let left = pool
            .copy_in_raw(&format!("COPY {notes} FROM STDIN"))
            .await?;
        tried(left.abort("thought better of it").await);
        let counted = format!("SELECT count(*)::int FROM {notes}");
        say(integers(&query(counted).fetch_all(&pool).await?));
        pool.close().await;
        Ok(())
    }

    async fn notifications(&self) -> Outcome {
        let pool = pool(2).await?;
        let channel = format!("news_{}", self.number);
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(&channel).await?;
        query(format!("NOTIFY {channel}, 'one of {}'", self.number))
            .execute(&pool)
            .await?;
        query("SELECT pg_notify($1, $2)")
            .bind(channel.clone())
            .bind("two")
            .execute(&pool)
            .await?;
        for _ in 0..2 {
            match tokio::time::timeout(Duration::from_secs(30), listener.recv()).await {
                Ok(heard) => tried(
                    heard.map(|heard| (heard.channel().to_owned(), heard.payload().to_owned())),
                ),
                Err(_) => say("nothing was heard"),
            }
        }
        listener.unlisten(&channel).await?;
        drop(listener);
        pool.close().await;
        Ok(())
    }

    async fn settings(&self) -> Outcome {
        let mut connection = connect().await?;
        let set = format!(
            "SET work_mem = '1{}MB'; SET TimeZone = 'Asia/Tokyo'",
            self.number
        );
        let show = "SELECT current_setting('work_mem'), current_setting('TimeZone')";
        connection.execute(AssertSqlSafe(set)).await?;
        say(texts(&query(show).fetch_all(&mut connection).await?));
        let mut transaction = connection.begin().await?;
        transaction.execute("SET LOCAL work_mem = '77MB'").await?;
        say(texts(&query(show).fetch_all(&mut *transaction).await?));
        transaction.rollback().await?;
        say(texts(&query(show).fetch_all(&mut connection).await?));
        connection.execute("RESET ALL").await?;
        say(texts(&query(show).fetch_all(&mut connection).await?));
        Ok(())
    }

    async fn cleanup(&self) -> Outcome {
        let mut connection = connect().await?;
        for table in [&self.things, &self.notes] {
            query(format!("DROP TABLE {table}"))
                .execute(&mut connection)
                .await?;
        }
        Ok(())
    }
}

async fn part(name: &str, body: impl Future<Output = Outcome>) {
    println!("part {name}");
    match tokio::time::timeout(Duration::from_secs(60), body).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => println!("FAILED {}", failure(&error)),
        Err(_) => println!("FAILED by hanging"),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let number = var("CLIENT").unwrap_or_else(|_| "0".into());
    let program = Program {
        things: format!("things_{number}"),
        notes: format!("notes_{number}"),
        number,
    };
    part("login", program.login()).await;
    part("values", program.values()).await;
    part("introspection", program.introspection()).await;
    part("prepared", program.prepared()).await;
    part("transactions", program.transactions()).await;
    part("errors", program.errors()).await;
    part("streams", program.streams()).await;
    part("pools", program.pools()).await;
    part("copy", program.copy()).await;
    part("notifications", program.notifications()).await;
    part("settings", program.settings()).await;
    part("cleanup", program.cleanup()).await;
}
