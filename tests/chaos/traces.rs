//! What leaves traces: temporary tables, locks, cursors WITH HOLD, code that is not read, LISTEN, and what is cancelled.

use std::time::Duration;

use pgherd_tests::wire::{query, sync, unnamed};
use tokio::time::timeout;

use crate::life::{Life, Step};
use crate::world::count;

/// Longer than a statement that is cancelled may go on.
const SLEEP: &str = "SELECT pg_sleep(40)";

impl Life {
    /// A statement that would take long, and a cancel request at any moment after it was sent.
    pub async fn be_cancelled(&mut self) -> Step {
        let delay = match self.random.below(3) {
            0 => 0,
            1 => self.random.below(2_000),
            _ => self.random.below(30_000),
        };
        let mut messages = query(SLEEP);
        if self.random.percent(50) {
            messages = unnamed(SLEEP);
            messages.extend_from_slice(&sync());
        }
        self.say(&format!("{SLEEP}, cancelled after {delay} us"), &messages)
            .await;
        let cancelling = self.cancel_after(Duration::from_micros(delay as u64));
        let answer = self.answer().await?;
        let answer = self.after_cancel(answer, Some(cancelling)).await?;
        if !self.failed(&answer, &[])? {
            count(&self.world.counters.lost_cancels);
            let wrong = self.wrong("a cancel request was lost");
            eprintln!("{wrong}");
        }
        Ok(())
    }

    /// LISTEN, UNLISTEN or NOTIFY.
    pub async fn listen_or_notify(&mut self) -> Step {
        let channel = self.channel();
        if !self.model.now().listens || self.random.percent(10) {
            let listens = !self.model.now().listens;
            let verb = if listens { "LISTEN" } else { "UNLISTEN" };
            let answer = self.ask(&format!("{verb} {channel}")).await?;
            if !self.failed(&answer, &[])? {
                self.model.change(|kept| kept.listens = listens);
            }
            return Ok(());
        }
        let payload = self.own_text();
        let sql = format!("NOTIFY {channel}, '{payload}'");
        if self.model.in_block() {
            let answer = self.ask(&sql).await?;
            if !self.failed(&answer, &[])? {
                self.model
                    .change(|kept| kept.to_notify.push(payload.clone()));
            }
            return Ok(());
        }
        self.model.to_hear.insert(payload.clone());
        let answer = self.ask(&sql).await?;
        if self.failed(&answer, &[])? {
            self.model.to_hear.remove(&payload);
        }
        self.hear_all().await
    }

    /// Reads until every notification has come.
    pub async fn hear_all(&mut self) -> Step {
        while !self.model.to_hear.is_empty() {
            let waiting = format!("waits to hear {:?}", self.model.to_hear);
            let Ok(message) = timeout(Duration::from_secs(60), self.message()).await else {
                return Err(self.wrong(&waiting));
            };
            let message = message?;
            if !b"ANS".contains(&message.tag) {
                return Err(self.wrong(&format!("{message:?} came unasked")));
            }
        }
        Ok(())
    }

    /// Code that nobody has read, and all that it may leave on a connection.
    pub async fn leave_things_behind(&mut self) -> Step {
        let id = self.id;
        let answer = self.ask(&format!("SELECT leave_things({id})")).await?;
        self.failed(&answer, &[])?;
        self.model.left = true;
        Ok(())
    }

    /// Something that keeps a connection, if there is a place for one more who does.
    pub async fn keep_something(&mut self) -> Step {
        if self.model.in_block() || !self.model.setting("role", "").is_empty() {
            return Ok(());
        }
        if self.pin.is_none() {
            let Ok(pin) = self.world.pins(self.user).try_acquire_owned() else {
                return Ok(());
            };
            count(&self.world.counters.pinned);
            self.pin = Some(pin);
        }
        match self.random.below(3) {
            0 => self.temporary_table().await,
            1 => self.lock().await,
            _ => self.cursor().await,
        }
    }

    async fn temporary_table(&mut self) -> Step {
        let Some(values) = self.model.now().temporary.clone() else {
            let answer = self.ask("CREATE TEMP TABLE own (value text)").await?;
            if !self.failed(&answer, &[])? {
                self.model.change(|kept| kept.temporary = Some(Vec::new()));
            }
            return Ok(());
        };
        if self.random.percent(50) {
            let value = self.own_text();
            let sql = format!("INSERT INTO own VALUES ('{value}')");
            let answer = self.ask(&sql).await?;
            if !self.failed(&answer, &[])? {
                self.model.change(|kept| {
                    kept.temporary.get_or_insert_default().push(value.clone());
                });
            }
            return Ok(());
        }
        let answer = self.ask("SELECT value FROM own").await?;
        if self.failed(&answer, &[])? {
            return Ok(());
        }
        let got: Vec<String> = answer.rows.into_iter().flatten().flatten().collect();
        self.same("the temporary table", &got, &values)
    }

    async fn lock(&mut self) -> Step {
        let id = self.id;
        let verb = if self.model.locked {
            "pg_advisory_unlock"
        } else {
            "pg_try_advisory_lock"
        };
        let answer = self.ask(&format!("SELECT {verb}({id})")).await?;
        if self.failed(&answer, &[])? {
            // it may have it nevertheless: nobody sees that but itself
            self.model.left = true;
            return Ok(());
        }
        self.same("the lock", &answer.value(), &Some("t"))?;
        self.model.locked = !self.model.locked;
        Ok(())
    }

    /// A cursor that outlives its transaction.
    async fn cursor(&mut self) -> Step {
        let text = self.own_text();
        let name = format!("held_{}", self.serial);
        let (fetch, close) = (format!("FETCH {name}"), format!("CLOSE {name}"));
        let declare = format!(
            "BEGIN; DECLARE {name} CURSOR WITH HOLD FOR SELECT '{text}' || n FROM generate_series(1, 3) AS n; COMMIT"
        );
        for (sql, expected) in [
            (&*declare, None),
            (&*fetch, Some(format!("{text}1"))),
            (&*close, None),
        ] {
            let answer = self.ask(sql).await?;
            // a string that failed in its midst leaves its block
            if answer.status == b'E' {
                self.model.begin();
                self.model.left = true;
            }
            if self.failed(&answer, &[])? {
                self.model.left = true;
                return Ok(());
            }
            if expected.is_some() {
                self.same("the cursor", &answer.value(), &expected.as_deref())?;
            }
        }
        Ok(())
    }
}
