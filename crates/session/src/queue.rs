//! Putting a run of extended messages on a server connection.
//!
//! Owns: what a server must know before a message can pass (a Parse under that name), what must be known of that, and the replies to
//! expect. Never does: deciding where the run goes (`extended.rs`).

use bytes::Bytes;
use pgherd_pool::{CarriedSettings, SetScope, Shape};
use pgherd_protocol::{Format, Frame, FrontendMessage, Target};
use pgherd_topology::NodeId;

use crate::bringing::queue_aside;
use crate::failure::Failure;
use crate::legs::encode;
use crate::message::Step;
use crate::prepare::is_execute;
use crate::script::{Audience, Reply, Script};
use crate::session::Session;
use crate::shape::{asked_with_portals, told_at_bind};
use crate::statements::{MadeBy, Portal, Statement};
use crate::watching::queue_probe;

const PARSE_COMPLETE: [u8; 5] = [b'1', 0, 0, 0, 4];

impl Session {
    /// Puts a run on a leg.
    pub(crate) fn queue_run(
        &mut self,
        node: NodeId,
        script: &mut Script,
        steps: &[(Step, Frame)],
        local: &[Option<Bytes>],
    ) -> Result<(), Failure> {
        let asks = asked_with_portals(steps);
        for (index, (step, frame)) in steps.iter().enumerate() {
            if let Some(answer) = local.get(index).and_then(Option::as_ref) {
                script.answer(answer.clone());
                continue;
            }
            match step {
                Step::Parse(statement) => {
                    if statement.shared().is_some()
                        && self.known_on(node, script, statement).is_some()
                    {
                        script.answer(Bytes::from_static(&PARSE_COMPLETE));
                    } else {
                        self.queue_parse(node, script, statement, Audience::Client)?;
                    }
                }
                Step::Bind { portal, bound } => {
                    let told = told_at_bind(&bound.statement, &asks);
                    self.queue_for_result(node, script, &bound.statement, told)?;
                    self.ensure_prepared(node, script, &bound.statement, told)?;
                    let leg = self.legs.at(node);
                    let statement = &bound.statement;
                    leg.queue_bind(frame, &statement.server_name, statement.known_types())?;
                    script.expect(Reply::Bind, Audience::Client);
                    if let Some(portal) = self.statements.portal(portal) {
                        portal.node = Some(node);
                    }
                }
                Step::DescribeStatement(statement) => {
                    let told = statement.told.shape();
                    self.legs.at(node).describes |= told == Shape::default();
                    self.queue_for_result(node, script, statement, Shape::default())?;
                    self.ensure_prepared(node, script, statement, Shape::default())?;
                    self.queue_describe(node, script, statement, told, Audience::Client)?;
                }
                Step::DescribePortal(bound) => {
                    self.legs.at(node).describes = true;
                    self.queue_frame(node, frame);
                    let described = Reply::describe(bound.statement.prepared);
                    script.expect(described, Audience::Client);
                }
                Step::Execute { bound } => {
                    self.queue_for_execute(node, script, &bound.statement)?;
                    self.learn_columns(node, script, bound, frame)?;
                    self.queue_frame(node, frame);
                    script.expect(Reply::Execute, Audience::Client);
                }
                Step::OnCursor(reply) => {
                    self.queue_frame(node, frame);
                    script.expect(reply.clone(), Audience::Client);
                }
                Step::CloseStatement | Step::ClosePortal { .. } => {
                    self.queue_frame(node, frame);
                    script.expect(Reply::Close, Audience::Client);
                }
                Step::Sync => {
                    if let Some(probe) = script.probe() {
                        queue_probe(&mut self.legs.at(node).connection, script, probe)?;
                    }
                    self.queue_frame(node, frame);
                    script.expect(Reply::Sync, Audience::Client);
                }
            }
        }
        Ok(())
    }

    /// On a shard whose ids are translated, the columns of binary rows must be known: the portal is described, unheard by the client.
    fn learn_columns(
        &mut self,
        node: NodeId,
        script: &mut Script,
        bound: &Portal,
        execute: &Frame,
    ) -> Result<(), Failure> {
        let leg = self.legs.at(node);
        if leg.translation.is_none() {
            return Ok(());
        }
        let binary = match FrontendMessage::parse(&bound.bind) {
            Ok(FrontendMessage::Bind(bind)) => bind
                .result_formats()
                .iter()
                .any(|format| format == Format::Binary),
            _ => false,
        };
        match FrontendMessage::parse(execute) {
            Ok(FrontendMessage::Execute { portal, .. }) if binary => {
                let describe = FrontendMessage::Describe {
                    target: Target::Portal,
                    name: portal,
                };
                encode(&describe, &mut leg.connection.transport.outbox)?;
                let described = Reply::describe(bound.statement.prepared);
                script.expect(described, Audience::Pgherd);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn queue_frame(&mut self, node: NodeId, frame: &Frame) {
        self.legs
            .at(node)
            .connection
            .transport
            .outbox
            .extend_from_slice(frame.bytes());
    }

    /// Where what is executed is PREPARE, EXECUTE or DEALLOCATE: what it needs.
    fn queue_for_execute(
        &mut self,
        node: NodeId,
        script: &mut Script,
        statement: &Statement,
    ) -> Result<(), Failure> {
        match self.splice(&statement.planned, &statement.sql)? {
            Some(spliced) => self.queue_for_spliced(node, script, &spliced),
            None => Ok(()),
        }
    }

    /// Where what is made, described or bound is EXECUTE: what it names, which returns what it returns.
    fn queue_for_result(
        &mut self,
        node: NodeId,
        script: &mut Script,
        statement: &Statement,
        told: Shape,
    ) -> Result<(), Failure> {
        match self.splice(&statement.planned, &statement.sql)? {
            Some(spliced) => self.queue_uses(node, script, &spliced, told.without_parameters()),
            None => Ok(()),
        }
    }

    /// Queues a Parse. Returns what will be known of the statement then.
    fn queue_parse(
        &mut self,
        node: NodeId,
        script: &mut Script,
        statement: &Statement,
        audience: Audience,
    ) -> Result<Shape, Failure> {
        if matches!(statement.made_by, MadeBy::Parse(_)) && is_execute(statement) {
            self.queue_for_result(node, script, statement, Shape::default())?;
        }
        let in_force = self.settings.meaning();
        let scope = match self.block {
            Some(_) => SetScope::Local,
            None => SetScope::Session,
        };
        let leg = self.legs.at(node);
        // a server reads some literals when it parses, by the settings of then
        let differ = in_force != statement.settings;
        let none = CarriedSettings::default();
        let now = in_force.as_deref().unwrap_or(&none);
        let then = statement.settings.as_deref().unwrap_or(&none);
        if differ {
            for sql in now.statements_to(then, scope) {
                queue_aside(&mut leg.connection, script, &sql)?;
            }
        }
        let shape = statement.shape_when_made();
        match &statement.made_by {
            MadeBy::Parse(parse) => {
                leg.queue_parse(parse, statement.told.parameters())?;
                script.expect(Reply::Parse(statement.prepared, shape), audience);
            }
            MadeBy::Prepare(sql) => {
                queue_aside(&mut leg.connection, script, sql)?;
                // where it fails, what relies on it does, and makes it anew
                if let Some(id) = statement.shared() {
                    leg.connection.prepared.insert(id, shape);
                }
            }
        }
        if differ {
            for sql in then.statements_to(now, scope) {
                queue_aside(&mut leg.connection, script, &sql)?;
            }
        }
        Ok(shape)
    }

    /// Queues the making of a statement where the server does not have it, and its description where that is not known to be what the
    /// client was told.
    ///
    /// # Errors
    /// 54000 where it does not fit a message.
    pub(crate) fn ensure_prepared(
        &mut self,
        node: NodeId,
        script: &mut Script,
        statement: &Statement,
        told: Shape,
    ) -> Result<(), Failure> {
        let known = match self.known_on(node, script, statement) {
            Some(known) => known,
            None => self.queue_parse(node, script, statement, Audience::Pgherd)?,
        };
        if known.is_as(&told) || script.will_compare(statement.prepared, told) {
            return Ok(());
        }
        self.queue_describe(node, script, statement, told, Audience::Pgherd)
    }

    /// Queues a Describe of a statement, whose answer is held against what the client was told.
    fn queue_describe(
        &mut self,
        node: NodeId,
        script: &mut Script,
        statement: &Statement,
        told: Shape,
        audience: Audience,
    ) -> Result<(), Failure> {
        let describe = FrontendMessage::Describe {
            target: Target::Statement,
            name: &statement.server_name,
        };
        encode(
            &describe,
            &mut self.legs.at(node).connection.transport.outbox,
        )?;
        let of = statement.prepared;
        script.expect(Reply::Describe { of, told }, audience);
        Ok(())
    }
}
