//! The threads that serve clients.
//!
//! Each has a runtime of its own, so that what happens to a client is seen, done and answered on one thread: no other is woken for it. A
//! client stays where it came; it comes to the worker that has the fewest. What is the process's (listening, the control planes, maintenance)
//! runs where [`Workers`] were started.
//! Owns: the threads, and which of them a client goes to. Never does: anything with a client. Main type: [`Workers`].

use std::io;
use std::num::NonZero;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// So many threads for what blocks (passwords, host names) all workers have together, as one runtime of tokio's would.
const BLOCKING_THREADS: usize = 512;

/// Serving one client, begun on its worker.
type Begin = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// A client on its way to its worker, or there.
struct Arrival {
    begin: Begin,
    place: Place,
}

/// One of a worker's clients, for as long as it lives.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(clients: &Arc<AtomicUsize>) -> Self {
        clients.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(clients))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where listeners bring clients. Clones lead to the same workers, which take nobody any more once all are dropped.
#[derive(Clone, Debug)]
pub(super) struct Entrance(Arc<[Way]>);

/// The way to one worker.
#[derive(Debug)]
struct Way {
    arrivals: mpsc::UnboundedSender<Arrival>,
    clients: Arc<AtomicUsize>,
}

impl Entrance {
    /// Has the worker with the fewest clients serve one more: `begin` is called on its thread, within its runtime.
    pub(super) fn bring<F>(&self, begin: impl FnOnce() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let way = self
            .0
            .iter()
            .min_by_key(|way| way.clients.load(Ordering::Relaxed));
        if let Some(way) = way {
            let arrival = Arrival {
                begin: Box::new(|| Box::pin(begin())),
                place: Place::take(&way.clients),
            };
            // a worker that is gone was cut off, and the client with it
            let _ = way.arrivals.send(arrival);
        }
    }
}

/// The running threads. Dropping this cuts their clients off and lets the threads end.
#[derive(Debug)]
pub(super) struct Workers {
    threads: Vec<JoinHandle<()>>,
    /// How far the workers are on their way to the end.
    end: watch::Sender<End>,
    /// Closed once no worker has a client, nor will.
    emptied: mpsc::Receiver<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    No,
    /// Clients are cut off.
    Clients,
    /// So is all that goes on besides.
    All,
}

impl Workers {
    /// Starts `count` threads, or one for each core where that is 0.
    ///
    /// # Errors
    /// What the system says to a thread or a runtime more.
    pub(super) fn start(count: usize) -> io::Result<(Self, Entrance)> {
        let count = match count {
            0 => std::thread::available_parallelism().map_or(1, NonZero::get),
            count => count,
        };
        let (end, _) = watch::channel(End::No);
        let (busy, emptied) = mpsc::channel(1);
        let mut workers = Self {
            threads: Vec::with_capacity(count),
            end,
            emptied,
        };
        let mut ways = Vec::with_capacity(count);
        for number in 0..count {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(BLOCKING_THREADS.div_ceil(count))
                .build()?;
            let (sender, arrivals) = mpsc::unbounded_channel();
            let serving = serve(arrivals, workers.end.subscribe(), busy.clone());
            let thread = std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || runtime.block_on(serving))?;
            workers.threads.push(thread);
            ways.push(Way {
                arrivals: sender,
                clients: Arc::default(),
            });
        }
        Ok((workers, Entrance(ways.into())))
    }

    /// Returns once the last client has left, and nobody can bring another. Cancel-safe.
    pub(super) async fn emptied(&mut self) {
        // nothing is ever sent
        while self.emptied.recv().await.is_some() {}
    }

    /// Cuts off the clients that are left.
    pub(super) async fn cut_off(&mut self) {
        self.end.send_replace(End::Clients);
        self.emptied().await;
    }

    /// Ends the threads, and what clients have left running on them.
    pub(super) async fn shutdown(mut self) {
        self.cut_off().await;
        self.end.send_replace(End::All);
        let joined = tokio::task::spawn_blocking(move || {
            for thread in self.threads {
                // one that panicked has said so
                let _ = thread.join();
            }
        });
        let _ = joined.await;
    }
}

/// One worker's life. `busy` is dropped with its last client.
async fn serve(
    mut arrivals: mpsc::UnboundedReceiver<Arrival>,
    mut end: watch::Receiver<End>,
    busy: mpsc::Sender<()>,
) {
    let mut clients = JoinSet::new();
    let until_empty = async {
        loop {
            tokio::select! {
                arrival = arrivals.recv() => match arrival {
                    Some(Arrival { begin, place }) => {
                        let serving = begin();
                        clients.spawn(async move {
                            serving.await;
                            drop(place);
                        });
                    }
                    None => break,
                },
                Some(_) = clients.join_next() => {}
            }
        }
        while clients.join_next().await.is_some() {}
    };
    tokio::select! {
        () = until_empty => {}
        () = reached(&mut end, End::Clients) => {}
    }
    clients.shutdown().await;
    drop(arrivals);
    drop(busy);
    reached(&mut end, End::All).await;
}

/// Returns once the end is as near as that. Cancel-safe.
async fn reached(end: &mut watch::Receiver<End>, wanted: End) {
    // who is gone wants the end as well
    drop(end.wait_for(|end| *end >= wanted).await);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Mutex;
    use std::thread::{self, ThreadId};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn a_client_comes_to_the_worker_with_the_fewest() {
        let (mut workers, entrance) = Workers::start(2).unwrap();
        let seen: Arc<Mutex<Vec<ThreadId>>> = Arc::default();
        let (leave, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (came, mut arrived) = mpsc::unbounded_channel();
        let bring = |until: &Arc<Notify>| {
            let (seen, until, came) = (Arc::clone(&seen), Arc::clone(until), came.clone());
            entrance.bring(move || async move {
                seen.lock().unwrap().push(thread::current().id());
                // from here on it hears what is told to all who wait
                let told = until.notified();
                came.send(()).unwrap();
                told.await;
            });
        };
        bring(&leave);
        arrived.recv().await.unwrap();
        bring(&go);
        arrived.recv().await.unwrap();
        // the first leaves
        leave.notify_one();
        while entrance.0[0].clients.load(Ordering::Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
        bring(&go);
        arrived.recv().await.unwrap();
        {
            let seen = seen.lock().unwrap();
            assert_ne!(seen[0], seen[1]);
            assert_eq!(seen[0], seen[2]);
            assert!(!seen.contains(&thread::current().id()));
        }
        go.notify_waiters();
        drop(entrance);
        workers.emptied().await;
        workers.shutdown().await;
    }

    #[tokio::test]
    async fn clients_are_cut_off_and_what_they_left_ends_with_the_threads() {
        struct Ends(mpsc::UnboundedSender<&'static str>, &'static str);
        impl Drop for Ends {
            fn drop(&mut self) {
                let _ = self.0.send(self.1);
            }
        }
        let (mut workers, entrance) = Workers::start(1).unwrap();
        let (ends, mut ended) = mpsc::unbounded_channel();
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        entrance.bring(move || async move {
            let (client, left) = (Ends(ends.clone(), "client"), Ends(ends, "left"));
            tokio::spawn(async move {
                let _left = left;
                std::future::pending::<()>().await;
            });
            let _client = client;
            begun.send(()).unwrap();
            std::future::pending::<()>().await;
        });
        has_begun.await.unwrap();
        workers.cut_off().await;
        assert_eq!(ended.recv().await, Some("client"));
        assert!(ended.try_recv().is_err(), "what a client left goes on");
        // whoever comes now is turned away
        entrance.bring(|| async { panic!("nobody is served any more") });
        workers.shutdown().await;
        assert_eq!(ended.recv().await, Some("left"));
        assert_eq!(ended.recv().await, None);
    }
}
