//! One client from its login to its end.
//!
//! Owns: asking, reading answers, and comparing them with what the client must see. Main types: [`Life`], [`Answer`].

use std::sync::Arc;
use std::time::Duration;

use pgherd_tests::oracle::Random;
use pgherd_tests::wire::{Message, RawClient, cancel, query};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::model::{Model, Rows};
use crate::world::{Left, SETTINGS, USERS, World, count};

/// Longer than any answer takes, the wait for a connection included.
const HANGS: Duration = Duration::from_secs(90);
/// How much of a client's past a failure shows.
const REMEMBERED: usize = 25;

/// An error is a sentence about what should not have been.
pub type Step<T = ()> = Result<T, String>;

/// What came up to ReadyForQuery.
#[derive(Debug, Default)]
pub struct Answer {
    pub rows: Vec<Vec<Option<String>>>,
    pub tags: Vec<String>,
    /// ParseComplete and PortalSuspended messages.
    pub parsed: usize,
    pub suspended: usize,
    /// The lines of a COPY.
    pub copied: String,
    /// SQLSTATE and message of the first error.
    pub error: Option<(String, String)>,
    pub status: u8,
    /// Whether a cancel request was sent meanwhile.
    pub cancelled: bool,
    /// The server waits for data of a COPY.
    pub wants_data: bool,
}

impl Answer {
    /// A single value.
    pub fn value(&self) -> Option<&str> {
        self.rows.first()?.first()?.as_deref()
    }

    /// Whether it ends with the error of a cancel request, not with that of CopyFail.
    fn is_cancelled(&self) -> bool {
        let error = self.error.as_ref();
        error.is_some_and(|(code, message)| code == "57014" && message.starts_with("canceling"))
    }
}

/// A client.
pub struct Life {
    pub client: RawClient,
    pub id: u64,
    pub user: &'static str,
    pub random: Random,
    pub model: Model,
    pub world: Arc<World>,
    pub pin: Option<OwnedSemaphorePermit>,
    /// Counts what must be told apart.
    pub serial: u32,
    history: Vec<String>,
    status: u8,
}

impl Life {
    /// Logs in, with some settings in the startup message.
    pub async fn begin(world: &Arc<World>) -> Self {
        let id = world.next_client();
        let mut random = Random::new(world.seed, id);
        let user = USERS[random.below(USERS.len())];
        let mut model = Model::default();
        let name = format!("chaos {id}");
        let mut parameters = vec![("user", user), ("database", "shop")];
        if random.percent(50) {
            parameters.push(("application_name", &name));
            model.startup.insert("application_name", name.clone());
        }
        if random.percent(20) {
            parameters.push(("options", "-c work_mem=7MB -c chaos.own=started"));
            model.startup.insert("work_mem", "7MB".into());
            model.startup.insert("chaos.own", "started".into());
        }
        let client = RawClient::log_in_with(&world.endpoint, &parameters).await;
        count(&world.counters.clients);
        Self {
            client,
            id,
            user,
            random,
            model,
            world: Arc::clone(world),
            pin: None,
            serial: 0,
            history: vec![format!("log in as {user}: {parameters:?}")],
            status: b'I',
        }
    }

    /// A text that no other client and no other request has.
    pub fn own_text(&mut self) -> String {
        self.serial += 1;
        format!("{}-{}", self.id, self.serial)
    }

    /// Sends a simple query and reads its answer.
    pub async fn ask(&mut self, sql: &str) -> Step<Answer> {
        self.exchange(sql, &query(sql)).await
    }

    /// Sends messages that one ReadyForQuery answers, and reads the answer; now and then a cancel request is sent meanwhile, and has arrived
    /// when this returns. `what` is for who reads of a failure.
    pub async fn exchange(&mut self, what: &str, messages: &[u8]) -> Step<Answer> {
        let cancelling = self.random.percent(6).then(|| {
            let delay = self.random.below(3000);
            self.cancel_after(Duration::from_micros(delay as u64))
        });
        self.say(what, messages).await;
        let answer = self.answer().await?;
        self.after_cancel(answer, cancelling).await
    }

    /// Waits for the end of a cancel request, and notes whether one was sent.
    pub async fn after_cancel(
        &mut self,
        mut answer: Answer,
        cancelling: Option<JoinHandle<()>>,
    ) -> Step<Answer> {
        if let Some(cancelling) = cancelling {
            answer.cancelled = true;
            match timeout(HANGS, cancelling).await {
                Ok(Ok(())) => {}
                other => {
                    return Err(self.wrong(&format!("a cancel request does not end: {other:?}")));
                }
            }
        }
        self.history.push(format!(
            "    {:?} {:?} {} {}",
            answer.tags,
            answer.error,
            char::from(answer.status),
            if answer.cancelled {
                "(cancel sent)"
            } else {
                ""
            }
        ));
        Ok(answer)
    }

    /// Sends a cancel request in so long a time.
    pub fn cancel_after(&self, delay: Duration) -> JoinHandle<()> {
        count(&self.world.counters.cancels);
        let (endpoint, key) = (self.world.endpoint.clone(), self.client.cancel_key());
        tokio::spawn(async move {
            if !delay.is_zero() {
                sleep(delay).await;
            }
            cancel(&endpoint, &key).await;
        })
    }

    /// Sends messages.
    pub async fn say(&mut self, what: &str, messages: &[u8]) {
        count(&self.world.counters.requests);
        self.history.push(what.into());
        self.client.send(messages).await;
    }

    /// Reads up to ReadyForQuery, or up to where the server waits for data.
    pub async fn answer(&mut self) -> Step<Answer> {
        let mut answer = Answer::default();
        loop {
            let message = self.message().await?;
            match message.tag {
                b'Z' => {
                    self.status = message.body[0];
                    answer.status = self.status;
                    return Ok(answer);
                }
                b'G' => {
                    answer.wants_data = true;
                    return Ok(answer);
                }
                b'D' => answer.rows.push(columns(&message.body)),
                b'd' => answer
                    .copied
                    .push_str(&String::from_utf8_lossy(&message.body)),
                b'C' => answer.tags.push(text(&message.body)),
                b'1' => answer.parsed += 1,
                b's' => answer.suspended += 1,
                b'E' => {
                    let field = |kind| message.field(kind).unwrap_or_default();
                    answer.error.get_or_insert((field(b'C'), field(b'M')));
                }
                _ => {}
            }
        }
    }

    /// The next message; notifications are seen to.
    pub async fn message(&mut self) -> Step<Message> {
        let Ok(message) = timeout(HANGS, self.client.message()).await else {
            return Err(self.wrong("no answer came"));
        };
        let Some(message) = message else {
            return Err(self.wrong("the connection was closed"));
        };
        if message.tag == b'A' {
            let fields = message.body[4..].split(|byte| *byte == 0);
            let fields: Vec<_> = fields.map(String::from_utf8_lossy).collect();
            let (channel, payload) = (fields[0].clone(), fields[1].clone().into_owned());
            if channel != self.channel() || !self.model.to_hear.remove(&payload) {
                return Err(self.wrong(&format!("heard {payload} on {channel}")));
            }
            count(&self.world.counters.notifications);
        }
        Ok(message)
    }

    /// The channel that this client alone listens to.
    pub fn channel(&self) -> String {
        format!("channel_{}", self.id)
    }

    /// Whether the request failed, as it may: by a cancel request, because no connection became free, or with one of these SQLSTATEs.
    pub fn failed(&mut self, answer: &Answer, allowed: &[&str]) -> Step<bool> {
        let Some((code, _)) = &answer.error else {
            return Ok(false);
        };
        let was_cancelled = answer.is_cancelled();
        if was_cancelled {
            if !answer.cancelled {
                return Err(self.wrong("a statement was cancelled that nobody has cancelled"));
            }
            count(&self.world.counters.cancelled);
        }
        let busy = ["53300", "40001"].contains(&&**code);
        if busy {
            count(&self.world.counters.busy);
        }
        // what a sharded database cannot do it does not do at all
        let refused = self.world.is_sharded && code == "0A000";
        if refused {
            count(&self.world.counters.refused);
        }
        if !busy && !refused && !was_cancelled && !allowed.contains(&&**code) {
            return Err(self.wrong("that error was not to be expected"));
        }
        self.model.fail();
        Ok(true)
    }

    /// Whether ReadyForQuery told the status that the client is in.
    pub fn check_status(&self) -> Step {
        let expected = match (self.model.in_block(), self.model.has_failed()) {
            (false, _) => b'I',
            (true, false) => b'T',
            (true, true) => b'E',
        };
        if self.status == expected {
            return Ok(());
        }
        Err(self.wrong(&format!(
            "ReadyForQuery says {}, not {}",
            char::from(self.status),
            char::from(expected)
        )))
    }

    /// Fails unless both are equal.
    pub fn same<T: PartialEq + std::fmt::Debug>(&self, what: &str, got: &T, expected: &T) -> Step {
        if got == expected {
            return Ok(());
        }
        Err(self.wrong(&format!("{what}: {got:?} instead of {expected:?}")))
    }

    /// A failure, with what came before it.
    pub fn wrong(&self, what: &str) -> String {
        let recent = self.history.len().saturating_sub(REMEMBERED);
        let past: Vec<String> = self.history[recent..]
            .iter()
            .map(|line| line.chars().take(300).collect())
            .collect();
        format!(
            "client {} ({}) of seed {}: {what}\n{}",
            self.id,
            self.user,
            self.world.seed,
            past.join("\n")
        )
    }

    /// What all settings must be.
    pub fn expected_settings(&self) -> Vec<String> {
        let user = self.model.setting("role", self.user).to_owned();
        let settings = SETTINGS.iter().map(|(name, _)| {
            let default = self.world.defaults.get(name);
            self.model
                .setting(name, default.map_or("", |value| value))
                .to_owned()
        });
        std::iter::once(user).chain(settings).collect()
    }

    /// Notes the rows that this client has left when it is gone.
    pub fn leave(&self, states: Vec<Rows>) {
        let left = Left {
            client: self.id,
            states,
        };
        self.world.left.lock().unwrap().push(left);
    }
}

/// The columns of a DataRow in text format.
fn columns(body: &[u8]) -> Vec<Option<String>> {
    let mut rest = &body[2..];
    let mut columns = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(i32::from_be_bytes(*length)).ok();
        let (value, next) = after.split_at(length.unwrap_or(0));
        columns.push(length.map(|_| String::from_utf8_lossy(value).into_owned()));
        rest = next;
    }
    columns
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body.strip_suffix(b"\0").unwrap_or(body)).into_owned()
}
