//! How a client ends: with a word, or in the middle of anything.

use std::sync::Arc;
use std::time::Duration;

use pgherd_tests::wire::{copy_data, frame, query, sync, unnamed};
use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};

use crate::life::{Life, Step};
use crate::model::{Rows, Table};
use crate::world::count;

impl Life {
    /// The end, and the rows that it leaves behind.
    pub async fn end(mut self) -> Step {
        let world = Arc::clone(&self.world);
        let counters = &world.counters;
        let gone = self.model.rows_when_gone().clone();
        if self.random.percent(40) {
            self.client.send(&frame(b'X', &[])).await;
            self.leave(vec![gone]);
            return Ok(());
        }
        count(&counters.disconnects);
        if self.model.in_block() {
            count(&counters.amid_blocks);
        }
        let states = match self.random.below(9) {
            0 => {
                count(&counters.amid_copies);
                self.copies().await?;
                vec![gone]
            }
            1 => {
                count(&counters.amid_messages);
                self.speaks_half_a_message().await;
                vec![gone]
            }
            2 => {
                count(&counters.amid_queries);
                self.ends_its_sending_half().await?;
                vec![gone]
            }
            3 => {
                count(&counters.amid_queries);
                self.commits_or_writes().await
            }
            4 => {
                count(&counters.amid_queries);
                let (_, bytes) = self.large_result();
                self.client.send(&bytes).await;
                for _ in 0..self.random.below(500) {
                    if self.message().await?.tag == b'Z' {
                        break;
                    }
                }
                vec![gone]
            }
            5 => {
                count(&counters.amid_queries);
                self.client.send(&query("SELECT pg_sleep(0.2)")).await;
                let cancelling = self.random.percent(50);
                self.pause().await;
                if cancelling {
                    let delay = self.random.below(2000);
                    let cancelling = self.cancel_after(Duration::from_micros(delay as u64));
                    if self.random.percent(50) {
                        // its request may be gone with it, and this must end all the same
                        let _ = cancelling.await;
                    }
                }
                vec![gone]
            }
            6 => {
                count(&counters.amid_queries);
                // a pipeline without its Sync
                let (id, value) = (self.id, self.own_text());
                let number = self.serial;
                self.client
                    .send(&unnamed(&format!(
                        "INSERT INTO rows VALUES ({id}, {number}, '{value}')"
                    )))
                    .await;
                self.client.send(&frame(b'H', &[])).await;
                self.pause().await;
                vec![gone]
            }
            7 => {
                count(&counters.amid_queries);
                let id = self.id;
                let sql = format!("SELECT leave_things({id})");
                self.client.send(&query(&sql)).await;
                self.pause().await;
                vec![gone]
            }
            _ => vec![gone],
        };
        if self.random.percent(30) {
            // a reset in place of an end
            let _ = self.client.stream().set_zero_linger();
        }
        self.leave(states);
        Ok(())
    }

    async fn pause(&mut self) {
        let time = self.random.below(20_000);
        if time > 4000 {
            sleep(Duration::from_micros(time as u64)).await;
        }
    }

    /// Some lines of a COPY, perhaps half of one, and no end.
    async fn copies(&mut self) -> Step {
        if self.model.has_failed() {
            return Ok(());
        }
        self.begin_copy().await;
        if self.answer().await?.wants_data {
            for _ in 0..self.random.below(30) {
                let (_, line) = self.copied_row();
                self.client.send(&copy_data(&line)).await;
            }
            let (_, line) = self.copied_row();
            let data = copy_data(&line);
            let length = self.random.below(data.len());
            self.client.send(&data[..length]).await;
        }
        Ok(())
    }

    async fn speaks_half_a_message(&mut self) {
        let (id, value) = (self.id, self.own_text());
        let number = self.serial;
        let message = query(&format!(
            "INSERT INTO rows VALUES ({id}, {number}, '{value}')"
        ));
        let length = 1 + self.random.below(message.len() - 1);
        self.client.send(&message[..length]).await;
        self.pause().await;
    }

    /// Sends a query and the end of its half of the connection, and reads to the end.
    async fn ends_its_sending_half(&mut self) -> Step {
        self.client.send(&query("SELECT 'the last'")).await;
        let _ = self.client.stream().shutdown().await;
        let reading = async {
            while let Some(message) = self.client.message().await {
                if message.tag == b'D' && !message.body.ends_with(b"the last") {
                    return Err("another's row was read".to_owned());
                }
            }
            Ok(())
        };
        match timeout(Duration::from_secs(60), reading).await {
            Ok(read) => read.map_err(|wrong| self.wrong(&wrong)),
            Err(_) => Err(self.wrong("the connection is not closed")),
        }
    }

    /// A COMMIT or a write whose answer nobody hears: it is done or not.
    async fn commits_or_writes(&mut self) -> Vec<Rows> {
        let mut states = vec![self.model.rows_when_gone().clone()];
        if self.model.in_block() {
            states.push(self.model.rows_when_committed().clone());
            self.client.send(&query("COMMIT")).await;
        } else {
            let (id, value) = (self.id, self.own_text());
            let number = self.serial;
            let table = *self.random.choose(&Table::ALL);
            let mut written = states[0].clone();
            written.insert((table, number), value.clone());
            states.push(written);
            let name = table.name();
            let sql = format!("INSERT INTO {name} VALUES ({id}, {number}, '{value}')");
            let mut messages = unnamed(&sql);
            messages.extend_from_slice(&sync());
            self.client.send(&messages).await;
        }
        self.pause().await;
        states
    }
}
