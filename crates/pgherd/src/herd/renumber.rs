//! Tells standbys of their primary's new port when a herd comes up on other ports than before.
//!
//! A failover writes `primary_conninfo` with `ALTER SYSTEM`, which wins over what a herd writes at its start.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::Path;

use super::binaries::Postgres;
use super::bootstrap::write_owned;
use super::directory::of_server;
use super::error::{HerdError, Naming};
use super::record::Record;

/// Changes the ports in the stopped servers' `postgresql.auto.conf` from those of the record to these.
pub(super) fn standbys(
    postgres: &Postgres,
    directory: &Path,
    record: &Record,
    ports: &[u16],
) -> Result<(), HerdError> {
    let new: HashMap<u16, u16> = record
        .ports
        .iter()
        .copied()
        .zip(ports.iter().copied())
        .collect();
    let servers_a_shard = usize::from(record.replicas) + 1;
    for index in 0..record.ports.len() {
        let data = of_server(directory, index / servers_a_shard, index % servers_a_shard);
        let path = data.join("postgresql.auto.conf");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error).naming(|| format!("reading {}", path.display())),
        };
        let renumbered = renumbered(&text, &new);
        if renumbered != text {
            write_owned(postgres.runs_as(), &path, &renumbered)?;
        }
    }
    Ok(())
}

fn renumbered(text: &str, new: &HashMap<u16, u16>) -> String {
    text.split_inclusive('\n')
        .map(|line| match line.starts_with("primary_conninfo") {
            true => with_new_port(line, new),
            false => line.to_owned(),
        })
        .collect()
}

/// The port may stand in quotes, which are doubled in this file.
fn with_new_port(line: &str, new: &HashMap<u16, u16>) -> String {
    let Some((before, value)) = line
        .split_once(" port=")
        .or_else(|| line.split_once("'port="))
    else {
        return line.to_owned();
    };
    let keyword = &line[before.len()..line.len() - value.len()];
    let digits = value.trim_start_matches('\'');
    let quotes = &value[..value.len() - digits.len()];
    let rest = digits.trim_start_matches(|c: char| c.is_ascii_digit());
    let port = digits[..digits.len() - rest.len()]
        .parse()
        .ok()
        .and_then(|port: u16| new.get(&port));
    match port {
        Some(port) => format!("{before}{keyword}{quotes}{port}{rest}"),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_primarys_port_is_changed_and_nothing_else() {
        let new = HashMap::from([(15_001, 16_001), (15_002, 16_002)]);
        let text = "work_mem = '15001'\nprimary_conninfo = 'host=127.0.0.1 port=15001 user=pgherd application_name=''s0-b_e6'''\n\
                    primary_slot_name = 's0b'\n";
        let expected = text.replace("port=15001", "port=16001");
        assert_eq!(renumbered(text, &new), expected);
        let quoted = "primary_conninfo = 'port=''15002'' host=x'\n";
        assert_eq!(
            renumbered(quoted, &new),
            "primary_conninfo = 'port=''16002'' host=x'\n"
        );
        for other in [
            "primary_conninfo = ''\n",
            "primary_conninfo = 'host=a port=9'\n",
        ] {
            assert_eq!(renumbered(other, &new), other);
        }
    }
}
