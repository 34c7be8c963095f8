//! Who listens to what: the clients of one database, over the connections that they share.
//!
//! Owns: which clients a notification reaches, and which channels nobody needs any more. Never does: I/O.
//! Main type: [`Channels`].

use std::collections::HashMap;
use std::sync::Arc;

use pgherd_protocol::PgError;

use super::changes::Change;
use super::mailbox::{MAX_WAITING, Mailbox, Message, Pushed, too_slow};
use crate::registry::ClientId;

/// A client's part in a channel.
#[derive(Debug)]
enum Interest {
    /// Its transaction may come to listen. What it sends itself meanwhile it will hear then: Postgres begins to listen before a
    /// transaction's own notifications are sent.
    Reserved(Vec<Arc<Message>>, usize),
    /// It listens.
    Listening,
}

/// What passing a notification on came to.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    /// How many clients are ended because they take nothing.
    pub(super) ended: usize,
    /// Those that should be given a moment.
    pub(super) crowded: Vec<Arc<Mailbox>>,
}

/// The channels of one database.
#[derive(Debug, Default)]
pub(super) struct Channels {
    channels: HashMap<Box<str>, HashMap<ClientId, Interest>>,
    clients: HashMap<ClientId, Arc<Mailbox>>,
}

impl Channels {
    /// A client may come to listen. Whether it does already changes nothing.
    pub(super) fn reserve(&mut self, client: ClientId, mailbox: &Arc<Mailbox>, channel: &str) {
        self.clients
            .entry(client)
            .or_insert_with(|| Arc::clone(mailbox));
        self.channels
            .entry(channel.into())
            .or_default()
            .entry(client)
            .or_insert_with(|| Interest::Reserved(Vec::new(), 0));
    }

    /// What a client's transaction has changed is in force. With `ends` it has reserved nothing further. Returns the channels that nobody
    /// needs any more. A client that is not known (its listening connection was lost) changes nothing.
    pub(super) fn apply(
        &mut self,
        client: ClientId,
        changes: &[Change],
        ends: bool,
    ) -> Vec<Box<str>> {
        let Some(mailbox) = self.clients.get(&client).cloned() else {
            return Vec::new();
        };
        for change in changes {
            match change {
                Change::Listen(channel) => self.listen(client, &mailbox, channel),
                Change::Unlisten(channel) => {
                    if let Some(listeners) = self.channels.get_mut(channel) {
                        listeners.remove(&client);
                        mailbox.forget(channel);
                    }
                }
                Change::UnlistenAll => {
                    for (channel, listeners) in &mut self.channels {
                        if listeners.remove(&client).is_some() {
                            mailbox.forget(channel);
                        }
                    }
                }
            }
        }
        if ends {
            self.remove(|id, interest| *id == client && matches!(interest, Interest::Reserved(..)));
            let listens = |listeners: &HashMap<_, _>| listeners.contains_key(&client);
            if !self.channels.values().any(listens) {
                self.clients.remove(&client);
            }
        }
        self.take_unneeded()
    }

    /// A client is gone. Returns the channels that nobody needs any more.
    pub(super) fn leave(&mut self, client: ClientId) -> Vec<Box<str>> {
        if self.clients.remove(&client).is_none() {
            return Vec::new();
        }
        self.remove(|id, _| *id == client);
        self.take_unneeded()
    }

    /// Passes a notification on to all who listen; `sender` is who sent it, where that is one of the clients. Returns what it came to.
    pub(super) fn deliver(
        &mut self,
        message: &Arc<Message>,
        sender: Option<ClientId>,
    ) -> Delivered {
        let mut delivered = Delivered::default();
        let Some(listeners) = self.channels.get_mut(&message.channel) else {
            return delivered;
        };
        for (client, interest) in listeners {
            match interest {
                Interest::Listening => {
                    if let Some(mailbox) = self.clients.get(client) {
                        match mailbox.push(message) {
                            Pushed::Kept => {}
                            Pushed::Crowded => delivered.crowded.push(Arc::clone(mailbox)),
                            Pushed::Overflowed => delivered.ended += 1,
                        }
                    }
                }
                Interest::Reserved(own, bytes) if sender == Some(*client) => {
                    own.push(Arc::clone(message));
                    *bytes += message.size();
                    if *bytes > MAX_WAITING
                        && let Some(mailbox) = self.clients.get(client)
                    {
                        own.clear();
                        *bytes = 0;
                        mailbox.end(too_slow());
                        delivered.ended += 1;
                    }
                }
                Interest::Reserved(..) => {}
            }
        }
        delivered
    }

    /// Nothing is heard any more: every client is ended with this. Returns how many listened.
    pub(super) fn end_all(&mut self, error: &PgError) -> usize {
        self.channels.clear();
        let clients = std::mem::take(&mut self.clients);
        for mailbox in clients.values() {
            mailbox.end(error.clone());
        }
        clients.len()
    }

    /// Whether nobody listens, or is about to.
    pub(super) fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// How many channels there are.
    pub(super) fn len(&self) -> usize {
        self.channels.len()
    }

    fn listen(&mut self, client: ClientId, mailbox: &Mailbox, channel: &str) {
        let listeners = self.channels.entry(channel.into()).or_default();
        if let Some(Interest::Reserved(own, _)) = listeners.insert(client, Interest::Listening) {
            for message in &own {
                mailbox.push(message);
            }
        }
    }

    fn remove(&mut self, gone: impl Fn(&ClientId, &Interest) -> bool) {
        for listeners in self.channels.values_mut() {
            listeners.retain(|client, interest| !gone(client, interest));
        }
    }

    fn take_unneeded(&mut self) -> Vec<Box<str>> {
        self.channels
            .extract_if(|_, listeners| listeners.is_empty())
            .map(|(channel, _)| channel)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::mailbox::tests::message;
    use super::*;

    const ANNA: ClientId = ClientId(1);
    const BERT: ClientId = ClientId(2);

    fn listen(channel: &str) -> [Change; 1] {
        [Change::Listen(channel.into())]
    }

    #[test]
    fn a_client_hears_a_channel_from_its_commit_on() {
        let (mut channels, mailbox) = (Channels::default(), Arc::default());
        channels.reserve(ANNA, &mailbox, "news");
        channels.deliver(&message("news", b"early"), None);
        assert!(channels.apply(ANNA, &listen("news"), true).is_empty());
        channels.deliver(&message("news", b"late"), None);
        channels.deliver(&message("other", b"else"), None);
        assert_eq!(&*mailbox.take().unwrap().unwrap().frame, b"late");
        assert!(mailbox.is_empty());
    }

    #[test]
    fn a_transaction_that_listens_and_notifies_hears_itself_once_it_is_committed() {
        let (mut channels, mailbox) = (Channels::default(), Arc::<Mailbox>::default());
        channels.reserve(ANNA, &mailbox, "news");
        channels.deliver(&message("news", b"mine"), Some(ANNA));
        channels.deliver(&message("news", b"not mine"), Some(BERT));
        assert!(mailbox.is_empty());
        channels.apply(ANNA, &listen("news"), true);
        assert_eq!(&*mailbox.take().unwrap().unwrap().frame, b"mine");
        assert!(mailbox.is_empty());
    }

    #[test]
    fn what_was_rolled_back_leaves_nothing() {
        let (mut channels, mailbox) = (Channels::default(), Arc::<Mailbox>::default());
        channels.reserve(ANNA, &mailbox, "news");
        channels.deliver(&message("news", b"mine"), Some(ANNA));
        assert_eq!(channels.apply(ANNA, &[], true), [Box::from("news")]);
        assert!(channels.is_empty() && mailbox.is_empty());
        // and what is listened to already stays so
        channels.reserve(ANNA, &mailbox, "news");
        channels.apply(ANNA, &listen("news"), true);
        channels.reserve(ANNA, &mailbox, "news");
        assert!(channels.apply(ANNA, &[], true).is_empty());
        channels.deliver(&message("news", b"heard"), None);
        assert!(!mailbox.is_empty());
    }

    #[test]
    fn a_channel_is_needed_as_long_as_one_client_listens() {
        let mut channels = Channels::default();
        let (anna, bert) = (Arc::default(), Arc::default());
        for (client, mailbox) in [(ANNA, &anna), (BERT, &bert)] {
            channels.reserve(client, mailbox, "news");
            channels.apply(client, &listen("news"), true);
        }
        channels.deliver(&message("news", b"1"), None);
        assert!(
            channels
                .apply(ANNA, &[Change::UnlistenAll], true)
                .is_empty()
        );
        // what waits from a channel that was left is not heard any more
        assert!(anna.is_empty() && !bert.is_empty());
        assert_eq!(channels.leave(BERT), [Box::from("news")]);
        assert!(channels.leave(BERT).is_empty());
    }

    #[test]
    fn changes_of_one_transaction_count_in_their_order() {
        let (mut channels, mailbox) = (Channels::default(), Arc::default());
        channels.reserve(ANNA, &mailbox, "a");
        let changes = [
            Change::Listen("a".into()),
            Change::UnlistenAll,
            Change::Listen("a".into()),
            Change::Unlisten("b".into()),
        ];
        assert!(channels.apply(ANNA, &changes, true).is_empty());
        channels.deliver(&message("a", b"1"), None);
        assert!(!mailbox.is_empty());
    }

    #[test]
    fn a_chained_transaction_keeps_what_it_has_reserved() {
        let (mut channels, mailbox) = (Channels::default(), Arc::default());
        channels.reserve(ANNA, &mailbox, "a");
        channels.reserve(ANNA, &mailbox, "b");
        assert!(channels.apply(ANNA, &listen("a"), false).is_empty());
        assert!(channels.apply(ANNA, &listen("b"), true).is_empty());
        assert_eq!(channels.len(), 2);
    }

    #[test]
    fn a_lost_connection_ends_all_who_listen_and_nobody_else() {
        let mut channels = Channels::default();
        let (anna, bert) = (Arc::default(), Arc::<Mailbox>::default());
        channels.reserve(ANNA, &anna, "news");
        channels.apply(ANNA, &listen("news"), true);
        channels.reserve(BERT, &bert, "news");
        channels.apply(BERT, &[], true);
        assert_eq!(channels.end_all(&super::super::lost("it is gone")), 1);
        assert_eq!(anna.take().unwrap_err().code.as_str(), "57P01");
        assert!(bert.is_empty());
        assert!(channels.apply(ANNA, &listen("news"), true).is_empty());
        assert!(channels.is_empty());
    }
}
