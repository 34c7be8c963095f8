//! Putting a run of extended messages on a server connection.
//!
//! Owns: what a server must know before a message can pass (a Parse under that name), and the replies to expect. Never does: deciding
//! where the run goes (`extended.rs`).

use bytes::Bytes;
use pgherd_protocol::{Format, Frame, FrontendMessage, Target};
use pgherd_topology::NodeId;

use crate::failure::Failure;
use crate::legs::encode;
use crate::message::Step;
use crate::script::{Audience, Reply, Script};
use crate::session::Session;
use crate::statements::{Portal, Statement};

impl Session {
    /// Puts a run on a leg.
    pub(crate) fn queue_run(
        &mut self,
        node: NodeId,
        script: &mut Script,
        steps: &[(Step, Frame)],
        local: &[Option<Bytes>],
    ) -> Result<(), Failure> {
        for (index, (step, frame)) in steps.iter().enumerate() {
            if let Some(answer) = local.get(index).and_then(Option::as_ref) {
                script.answer(answer.clone());
                continue;
            }
            match step {
                Step::Parse(statement) => {
                    self.queue_parse(node, script, statement, Audience::Client)?
                }
                Step::Bind { portal, bound } => {
                    self.ensure_prepared(node, script, &bound.statement)?;
                    let leg = self.legs.at(node);
                    leg.queue_bind(frame, bound.statement.known_types())?;
                    script.expect(Reply::Bind, Audience::Client);
                    if let Some(portal) = self.statements.portal(portal) {
                        portal.node = Some(node);
                    }
                }
                Step::DescribeStatement(statement) => {
                    self.ensure_prepared(node, script, statement)?;
                    self.queue_frame(node, frame);
                    script.expect(Reply::Describe(Target::Statement), Audience::Client);
                }
                Step::DescribePortal(_) => {
                    self.queue_frame(node, frame);
                    script.expect(Reply::Describe(Target::Portal), Audience::Client);
                }
                Step::Execute { bound } => {
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
                script.expect(Reply::Describe(Target::Portal), Audience::Pgherd);
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

    fn queue_parse(
        &mut self,
        node: NodeId,
        script: &mut Script,
        statement: &Statement,
        audience: Audience,
    ) -> Result<(), Failure> {
        let leg = self.legs.at(node);
        if !statement.name.is_empty() {
            leg.pin("prepared statement");
            if leg.connection.prepared.remove(&statement.name).is_some() {
                // the name stands for an older text there
                let out = &mut leg.connection.transport.outbox;
                encode(
                    &FrontendMessage::Close {
                        target: Target::Statement,
                        name: &statement.name,
                    },
                    out,
                )?;
                script.expect(Reply::Close, Audience::Pgherd);
            }
        }
        leg.queue_parse(&statement.parse)?;
        script.expect(
            Reply::Parse {
                name: statement.name.clone(),
                generation: statement.generation,
            },
            audience,
        );
        Ok(())
    }

    fn ensure_prepared(
        &mut self,
        node: NodeId,
        script: &mut Script,
        statement: &Statement,
    ) -> Result<(), Failure> {
        let known = self
            .legs
            .at(node)
            .connection
            .prepared
            .generation(&statement.name)
            == Some(statement.generation);
        if known || script.will_know(&statement.name, statement.generation) {
            return Ok(());
        }
        self.queue_parse(node, script, statement, Audience::Pgherd)
    }
}
