//! The rules of who may connect from where.

use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use pgherd_session::HbaRules;

use super::super::raw;
use super::super::reader::Reader;

/// Largest file of rules that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The rules of the list or of the file. `Some(None)` after an error.
#[allow(clippy::option_option)]
pub fn hba(raw: &raw::Listen, reader: &mut Reader<'_>) -> Option<Option<HbaRules>> {
    match (&raw.hba, &raw.hba_file) {
        (None, None) => None,
        (Some(_), Some(file)) => {
            reader.error(
                file.place,
                "the rules stand here or in a file, not in both",
                "take out `hba` or `hba_file`",
            );
            Some(None)
        }
        (Some(list), None) => Some(from_list(list, reader)),
        (None, Some(file)) => Some(from_file(file, reader)),
    }
}

fn from_list(list: &raw::Names, reader: &mut Reader<'_>) -> Option<HbaRules> {
    let own = own_addresses();
    let mut text = String::new();
    let mut is_right = true;
    for line in &list.value {
        let expanded = reader.text(line)?;
        // one by one, so that each error has its place
        if let Err(errors) = HbaRules::parse(&expanded, &own) {
            is_right = false;
            for error in errors {
                reader.error(
                    line.place,
                    error.what,
                    "write such as `host all all 10.0.0.0/8 scram-sha-256`",
                );
            }
        }
        text.push_str(&expanded);
        text.push('\n');
    }
    if !is_right {
        return None;
    }
    HbaRules::parse(&text, &own).ok()
}

fn from_file(
    file: &super::super::located::At<super::super::located::Text>,
    reader: &mut Reader<'_>,
) -> Option<HbaRules> {
    let path = reader.path(file)?;
    let read = std::fs::metadata(&path).and_then(|metadata| match metadata.len() {
        0..=MAX_FILE_BYTES => std::fs::read_to_string(&path),
        _ => Err(std::io::ErrorKind::FileTooLarge.into()),
    });
    let text = match read {
        Ok(text) => text,
        Err(error) => {
            reader.error(
                file.place,
                format!("cannot read {}: {error}", path.display()),
                "a path is relative to this configuration file",
            );
            return None;
        }
    };
    match HbaRules::parse(&text, &own_addresses()) {
        Ok(rules) => Some(rules),
        Err(errors) => {
            for error in errors {
                reader.error(
                    file.place,
                    format!("{}, {error}", path.display()),
                    "the format is that of pg_hba.conf",
                );
            }
            None
        }
    }
}

/// This machine's addresses with their networks, for `samehost` and `samenet`; none where the system does not tell.
fn own_addresses() -> Vec<(IpAddr, u8)> {
    let Ok(interfaces) = getifaddrs() else {
        return Vec::new();
    };
    interfaces
        .filter_map(|interface| {
            let (address, mask) = (interface.address?, interface.netmask?);
            if let (Some(address), Some(mask)) = (address.as_sockaddr_in(), mask.as_sockaddr_in()) {
                let prefix = mask.ip().to_bits().count_ones();
                return Some((IpAddr::V4(address.ip()), u8::try_from(prefix).ok()?));
            }
            let (address, mask) = (address.as_sockaddr_in6()?, mask.as_sockaddr_in6()?);
            let prefix = mask.ip().to_bits().count_ones();
            Some((IpAddr::V6(address.ip()), u8::try_from(prefix).ok()?))
        })
        .collect()
}
