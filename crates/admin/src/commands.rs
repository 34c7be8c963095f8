//! What the console shows, one file each: its columns, and how its rows are found.

mod buckets;
mod clients;
mod databases;
mod help;
mod pins;
mod plans;
mod pools;
mod servers;
mod tables;
mod version;

use std::sync::Arc;

use pgherd_session::{Database, Herd};

use crate::answer::{Answer, Column};
use crate::command::Show;

/// The columns of what is shown.
pub fn columns(show: Show) -> &'static [Column] {
    match show {
        Show::Version => version::COLUMNS,
        Show::Servers => servers::COLUMNS,
        Show::Pools => pools::COLUMNS,
        Show::Clients => clients::COLUMNS,
        Show::Plans => plans::COLUMNS,
        Show::Pins => pins::COLUMNS,
        Show::Tables => tables::COLUMNS,
        Show::Buckets => buckets::COLUMNS,
        Show::Databases => databases::COLUMNS,
        Show::Help => help::COLUMNS,
    }
}

/// The rows as they are now.
pub fn rows(show: Show, herd: &Herd) -> Answer {
    match show {
        Show::Version => version::rows(),
        Show::Servers => servers::rows(herd),
        Show::Pools => pools::rows(herd),
        Show::Clients => clients::rows(herd),
        Show::Plans => plans::rows(herd),
        Show::Pins => pins::rows(herd),
        Show::Tables => tables::rows(herd),
        Show::Buckets => buckets::rows(herd),
        Show::Databases => databases::rows(herd),
        Show::Help => help::rows(),
    }
}

/// All databases, by name.
pub(crate) fn sorted_databases(herd: &Herd) -> Vec<Arc<Database>> {
    let mut databases: Vec<_> = herd.databases().values().cloned().collect();
    databases.sort_unstable_by(|one, other| one.name().cmp(other.name()));
    databases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_says_what_it_means_and_no_name_comes_twice() {
        for show in Show::ALL {
            let columns = columns(show);
            for (index, column) in columns.iter().enumerate() {
                assert!(!column.meaning.is_empty(), "{show:?}.{}", column.name);
                let before = &columns[..index];
                assert!(
                    before.iter().all(|other| other.name != column.name),
                    "{show:?}.{}",
                    column.name
                );
            }
        }
    }
}
