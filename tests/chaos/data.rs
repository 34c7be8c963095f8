//! Rows: writing, reading back, COPY, portals, prepared statements, large results.

use std::time::Duration;

use bytes::BytesMut;
use pgherd_tests::wire::{
    bind, copy_data, copy_done, copy_fail, execute, flush, parse, query, sync, unnamed,
};
use tokio::time::sleep;

use crate::life::{Answer, Life, Step};
use crate::model::Table;
use crate::world::{count, listed};

/// Rows of a result that does not fit any buffer on its way.
const MANY_ROWS: usize = 3000;

impl Life {
    /// One more row, one row changed, or one less.
    pub async fn write_row(&mut self) -> Step {
        let table = *self
            .random
            .choose(&[Table::Rows, Table::Rows, Table::Loose]);
        let value = self.own_text();
        let (id, name, new) = (self.id, table.name(), self.serial);
        let own = self.model.now().rows.keys().filter(|(of, _)| *of == table);
        let old = own.map(|(_, number)| *number).next();
        let (sql, number, deleted) = match (self.random.below(4), old) {
            (0, Some(old)) => (
                format!("UPDATE {name} SET value = '{value}' WHERE client = {id} AND n = {old}"),
                old,
                false,
            ),
            (1, Some(old)) => (
                format!("DELETE FROM {name} WHERE client = {id} AND n = {old}"),
                old,
                true,
            ),
            _ => (
                format!("INSERT INTO {name} (client, n, value) VALUES ({id}, {new}, '{value}')"),
                new,
                false,
            ),
        };
        let answer = if self.random.percent(50) {
            self.ask(&sql).await?
        } else {
            let mut messages = unnamed(&sql);
            messages.extend_from_slice(&sync());
            self.exchange(&sql, &messages).await?
        };
        if self.failed(&answer, &[])? {
            return Ok(());
        }
        let tag = answer.tags.first().map_or("", |tag| tag);
        self.same("rows written", &tag.ends_with(" 1"), &true)?;
        self.model.change(|kept| {
            if deleted {
                kept.rows.remove(&(table, number));
            } else {
                kept.rows.insert((table, number), value.clone());
            }
        });
        Ok(())
    }

    /// A row on every shard, where the database is sharded.
    pub async fn mark(&mut self) -> Step {
        let value = self.own_text();
        let (id, number) = (self.id, self.serial);
        let sql = format!("INSERT INTO marks VALUES ({id}, {number}, '{value}')");
        let answer = self.ask(&sql).await?;
        if !self.failed(&answer, &[])? {
            self.model.change(|kept| {
                kept.rows.insert((Table::Marks, number), value.clone());
            });
        }
        Ok(())
    }

    /// All own rows of a table.
    pub async fn read_rows(&mut self) -> Step {
        let table = *self.random.choose(&Table::ALL);
        let (id, name) = (self.id, table.name());
        let sql = format!("SELECT n, value, client FROM {name} WHERE client = {id} ORDER BY n");
        let answer = self.ask(&sql).await?;
        if self.failed(&answer, &[])? {
            return Ok(());
        }
        let got: Vec<String> = answer
            .rows
            .iter()
            .map(|row| {
                let column = |index: usize| row[index].as_deref().unwrap_or("NULL");
                format!("{}={}", column(0), column(1))
            })
            .collect();
        let expected = listed(&self.model.now().rows, table);
        self.same("rows", &got.join(","), &expected)?;
        let read = got.len() as u64;
        self.world
            .counters
            .rows
            .fetch_add(read, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    pub async fn run_prepared(&mut self, name: &str) -> Step {
        let Some(text) = self.model.statements.get(name).cloned() else {
            return Ok(());
        };
        let argument = self.own_text();
        let mut messages = bind("", name, &[argument.as_str()]);
        messages.extend_from_slice(&execute("", 0));
        messages.extend_from_slice(&sync());
        let answer = self
            .exchange(&format!("Bind, Execute {name}"), &messages)
            .await?;
        if self.failed(&answer, &[])? {
            return Ok(());
        }
        let expected = vec![vec![Some(text), Some(argument)]];
        self.same("the prepared statement", &answer.rows, &expected)
    }

    /// PREPARE, EXECUTE, DEALLOCATE.
    pub async fn prepare_in_sql(&mut self) -> Step {
        if self.world.is_sharded {
            // not possible yet
            return Ok(());
        }
        let name = format!("s{}", self.random.below(3));
        let Some(text) = self.model.statements.get(&name).cloned() else {
            let text = self.own_text();
            let sql = format!("PREPARE {name} (text) AS SELECT '{text}'::text, $1");
            let answer = self.ask(&sql).await?;
            if !self.failed(&answer, &[])? {
                self.model.statements.insert(name, text);
            }
            return Ok(());
        };
        if self.random.percent(20) {
            let answer = self.ask(&format!("DEALLOCATE {name}")).await?;
            if !self.failed(&answer, &[])? {
                self.model.statements.remove(&name);
            }
            return Ok(());
        }
        let argument = self.own_text();
        let answer = self.ask(&format!("EXECUTE {name}('{argument}')")).await?;
        if self.failed(&answer, &[])? {
            return Ok(());
        }
        let expected = vec![vec![Some(text), Some(argument)]];
        self.same("EXECUTE", &answer.rows, &expected)
    }

    /// COPY FROM STDIN, ended by CopyDone or CopyFail.
    pub async fn copy_in(&mut self) -> Step {
        let cancelling = self.random.percent(10).then(|| {
            let delay = self.random.below(4000);
            self.cancel_after(Duration::from_micros(delay as u64))
        });
        let (count_of_rows, fails) = (1 + self.random.below(50), self.random.percent(25));
        self.begin_copy().await;
        let mut answer = self.answer().await?;
        let mut written = Vec::new();
        if answer.wants_data {
            for _ in 0..count_of_rows {
                let (number, line) = self.copied_row();
                written.push(number);
                self.client.send(&copy_data(&line)).await;
                if self.random.percent(5) {
                    sleep(Duration::from_millis(2)).await;
                }
            }
            let end = if fails {
                copy_fail("it was chosen to fail")
            } else {
                copy_done()
            };
            self.client.send(&end).await;
            answer = self.answer().await?;
        }
        let answer = self.after_cancel(answer, cancelling).await?;
        if self.failed(&answer, &["57014"])? {
            return Ok(());
        }
        if fails {
            return Err(self.wrong("a COPY that failed was done"));
        }
        count(&self.world.counters.copies);
        self.model.change(|kept| {
            for (number, value) in &written {
                kept.rows.insert((Table::Loose, *number), value.clone());
            }
        });
        Ok(())
    }

    /// Sends the query that begins a COPY.
    pub async fn begin_copy(&mut self) {
        let sql = "COPY loose FROM STDIN";
        self.say(sql, &query(sql)).await;
    }

    /// One more row and its line in a COPY.
    pub fn copied_row(&mut self) -> ((u32, String), String) {
        let value = self.own_text();
        let line = format!("{}\t{}\t{value}\n", self.id, self.serial);
        ((self.serial, value), line)
    }

    /// COPY TO STDOUT of one's own rows.
    pub async fn copy_out(&mut self) -> Step {
        let id = self.id;
        let sql =
            format!("COPY (SELECT n, value FROM loose WHERE client = {id} ORDER BY n) TO STDOUT");
        let answer = self.ask(&sql).await?;
        if self.failed(&answer, &[])? {
            return Ok(());
        }
        count(&self.world.counters.copies);
        let lines: Vec<String> = answer
            .copied
            .lines()
            .map(|line| line.replace('\t', "="))
            .collect();
        let expected = listed(&self.model.now().rows, Table::Loose);
        self.same("rows copied", &lines.join(","), &expected)
    }

    /// A portal read in parts.
    pub async fn portal(&mut self) -> Step {
        let text = self.own_text();
        let sql = format!("SELECT '{text}', n FROM generate_series(1, 7) AS n");
        let portal = if self.model.in_block() { "p" } else { "" };
        let mut messages = parse("", &sql, &[]);
        messages.extend_from_slice(&bind(portal, "", &[]));
        for _ in 0..2 {
            messages.extend_from_slice(&execute(portal, 3));
        }
        if self.random.percent(50) {
            messages.extend_from_slice(&flush());
        }
        messages.extend_from_slice(&execute(portal, 0));
        messages.extend_from_slice(&pgherd_tests::wire::close('P', portal));
        messages.extend_from_slice(&sync());
        let answer = self.exchange("a portal in three parts", &messages).await?;
        if self.failed(&answer, &[])? {
            return Ok(());
        }
        self.same("suspended", &answer.suspended, &2)?;
        let expected: Vec<Vec<Option<String>>> = (1..=7)
            .map(|n| vec![Some(text.clone()), Some(n.to_string())])
            .collect();
        self.same("rows of the portal", &answer.rows, &expected)
    }

    /// The query of a large result, whose rows begin with a text of one's own.
    pub fn large_result(&mut self) -> (String, BytesMut) {
        let text = self.own_text();
        let sql = format!(
            "SELECT '{text} ' || n || repeat(' ', 500) FROM generate_series(1, {MANY_ROWS}) AS n"
        );
        (text, query(&sql))
    }

    /// A large result, read slowly.
    pub async fn read_slowly(&mut self) -> Step {
        let (text, bytes) = self.large_result();
        self.say("a large result, read slowly", &bytes).await;
        let mut seen = 0;
        let mut answer = Answer::default();
        loop {
            let message = self.message().await?;
            match message.tag {
                b'D' => {
                    seen += 1;
                    let row = String::from_utf8_lossy(&message.body[6..]);
                    let expected = format!("{text} {seen} ");
                    self.same("the row", &row.starts_with(&expected), &true)?;
                    if seen % 1000 == 0 {
                        sleep(Duration::from_millis(20)).await;
                    }
                }
                b'E' => {
                    let field = |kind| message.field(kind).unwrap_or_default();
                    answer.error = Some((field(b'C'), field(b'M')));
                }
                b'Z' => break,
                _ => {}
            }
        }
        if self.failed(&answer, &[])? {
            return Ok(());
        }
        self.same("rows", &seen, &MANY_ROWS)
    }
}
