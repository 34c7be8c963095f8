//! A way from the proxy to a server on which connections can be lost at a chosen moment.
//!
//! Owns a listener that passes bytes on and watches for a text in what goes to the server. Main types: [`Detour`], [`Cut`].

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

/// What happens to the connection on which the text is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// It is lost before the server has the text.
    Before,
    /// It is lost when the server has answered, and nobody hears the answer.
    Unanswered,
    /// It is lost right after the answer.
    Answered,
    /// It stands still before the server has the text, until [`Detour::release`]; then it is lost.
    Held,
}

#[derive(Debug)]
struct Trap {
    text: Vec<u8>,
    cut: Cut,
}

#[derive(Debug)]
struct State {
    trap: Mutex<Option<Trap>>,
    sprung: Notify,
    release: watch::Sender<()>,
    server: u16,
}

/// A listener in front of one server.
#[derive(Debug)]
pub struct Detour {
    port: u16,
    state: Arc<State>,
}

impl Detour {
    /// Listens on a free port of 127.0.0.1, for the server that listens on `server`.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("some port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let state = Arc::new(State {
            trap: Mutex::new(None),
            sprung: Notify::new(),
            release: watch::Sender::new(()),
            server,
        });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, Arc::clone(&shared)));
            }
        });
        Self { port, state }
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts the next connection on which this text goes to the server, once.
    ///
    /// # Panics
    /// Never: no thread panics while it holds the lock.
    pub fn set(&self, text: &[u8], cut: Cut) {
        *self.state.trap.lock().expect("nobody panics with it") = Some(Trap {
            text: text.into(),
            cut,
        });
    }

    /// Whether the text that was waited for has been seen.
    ///
    /// # Panics
    /// Never: no thread panics while it holds the lock.
    #[must_use]
    pub fn is_sprung(&self) -> bool {
        self.state
            .trap
            .lock()
            .expect("nobody panics with it")
            .is_none()
    }

    /// Waits until the text is seen.
    pub async fn sprung(&self) {
        self.state.sprung.notified().await;
    }

    /// Cuts what stands still.
    pub fn release(&self) {
        self.state.release.send_replace(());
    }
}

async fn pass(client: TcpStream, state: Arc<State>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", state.server)).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (cut, cuts) = watch::channel(None);
    // whichever direction ends first ends the other: all four halves are dropped
    tokio::select! {
        () = requests(from_client, to_server, &state, &cut) => {}
        () = answers(from_server, to_client, cuts) => {}
    }
}

/// Returns to have the connection cut.
async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: &State,
    cut: &watch::Sender<Option<Cut>>,
) {
    let mut buffer = vec![0; 65_536];
    // the end of what has passed already: a text may come in two pieces
    let mut seen: Vec<u8> = Vec::new();
    let mut released = state.release.subscribe();
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        seen.extend_from_slice(&buffer[..read]);
        let sprung = state.spring(&seen, read);
        let keep = seen.len().saturating_sub(200);
        seen.drain(..keep);
        match sprung {
            Some(Cut::Before) => return,
            Some(Cut::Held) => {
                // a closed channel means that the test is over
                let _ = released.changed().await;
                return;
            }
            Some(later @ (Cut::Unanswered | Cut::Answered)) => {
                cut.send_replace(Some(later));
            }
            None => {}
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// Returns to have the connection cut.
async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    cut: watch::Receiver<Option<Cut>>,
) {
    let mut buffer = vec![0; 65_536];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let cut = *cut.borrow();
        if cut == Some(Cut::Unanswered) {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() || cut == Some(Cut::Answered) {
            return;
        }
    }
}

impl State {
    /// Looks for the text in what has been seen; its end must be among the newest bytes, as the rest passed before the trap was set.
    fn spring(&self, seen: &[u8], newest: usize) -> Option<Cut> {
        let mut trap = self.trap.lock().expect("nobody panics with it");
        let cut = trap
            .as_ref()
            .filter(|trap| {
                recent(seen, newest + trap.text.len() - 1)
                    .windows(trap.text.len())
                    .any(|piece| piece == trap.text)
            })
            .map(|trap| trap.cut)?;
        *trap = None;
        self.sprung.notify_one();
        Some(cut)
    }
}

fn recent(seen: &[u8], bytes: usize) -> &[u8] {
    &seen[seen.len().saturating_sub(bytes)..]
}
