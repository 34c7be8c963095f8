//! What a statement that completed on a server changes in what the session knows.
//!
//! Owns: following settings, cursors, prepared statements, what stays on a server, who writes in a block, and definitions. Never does: I/O.
//! Main function: [`Session::note_effects`].

use pgherd_pool::{CarriedSettings, SetScope};
use pgherd_router::{
    Access, Action, CursorTarget, IsolationLevel, Residue, SettingAction, SettingScope,
    SettingValue, StatementPlan, TransactionModes, TransactionScope, ValueEncoding,
};
use pgherd_topology::{NodeId, ShardId};

use crate::block::is_control;
use crate::failure::{Failure, not_supported};
use crate::listening::Change;
use crate::message::single_plan;
use crate::read_only::is_turned_on;
use crate::script::Script;
use crate::session::Session;
use crate::settings::{NewValue, change};
use crate::transaction::Block;

impl Session {
    /// What holds of a server connection from now on, whatever becomes of the statements that are about to run there.
    ///
    /// # Errors
    /// 54000, never in practice.
    pub(crate) fn note_beginning<'s>(
        &mut self,
        node: NodeId,
        script: &mut Script,
        statements: impl Iterator<Item = &'s StatementPlan> + Clone,
    ) -> Result<(), Failure> {
        self.taint(node, statements.clone());
        self.vacate(statements.clone());
        self.keep_sequences_apart(node, script, statements)
    }

    /// Has databases left that statements take away or copy, as far as no client is connected to them.
    fn vacate<'s>(&self, statements: impl Iterator<Item = &'s StatementPlan>) {
        for name in statements.filter_map(|statement| statement.vacates.as_deref()) {
            if let Some(on_demand) = self.herd.on_demand() {
                on_demand.vacate(name);
            }
        }
    }

    /// What a statement that completed on a server changes in what the session knows.
    pub(crate) fn note_effects(&mut self, statement: &StatementPlan, text: &str, node: NodeId) {
        match &statement.action {
            action if is_control(action) => {
                self.note_control(action, text);
                if self.block.is_some()
                    && let Some(leg) = self.legs.get(node)
                {
                    leg.in_block = true;
                }
            }
            Action::Set(setting) => self.note_set(setting, text, node),
            Action::SetTransaction(TransactionScope::Session, modes) => {
                self.note_characteristics(modes, node)
            }
            Action::Declare { cursor, .. } => {
                let shard = self.legs.at(node).shard;
                self.cursors.insert(cursor.clone(), shard);
            }
            Action::Close(CursorTarget::Named(cursor)) => {
                self.cursors.remove(cursor);
            }
            Action::Close(CursorTarget::All) => self.cursors.clear(),
            Action::Prepare {
                name,
                parameter_types,
            } => self.note_prepared(name, text, parameter_types, node),
            Action::Execute { name, .. } => {
                let known = self.executed_by(name).cloned();
                if let Some(known) = known
                    && let Some(statement) = single_plan(&known)
                {
                    return self.note_effects(statement, &known.sql, node);
                }
            }
            Action::Deallocate(name) => self.note_deallocated(name.as_deref(), node),
            Action::Listen(channel) => self.note_listening(Change::Listen(channel.clone()), node),
            Action::Unlisten(channel) => {
                let change = channel
                    .clone()
                    .map_or(Change::UnlistenAll, Change::Unlisten);
                self.note_listening(change, node);
            }
            _ => {}
        }
        self.note_residue(statement, text, node);
        self.note_temporary(statement);
        self.note_writer(statement, node);
        self.note_catalog(statement);
    }

    /// DDL: plans are made anew once it is committed.
    pub(crate) fn note_catalog(&mut self, statement: &StatementPlan) {
        if !matches!(statement.action, Action::Ddl(_)) {
            return;
        }
        let mark = self.next_generation();
        match &mut self.block {
            Some(block) => {
                block.definitions.change();
                block.defined = (mark, 0);
            }
            None => self.catalog_changed = true,
        }
    }

    fn note_writer(&mut self, statement: &StatementPlan, node: NodeId) {
        let shard = self.legs.at(node).shard;
        if let Some(block) = &mut self.block
            && may_write(block, statement)
        {
            block.writer.get_or_insert(shard);
        }
    }

    /// A block writes on one shard, unless it commits in two phases anyway.
    ///
    /// # Errors
    /// 0A000.
    pub(crate) fn check_writer(
        &self,
        shard: ShardId,
        access: Access,
        statements: &[StatementPlan],
    ) -> Result<(), Failure> {
        let Some(block) = &self.block else {
            return Ok(());
        };
        let Some(writer) = block.writer else {
            return Ok(());
        };
        if block.two_phase
            || writer == shard
            || access == Access::Read
            || !statements.iter().any(|statement| {
                let run = self.run_by(statement);
                run.is_none_or(|run| may_write(block, run))
            })
        {
            return Ok(());
        }
        let sharding = self.sharding();
        Err(not_supported(
            "a transaction block cannot write on two shards yet",
            &format!(
                "It has written on shard \"{}\", and this statement writes on shard \"{}\".",
                sharding.shard_name(writer),
                sharding.shard_name(shard)
            ),
            "Use one transaction for each shard.",
        ))
    }

    /// SET, RESET, or RESET ALL completed on a server.
    pub(crate) fn note_set(&mut self, setting: &SettingAction, text: &str, node: NodeId) {
        let Some(name) = setting.name.as_deref() else {
            self.note_reset_all(node);
            return;
        };
        if OF_THE_TRANSACTION.contains(&name) {
            if name == "transaction_read_only"
                && let Some(block) = &mut self.block
            {
                block.read_only = is_turned_on(&setting.value);
            }
            self.tell_others(text, Some(node));
            return;
        }
        if self.set_pins(setting) {
            self.pin(node, "setting");
        }
        let is_local = setting.scope == SettingScope::Local;
        if is_local && self.block.is_none() {
            // it ended with the statement
            return;
        }
        match &setting.value {
            // the bytes of a text that is not read as they were written are not known
            SettingValue::Texts(texts)
                if texts.iter().all(|text| text.is_ascii())
                    || self.encoding() == ValueEncoding::SameAsServer =>
            {
                let texts = canonical(name, texts, self.settings.value(name));
                self.note_value(name, NewValue::Texts(&texts), is_local, node);
                let known = texts.join("\u{0}");
                self.settings.know(name, Some(&known), is_local);
            }
            SettingValue::Default => {
                self.note_value(name, NewValue::Login, is_local, node);
                self.settings.know(name, None, is_local);
                // the server went back to its login's, and the client's is what it began with
                if let Some(texts) = self.beginning.texts(name) {
                    self.note_startup(name, &texts, is_local);
                }
            }
            SettingValue::Texts(_) | SettingValue::Opaque => {
                self.settings.know(name, None, is_local);
                self.tell_others(text, Some(node));
                return;
            }
        }
        if name == "session_authorization" {
            // which ends SET ROLE
            let none = NewValue::Texts(&["none".into()]);
            self.note_value("role", none, is_local, node);
        }
        if name == "application_name" {
            let name = self.settings.value(name).unwrap_or_default().to_owned();
            self.registration.set_application_name(&name);
        }
    }

    /// A value that the server has, for the session or the open block.
    fn note_value(&mut self, name: &str, value: NewValue<'_>, is_local: bool, node: NodeId) {
        if is_local {
            self.settings.record_local(name, value);
        } else {
            self.settings.record(name, value);
            self.legs
                .at(node)
                .note_settings(|list| value.put(name, list));
        }
        let text = set_text(name, value, is_local);
        self.tell_others(&text, Some(node));
    }

    /// A value that the client began with and the server does not have yet.
    fn note_startup(&mut self, name: &str, texts: &[Box<str>], is_local: bool) {
        let value = NewValue::Texts(texts);
        if is_local {
            self.settings.record_local(name, value);
        } else {
            self.settings.record(name, value);
        }
        self.settings
            .know(name, Some(&texts.join("\u{0}")), is_local);
        let text = set_text(name, value, is_local);
        self.tell_others(&text, None);
    }

    /// RESET ALL: the client's settings are again those that it began with.
    fn note_reset_all(&mut self, node: NodeId) {
        self.settings.reset_all();
        self.legs
            .at(node)
            .note_settings(|list| change(list, CarriedSettings::reset_all));
        self.tell_others("RESET ALL", Some(node));
        for (name, texts) in self.beginning.lists() {
            if name != "role" {
                self.note_startup(&name, &texts, false);
            }
        }
        self.begin_overrides_again();
    }

    /// The servers of the block are to be told what one has carried out already, if any.
    fn tell_others(&mut self, text: &str, already: Option<NodeId>) {
        if let Some(block) = &mut self.block {
            block.set(text, self.settings.session());
        }
        if let Some(node) = already {
            self.note_told_here(node, 1);
        }
    }

    /// SET SESSION CHARACTERISTICS: the defaults of later transactions.
    fn note_characteristics(&mut self, modes: &TransactionModes, node: NodeId) {
        let on = |on: bool| if on { "on" } else { "off" };
        let isolation = modes.isolation.map(|level| match level {
            IsolationLevel::ReadUncommitted => "read uncommitted",
            IsolationLevel::ReadCommitted => "read committed",
            IsolationLevel::RepeatableRead => "repeatable read",
            IsolationLevel::Serializable => "serializable",
        });
        for (name, value) in [
            ("default_transaction_isolation", isolation),
            ("default_transaction_read_only", modes.read_only.map(on)),
            ("default_transaction_deferrable", modes.deferrable.map(on)),
        ] {
            if let Some(value) = value {
                self.note_value(name, NewValue::Texts(&[value.into()]), false, node);
                self.settings.know(name, Some(value), false);
            }
        }
    }
}

/// Settings that end with the transaction, however they are set.
const OF_THE_TRANSACTION: [&str; 3] = [
    "transaction_isolation",
    "transaction_read_only",
    "transaction_deferrable",
];

/// SET as later servers are told it.
pub(crate) fn set_text(name: &str, value: NewValue<'_>, is_local: bool) -> String {
    let mut list = None;
    value.put(name, &mut list);
    let scope = if is_local {
        SetScope::Local
    } else {
        SetScope::Session
    };
    let none = CarriedSettings::default();
    let made = list.as_deref().unwrap_or(&none);
    match value {
        NewValue::Texts(_) => none.statements_to(made, scope).join("; "),
        NewValue::Login => {
            let mut any = CarriedSettings::default();
            any.set(name, [""]);
            any.statements_to(&none, scope).join("; ")
        }
    }
}

/// The values that bring a setting from anywhere to what these make of the value before: `DateStyle` takes half of itself.
pub(crate) fn canonical(name: &str, texts: &[Box<str>], before: Option<&str>) -> Box<[Box<str>]> {
    if name == "datestyle" {
        return date_style(texts, before);
    }
    texts.into()
}

/// `DateStyle` is an output style and an order of day, month and year (Postgres documentation, chapter 8.5.2).
fn date_style(texts: &[Box<str>], before: Option<&str>) -> Box<[Box<str>]> {
    let mut style = None;
    let mut order = None;
    let words = before.unwrap_or_default().split(['\0', ',']);
    let words = words.chain(texts.iter().flat_map(|text| text.split(',')));
    for word in words {
        let word = word.trim();
        let lower = word.to_ascii_lowercase();
        if ["iso", "sql", "postgres", "german"]
            .iter()
            .any(|known| lower.starts_with(known))
        {
            style = Some(word);
            if lower.starts_with("german") && order.is_none() {
                order = Some("DMY");
            }
        } else if !word.is_empty() {
            order = Some(word);
        }
    }
    style.into_iter().chain(order).map(Into::into).collect()
}

/// Whether a statement makes its shard the block's writer. In a READ ONLY block each server refuses to write, whatever it is asked, unless
/// code that is not read has taken that away there.
fn may_write(block: &Block, statement: &StatementPlan) -> bool {
    writes(statement) && (!block.read_only || statement.residue.contains(Residue::OPAQUE))
}

/// Whether a statement writes, as far as is known.
fn writes(statement: &StatementPlan) -> bool {
    statement.access == Access::Write
        && !is_control(&statement.action)
        && !matches!(
            statement.action,
            Action::Set(_)
                | Action::SetConfig(_)
                | Action::SetTransaction(..)
                | Action::Show
                | Action::ShowOverride(_)
                | Action::Discard
                | Action::Fetch(_)
                | Action::Close(_)
                | Action::Listen(_)
                | Action::Unlisten(_)
                | Action::Notify
                | Action::Deallocate(_)
                | Action::Prepare { .. }
        )
}
