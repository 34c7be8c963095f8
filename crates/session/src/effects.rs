//! What a statement that completed on a server changes in what the session knows.
//!
//! Owns: following settings, cursors, prepared statements, what stays on a server, who writes in a block, and definitions. Never does: I/O.
//! Main function: [`Session::note_effects`].

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use pgherd_protocol::frontend::encode_parse;
use pgherd_protocol::split_frame;
use pgherd_router::{
    Access, Action, CursorTarget, Residue, SettingAction, SettingScope, SettingValue,
    StatementPlan, TransactionScope,
};
use pgherd_topology::{NodeId, ShardId};
use smallvec::SmallVec;

use crate::block::is_control;
use crate::failure::{Failure, not_supported};
use crate::listening::Change;
use crate::session::{Session, known_form, set_config};
use crate::statements::Statement;
use crate::transaction::quoted;

impl Session {
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
            Action::SetTransaction(TransactionScope::Session, _) => {
                self.note_change("session characteristics", text, node)
            }
            Action::Declare { cursor, .. } => {
                let shard = self.legs.at(node).shard;
                self.cursors.insert(cursor.clone(), shard);
            }
            Action::Close(CursorTarget::Named(cursor)) => {
                self.cursors.remove(cursor);
            }
            Action::Close(CursorTarget::All) => self.cursors.clear(),
            Action::Prepare(name) => self.note_prepared(name, node),
            Action::Listen(channel) => self.note_listening(Change::Listen(channel.clone()), node),
            Action::Unlisten(channel) => {
                let change = channel
                    .clone()
                    .map_or(Change::UnlistenAll, Change::Unlisten);
                self.note_listening(change, node);
            }
            Action::Deallocate(None) => {
                self.statements.clear();
                self.legs.at(node).connection.prepared.clear();
            }
            Action::Deallocate(Some(name)) => {
                self.statements.close(name.as_bytes());
                self.legs
                    .at(node)
                    .connection
                    .prepared
                    .remove(name.as_bytes());
            }
            _ => {}
        }
        self.note_residue(statement.residue, node);
        self.note_temporary(statement);
        self.note_writer(statement, node);
        self.note_catalog(statement);
    }

    /// PREPARE: Bind may name the statement too. The connection that has it stays with the client, and serves all that it does there.
    fn note_prepared(&mut self, name: &str, node: NodeId) {
        let sql = format!("EXECUTE {}", quoted(name));
        let Ok(planned) = self.plan_now(&sql, &[]) else {
            return;
        };
        let mut bytes = BytesMut::new();
        let Ok(Some(parse)) = encode_parse(&mut bytes, name.as_bytes(), sql.as_bytes(), [])
            .map(|()| split_frame(&mut bytes, usize::MAX).ok().flatten())
        else {
            return;
        };
        let statement = Statement {
            name: Bytes::copy_from_slice(name.as_bytes()),
            generation: self.next_generation(),
            sql: sql.into(),
            parameter_types: SmallVec::new(),
            parse,
            planned,
            planned_under: self.plan_stamp(),
            described: Arc::default(),
        };
        let leg = self.legs.at(node);
        leg.connection
            .prepared
            .insert(&statement.name, statement.generation);
        self.statements.insert(Arc::new(statement));
    }

    /// DDL: plans are made anew once it is committed.
    pub(crate) fn note_catalog(&mut self, statement: &StatementPlan) {
        if matches!(statement.action, Action::Ddl(_)) {
            match &mut self.block {
                Some(block) => block.definitions.change(),
                None => self.catalog_changed = true,
            }
        }
    }

    fn note_writer(&mut self, statement: &StatementPlan, node: NodeId) {
        let shard = self.legs.at(node).shard;
        if writes(statement)
            && let Some(block) = &mut self.block
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
            || !statements.iter().any(writes)
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

    fn note_residue(&mut self, residue: Residue, node: NodeId) {
        // what is listened to is followed by `note_listening`
        if residue.is_none() || residue == Residue::LISTEN {
            return;
        }
        self.legs.at(node).hears |= residue.contains(Residue::OPAQUE);
        let only_setting = residue == Residue::SETTING;
        if let Some(reason) = residue.names().last() {
            self.pin(node, reason, !only_setting);
        }
    }

    /// Keeps a connection with the client; `sticky` where all that it does on that shard must go there.
    pub(crate) fn pin(&mut self, node: NodeId, reason: &'static str, sticky: bool) {
        let leg = self.legs.at(node);
        leg.pin(reason);
        leg.sticky |= sticky;
    }

    fn note_set(&mut self, setting: &SettingAction, text: &str, node: NodeId) {
        let Some(name) = setting.name.as_deref() else {
            self.settings.clear();
            self.settings.record("", "RESET ALL");
            self.apply_startup_settings();
            self.pin(node, "setting", false);
            return;
        };
        let value = match &setting.value {
            SettingValue::Default => self
                .startup_value(name)
                .map(|value| known_form(name, value)),
            SettingValue::Texts(texts) => Some(texts.join("\u{0}")),
            SettingValue::Opaque => None,
        };
        if setting.scope == SettingScope::Local {
            let Some(block) = &mut self.block else { return };
            block.set(text);
            block.local_names.push(name.into());
            self.settings.know(name, value.as_deref());
            return;
        }
        self.settings.know(name, value.as_deref());
        if name == "application_name"
            && let SettingValue::Texts(texts) = &setting.value
        {
            self.registration.set_application_name(&texts.join(","));
        }
        let startup = match setting.value {
            SettingValue::Default => self
                .startup_value(name)
                .map(|value| set_config(name, value)),
            SettingValue::Texts(_) | SettingValue::Opaque => None,
        };
        match startup {
            None => self.note_change(name, text, node),
            // the server went back to its own default, and a client's is what it began with
            Some(again) => {
                self.note_change(name, &again, node);
                self.legs.at(node).forget_settings();
            }
        }
    }

    /// A session-level change that one server has carried out: every other one that serves this client gets it too.
    fn note_change(&mut self, name: &str, text: &str, node: NodeId) {
        self.pin(node, "setting", false);
        if let Some(block) = &mut self.block {
            block.set(text);
            self.settings.record_pending(name, text);
            return;
        }
        let before = self.settings.version();
        self.settings.record(name, text);
        let version = self.settings.version();
        let leg = self.legs.at(node);
        if leg.settings_are(before) {
            leg.has_settings(version);
        }
    }
}

/// Whether a statement makes its shard the block's writer.
fn writes(statement: &StatementPlan) -> bool {
    statement.access == Access::Write
        && !is_control(&statement.action)
        && !matches!(
            statement.action,
            Action::Set(_)
                | Action::SetTransaction(..)
                | Action::ShowOverride(_)
                | Action::Discard
                | Action::Fetch(_)
                | Action::Close(_)
                | Action::Listen(_)
                | Action::Unlisten(_)
                | Action::Notify
                | Action::Deallocate(_)
        )
}
