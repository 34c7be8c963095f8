//! The exchange as a whole: the RFC's own vector, both ends of ours against each other, and hostile input.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::auth::{Credential, MockSecret};
use crate::backend::Mechanisms;

const BOTH: &[&str] = &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256];
const PLAIN: &[&str] = &[SCRAM_SHA_256];

fn bound(hash: &[u8]) -> ChannelBinding {
    ChannelBinding::TlsServerEndPoint(hash.to_vec())
}

fn client(credential: &Credential, offered: &[&str], binding: ChannelBinding) -> ScramClient {
    ScramClient::new(credential, Mechanisms::new(offered), binding).unwrap()
}

/// A whole login; the keys the server learnt.
fn log_in(client: ScramClient, server: ScramServer) -> Result<ScramKeys, AuthError> {
    let mechanism = client.mechanism();
    let (server_first, server) =
        server.client_first(mechanism.as_bytes(), &client.client_first())?;
    let (client_final, client) = client.server_first(&server_first)?;
    let accepted = server.client_final(&client_final)?;
    client.server_final(&accepted.server_final)?;
    Ok(accepted.keys)
}

#[test]
fn the_exchange_of_rfc_7677_is_computed_as_there() {
    let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let verifier = ScramVerifier::from_password(&Secret::from("pencil"), 4096, salt);
    let server = ScramServer::new(
        "user",
        Some(&verifier),
        &MockSecret::random(1),
        ChannelBinding::NotSupported,
    )
    .with_nonce("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0");
    let (server_first, server) = server
        .client_first(b"SCRAM-SHA-256", b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
        .unwrap();
    assert_eq!(
        server_first,
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    );
    let accepted = server
        .client_final(
            b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        )
        .unwrap();
    assert_eq!(
        accepted.server_final,
        b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    );
}

#[test]
fn the_client_agrees_with_the_client_of_postgres_protocol() {
    use postgres_protocol::authentication::sasl;
    let password = Secret::from("foobar");
    let verifier = ScramVerifier::generate(&password, 4096);
    let server = ScramServer::new(
        "u",
        Some(&verifier),
        &MockSecret::random(1),
        bound(b"certificate"),
    );
    let mut theirs = sasl::ScramSha256::new(
        b"foobar",
        sasl::ChannelBinding::tls_server_end_point(b"certificate".to_vec()),
    );
    let (server_first, server) = server
        .client_first(SCRAM_SHA_256_PLUS.as_bytes(), theirs.message())
        .unwrap();
    theirs.update(&server_first).unwrap();
    let accepted = server.client_final(theirs.message()).unwrap();
    theirs.finish(&accepted.server_final).unwrap();
    assert_eq!(
        accepted.keys,
        ScramKeys::derive(&password, &verifier.salt, 4096)
    );
}

#[test]
fn a_verifier_is_printed_and_read_as_postgres_protocol_prints_it() {
    let theirs = postgres_protocol::password::scram_sha_256(b"secret");
    let read: ScramVerifier = theirs.parse().unwrap();
    assert!(read.fits(&Secret::from("secret")));
    assert!(!read.fits(&Secret::from("Secret")));
    assert_eq!(read.to_string(), theirs);
}

#[test]
fn keys_learnt_from_a_login_log_in_to_a_server_with_the_same_verifier() {
    let password = Secret::from("correct horse");
    let verifier = ScramVerifier::generate(&password, 64);
    let mock = MockSecret::random(64);
    let serve = || ScramServer::new("u", Some(&verifier), &mock, ChannelBinding::NotSupported);
    let learnt = log_in(
        client(
            &Credential::Password(password),
            PLAIN,
            ChannelBinding::NotSupported,
        ),
        serve(),
    )
    .unwrap();
    let learnt = Credential::ScramKeys(learnt);
    let again = log_in(
        client(&learnt, PLAIN, ChannelBinding::NotSupported),
        serve(),
    );
    assert!(again.is_ok());

    let other = ScramVerifier::generate(&Secret::from("correct horse"), 64);
    let elsewhere = ScramServer::new("u", Some(&other), &mock, ChannelBinding::NotSupported);
    assert_eq!(
        log_in(
            client(&learnt, PLAIN, ChannelBinding::NotSupported),
            elsewhere
        ),
        Err(AuthError::WrongPassword)
    );
}

#[test]
fn a_wrong_password_and_a_missing_user_fail_at_the_same_step_alike() {
    let verifier = ScramVerifier::generate(&Secret::from("right"), 64);
    let mock = MockSecret::random(64);
    for verifier in [Some(&verifier), None] {
        let server = ScramServer::new("u", verifier, &mock, ChannelBinding::NotSupported);
        let client = client(
            &Credential::Password(Secret::from("wrong")),
            PLAIN,
            ChannelBinding::NotSupported,
        );
        assert_eq!(log_in(client, server), Err(AuthError::WrongPassword));
    }
}

#[test]
fn an_exchange_over_two_tls_connections_is_refused() {
    let password = Secret::from("pw");
    let verifier = ScramVerifier::generate(&password, 8);
    let server = ScramServer::new("u", Some(&verifier), &MockSecret::random(8), bound(b"ours"));
    let client = client(&Credential::Password(password), BOTH, bound(b"another"));
    assert!(client.is_channel_bound());
    assert!(matches!(
        log_in(client, server),
        Err(AuthError::ChannelBinding(_))
    ));
}

#[test]
fn hiding_the_plus_mechanism_from_a_client_that_could_bind_is_found_out() {
    let password = Secret::from("pw");
    let verifier = ScramVerifier::generate(&password, 8);
    let mock = MockSecret::random(8);
    let credential = Credential::Password(password);
    let server = ScramServer::new("u", Some(&verifier), &mock, bound(b"hash"));
    assert!(matches!(
        log_in(client(&credential, PLAIN, bound(b"hash")), server),
        Err(AuthError::ChannelBinding(_))
    ));
    // a client that cannot bind at all is let in, and so is one that can where the server truly cannot
    let server = ScramServer::new("u", Some(&verifier), &mock, bound(b"hash"));
    assert!(
        log_in(
            client(&credential, BOTH, ChannelBinding::NotSupported),
            server
        )
        .is_ok()
    );
    let server = ScramServer::new("u", Some(&verifier), &mock, ChannelBinding::NotSupported);
    assert!(log_in(client(&credential, PLAIN, bound(b"hash")), server).is_ok());
}

#[test]
fn mechanism_and_flag_must_agree() {
    let mock = MockSecret::random(8);
    let start = |binding, mechanism: &str, data: &[u8]| {
        ScramServer::new("u", None, &mock, binding)
            .client_first(mechanism.as_bytes(), data)
            .map(drop)
    };
    let not_bound = || ChannelBinding::NotSupported;
    for (binding, mechanism, data) in [
        (bound(b"h"), SCRAM_SHA_256_PLUS, &b"n,,n=,r=abc"[..]),
        (bound(b"h"), SCRAM_SHA_256_PLUS, b"y,,n=,r=abc"),
        (bound(b"h"), SCRAM_SHA_256_PLUS, b"p=tls-unique,,n=,r=abc"),
        (
            bound(b"h"),
            SCRAM_SHA_256,
            b"p=tls-server-end-point,,n=,r=abc",
        ),
        (
            not_bound(),
            SCRAM_SHA_256_PLUS,
            b"p=tls-server-end-point,,n=,r=abc",
        ),
        (not_bound(), "SCRAM-SHA-1", b"n,,n=,r=abc"),
        (not_bound(), SCRAM_SHA_256, b"n,a=admin,n=,r=abc"),
        (not_bound(), SCRAM_SHA_256, b"n,,m=x,n=,r=abc"),
        (not_bound(), SCRAM_SHA_256, b"n,,n=,r="),
        (not_bound(), SCRAM_SHA_256, b"n,,n=,r=a\x7f"),
        (not_bound(), SCRAM_SHA_256, b"n,,n="),
        (not_bound(), SCRAM_SHA_256, b""),
    ] {
        assert!(
            start(binding, mechanism, data).is_err(),
            "{mechanism} {}",
            data.escape_ascii()
        );
    }
    assert_eq!(
        start(not_bound(), SCRAM_SHA_256, b"n,,n=,r=abc,x=more"),
        Ok(())
    );
}

#[test]
fn a_server_that_does_not_know_the_password_is_found_out() {
    let credential = Credential::Password(Secret::from("pw"));
    let client = client(&credential, PLAIN, ChannelBinding::NotSupported).with_nonce("abc");
    let (_, client) = client.server_first(b"r=abcdef,s=c2FsdA==,i=8").unwrap();
    let forged = format!("v={}", BASE64.encode([7; 32]));
    assert_eq!(
        client.server_final(forged.as_bytes()),
        Err(AuthError::ServerSignature)
    );
}

#[test]
fn what_a_server_may_not_say_is_refused() {
    let credential = Credential::Password(Secret::from("pw"));
    let say = |data: &[u8]| {
        client(&credential, PLAIN, ChannelBinding::NotSupported)
            .with_nonce("abc")
            .server_first(data)
            .map(drop)
    };
    assert_eq!(say(b"r=abcdef,s=c2FsdA==,i=8"), Ok(()));
    for data in [
        &b"r=abc,s=c2FsdA==,i=8"[..],
        b"r=other,s=c2FsdA==,i=8",
        b"r=abcdef,s=,i=8",
        b"r=abcdef,s=!,i=8",
        b"r=abcdef,s=c2FsdA==,i=0",
        b"r=abcdef,s=c2FsdA==,i=-8",
        b"r=abcdef,s=c2FsdA==,i=1000001",
        b"r=abcdef,s=c2FsdA==,i=99999999999999999999999",
        b"m=x,r=abcdef,s=c2FsdA==,i=8",
        b"r=abcdef,s=c2FsdA==",
        b"",
    ] {
        assert!(say(data).is_err(), "{}", data.escape_ascii());
    }
    let (_, client) = client(&credential, PLAIN, ChannelBinding::NotSupported)
        .with_nonce("abc")
        .server_first(b"r=abcdef,s=c2FsdA==,i=8")
        .unwrap();
    assert_eq!(
        client.server_final(b"e=other-error"),
        Err(AuthError::ServerRejected("other-error".to_owned()))
    );
}

#[test]
fn a_client_without_a_fitting_mechanism_or_password_does_not_begin() {
    let password = Credential::Password(Secret::from("pw"));
    let begin = |credential: &Credential, offered: &[&str], binding| {
        ScramClient::new(credential, Mechanisms::new(offered), binding).map(drop)
    };
    assert_eq!(
        begin(&password, &["OAUTHBEARER"], ChannelBinding::NotSupported),
        Err(AuthError::NoMechanism)
    );
    assert_eq!(
        begin(
            &password,
            &[SCRAM_SHA_256_PLUS],
            ChannelBinding::NotSupported
        ),
        Err(AuthError::NoMechanism)
    );
    assert!(matches!(
        begin(&Credential::Nothing, PLAIN, ChannelBinding::NotSupported),
        Err(AuthError::NoCredential { .. })
    ));
}

#[test]
fn passwords_are_prepared_as_postgres_prepares_them() {
    // the examples of RFC 4013, then what falls back to the bytes as they are
    assert_eq!(&prepare("I\u{ad}X".as_bytes())[..], b"IX");
    assert_eq!(&prepare("\u{aa}".as_bytes())[..], b"a");
    assert_eq!(&prepare("\u{2168}".as_bytes())[..], b"IX");
    for kept in [
        &b"\x07"[..],
        b"\xff\xfe",
        "\u{627}1".as_bytes(),
        "\u{ad}".as_bytes(),
        b"",
    ] {
        assert_eq!(&prepare(kept)[..], kept);
    }
}

proptest! {
    #[test]
    fn any_password_logs_in_and_another_does_not(password in prop::collection::vec(any::<u8>(), 1..40), bind: bool) {
        let binding = || if bind { bound(b"hash") } else { ChannelBinding::NotSupported };
        let offered = if bind { BOTH } else { PLAIN };
        let verifier = ScramVerifier::generate(&Secret::new(password.clone()), 2);
        let mock = MockSecret::random(2);
        let serve = || ScramServer::new("u", Some(&verifier), &mock, binding());
        let right = Credential::Password(Secret::new(password.clone()));
        prop_assert!(log_in(client(&right, offered, binding()), serve()).is_ok());
        let mut other = b"x".to_vec();
        other.extend(&password);
        let wrong = Credential::Password(Secret::new(other));
        prop_assert_eq!(log_in(client(&wrong, offered, binding()), serve()), Err(AuthError::WrongPassword));
    }

    #[test]
    fn no_bytes_make_an_exchange_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..100),
        text in "(n|y|p=[a-z-]{0,5}|[a-z]),[a-z=]{0,4},?([a-z]=[a-zA-Z0-9+/=]{0,8},?){0,5}",
    ) {
        let mock = MockSecret::random(1);
        for data in [&bytes[..], text.as_bytes()] {
            let server = || ScramServer::new("u", None, &mock, bound(b"h"));
            for mechanism in BOTH {
                let _ = server().client_first(mechanism.as_bytes(), data);
            }
            let (_, proof) = server().client_first(SCRAM_SHA_256.as_bytes(), b"n,,n=,r=abc").unwrap();
            prop_assert!(proof.client_final(data).is_err());
            let _ = message::server_first(data);
            let _ = message::server_final(data);
            let _ = String::from_utf8_lossy(data).parse::<ScramVerifier>();
        }
    }
}
