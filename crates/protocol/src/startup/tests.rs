//! First packets round-trip, and what Postgres refuses is refused.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::backend::BackendMessage;
use crate::frame::split_frame;

fn read(bytes: &[u8]) -> Result<Option<FirstPacket>, StartupError> {
    read_first_packet(&mut BytesMut::from(bytes))
}

fn packet(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&length.to_be_bytes()[..], body].concat()
}

#[test]
fn requests_without_names_round_trip() {
    let mut out = BytesMut::new();
    encode_ssl_request(&mut out);
    encode_gssenc_request(&mut out);
    assert_eq!(
        read_first_packet(&mut out),
        Ok(Some(FirstPacket::SslRequest))
    );
    assert_eq!(
        read_first_packet(&mut out),
        Ok(Some(FirstPacket::GssEncRequest))
    );
    assert!(out.is_empty());
}

#[test]
fn what_comes_after_an_ssl_request_is_left_in_the_buffer() {
    let mut out = BytesMut::new();
    encode_ssl_request(&mut out);
    out.extend_from_slice(b"smuggled");
    assert_eq!(
        read_first_packet(&mut out),
        Ok(Some(FirstPacket::SslRequest))
    );
    assert_eq!(&out[..], b"smuggled");
}

#[test]
fn a_length_no_first_packet_can_have_is_refused() {
    for bytes in [
        &b"\0\0\0\x07"[..],
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\0\0\x27\x15",
        b"GET / HTTP/1.1",
        b"\x16\x03\x01\x02\0",
    ] {
        assert_eq!(read(bytes), Err(StartupError::InvalidLength));
    }
    assert_eq!(read(b"\0\0\x27\x14"), Ok(None));
    assert_eq!(begins_with_tls(b"\x16\x03"), Some(true));
    assert_eq!(begins_with_tls(b"\0"), Some(false));
    assert_eq!(begins_with_tls(b""), None);
}

#[test]
fn another_major_version_is_refused_as_unsupported() {
    let error = read(&packet(&[0, 2, 0, 0, 0])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "unsupported frontend protocol 2.0: server supports 3.0 to 3.2"
    );
    assert_eq!(error.code(), SqlState::FEATURE_NOT_SUPPORTED);
}

#[test]
fn a_layout_that_is_not_pairs_and_a_terminator_is_refused() {
    for body in [
        &b"\0\x03\0\0"[..],
        b"\0\x03\0\0user\0",
        b"\0\x03\0\0user\0me\0",
        b"\0\x03\0\0user\0me\0\0more",
        b"\0\x03\0\0user\0\xff\0\0",
        b"\x04\xd2\x16\x2e\0\0\0\x01abc",
        b"\x04\xd2\x16\x2fx",
    ] {
        assert!(matches!(read(&packet(body)), Err(StartupError::Layout(_))));
    }
    assert!(matches!(
        read(&packet(
            &[&b"\x04\xd2\x16\x2e\0\0\0\x01"[..], &[1; 257]].concat()
        )),
        Err(StartupError::Layout(_))
    ));
}

#[test]
fn the_database_is_named_as_the_user_if_none_is_named() {
    let named = |parameters: &[(&str, &str)]| {
        StartupMessage::new(
            ProtocolVersion::V3_0,
            parameters
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        )
    };
    let message = named(&[("user", "old"), ("user", "app")]);
    assert_eq!(message.user(), Ok("app"));
    assert_eq!(message.database(), Ok("app"));
    assert_eq!(
        named(&[("user", "app"), ("database", "shop")]).database(),
        Ok("shop")
    );
    assert_eq!(named(&[("user", "")]).user(), Err(StartupError::NoUser));
    assert_eq!(StartupError::NoUser.code().as_str(), "28000");
}

#[test]
fn a_newer_minor_version_and_unknown_options_are_negotiated() {
    let body = b"\0\x03\x27\x0fuser\0app\0_pq_.command_compression\0on\0\0";
    let Ok(Some(FirstPacket::Startup(message))) = read(&packet(body)) else {
        panic!("a startup message")
    };
    assert_eq!(message.effective_version(), ProtocolVersion::V3_2);
    let mut out = BytesMut::new();
    message.negotiation().unwrap().encode(&mut out).unwrap();
    let frame = split_frame(&mut out, 1000).unwrap().unwrap();
    let BackendMessage::NegotiateProtocolVersion(answer) = BackendMessage::parse(&frame).unwrap()
    else {
        panic!("a negotiation")
    };
    assert_eq!(answer.version, ProtocolVersion::V3_2);
    assert_eq!(
        answer.options().collect::<Vec<_>>(),
        [b"_pq_.command_compression"]
    );
    for minor in [0, 1, 2] {
        let version = ProtocolVersion { major: 3, minor };
        let message = StartupMessage::new(version, Vec::new());
        assert!(message.negotiation().is_none());
        assert_eq!(message.effective_version(), version);
    }
}

#[test]
fn what_a_server_would_not_take_is_not_sent() {
    let with = |name: &str, value: String| {
        StartupMessage::new(ProtocolVersion::V3_0, vec![(name.to_owned(), value)])
            .encode(&mut BytesMut::new())
    };
    assert!(with("user", "a\0b".to_owned()).is_err());
    assert!(with("", "a".to_owned()).is_err());
    assert!(with("user", "a".repeat(MAX_STARTUP_LEN)).is_err());
    assert_eq!(with("user", "a".repeat(MAX_STARTUP_LEN - 11)), Ok(()));
}

proptest! {
    #[test]
    fn startup_messages_round_trip(
        minor: u16,
        parameters in prop::collection::vec(("[a-zé]{1,10}", "[^\0]{0,20}"), 0..6),
        options in prop::collection::vec(("_pq_\\.[a-z]{0,5}", "[^\0]{0,5}"), 0..3),
    ) {
        let version = ProtocolVersion { major: 3, minor };
        let message = StartupMessage { version, parameters, protocol_options: options };
        let mut out = BytesMut::new();
        message.encode(&mut out).unwrap();
        prop_assert_eq!(read_first_packet(&mut out), Ok(Some(FirstPacket::Startup(message))));
        prop_assert!(out.is_empty());
    }

    #[test]
    fn cancel_requests_round_trip_and_wait_for_their_end(pid: i32, key in prop::collection::vec(any::<u8>(), 4..=256)) {
        let key = CancelKey::new(&key).unwrap();
        let mut out = BytesMut::new();
        encode_cancel_request(&mut out, pid, &key);
        for end in 0..out.len() {
            prop_assert_eq!(read(&out[..end]), Ok(None));
        }
        prop_assert_eq!(read_first_packet(&mut out), Ok(Some(FirstPacket::CancelRequest { pid, key })));
    }

    #[test]
    fn no_bytes_make_it_panic(
        code in prop::sample::select(&[CANCEL_CODE, SSL_CODE, GSSENC_CODE, 0x3_0000, 0x3_0002, 0x3_270f, 0]),
        body in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..300),
    ) {
        let _ = read(&body);
        let _ = read(&packet(&[&code.to_be_bytes()[..], &body].concat()));
    }
}
