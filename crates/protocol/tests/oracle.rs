//! What this crate writes, two other implementations read as the same message: pgwire in both directions, and
//! postgres-protocol where it reads (backend) and writes (frontend).
#![allow(clippy::unwrap_used)]

use bytes::BytesMut;
use pgherd_protocol::backend::{
    BackendKeyData, Field, Mechanisms, Notification, encode_data_row,
    encode_negotiate_protocol_version, encode_parameter_description, encode_row_description,
};
use pgherd_protocol::frontend::{SaslInitialResponse, encode_bind, encode_parse, encode_password};
use pgherd_protocol::{
    Authentication, BackendMessage, CancelKey, Format, Frame, FrontendMessage, MessageError,
    PgError, ProtocolVersion, SqlState, StartupMessage, Target, TransactionStatus, oid,
    split_frame, startup,
};
use pgwire::messages::{self, DecodeContext, PgWireBackendMessage, PgWireFrontendMessage};
use postgres_protocol::message::{backend, frontend};

fn context() -> DecodeContext {
    let mut context = DecodeContext::new(messages::ProtocolVersion::PROTOCOL3_2);
    context.awaiting_frontend_ssl = false;
    context.awaiting_frontend_startup = false;
    context
}

fn encoded(encode: impl FnOnce(&mut BytesMut) -> Result<(), MessageError>) -> BytesMut {
    let mut out = BytesMut::new();
    encode(&mut out).unwrap();
    out
}

fn frontend_messages() -> Vec<BytesMut> {
    let simple = [
        FrontendMessage::Query(b"select 1"),
        FrontendMessage::Describe {
            target: Target::Statement,
            name: b"s1",
        },
        FrontendMessage::Describe {
            target: Target::Portal,
            name: b"p1",
        },
        FrontendMessage::Execute {
            portal: b"p1",
            max_rows: 7,
        },
        FrontendMessage::Close {
            target: Target::Portal,
            name: b"p1",
        },
        FrontendMessage::Sync,
        FrontendMessage::Flush,
        FrontendMessage::CopyData(b"1\t2\n"),
        FrontendMessage::CopyDone,
        FrontendMessage::CopyFail(b"no more"),
        FrontendMessage::Terminate,
    ];
    let mut all: Vec<BytesMut> = simple
        .iter()
        .map(|message| encoded(|out| message.encode(out)))
        .collect();
    all.push(encoded(|out| {
        encode_parse(out, b"s1", b"select $1", [oid::INT8, 0])
    }));
    all.push(encoded(|out| {
        encode_bind(
            out,
            b"p1",
            b"s1",
            [Format::Text, Format::Binary, Format::Text],
            [Some(&b"7"[..]), Some(b"\0\0"), None],
            [Format::Binary],
        )
    }));
    all
}

fn backend_messages() -> Vec<BytesMut> {
    let simple = [
        BackendMessage::Authentication(Authentication::Ok),
        BackendMessage::Authentication(Authentication::CleartextPassword),
        BackendMessage::Authentication(Authentication::Md5Password { salt: [1, 2, 3, 4] }),
        BackendMessage::Authentication(Authentication::Sasl(Mechanisms::new(&[
            "SCRAM-SHA-256-PLUS",
            "SCRAM-SHA-256",
        ]))),
        BackendMessage::Authentication(Authentication::SaslContinue(b"r=x")),
        BackendMessage::Authentication(Authentication::SaslFinal(b"v=x")),
        BackendMessage::BackendKeyData(BackendKeyData {
            pid: 7,
            key: b"abcd",
        }),
        BackendMessage::ParameterStatus {
            name: b"TimeZone",
            value: b"UTC",
        },
        BackendMessage::ReadyForQuery(TransactionStatus::InTransaction),
        BackendMessage::CommandComplete(b"SELECT 1"),
        BackendMessage::ParseComplete,
        BackendMessage::BindComplete,
        BackendMessage::CloseComplete,
        BackendMessage::NoData,
        BackendMessage::PortalSuspended,
        BackendMessage::EmptyQueryResponse,
        BackendMessage::CopyData(b"1\t2\n"),
        BackendMessage::CopyDone,
        BackendMessage::NotificationResponse(Notification {
            pid: 7,
            channel: b"c",
            payload: b"p",
        }),
        BackendMessage::parse_body(b'G', b"\0\0\x02\0\0\0\0").unwrap(),
        BackendMessage::parse_body(b'H', b"\x01\0\x02\0\x01\0\x01").unwrap(),
    ];
    let mut all: Vec<BytesMut> = simple
        .iter()
        .map(|message| encoded(|out| message.encode(out)))
        .collect();
    all.push(encoded(|out| {
        encode_row_description(
            out,
            [Field {
                name: b"id",
                table_oid: 16_385,
                column: 1,
                type_oid: oid::INT8,
                type_size: 8,
                type_modifier: -1,
                format: Format::Binary,
            }],
        )
    }));
    all.push(encoded(|out| encode_data_row(out, [Some(&b"7"[..]), None])));
    all.push(encoded(|out| {
        encode_parameter_description(out, [oid::INT8, oid::TEXT])
    }));
    let error = PgError::error(SqlState::SYNTAX_ERROR, "bad")
        .detail("d")
        .hint("h");
    let mut out = BytesMut::new();
    error.encode(&mut out);
    all.push(out);
    let mut out = BytesMut::new();
    error.encode_notice(&mut out);
    all.push(out);
    all
}

#[test]
fn pgwire_reads_and_writes_every_frontend_message_alike() {
    for message in frontend_messages() {
        let mut input = message.clone();
        let read = PgWireFrontendMessage::decode(&mut input, &context())
            .unwrap()
            .unwrap();
        let mut again = BytesMut::new();
        read.encode(&mut again).unwrap();
        assert_eq!(again, message, "{read:?}");
        assert!(input.is_empty());
    }
}

#[test]
fn pgwire_reads_and_writes_every_backend_message_alike() {
    let mut all = backend_messages();
    all.push(encoded(|out| {
        BackendMessage::parse_body(b'W', b"\0\0\0")
            .unwrap()
            .encode(out)
    }));
    all.push(encoded(|out| {
        BackendMessage::BackendKeyData(BackendKeyData {
            pid: 7,
            key: &[7; 256],
        })
        .encode(out)
    }));
    all.push(encoded(|out| {
        encode_negotiate_protocol_version(out, ProtocolVersion::V3_2, [&b"_pq_.x"[..]].into_iter())
    }));
    for message in all {
        let mut input = message.clone();
        let read = PgWireBackendMessage::decode(&mut input, &context())
            .unwrap()
            .unwrap();
        let mut again = BytesMut::new();
        read.encode(&mut again).unwrap();
        assert_eq!(again, message, "{read:?}");
        assert!(input.is_empty());
    }
}

#[test]
fn pgwire_reads_a_startup_message_and_a_cancel_request() {
    let mut context = context();
    context.awaiting_frontend_startup = true;
    let startup = StartupMessage::new(
        ProtocolVersion::V3_2,
        vec![
            ("database".to_owned(), "shop".to_owned()),
            ("user".to_owned(), "app".to_owned()),
        ],
    );
    let mut out = encoded(|out| startup.encode(out));
    startup::encode_cancel_request(&mut out, 7, &CancelKey::new(&[9; 32]).unwrap());
    let sent = out.clone();
    let mut again = BytesMut::new();
    for _ in 0..2 {
        PgWireFrontendMessage::decode(&mut out, &context)
            .unwrap()
            .unwrap()
            .encode(&mut again)
            .unwrap();
    }
    assert_eq!(again, sent);
}

#[test]
fn postgres_protocol_reads_every_backend_message() {
    for message in backend_messages() {
        let mut input = message.clone();
        let read = backend::Message::parse(&mut input).unwrap();
        assert!(read.is_some() && input.is_empty());
    }
}

#[test]
fn what_postgres_protocol_writes_is_read_here_and_written_alike() {
    let mut out = BytesMut::new();
    frontend::query("select 1", &mut out).unwrap();
    frontend::parse("s1", "select $1", [oid::INT8], &mut out).unwrap();
    frontend::bind(
        "p1",
        "s1",
        [1],
        [Some(&b"7"[..]), None],
        |value, out| match value {
            Some(value) => {
                out.extend_from_slice(value);
                Ok(postgres_protocol::IsNull::No)
            }
            None => Ok(postgres_protocol::IsNull::Yes),
        },
        [0, 1],
        &mut out,
    )
    .unwrap_or_else(|_| panic!("a Bind"));
    frontend::describe(b'P', "p1", &mut out).unwrap();
    frontend::execute("p1", 3, &mut out).unwrap();
    frontend::close(b'S', "s1", &mut out).unwrap();
    frontend::copy_done(&mut out);
    frontend::copy_fail("no", &mut out).unwrap();
    frontend::flush(&mut out);
    frontend::sync(&mut out);
    frontend::terminate(&mut out);
    let sent = out.clone();
    let frames: Vec<Frame> =
        std::iter::from_fn(|| split_frame(&mut out, 1 << 20).unwrap()).collect();
    assert_eq!(frames.len(), 11);
    let mut again = BytesMut::new();
    for frame in &frames {
        FrontendMessage::parse(frame)
            .unwrap()
            .encode(&mut again)
            .unwrap();
    }
    assert_eq!(again, sent);

    let mut theirs = BytesMut::new();
    frontend::sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=x", &mut theirs).unwrap();
    frontend::password_message(b"pw", &mut theirs).unwrap();
    let mut ours = encoded(|out| {
        SaslInitialResponse {
            mechanism: b"SCRAM-SHA-256",
            data: Some(b"n,,n=,r=x"),
        }
        .encode(out)
    });
    encode_password(&mut ours, b"pw").unwrap();
    assert_eq!(ours, theirs);
}
