//! A stream from a hostile peer: cut into frames as it would arrive, each parsed as if from a client and as if from a server.
//! What parses must encode to the very bytes it came in.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use pgherd_protocol::{
    BackendMessage, Frame, FrontendMessage, PgError, frontend, peek_header, split_frame,
};

fuzz_target!(|input: (u8, u16, &[u8])| {
    let (piece, max_len, stream) = input;
    let max_len = usize::from(max_len);
    let mut buffer = BytesMut::new();
    for piece in stream.chunks(usize::from(piece).max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            let header = peek_header(&buffer, max_len);
            match split_frame(&mut buffer, max_len) {
                Ok(Some(frame)) => {
                    let header = header.expect("a frame was cut").expect("a frame was cut");
                    assert_eq!((header.tag, header.len), (frame.tag(), frame.len()));
                    assert!(frame.len() <= max_len);
                    read(&frame);
                }
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(header, Err(error));
                    return;
                }
            }
        }
        // memory follows what was sent, not what was announced
        assert!(buffer.capacity() <= 4 * stream.len() + 256 * 1024);
    }
});

fn read(frame: &Frame) {
    if let Ok(message) = FrontendMessage::parse(frame) {
        let mut out = BytesMut::new();
        message
            .encode(&mut out)
            .expect("what was read can be written");
        assert_eq!(out, frame.bytes());
        let _ = format!("{message:?}");
        if let FrontendMessage::Bind(bind) = message {
            assert_eq!(bind.parameters().count(), bind.parameter_count());
        }
        if let FrontendMessage::Password(body) = message {
            let _ = frontend::password(body);
            let _ = frontend::SaslInitialResponse::parse(body);
        }
    }
    if let Ok(message) = BackendMessage::parse(frame) {
        let mut out = BytesMut::new();
        message
            .encode(&mut out)
            .expect("what was read can be written");
        assert_eq!(out, frame.bytes());
        let _ = format!("{message:?}");
        match message {
            BackendMessage::RowDescription(description) => {
                assert_eq!(description.fields().count(), description.len());
            }
            BackendMessage::DataRow(row) => assert_eq!(row.values().count(), row.len()),
            BackendMessage::ErrorResponse(fields) => {
                let mut out = BytesMut::new();
                PgError::from(fields).encode(&mut out);
                PgError::parse(&out[5..]).expect("our own error can be read");
            }
            _ => {}
        }
    }
}
