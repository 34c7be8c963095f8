//! What a client does between its login and its end, chosen at random; each act checks what it hears.

use std::time::Duration;

use pgherd_tests::wire::{close, execute, parse, query, sync, unnamed};
use tokio::time::sleep;

use crate::life::{Life, Step};
use crate::model::Table;
use crate::world::{SETTINGS, count};

/// What a client must see of its session, besides its settings.
const LEFT_BEHIND: &str = "coalesce(current_setting('chaos.left', true), ''), \
    to_regclass('pg_temp.own') IS NULL, to_regclass('pg_temp.left_here') IS NULL, \
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()), \
    (SELECT count(*) FROM pg_cursors WHERE is_holdable)";

impl Life {
    /// One act.
    pub async fn act(&mut self) -> Step {
        if self.model.has_failed() {
            return self.after_a_failure().await;
        }
        if self.model.in_block() && self.random.percent(25) {
            return self.end_block().await;
        }
        match self.random.below(100) {
            0..=11 => self.set().await,
            12..=14 => self.reset().await,
            15..=26 => self.look_at_session().await,
            27..=36 => self.write_row().await,
            37..=43 => self.read_rows().await,
            44..=50 => self.begin_or_savepoint().await,
            51..=53 => self.err().await,
            54..=59 => self.prepare_and_run().await,
            60..=63 => self.prepare_in_sql().await,
            64..=68 => self.pipeline().await,
            69..=72 => self.several_at_once().await,
            73..=77 => self.copy_in().await,
            78..=80 => self.copy_out().await,
            81..=83 => self.portal().await,
            84 => self.read_slowly().await,
            85..=87 => self.be_cancelled().await,
            88..=91 => self.listen_or_notify().await,
            92..=93 => self.leave_things_behind().await,
            94..=95 => self.mark().await,
            _ => self.keep_something().await,
        }
    }

    /// A block that has failed hears nothing but its end.
    async fn after_a_failure(&mut self) -> Step {
        match self.random.below(4) {
            0 => {
                let answer = self.ask("SELECT 1").await?;
                if !self.failed(&answer, &["25P02"])? {
                    return Err(self.wrong("a failed block goes on"));
                }
                Ok(())
            }
            1 if self.model.has_savepoint() => self.back_to_savepoint().await,
            _ => self.end_block().await,
        }
    }

    async fn begin_or_savepoint(&mut self) -> Step {
        if !self.model.in_block() {
            let begin = self.random.word(&[
                "BEGIN",
                "START TRANSACTION",
                "BEGIN ISOLATION LEVEL READ COMMITTED",
            ]);
            let answer = self.ask(begin).await?;
            if !self.failed(&answer, &[])? {
                self.model.begin();
            }
            return Ok(());
        }
        if self.model.has_savepoint() && self.random.percent(50) {
            return self.back_to_savepoint().await;
        }
        let answer = self.ask("SAVEPOINT a").await?;
        if !self.failed(&answer, &[])? {
            self.model.save();
        }
        Ok(())
    }

    async fn back_to_savepoint(&mut self) -> Step {
        let answer = self.ask("ROLLBACK TO a").await?;
        if !self.failed(&answer, &[])? {
            self.model.roll_back_to_savepoint();
        }
        Ok(())
    }

    /// COMMIT or ROLLBACK. Where COMMIT fails, nothing is kept.
    pub async fn end_block(&mut self) -> Step {
        let commits = self.random.percent(65);
        let to_hear = if commits {
            self.model.sent_by_commit()
        } else {
            Vec::new()
        };
        self.model.to_hear.extend(to_hear.iter().cloned());
        let answer = self
            .ask(if commits { "COMMIT" } else { "ROLLBACK" })
            .await?;
        let failed = self.failed(&answer, &[])?;
        if failed {
            for payload in &to_hear {
                self.model.to_hear.remove(payload);
            }
            // what was cancelled before it began leaves a failed block
            if answer.status == b'I' {
                self.model.roll_back();
            }
            return Ok(());
        }
        let kept = commits && !self.model.has_failed();
        let expected = if kept { "COMMIT" } else { "ROLLBACK" };
        self.same("the tag", &answer.tags, &vec![expected.to_owned()])?;
        if kept {
            self.model.commit();
        } else {
            self.model.roll_back();
        }
        self.hear_all().await
    }

    /// An error in the midst of things.
    async fn err(&mut self) -> Step {
        let own = self.own_text();
        let sql = self.random.word(&[
            "SELECT 1/0",
            "SELECT nothing_here",
            "SELECT FROM",
            "SELECT 'x'::int",
        ]);
        let simple = self.random.percent(50);
        let answer = if simple {
            self.ask(&format!("SET application_name = '{own}'; {sql}"))
                .await?
        } else {
            let mut messages = unnamed(sql);
            // skipped up to Sync
            messages.extend_from_slice(&parse("s0", "SELECT 'never'", &[]));
            messages.extend_from_slice(&execute("nothing", 0));
            messages.extend_from_slice(&sync());
            self.exchange(sql, &messages).await?
        };
        let expected = ["22012", "42703", "42601", "22P02"];
        if !self.failed(&answer, &expected)? {
            return Err(self.wrong("that must fail"));
        }
        Ok(())
    }

    async fn set(&mut self) -> Step {
        if self.random.percent(15) {
            return self.set_role().await;
        }
        let (name, values) = *self.random.choose(&SETTINGS);
        let (value, shown) = *self.random.choose(&values);
        let own = self.own_text();
        let (value, shown) = (value.replace('$', &own), shown.replace('$', &own));
        let local = self.model.in_block() && self.random.percent(30);
        let scope = if local { "LOCAL " } else { "" };
        let sql = format!("SET {scope}{name} = {value}");
        let answer = match self.random.below(3) {
            0 => {
                let mut messages = unnamed(&sql);
                messages.extend_from_slice(&sync());
                self.exchange(&sql, &messages).await?
            }
            1 if !local && !self.world.is_sharded && value.starts_with('\'') => {
                let call = format!("SELECT set_config('{name}', {value}, false)");
                self.ask(&call).await?
            }
            _ => self.ask(&sql).await?,
        };
        if self.failed(&answer, &[])? {
            return Ok(());
        }
        if local {
            self.model.set_local(name, &shown);
        } else {
            self.model.change(|kept| {
                kept.settings.insert(name, shown.clone());
            });
        }
        Ok(())
    }

    async fn set_role(&mut self) -> Step {
        let other = self.random.percent(50);
        let answer = self
            .ask(if other {
                "SET ROLE other"
            } else {
                "RESET ROLE"
            })
            .await?;
        if !self.failed(&answer, &[])? {
            self.model.change(|kept| {
                if other {
                    kept.settings.insert("role", "other".into());
                } else {
                    kept.settings.remove("role");
                }
            });
        }
        Ok(())
    }

    async fn reset(&mut self) -> Step {
        let (name, _) = *self.random.choose(&SETTINGS);
        match self.random.below(4) {
            0 => {
                let answer = self.ask("RESET ALL").await?;
                if !self.failed(&answer, &[])? {
                    self.model.change(|kept| {
                        kept.settings.retain(|name, _| *name == "role");
                    });
                }
            }
            1 if !self.model.in_block() => {
                let answer = self.ask("DISCARD ALL").await?;
                if !self.failed(&answer, &[])? {
                    self.model.discard();
                }
            }
            _ => {
                let answer = self.ask(&format!("RESET {name}")).await?;
                if !self.failed(&answer, &[])? {
                    self.model.change(|kept| {
                        kept.settings.remove(name);
                    });
                }
            }
        }
        Ok(())
    }

    /// All settings, and whether there is anything of another client's.
    pub async fn look_at_session(&mut self) -> Step {
        let settings = SETTINGS
            .map(|(name, _)| format!("coalesce(current_setting('{name}', true), '')"))
            .join(", ");
        let sql = format!("SELECT current_user, {settings}, {LEFT_BEHIND}");
        let answer = self.ask(&sql).await?;
        if self.failed(&answer, &[])? {
            return Ok(());
        }
        count(&self.world.counters.looks);
        let row: Vec<String> = answer.rows[0]
            .iter()
            .map(|value| value.clone().unwrap_or_default())
            .collect();
        let (settings, left) = row.split_at(SETTINGS.len() + 1);
        self.same("settings", &settings.to_vec(), &self.expected_settings())?;
        let [own_setting, no_own_table, no_left_table, locks, cursors] = left else {
            return Err(self.wrong("columns are missing"));
        };
        if !own_setting.is_empty() && (!self.model.left || *own_setting != self.id.to_string()) {
            return Err(self.wrong(&format!("another client's setting is here: {own_setting}")));
        }
        if no_own_table == "f" && self.model.now().temporary.is_none() {
            return Err(self.wrong("another client's temporary table is here"));
        }
        if self.model.left {
            return Ok(());
        }
        self.same("no table is left", &no_left_table.as_str(), &"t")?;
        // elsewhere than on the home shard there is none of its own
        if !self.model.locked {
            self.same("advisory locks", &locks.as_str(), &"0")?;
        }
        self.same("held cursors", &cursors.as_str(), &"0")
    }

    /// Several statements before one Sync: all or none.
    async fn pipeline(&mut self) -> Step {
        let (first, second) = (self.own_text(), self.own_text());
        let (id, number) = (self.id, self.serial);
        let fails = self.random.percent(30);
        let mut messages = unnamed(&format!(
            "INSERT INTO rows VALUES ({id}, {number}, '{first}')"
        ));
        messages.extend_from_slice(&unnamed(&format!(
            "SELECT value FROM rows WHERE client = {id} AND n = {number}"
        )));
        messages.extend_from_slice(&unnamed(&format!(
            "UPDATE rows SET value = '{second}' WHERE client = {id} AND n = {number}"
        )));
        if fails {
            messages.extend_from_slice(&unnamed(&format!(
                "SELECT n / 0 FROM rows WHERE client = {id} AND n = {number}"
            )));
        }
        messages.extend_from_slice(&sync());
        let what = format!("pipeline of INSERT, SELECT, UPDATE of {number}, fails: {fails}");
        let answer = self.exchange(&what, &messages).await?;
        if self.failed(&answer, &["22012"])? {
            return Ok(());
        }
        if fails {
            return Err(self.wrong("the pipeline must fail"));
        }
        self.same("the row", &answer.value(), &Some(&*first))?;
        self.model.change(|kept| {
            kept.rows.insert((Table::Rows, number), second.clone());
        });
        Ok(())
    }

    /// Several requests in one write, each with its own answer, in order.
    async fn several_at_once(&mut self) -> Step {
        let texts: Vec<String> = (0..2 + self.random.below(8))
            .map(|_| self.own_text())
            .collect();
        let mut messages = Vec::new();
        for text in &texts {
            let sql = format!("SELECT '{text}'");
            if self.random.percent(50) {
                messages.extend_from_slice(&query(&sql));
            } else {
                messages.extend_from_slice(&unnamed(&sql));
                messages.extend_from_slice(&sync());
            }
        }
        self.say("several SELECTs in one write", &messages).await;
        for text in &texts {
            let answer = self.answer().await?;
            // the rest of a block fails with its first
            if !self.failed(&answer, &["25P02"])? {
                self.same("the text", &answer.value(), &Some(&**text))?;
            }
        }
        Ok(())
    }

    /// A name that others use too, for a text of its own.
    async fn prepare_and_run(&mut self) -> Step {
        let name = format!("s{}", self.random.below(3));
        if !self.model.statements.contains_key(&name) {
            let text = self.own_text();
            let sql = format!("SELECT '{text}'::text, $1::text");
            let mut messages = parse(&name, &sql, &[]);
            messages.extend_from_slice(&sync());
            let answer = self
                .exchange(&format!("Parse {name}: {sql}"), &messages)
                .await?;
            if answer.parsed == 1 {
                self.model.statements.insert(name.clone(), text);
            }
            if self.failed(&answer, &[])? {
                return Ok(());
            }
        } else if self.random.percent(20) {
            let mut messages = close('S', &name);
            messages.extend_from_slice(&sync());
            let answer = self.exchange(&format!("Close {name}"), &messages).await?;
            if !self.failed(&answer, &[])? {
                self.model.statements.remove(&name);
            }
            return Ok(());
        }
        self.run_prepared(&name).await
    }

    /// A think-time.
    pub async fn think(&mut self) {
        let most = match self.random.below(10) {
            0..=5 => return,
            6..=8 => 30,
            _ => 300,
        };
        let time = self.random.below(most);
        sleep(Duration::from_millis(time as u64)).await;
    }
}
