//! Every frontend message round-trips, and no bytes make a parser panic.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::frame::split_frame;

fn frame(mut bytes: BytesMut) -> Frame {
    let frame = split_frame(&mut bytes, usize::MAX).unwrap().unwrap();
    assert!(bytes.is_empty());
    frame
}

/// Parses what was encoded, compares, and encodes that again.
fn round_trip(message: FrontendMessage<'_>) {
    let mut out = BytesMut::new();
    message.encode(&mut out).unwrap();
    let frame = frame(out);
    let read = FrontendMessage::parse(&frame).unwrap();
    assert_eq!(read, message);
    assert_eq!(frame.tag(), message.tag());
    let mut again = BytesMut::new();
    read.encode(&mut again).unwrap();
    assert_eq!(again, frame.bytes());
}

fn string() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(1u8..=255, 0..40)
}

fn formats() -> impl Strategy<Value = Vec<Format>> {
    prop::collection::vec(prop::sample::select(&[Format::Text, Format::Binary]), 0..4)
}

fn values() -> impl Strategy<Value = Vec<Option<Vec<u8>>>> {
    prop::collection::vec(
        prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
        0..6,
    )
}

fn borrowed(values: &[Option<Vec<u8>>]) -> Vec<Option<&[u8]>> {
    values.iter().map(Option::as_deref).collect()
}

proptest! {
    #[test]
    fn messages_of_one_string_round_trip(text in string(), bytes in prop::collection::vec(any::<u8>(), 0..60), max_rows: i32) {
        round_trip(FrontendMessage::Query(&text));
        round_trip(FrontendMessage::CopyFail(&text));
        round_trip(FrontendMessage::CopyData(&bytes));
        round_trip(FrontendMessage::Password(&bytes));
        round_trip(FrontendMessage::Execute { portal: &text, max_rows });
        for target in [Target::Statement, Target::Portal] {
            round_trip(FrontendMessage::Describe { target, name: &text });
            round_trip(FrontendMessage::Close { target, name: &text });
        }
    }

    #[test]
    fn parse_round_trips(name in string(), sql in string(), types in prop::collection::vec(any::<u32>(), 0..10)) {
        let mut out = BytesMut::new();
        encode_parse(&mut out, &name, &sql, types.iter().copied()).unwrap();
        let frame = frame(out);
        let FrontendMessage::Parse(parse) = FrontendMessage::parse(&frame).unwrap() else { panic!("a Parse") };
        prop_assert_eq!((parse.name, parse.sql), (&name[..], &sql[..]));
        prop_assert_eq!(parse.parameter_types().collect::<Vec<_>>(), types);
        round_trip(FrontendMessage::Parse(parse));
        let mut renamed = parse;
        renamed.name = b"renamed";
        round_trip(FrontendMessage::Parse(renamed));
    }

    #[test]
    fn bind_round_trips(portal in string(), statement in string(), one: bool, each: bool, values in values(), result in formats()) {
        let format = |index: usize| if index.is_multiple_of(2) { Format::Binary } else { Format::Text };
        let parameter_formats: Vec<Format> = match (one, each) {
            (true, _) => vec![Format::Binary],
            (false, true) => (0..values.len()).map(format).collect(),
            (false, false) => Vec::new(),
        };
        let mut out = BytesMut::new();
        encode_bind(&mut out, &portal, &statement, parameter_formats.iter().copied(), borrowed(&values), result.iter().copied()).unwrap();
        let frame = frame(out);
        let FrontendMessage::Bind(bind) = FrontendMessage::parse(&frame).unwrap() else { panic!("a Bind") };
        prop_assert_eq!((bind.portal, bind.statement), (&portal[..], &statement[..]));
        prop_assert_eq!(bind.parameters().collect::<Vec<_>>(), borrowed(&values));
        prop_assert_eq!(bind.parameters().len(), values.len());
        prop_assert_eq!(bind.result_formats().iter().collect::<Vec<_>>(), result);
        for (index, value) in values.iter().enumerate() {
            prop_assert_eq!(bind.parameter(index), Some(value.as_deref()));
            let expected = if one { Format::Binary } else if each { format(index) } else { Format::Text };
            prop_assert_eq!(bind.parameter_format(index), expected);
        }
        prop_assert_eq!(bind.parameter(values.len()), None);
        round_trip(FrontendMessage::Bind(bind));
        let mut renamed = bind;
        renamed.statement = b"renamed";
        round_trip(FrontendMessage::Bind(renamed));
    }

    #[test]
    fn function_call_round_trips(function: u32, values in values()) {
        let mut body = BytesMut::new();
        body.put_u32(function);
        body.put_u16(1);
        body.put_i16(1);
        Values::write(&mut body, "arguments", borrowed(&values)).unwrap();
        body.put_i16(1);
        let message = FrontendMessage::parse_body(tag::FUNCTION_CALL, &body).unwrap();
        let FrontendMessage::FunctionCall(call) = message else { panic!("a FunctionCall") };
        prop_assert_eq!(call.arguments().collect::<Vec<_>>(), borrowed(&values));
        round_trip(message);
    }

    #[test]
    fn the_answers_of_an_exchange_round_trip(text in string(), data in prop::option::of(prop::collection::vec(any::<u8>(), 0..20))) {
        let response = SaslInitialResponse { mechanism: &text, data: data.as_deref() };
        let mut out = BytesMut::new();
        response.encode(&mut out).unwrap();
        let sent = frame(out);
        prop_assert_eq!(SaslInitialResponse::parse(sent.body()).unwrap(), response);
        let mut out = BytesMut::new();
        encode_password(&mut out, &text).unwrap();
        let sent = frame(out);
        prop_assert_eq!(password(sent.body()).unwrap(), &text[..]);
    }

    #[test]
    fn no_bytes_make_a_parser_panic(tag in prop::sample::select(&b"QPBDECSHdcfXFp?"[..]), body in prop::collection::vec(prop_oneof![Just(0u8), 0u8..4, any::<u8>()], 0..60)) {
        if let Ok(message) = FrontendMessage::parse_body(tag, &body) {
            round_trip(message);
        }
        let _ = SaslInitialResponse::parse(&body);
        let _ = password(&body);
    }
}

#[test]
fn messages_without_a_body_round_trip() {
    for message in [
        FrontendMessage::Sync,
        FrontendMessage::Flush,
        FrontendMessage::CopyDone,
        FrontendMessage::Terminate,
    ] {
        round_trip(message);
    }
}

#[test]
fn a_body_with_something_left_over_is_refused() {
    assert_eq!(
        FrontendMessage::parse_body(b'S', b"x"),
        Err(MessageError::Trailing(1))
    );
    assert_eq!(
        FrontendMessage::parse_body(b'Q', b"select 1\0;\0"),
        Err(MessageError::Trailing(2))
    );
    assert_eq!(
        FrontendMessage::parse_body(b'Q', b"select 1"),
        Err(MessageError::Unterminated("query string"))
    );
}

#[test]
fn a_count_beyond_the_body_is_refused() {
    let error = FrontendMessage::parse_body(b'P', b"\0\0\xff\xff\0\0\0\x01");
    assert_eq!(error, Err(MessageError::Truncated("parameter types")));
    let error = FrontendMessage::parse_body(b'B', b"\0\0\0\0\0\x01\x7f\xff\xff\xff\0\0");
    assert_eq!(error, Err(MessageError::Truncated("parameters")));
}

#[test]
fn formats_must_be_none_or_one_or_as_many_as_parameters() {
    let error = FrontendMessage::parse_body(b'B', b"\0\0\0\x02\0\0\0\0\0\x01\xff\xff\xff\xff\0\0")
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "bind message has 2 parameter formats but 1 parameters"
    );
    let error = FrontendMessage::parse_body(b'B', b"\0\0\0\x01\0\x02\0\0\0\0").unwrap_err();
    assert_eq!(error, MessageError::UnsupportedFormat(2));
    assert_eq!(error.code().as_str(), "22023");
}

#[test]
fn debug_shows_no_sql_value_or_password() {
    let mut out = BytesMut::new();
    encode_bind(&mut out, b"", b"s1", [], [Some(&b"hunter2"[..])], []).unwrap();
    let bind = frame(out);
    let shown = format!(
        "{:?} {:?} {:?} {:?}",
        FrontendMessage::Password(b"hunter2\0"),
        FrontendMessage::Query(b"alter role me password 'hunter2'"),
        FrontendMessage::Parse(Parse::untyped(b"", b"select 'hunter2'")),
        FrontendMessage::parse(&bind).unwrap(),
    );
    assert_eq!(
        shown,
        "Password(8 bytes) Query(32 bytes) Parse(\"\", 16 bytes, 0 types) Bind(\"\" of \"s1\", Values(1 in 11 bytes))"
    );
}
