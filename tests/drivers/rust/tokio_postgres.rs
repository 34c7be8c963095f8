//! tokio-postgres, which prepares everything and pipelines what is polled at once: <https://docs.rs/tokio-postgres>
#![allow(clippy::unwrap_used)]

use std::env::var;
use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, TryStreamExt, future::try_join_all, pin_mut, stream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{
    AsyncMessage, Client, Config, Error, GenericClient, IsolationLevel, NoTls, Notification, Row,
    SimpleQueryMessage,
};

/// A connection, its cancel's endpoint and what it hears.
struct Connected {
    client: Client,
    heard: UnboundedReceiver<Notification>,
}

struct Program {
    number: String,
    things: String,
    notes: String,
}

type Outcome = Result<(), Error>;

fn configuration() -> Config {
    let mut configuration = Config::new();
    configuration
        .host(var("PGHOST").unwrap())
        .port(var("PGPORT").unwrap().parse().unwrap())
        .user(var("PGUSER").unwrap())
        .password(var("PGPASSWORD").unwrap())
        .dbname(var("PGDATABASE").unwrap())
        .connect_timeout(Duration::from_secs(60));
    configuration
}

async fn connect(configuration: &Config) -> Result<Connected, Error> {
    let (client, mut connection) = configuration.connect(NoTls).await?;
    let (sender, heard) = unbounded_channel();
    tokio::spawn(async move {
        let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(notification) = message {
                // nobody may be listening any more
                let _ = sender.send(notification);
            }
        }
    });
    Ok(Connected { client, heard })
}

fn say(line: impl Debug) {
    println!("{line:?}");
}

fn failure(error: &Error) -> String {
    error.as_db_error().map_or_else(
        || error.to_string(),
        |error| {
            let (code, detail, hint) = (error.code().code(), error.detail(), error.hint());
            format!(
                "{code} {} {detail:?} {hint:?} {:?} {:?} {:?}",
                error.message(),
                error.position(),
                error.table(),
                error.constraint()
            )
        },
    )
}

fn tried<T: Debug>(outcome: Result<T, Error>) {
    match outcome {
        Ok(value) => say(value),
        Err(error) => say(failure(&error)),
    }
}

/// The rows of a simple query, as text.
fn texts(messages: &[SimpleQueryMessage]) -> Vec<Vec<Option<String>>> {
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    rows.map(|row| {
        (0..row.len())
            .map(|column| row.get(column).map(str::to_owned))
            .collect()
    })
    .collect()
}

fn integers(rows: &[Row]) -> Vec<Option<i32>> {
    rows.iter().map(|row| row.get(0)).collect()
}

impl Program {
    async fn name(&self, client: &impl GenericClient) -> Result<Vec<Option<String>>, Error> {
        let query = format!("SELECT name FROM {} WHERE id = $1", self.things);
        let rows = client.query(&query, &[&1_i64]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn rename(&self, client: &impl GenericClient, to: &str) -> Result<u64, Error> {
        let query = format!("UPDATE {} SET name = $1 WHERE id = $2", self.things);
        client.execute(&query, &[&to, &1_i64]).await
    }

    async fn login(&self) -> Outcome {
        let mut asked = configuration();
        asked
            .application_name(format!("client {}", self.number))
            .options(format!("-c work_mem=1{}MB", self.number));
        let connected = connect(&asked).await?;
        for name in ["application_name", "work_mem", "TimeZone"] {
            let row = connected
                .client
                .query_one("SELECT current_setting($1)", &[&name])
                .await?;
            say((name, row.get::<_, String>(0)));
        }
        tried(connect(configuration().password("wrong")).await.map(|_| ()));
        let writing = tokio_postgres::config::TargetSessionAttrs::ReadWrite;
        tried(
            connect(configuration().target_session_attrs(writing))
                .await
                .map(|_| ()),
        );
        Ok(())
    }

    async fn values(&self) -> Outcome {
        let client = connect(&configuration()).await?.client;
        let create = format!(
            "CREATE TABLE {} (id bigint PRIMARY KEY, name text, small int2, double float8, flag bool, bytes bytea, instant timestamptz, \
             numbers int8[], words text[])",
            self.things
        );
        client.batch_execute(&create).await?;
        let insert = format!(
            "INSERT INTO {} VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            self.things
        );
        let numbers = vec![Some(1_i64), None, Some(3)];
        let name = format!("thing {}", self.number);
        let row: [&(dyn ToSql + Sync); 9] = [
            &1_i64,
            &name,
            &32767_i16,
            &1.5_f64,
            &true,
            &&b"\x00\xff"[..],
            &SystemTime::UNIX_EPOCH,
            &numbers,
            &vec!["a", "b\""],
        ];
        say(client.execute(&insert, &row).await?);
        let nothing = None::<String>;
        let nulls = format!("INSERT INTO {} (id, name) VALUES ($1, $2)", self.things);
        say(client.execute(&nulls, &[&2_i64, &nothing]).await?);
        for id in 1..4_i64 {
            let select = format!("SELECT * FROM {} WHERE id = $1", self.things);
            for row in client.query(&select, &[&id]).await? {
                say((
                    row.get::<_, i64>(0),
                    row.get::<_, Option<String>>(1),
                    row.get::<_, Option<i16>>(2),
                ));
                say((
                    row.get::<_, Option<f64>>(3),
                    row.get::<_, Option<bool>>(4),
                    row.get::<_, Option<Vec<u8>>>(5),
                ));
                say((
                    row.get::<_, Option<SystemTime>>(6),
                    row.get::<_, Option<Vec<Option<i64>>>>(7),
                ));
                say(row.get::<_, Option<Vec<String>>>(8));
                say(row
                    .columns()
                    .iter()
                    .map(|column| column.type_().name())
                    .collect::<Vec<_>>());
            }
        }
        Ok(())
    }

    /// Types that the driver asks the catalogs for, by statements of its own.
    async fn introspection(&self) -> Outcome {
        let client = connect(&configuration()).await?.client;
        let row = client.query_one("SELECT c.relkind, '{[1,2)}'::nummultirange FROM pg_class c WHERE relname = 'pg_class'", &[]).await?;
        say((row.get::<_, i8>(0), row.columns()[1].type_().kind()));
        Ok(())
    }

    async fn prepared(&self) -> Outcome {
        let client = connect(&configuration()).await?.client;
        let text = format!("SELECT name, $2::int FROM {} WHERE id = $1", self.things);
        let first = client.prepare(&text).await?;
        let second = client
            .prepare_typed(&format!("SELECT $1 + {}", self.number), &[Type::INT4])
            .await?;
        for turn in 0..30 {
            let rows = client.query(&first, &[&i64::from(turn % 3), &turn]).await?;
            say(rows
                .iter()
                .map(|row| (row.get::<_, Option<String>>(0), row.get::<_, i32>(1)))
                .collect::<Vec<_>>());
            say(integers(&client.query(&second, &[&turn]).await?));
        }
        drop(first);
        say(integers(&client.query(&second, &[&1]).await?));
        let typed = client
            .query_typed("SELECT $1 + $2", &[(&1, Type::INT4), (&2, Type::INT4)])
            .await?;
        say(integers(&typed));
        Ok(())
    }

    async fn transactions(&self) -> Outcome {
        let mut client = connect(&configuration()).await?.client;
        let transaction = client.transaction().await?;
        say(self.rename(&transaction, "kept").await?);
        transaction.commit().await?;
        // dropped, it is rolled back
        let transaction = client.transaction().await?;
        self.rename(&transaction, "not kept").await?;
        drop(transaction);
        say(self.name(&client).await?);
        let building = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead);
        let mut transaction = building.start().await?;
        let inner = transaction.savepoint("a").await?;
        self.rename(&inner, "not kept either").await?;
        tried(
            inner
                .query("SELECT 1 / $1::int", &[&0])
                .await
                .map(|rows| integers(&rows)),
        );
        tried(inner.batch_execute("SELECT 1").await);
        inner.rollback().await?;
        say(self.name(&transaction).await?);
        tried(transaction.prepare("SELECT nothing").await.map(|_| ()));
        transaction.rollback().await?;
        let transaction = client.build_transaction().read_only(true).start().await?;
        tried(self.rename(&transaction, "read only").await);
        drop(transaction);
        say(self.name(&client).await?);
        Ok(())
    }

    async fn errors(&self) -> Outcome {
        let client = connect(&configuration()).await?.client;
        let again = format!("INSERT INTO {} (id) VALUES ($1)", self.things);
        tried(client.execute(&again, &[&1_i64]).await);
        tried(client.batch_execute("SELECT 1; SELECT 1 / 0").await);
        tried(client.query("SELECT nothing", &[]).await.map(|_| ()));
        tried(client.query("SELECT 1 / $1::int", &[&0]).await.map(|_| ()));
        say(texts(
            &client
                .simple_query("SELECT 1; SELECT 2, 3; SELECT NULL")
                .await?,
        ));
        say(integers(&client.query("SELECT $1::int", &[&7]).await?));
        Ok(())
    }

    /// Requests that are sent before the answers to those before them have come.
    async fn pipelines(&self) -> Outcome {
        let client = connect(&configuration()).await?.client;
        let statement = client.prepare("SELECT $1::int * 2").await?;
        let numbers: Vec<i32> = (0..50).collect();
        let queries = numbers.iter().map(|number| async {
            let parameters: [&(dyn ToSql + Sync); 1] = [number];
            client.query(&statement, &parameters).await
        });
        let answers = try_join_all(queries).await?;
        say(answers
            .iter()
            .flat_map(|rows| integers(rows))
            .collect::<Vec<_>>());
        let (one, failed, after, name) = tokio::join!(
            client.query("SELECT 1", &[]),
            client.query("SELECT 1 / $1::int", &[&0]),
            client.query("SELECT 2", &[]),
            self.name(&client)
        );
        say((
            integers(&one?),
            failed.map(|_| ()).map_err(|error| failure(&error)),
            integers(&after?),
            name?,
        ));
        // prepared before, so that each is one message
        let rename = client
            .prepare(&format!(
                "UPDATE {} SET name = $1 WHERE id = 1",
                self.things
            ))
            .await?;
        let name = client
            .prepare(&format!("SELECT name FROM {} WHERE id = 1", self.things))
            .await?;
        let (begun, renamed, read, back) = tokio::join!(
            client.batch_execute("BEGIN"),
            client.execute(&rename, &[&"in a pipeline"]),
            client.query_one(&name, &[]),
            client.batch_execute("ROLLBACK")
        );
        begun?;
        say((renamed?, read?.get::<_, Option<String>>(0)));
        back?;
        say(self.name(&client).await?);
        Ok(())
    }

    async fn portals(&self) -> Outcome {
        let mut client = connect(&configuration()).await?.client;
        let transaction = client.transaction().await?;
        let portal = transaction
            .bind("SELECT generate_series(1, $1::int)", &[&25])
            .await?;
        for _ in 0..4 {
            say(integers(&transaction.query_portal(&portal, 10).await?));
        }
        transaction.commit().await
    }

    async fn copy(&self) -> Outcome {
        let client = connect(&configuration()).await?.client;
        let notes = &self.notes;
        client
            .batch_execute(&format!("CREATE TABLE {notes} (id int, words text)"))
            .await?;
        let sink = client.copy_in(&format!("COPY {notes} FROM STDIN")).await?;
        pin_mut!(sink);
        for id in 0..500 {
            sink.send(Bytes::from(format!("{id}\tclient {}\n", self.number)))
                .await?;
        }
        say(sink.finish().await?);
        let sink = client
            .copy_in(&format!("COPY {notes} FROM STDIN (FORMAT BINARY)"))
            .await?;
        let writer = BinaryCopyInWriter::new(sink, &[Type::INT4, Type::TEXT]);
        pin_mut!(writer);
        for id in 500..600 {
            writer.as_mut().write(&[&id, &None::<String>]).await?;
        }
        say(writer.finish().await?);
        let output = client
            .copy_out(&format!(
                "COPY (SELECT * FROM {notes} ORDER BY id) TO STDOUT"
            ))
            .await?;
        let blocks: Vec<Bytes> = output.try_collect().await?;
        say((blocks.len(), blocks.concat().len()));
        let wrong = client.copy_in(&format!("COPY {notes} FROM STDIN")).await?;
        pin_mut!(wrong);
        wrong.send(Bytes::from("x\ty\n")).await?;
        tried(wrong.finish().await);
        {
            // dropped, it fails
            let left = client
                .copy_in::<_, Bytes>(&format!("COPY {notes} FROM STDIN"))
                .await?;
            drop(left);
        }
        say(texts(
            &client
                .simple_query(&format!("SELECT count(*), max(words) FROM {notes}"))
                .await?,
        ));
        Ok(())
    }

    async fn notifications(&self) -> Outcome {
        let mut listener = connect(&configuration()).await?;
        let sender = connect(&configuration()).await?.client;
        let channel = format!("news_{}", self.number);
        listener
            .client
            .batch_execute(&format!("LISTEN {channel}"))
            .await?;
        sender
            .batch_execute(&format!("NOTIFY {channel}, 'one of {}'", self.number))
            .await?;
        sender
            .execute("SELECT pg_notify($1, $2)", &[&channel, &"two"])
            .await?;
        for _ in 0..2 {
            let waited = tokio::time::timeout(Duration::from_secs(30), listener.heard.recv()).await;
            say(waited.map(|heard| {
                heard.map(|heard| (heard.channel().to_owned(), heard.payload().to_owned()))
            }));
        }
        Ok(())
    }

    async fn cancel(&self) -> Outcome {
        let client = connect(&configuration()).await?.client;
        let token = client.cancel_token();
        let canceled = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            token.cancel_query(NoTls).await
        };
        let (slept, canceled) = tokio::join!(client.batch_execute("SELECT pg_sleep(50)"), canceled);
        canceled?;
        tried(slept);
        say(integers(&client.query("SELECT $1::int", &[&7]).await?));
        Ok(())
    }

    async fn settings(&self) -> Outcome {
        let client = connect(&configuration()).await?.client;
        client
            .batch_execute(&format!(
                "SET work_mem = '1{}MB'; SET TimeZone = 'Asia/Tokyo'",
                self.number
            ))
            .await?;
        let show = || async {
            let messages = client
                .simple_query("SELECT current_setting('work_mem'), current_setting('TimeZone')")
                .await?;
            say(texts(&messages));
            Ok::<_, Error>(())
        };
        show().await?;
        client.batch_execute("RESET ALL").await?;
        show().await?;
        client.batch_execute("SET work_mem = '77MB'").await?;
        // deadpool's and bb8's ways to clean a connection
        client.batch_execute("CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES;").await?;
        show().await?;
        client.batch_execute("DISCARD ALL").await?;
        show().await
    }

    async fn cleanup(&self) -> Outcome {
        let client = connect(&configuration()).await?.client;
        client
            .batch_execute(&format!("DROP TABLE {}", self.things))
            .await?;
        client
            .batch_execute(&format!("DROP TABLE {}", self.notes))
            .await
    }
}

async fn part(name: &str, body: impl Future<Output = Outcome>) {
    println!("part {name}");
    if let Err(error) = body.await {
        println!("FAILED {}", failure(&error));
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
    part("pipelines", program.pipelines()).await;
    part("portals", program.portals()).await;
    part("copy", program.copy()).await;
    part("notifications", program.notifications()).await;
    part("cancel", program.cancel()).await;
    part("settings", program.settings()).await;
    part("cleanup", program.cleanup()).await;
}
