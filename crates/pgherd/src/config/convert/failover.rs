//! What happens when a primary fails.

use std::time::Duration;

use pgherd_control::{FailoverMode, FailoverSettings, SyncSettings, WhenTooFew};
use pgherd_topology::Address;

use super::super::located::{At, Place, Text};
use super::super::raw;
use super::super::reader::Reader;
use super::super::settings::Database;
use super::transpose;

/// Most acknowledgements that a commit may wait for.
const MOST_ACKS: u16 = 100;

/// Shorter ones would be zero or nearly so.
const LEAST_SPAN: Duration = Duration::from_millis(1);

/// How a database's shards are failed over, unless an error was noted.
pub fn failover(
    raw: Option<&At<raw::Failover>>,
    reader: &mut Reader<'_>,
) -> Option<FailoverSettings> {
    let default = FailoverSettings::default();
    let Some(raw) = raw else {
        return Some(default);
    };
    // all of it is read, so that one run names every error
    let sync = raw.sync.as_ref().map(|raw| sync(raw, reader));
    let refused_after = reader.span(
        raw.refused_after.as_ref(),
        default.refused_after,
        LEAST_SPAN,
    );
    let silent_after = reader.span(raw.silent_after.as_ref(), default.silent_after, LEAST_SPAN);
    let hold = reader.span(raw.hold.as_ref(), default.hold, LEAST_SPAN);
    let max_lag = reader.size(raw.max_lag.as_ref(), default.max_lag);
    let fence_command = command(raw.fence_command.as_ref(), reader);
    let rejoin_command = command(raw.rejoin_command.as_ref(), reader);
    let demote_command = command(raw.demote_command.as_ref(), reader);
    let notify_command = command(raw.notify_command.as_ref(), reader);
    Some(FailoverSettings {
        mode: raw
            .mode
            .as_ref()
            .map_or(default.mode, |mode| match mode.value {
                raw::FailoverMode::Observe => FailoverMode::Observe,
                raw::FailoverMode::Promote => FailoverMode::Promote,
            }),
        sync: transpose(sync)?,
        refused_after: refused_after?,
        silent_after: silent_after?,
        hold: hold?,
        max_lag: max_lag?,
        fence_command: fence_command?,
        rejoin_command: rejoin_command?,
        demote_command: demote_command?,
        notify_command: notify_command?,
    })
}

fn sync(raw: &At<raw::Sync>, reader: &mut Reader<'_>) -> Option<SyncSettings> {
    let default = SyncSettings::default();
    let when_too_few = raw.when_too_few.as_ref();
    Some(SyncSettings {
        acks: reader.number(raw.acks.as_ref(), default.acks, 1..=MOST_ACKS)?,
        when_too_few: when_too_few.map_or(default.when_too_few, |written| match written.value {
            raw::WhenTooFew::Block => WhenTooFew::Block,
            raw::WhenTooFew::Async => WhenTooFew::Async,
        }),
    })
}

#[allow(clippy::option_option)]
fn command(raw: Option<&At<Text>>, reader: &mut Reader<'_>) -> Option<Option<Box<str>>> {
    transpose(raw.map(|text| reader.text(text).map(Into::into)))
}

/// Two that promote would each depose whom the other promotes.
pub fn check_is_alone(
    database: &Database,
    others: &[Database],
    place: Place,
    reader: &mut Reader<'_>,
) {
    let promotes = |database: &&Database| {
        database.like.is_none() && database.failover.mode == FailoverMode::Promote
    };
    if !promotes(&database) {
        return;
    }
    let shared = others.iter().filter(promotes).find_map(|other| {
        let known: Vec<&Address> = other.servers().map(|server| &server.address).collect();
        let server = database
            .servers()
            .find(|server| known.contains(&&server.address))?;
        Some((&other.name, &server.address))
    });
    if let Some((other, address)) = shared {
        reader.error(
            place,
            format!(
                "`{}` and `{other}` would both promote servers of one cluster: {address} is in both",
                database.name
            ),
            format!("write `like: {other}` here, or `failover: {{ mode: observe }}` in one of them"),
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;

    fn read(written: &str) -> FailoverSettings {
        let source = format!(
            "databases:\n  shop:\n    users: [{{ name: app, password: app }}]\n{written}\n    \
             shards: [{{ name: s0, servers: [{{ name: s0a, address: 127.0.0.1 }}] }}]\n"
        );
        let loaded = crate::config::parse(Path::new("pgherd.yaml"), &source, &|_| None, false);
        let mut config = loaded.unwrap_or_else(|error| panic!("{error}")).config;
        config.databases.remove(0).failover
    }

    #[test]
    fn what_is_not_written_is_observed_and_asynchronous() {
        assert_eq!(read(""), FailoverSettings::default());
        let sync = read("    failover: { sync: {} }").sync;
        assert_eq!(sync, Some(SyncSettings::default()));
    }

    #[test]
    fn a_cluster_is_promoted_by_one_database_alone() {
        let parse = |modes: [&str; 2], ports: [u16; 2]| {
            let databases: String = ["shop", "store"]
                .iter()
                .zip(modes)
                .zip(ports)
                .map(|((name, mode), port)| {
                    format!(
                        "  {name}:\n    users: [{{ name: app, password: app }}]\n    failover: {{ mode: {mode}, sync: {{}} }}\n    \
                         shards: [{{ name: s0, servers: [{{ name: s0a, address: \"127.0.0.1:{port}\" }}] }}]\n"
                    )
                })
                .collect();
            let source = format!("databases:\n{databases}");
            crate::config::parse(Path::new("pgherd.yaml"), &source, &|_| None, false)
        };
        let refused = parse(["promote", "promote"], [5501, 5501]).unwrap_err();
        assert!(refused.to_string().contains("both promote"), "{refused}");
        assert!(parse(["promote", "observe"], [5501, 5501]).is_ok());
        assert!(parse(["promote", "promote"], [5501, 5502]).is_ok());
    }

    #[test]
    fn what_is_written_is_read() {
        let written = "    failover: { mode: promote, sync: { acks: 2, when_too_few: async }, refused_after: 2s, silent_after: 9s, \
                       hold: 31s, max_lag: 17MiB, fence_command: fence, rejoin_command: rejoin, demote_command: demote, notify_command: notify }";
        let expected = FailoverSettings {
            mode: FailoverMode::Promote,
            sync: Some(SyncSettings {
                acks: 2,
                when_too_few: WhenTooFew::Async,
            }),
            refused_after: Duration::from_secs(2),
            silent_after: Duration::from_secs(9),
            hold: Duration::from_secs(31),
            max_lag: 17 << 20,
            fence_command: Some("fence".into()),
            rejoin_command: Some("rejoin".into()),
            demote_command: Some("demote".into()),
            notify_command: Some("notify".into()),
        };
        assert_eq!(read(written), expected);
    }
}
