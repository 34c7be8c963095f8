//! Prepared statements as the client has them and as servers know them.
//!
//! Owns: what a Parse makes, the name that servers know it by, and when it is planned, analyzed or named anew. Never does: bringing it to a
//! server (`queue.rs`). Main functions: [`Session::parse_statement`], [`Session::known_statement`].

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use pgherd_pool::{CarriedSettings, StatementId};
use pgherd_protocol::frontend::encode_parse;
use pgherd_protocol::{Frame, Parse, PgError, SqlState, split_frame};
use smallvec::SmallVec;

use crate::definitions::only_controls;
use crate::failure::Failure;
use crate::script::Prepared;
use crate::session::Session;
use crate::settings::SettingsList;
use crate::statements::{MadeBy, Statement};

/// What a statement is on servers.
struct OnServers {
    prepared: Prepared,
    name: Bytes,
    parse: Frame,
}

impl Session {
    /// A Parse: the statement is the client's from now on, on whichever server it is made.
    ///
    /// # Errors
    /// What planning says, 42601 for several statements, 42P05 for a name that is taken, 54000 where the client has too many or the text
    /// does not fit a message.
    pub(crate) async fn parse_statement(
        &mut self,
        frame: &Frame,
        parse: &Parse<'_>,
    ) -> Result<Arc<Statement>, Failure> {
        if parse.name.is_empty() {
            // gone even if what replaces it cannot be parsed
            self.statements.close(parse.name);
        }
        let sql = self.text(parse.sql)?;
        let types: SmallVec<[u32; 8]> = parse.parameter_types().collect();
        if !parse.name.is_empty() && self.catalog_is_due() {
            // what the server makes of it depends on the definitions
            self.reload_catalog().await;
        }
        let planned = self.plan(&sql, &types).await?;
        if planned.plan.statements.len() > 1 {
            return Err(PgError::error(
                SqlState::SYNTAX_ERROR,
                "cannot insert multiple commands into a prepared statement",
            )
            .into());
        }
        if !planned.plan.statements.is_empty() {
            self.check_block(&planned.plan.statements)?;
        }
        if !parse.name.is_empty() && self.statements.statement(parse.name).is_some() {
            return Err(PgError::error(
                SqlState::DUPLICATE_PREPARED_STATEMENT,
                format!(
                    "prepared statement \"{}\" already exists",
                    String::from_utf8_lossy(parse.name)
                ),
            )
            .into());
        }
        if !parse.name.is_empty() {
            self.statements.check_room()?;
        }
        self.renew_executed(&planned).await?;
        let spliced = self.splice(&planned, &sql)?;
        let settings = self.settings.meaning();
        let generation = self.next_generation();
        let on_servers = match &spliced {
            None if parse.name.is_empty() => OnServers {
                prepared: Prepared::Unnamed(generation),
                name: Bytes::new(),
                parse: frame.clone(),
            },
            spliced => {
                let spliced = spliced.as_ref().map(|spliced| spliced.text.as_bytes());
                let server_sql = spliced.unwrap_or(parse.sql);
                self.on_servers(parse.name, server_sql, &types, &settings, generation)?
            }
        };
        let statement = Arc::new(Statement {
            name: Bytes::copy_from_slice(parse.name),
            prepared: on_servers.prepared,
            server_name: on_servers.name,
            generation,
            settings,
            known_settings: self.settings.known().clone(),
            sql: sql.into_owned().into(),
            parameter_types: types,
            made_by: MadeBy::Parse(on_servers.parse),
            planned,
            planned_under: self.plan_stamp(),
            told: Arc::default(),
        });
        self.statements.insert(Arc::clone(&statement));
        Ok(statement)
    }

    /// What a text is on servers.
    fn on_servers(
        &self,
        name: &[u8],
        sql: &[u8],
        types: &[u32],
        settings: &SettingsList,
        generation: u64,
    ) -> Result<OnServers, Failure> {
        let (prepared, name) = if name.is_empty() {
            (Prepared::Unnamed(generation), Bytes::new())
        } else {
            let id = self.shared_id(b"parse", sql, types, settings);
            (Prepared::Shared(id), Bytes::from(id.to_string()))
        };
        let parse = parse_frame(&name, sql, types)?;
        Ok(OnServers {
            prepared,
            name,
            parse,
        })
    }

    /// What a statement of the protocol is on servers, with this text.
    fn again_on_servers(&mut self, statement: &Statement, sql: &str) -> Result<OnServers, Failure> {
        let generation = self.next_generation();
        self.on_servers(
            &statement.name,
            sql.as_bytes(),
            &statement.parameter_types,
            &statement.settings,
            generation,
        )
    }

    /// A statement that names a prepared one, which may stand for another by now.
    fn renamed(&mut self, statement: Arc<Statement>) -> Result<Arc<Statement>, Failure> {
        let Some(spliced) = self.splice(&statement.planned, &statement.sql)? else {
            return Ok(statement);
        };
        let now = self.again_on_servers(&statement, &spliced.text)?;
        let MadeBy::Parse(before) = &statement.made_by else {
            return Ok(statement);
        };
        if before.bytes() == now.parse.bytes() {
            return Ok(statement);
        }
        let renamed = Arc::new(Statement {
            prepared: now.prepared,
            server_name: now.name,
            made_by: MadeBy::Parse(now.parse),
            told: Arc::default(),
            ..Statement::clone(&statement)
        });
        self.statements.insert(Arc::clone(&renamed));
        Ok(renamed)
    }

    /// What a statement is called on every server: all that its meaning depends on is in it, the definitions of now included, so that one made
    /// before they changed serves only those who prepared it then.
    pub(crate) fn shared_id(
        &self,
        kind: &[u8],
        sql: &[u8],
        types: &[u32],
        settings: &SettingsList,
    ) -> StatementId {
        let mut declared = Vec::with_capacity(types.len() * 4);
        for declared_type in types {
            declared.extend_from_slice(&declared_type.to_be_bytes());
        }
        let settings = settings.as_deref().map(CarriedSettings::fingerprint);
        let (mark, undone) = self.block.as_ref().map_or((0, 0), |block| block.defined);
        StatementId::of(&[
            kind,
            sql,
            &declared,
            settings.unwrap_or_default().as_bytes(),
            self.database.name().as_bytes(),
            &self.catalog_version().to_be_bytes(),
            &mark.to_be_bytes(),
            &undone.to_be_bytes(),
        ])
    }

    /// A statement by name, renewed, and what it executes.
    ///
    /// # Errors
    /// 26000 for a name that stands for nothing; see [`Session::renewed_statement`].
    pub(crate) async fn known_statement(&mut self, name: &[u8]) -> Result<Arc<Statement>, Failure> {
        let statement = self.renewed_statement(name).await?;
        self.renew_executed(&statement.planned).await?;
        self.renamed(statement)
    }

    /// A statement by name, planned anew where what its plan relied on has changed.
    ///
    /// # Errors
    /// 26000 for a name that stands for nothing; what planning says; 54000 where a text does not fit a message.
    pub(crate) async fn renewed_statement(
        &mut self,
        name: &[u8],
    ) -> Result<Arc<Statement>, Failure> {
        let Some(statement) = self.statements.statement(name).cloned() else {
            let message = if name.is_empty() {
                "unnamed prepared statement does not exist".to_owned()
            } else {
                format!(
                    "prepared statement \"{}\" does not exist",
                    String::from_utf8_lossy(name)
                )
            };
            return Err(PgError::error(SqlState::INVALID_SQL_STATEMENT_NAME, message).into());
        };
        let needs_no_reading = (!self.definitions_are_stale() || only_controls(&statement.planned))
            && !self.must_read_before(&statement.planned);
        let stamp = self.plan_stamp();
        if statement.planned_under == stamp && stamp.catalog != u64::MAX && needs_no_reading {
            return Ok(statement);
        }
        let planned = self
            .plan(&statement.sql, &statement.parameter_types)
            .await?;
        let mut renewed = Statement {
            planned,
            planned_under: self.plan_stamp(),
            ..Statement::clone(&statement)
        };
        if self.is_analyzed_anew(&renewed) {
            self.analyze_anew(&mut renewed)?;
        }
        let renewed = Arc::new(renewed);
        self.statements.insert(Arc::clone(&renewed));
        Ok(renewed)
    }

    /// Whether Postgres would analyze a statement again that this client uses now: under another search path than it did, names may mean
    /// something else (documentation, reference: PREPARE, notes). Literals are read again then too, under the settings of now.
    fn is_analyzed_anew(&self, statement: &Statement) -> bool {
        let (then, now) = (&statement.known_settings, self.settings.known());
        if self.block.as_ref().is_some_and(|block| block.failed)
            || ["search_path", "role"].map(|name| then.get(name) == now.get(name)) == [true; 2]
        {
            return false;
        }
        let catalog = self.catalog();
        self.schemas_under(then, &catalog) != self.schemas_under(now, &catalog)
    }

    /// Makes a statement one of the settings of now. Servers know it by another name.
    ///
    /// # Errors
    /// 54000 where it does not fit a message.
    fn analyze_anew(&mut self, statement: &mut Statement) -> Result<(), Failure> {
        statement.settings = self.settings.meaning();
        statement.known_settings = self.settings.known().clone();
        match &statement.made_by {
            MadeBy::Parse(_) => {
                let now = self.again_on_servers(statement, &statement.sql)?;
                statement.prepared = now.prepared;
                statement.server_name = now.name;
                statement.made_by = MadeBy::Parse(now.parse);
            }
            MadeBy::Prepare(text) => {
                let (id, made_by) = self.prepare_on_servers(text, &statement.settings);
                statement.prepared = Prepared::Shared(id);
                statement.server_name = id.to_string().into();
                statement.made_by = made_by;
            }
        }
        Ok(())
    }
}

/// A Parse message.
///
/// # Errors
/// 54000 where it is too long.
fn parse_frame(name: &[u8], sql: &[u8], types: &[u32]) -> Result<Frame, Failure> {
    let mut bytes = BytesMut::new();
    encode_parse(&mut bytes, name, sql, types.iter().copied())?;
    split_frame(&mut bytes, usize::MAX)
        .ok()
        .flatten()
        .ok_or_else(|| PgError::error(SqlState::INTERNAL_ERROR, "a Parse is no frame").into())
}
