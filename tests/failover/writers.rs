//! Clients that write without a pause and note what they were told.
//!
//! Each write is a row of its own, and counts as acknowledged from its ReadyForQuery on; that is noted before the next one is sent.
//! Main types: [`Writers`], [`Record`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pgherd_tests::wire::{Message, RawClient, bind, execute, parse, query, sync};
use tokio::task::JoinHandle;

/// The table that is written to.
pub const TABLE: &str = "CREATE TABLE marks (writer int, n bigint, PRIMARY KEY (writer, n))";
const WRITERS: u32 = 8;
const RETRY: Duration = Duration::from_millis(20);
/// No fault lasts as long: a write that takes more hangs.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// An acknowledged row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    pub writer: u32,
    pub n: u64,
    pub at: Instant,
}

/// What a client was told instead.
#[derive(Debug, Clone)]
pub struct ClientError {
    /// The SQLSTATE; `None` where the connection was lost.
    pub code: Option<String>,
    pub message: String,
    pub in_transaction: bool,
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code.as_deref().unwrap_or("-----");
        write!(f, "{code} {}", self.message)
    }
}

/// What a writer has seen.
#[derive(Debug, Default)]
pub struct Record {
    pub acknowledged: Vec<Acknowledged>,
    pub errors: Vec<ClientError>,
}

/// Running clients: by their number they speak the simple or the extended protocol, and write with or without BEGIN and COMMIT.
#[derive(Debug)]
pub struct Writers {
    running: Vec<JoinHandle<Record>>,
    told: Arc<Told>,
}

/// What the clients and who watches them tell each other.
#[derive(Debug, Default)]
struct Told {
    stop: AtomicBool,
    acknowledged: AtomicU64,
}

impl Writers {
    /// Starts all of them, on connections of their own; the user `app` must be trusted.
    #[must_use]
    pub fn start(endpoint: &str) -> Self {
        let told = Arc::new(Told::default());
        let running = (0..WRITERS)
            .map(|writer| {
                let (endpoint, told) = (endpoint.to_owned(), Arc::clone(&told));
                tokio::spawn(write(endpoint, writer, told))
            })
            .collect();
        Self { running, told }
    }

    /// How many writes were acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.told.acknowledged.load(Ordering::Relaxed)
    }

    /// Has each end its write, and returns what they have seen together.
    pub async fn stop(self) -> Record {
        self.told.stop.store(true, Ordering::Relaxed);
        let mut all = Record::default();
        for writer in self.running {
            let record = writer.await.expect("a writer does not panic");
            all.acknowledged.extend(record.acknowledged);
            all.errors.extend(record.errors);
        }
        all.acknowledged.sort_by_key(|row| row.at);
        all
    }
}

async fn write(endpoint: String, writer: u32, told: Arc<Told>) -> Record {
    let mut record = Record::default();
    let mut connection = None;
    let mut n = 0;
    while !told.stop.load(Ordering::Relaxed) {
        let Some(client) = connection.as_mut() else {
            match RawClient::try_log_in(&endpoint, "app", "shop").await {
                Ok(client) => connection = Some(client),
                Err(answer) => {
                    record.errors.push(error(answer.as_ref(), false));
                    tokio::time::sleep(RETRY).await;
                }
            }
            continue;
        };
        // a number is used once, so that a row tells of one attempt
        n += 1;
        let (statements, extended) = (statements(writer, n), writer % 2 == 1);
        let answer = tokio::time::timeout(ANSWER_LIMIT, run(client, &statements, extended));
        match answer.await.unwrap_or_else(|_| Err(no_answer())) {
            Ok(()) => {
                let at = Instant::now();
                record.acknowledged.push(Acknowledged { writer, n, at });
                told.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                let lost = error.code.is_none();
                record.errors.push(error);
                if lost {
                    connection = None;
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
    record
}

fn statements(writer: u32, n: u64) -> Vec<String> {
    let insert = format!("INSERT INTO marks VALUES ({writer}, {n})");
    match writer % 4 >= 2 {
        true => vec!["BEGIN".into(), insert, "COMMIT".into()],
        false => vec![insert],
    }
}

/// Runs them one by one; the last one's ReadyForQuery is the acknowledgement.
async fn run(
    client: &mut RawClient,
    statements: &[String],
    extended: bool,
) -> Result<(), ClientError> {
    for (index, sql) in statements.iter().enumerate() {
        let answers = match extended {
            false => client.query(sql).await,
            true => {
                for part in [
                    parse("", sql, &[]),
                    bind("", "", &[]),
                    execute("", 0),
                    sync(),
                ] {
                    client.send(&part).await;
                }
                client.until_ready().await
            }
        };
        let refused = answers.iter().find(|message| message.tag == b'E');
        let ready = answers.iter().find(|message| message.tag == b'Z');
        if refused.is_none() && ready.is_some() && completes(sql, &answers) {
            continue;
        }
        let in_transaction = index > 0;
        let mut told = error(refused, in_transaction);
        match ready {
            None => told.code = None,
            Some(ready) if ready.body != b"I" => {
                client.send(&query("ROLLBACK")).await;
                client.until_ready().await;
            }
            Some(_) => {}
        }
        return Err(told);
    }
    Ok(())
}

/// The COMMIT of a failed transaction is answered too, with ROLLBACK.
fn completes(sql: &str, answers: &[Message]) -> bool {
    let first_word = sql.split(' ').next().unwrap_or_default().as_bytes();
    answers
        .iter()
        .any(|message| message.tag == b'C' && message.body.starts_with(first_word))
}

fn no_answer() -> ClientError {
    ClientError {
        code: None,
        message: format!("no answer within {ANSWER_LIMIT:?}"),
        in_transaction: false,
    }
}

fn error(answer: Option<&Message>, in_transaction: bool) -> ClientError {
    ClientError {
        code: answer.and_then(|answer| answer.field(b'C')),
        message: answer
            .and_then(|answer| answer.field(b'M'))
            .unwrap_or_else(|| "the connection was lost".into()),
        in_transaction,
    }
}
