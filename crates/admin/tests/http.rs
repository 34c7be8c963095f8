//! /metrics, /healthz and /readyz over a socket.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use pgherd_admin::serve_http;
use support::Front;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// Status line and body.
async fn get(address: std::net::SocketAddr, path: &str) -> (String, String) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[tokio::test]
async fn health_readiness_and_metrics_are_served_until_the_end() {
    let front = Front::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (end, ended) = oneshot::channel::<()>();
    let ended = async move { drop(ended.await) };
    let serving = tokio::spawn(serve_http(listener, Arc::clone(&front.herd), ended));

    let (status, body) = get(address, "/healthz").await;
    assert_eq!(
        (status.as_str(), body.as_str()),
        ("HTTP/1.1 200 OK", "ok\n")
    );
    let (status, body) = get(address, "/readyz").await;
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert!(
        body.contains("database shop: shard s0 has no primary that answers\n"),
        "{body}"
    );

    front.become_ready();
    let (status, body) = get(address, "/readyz").await;
    assert_eq!(
        (status.as_str(), body.as_str()),
        ("HTTP/1.1 200 OK", "ok\n")
    );

    front.psql("password=wrong", "SHOW VERSION").await;
    let (status, body) = get(address, "/metrics").await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    for expected in [
        r#"pgherd_clients{database="shop"} 0"#,
        r#"pgherd_login_failures_total{reason="password"} 1"#,
        r#"pgherd_server_up{database="shop",shard="s0",server="s0a",role="primary"} 1"#,
        r#"pgherd_server_connections{database="shop",shard="s1",server="s1a",state="idle"} 0"#,
    ] {
        assert!(body.contains(expected), "{expected} in {body}");
    }

    front.herd.drain();
    let (status, body) = get(address, "/readyz").await;
    assert!(
        status.contains("503") && body == "pgherd is shutting down\n",
        "{status} {body}"
    );
    assert!(get(address, "/nothing").await.0.contains("404"));

    end.send(()).unwrap();
    serving.await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
