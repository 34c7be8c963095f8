//! Every backend message round-trips, and no bytes make a parser panic.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::frame::split_frame;
use crate::lists::Format;
use crate::startup::ProtocolVersion;

fn frame(mut bytes: BytesMut) -> Frame {
    let frame = split_frame(&mut bytes, usize::MAX).unwrap().unwrap();
    assert!(bytes.is_empty());
    frame
}

/// Parses what was encoded, compares, and encodes that again.
fn round_trip(message: BackendMessage<'_>) {
    let mut out = BytesMut::new();
    message.encode(&mut out).unwrap();
    let frame = frame(out);
    let read = BackendMessage::parse(&frame).unwrap();
    assert_eq!(read, message);
    assert_eq!(frame.tag(), message.tag());
    let mut again = BytesMut::new();
    read.encode(&mut again).unwrap();
    assert_eq!(again, frame.bytes());
}

fn encoded(encode: impl FnOnce(&mut BytesMut) -> Result<(), MessageError>) -> Frame {
    let mut out = BytesMut::new();
    encode(&mut out).unwrap();
    frame(out)
}

fn string() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(1u8..=255, 0..40)
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..40)
}

proptest! {
    #[test]
    fn authentication_round_trips(salt: [u8; 4], data in bytes()) {
        for step in [
            Authentication::Ok,
            Authentication::KerberosV5,
            Authentication::CleartextPassword,
            Authentication::Md5Password { salt },
            Authentication::Gss,
            Authentication::GssContinue(&data),
            Authentication::Sspi,
            Authentication::SaslContinue(&data),
            Authentication::SaslFinal(&data),
        ] {
            round_trip(BackendMessage::Authentication(step));
        }
    }

    #[test]
    fn messages_of_strings_round_trip(one in string(), two in string(), pid: i32, key in prop::collection::vec(any::<u8>(), 4..=256)) {
        round_trip(BackendMessage::ParameterStatus { name: &one, value: &two });
        round_trip(BackendMessage::CommandComplete(&one));
        round_trip(BackendMessage::NotificationResponse(Notification { pid, channel: &one, payload: &two }));
        round_trip(BackendMessage::CopyData(&key));
        round_trip(BackendMessage::FunctionCallResponse(Some(&key)));
        round_trip(BackendMessage::FunctionCallResponse(None));
        round_trip(BackendMessage::BackendKeyData(BackendKeyData { pid, key: &key }));
    }

    #[test]
    fn row_description_round_trips(columns in prop::collection::vec((string(), any::<u32>(), any::<i16>(), any::<u32>(), any::<i16>(), any::<i32>(), any::<bool>()), 0..8)) {
        let fields: Vec<Field<'_>> = columns
            .iter()
            .map(|(name, table_oid, column, type_oid, type_size, type_modifier, binary)| Field {
                name,
                table_oid: *table_oid,
                column: *column,
                type_oid: *type_oid,
                type_size: *type_size,
                type_modifier: *type_modifier,
                format: if *binary { Format::Binary } else { Format::Text },
            })
            .collect();
        let frame = encoded(|out| encode_row_description(out, fields.iter().copied()));
        let message = BackendMessage::parse(&frame).unwrap();
        let BackendMessage::RowDescription(description) = message else { panic!("a RowDescription") };
        prop_assert_eq!(description.fields().len(), fields.len());
        prop_assert_eq!(description.fields().collect::<Vec<_>>(), fields);
        round_trip(message);
    }

    #[test]
    fn data_row_round_trips(values in prop::collection::vec(prop::option::of(bytes()), 0..8)) {
        let values: Vec<Option<&[u8]>> = values.iter().map(Option::as_deref).collect();
        let frame = encoded(|out| encode_data_row(out, values.iter().copied()));
        let message = BackendMessage::parse(&frame).unwrap();
        let BackendMessage::DataRow(row) = message else { panic!("a DataRow") };
        prop_assert_eq!(row.values().collect::<Vec<_>>(), &values[..]);
        prop_assert_eq!(row.value(values.len()), None);
        round_trip(message);
    }

    #[test]
    fn parameter_description_round_trips(types in prop::collection::vec(any::<u32>(), 0..10)) {
        let frame = encoded(|out| encode_parameter_description(out, types.iter().copied()));
        let message = BackendMessage::parse(&frame).unwrap();
        let BackendMessage::ParameterDescription(read) = message else { panic!("a ParameterDescription") };
        prop_assert_eq!(read.iter().collect::<Vec<_>>(), types);
        round_trip(message);
    }

    #[test]
    fn negotiate_protocol_version_round_trips(options in prop::collection::vec(string(), 0..5), minor: u16) {
        let version = ProtocolVersion { major: 3, minor };
        let frame = encoded(|out| encode_negotiate_protocol_version(out, version, options.iter().map(Vec::as_slice)));
        let message = BackendMessage::parse(&frame).unwrap();
        let BackendMessage::NegotiateProtocolVersion(read) = message else { panic!("a NegotiateProtocolVersion") };
        prop_assert_eq!(read.version, version);
        prop_assert_eq!(read.options().collect::<Vec<_>>(), options.iter().map(Vec::as_slice).collect::<Vec<_>>());
        round_trip(message);
    }

    #[test]
    fn no_bytes_make_a_parser_panic(
        tag in prop::sample::select(&b"RKSZTDCEN123ntsIGHWdcAvV?"[..]),
        body in prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => 0u8..13, 1 => any::<u8>()], 0..60),
    ) {
        if let Ok(message) = BackendMessage::parse_body(tag, &body) {
            round_trip(message);
        }
    }
}

#[test]
fn messages_without_a_body_round_trip() {
    for message in [
        BackendMessage::ParseComplete,
        BackendMessage::BindComplete,
        BackendMessage::CloseComplete,
        BackendMessage::NoData,
        BackendMessage::PortalSuspended,
        BackendMessage::EmptyQueryResponse,
        BackendMessage::CopyDone,
        BackendMessage::ReadyForQuery(TransactionStatus::Idle),
        BackendMessage::ReadyForQuery(TransactionStatus::InTransaction),
        BackendMessage::ReadyForQuery(TransactionStatus::Failed),
    ] {
        round_trip(message);
    }
}

#[test]
fn errors_notices_and_copy_responses_round_trip() {
    let fields = ErrorFields::parse(b"SERROR\0C42601\0M\xe4\0\0").unwrap();
    round_trip(BackendMessage::ErrorResponse(fields));
    round_trip(BackendMessage::NoticeResponse(fields));
    for body in [&b"\0\0\x02\0\0\0\x01"[..], b"\x01\0\0"] {
        for tag in *b"GHW" {
            round_trip(BackendMessage::parse_body(tag, body).unwrap());
        }
    }
}

#[test]
fn the_mechanisms_offered_are_read_in_order() {
    let frame = encoded(|out| {
        BackendMessage::Authentication(Authentication::Sasl(Mechanisms::new(&["A", "B"])))
            .encode(out)
    });
    assert_eq!(frame.body(), b"\0\0\0\x0aA\0B\0\0");
    let message = BackendMessage::parse(&frame).unwrap();
    let BackendMessage::Authentication(Authentication::Sasl(mechanisms)) = message else {
        panic!("a list of mechanisms")
    };
    assert_eq!(mechanisms.iter().collect::<Vec<_>>(), [b"A", b"B"]);
    assert!(mechanisms.contains("B") && !mechanisms.contains("C"));
    round_trip(message);
}

#[test]
fn a_cancel_key_out_of_bounds_is_refused() {
    for length in [0, 3, 257] {
        let body = vec![1; 4 + length];
        assert!(BackendMessage::parse_body(b'K', &body).is_err());
        let mut out = BytesMut::new();
        let key = vec![1; length];
        let message = BackendMessage::BackendKeyData(BackendKeyData { pid: 1, key: &key });
        assert!(message.encode(&mut out).is_err());
        assert!(out.is_empty());
    }
}

#[test]
fn a_count_of_options_beyond_the_body_is_refused_at_once() {
    assert_eq!(
        BackendMessage::parse_body(b'v', b"\0\x03\0\0\xff\xff\xff\xff"),
        Err(MessageError::Unterminated("option"))
    );
}
