//! What a hostile client says before it is known: first packets, then the messages of a SCRAM exchange.
//! A startup message that is read must be read the same from its own encoding; nobody is let in.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use pgherd_protocol::auth::scram::{SCRAM_SHA_256, SCRAM_SHA_256_PLUS};
use pgherd_protocol::auth::{
    ChannelBinding, Credential, MockSecret, ScramClient, ScramServer, Verifier,
};
use pgherd_protocol::backend::Mechanisms;
use pgherd_protocol::{FirstPacket, Secret, read_first_packet};

fuzz_target!(|input: &[u8]| {
    let mut buffer = BytesMut::from(input);
    while let Ok(Some(packet)) = read_first_packet(&mut buffer) {
        if let FirstPacket::Startup(message) = packet {
            let _ = (message.user(), message.database());
            let mut out = BytesMut::new();
            if let Some(negotiation) = message.negotiation() {
                negotiation.encode(&mut out).expect("its options were read");
                out.clear();
            }
            message
                .encode(&mut out)
                .expect("what was read can be written");
            // options of the protocol are written after the parameters, whatever their order was
            let Ok(Some(FirstPacket::Startup(again))) = read_first_packet(&mut out) else {
                panic!("a startup message");
            };
            assert_eq!(again, message);
        }
    }

    let binding = || ChannelBinding::TlsServerEndPoint(b"hash".to_vec());
    let server = || ScramServer::new("user", None, &MockSecret::new([7; 32], 1), binding());
    for mechanism in [SCRAM_SHA_256, SCRAM_SHA_256_PLUS] {
        if let Ok((_, proof)) = server().client_first(mechanism.as_bytes(), input) {
            assert!(proof.client_final(input).is_err());
        }
    }
    let (_, proof) = server()
        .client_first(SCRAM_SHA_256.as_bytes(), b"n,,n=,r=abc")
        .expect("a proper first message");
    assert!(proof.client_final(input).is_err());

    // SCRAM keys rather than a password, so that a high iteration count costs nothing
    let password = Secret::from("password");
    let keys = pgherd_protocol::auth::ScramKeys::derive(&password, b"salt", 1);
    let client = ScramClient::new(
        &Credential::ScramKeys(keys),
        Mechanisms::new(&[SCRAM_SHA_256]),
        ChannelBinding::NotSupported,
    )
    .expect("a mechanism both ends have");
    assert!(
        client.server_first(input).is_err(),
        "a nonce nobody could guess"
    );
    if let Ok(text) = std::str::from_utf8(input) {
        let _ = text.parse::<Verifier>();
    }
});
