//! The floors of the workspace: a crate may use only crates on lower floors, and a few dependencies are known to one
//! crate alone.

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// Each crate's floor. Crates of one floor never see each other.
const FLOORS: &[(&str, u8)] = &[
    ("pgherd-protocol", 0),
    ("pgherd-topology", 0),
    ("pgherd-telemetry", 0),
    ("pgherd-tls", 0),
    ("pgherd-router", 1),
    ("pgherd-pool", 1),
    ("pgherd-control", 1),
    ("pgherd-session", 2),
    ("pgherd-admin", 3),
    ("pgherd", 4),
    ("pgherd-tests", 5),
    ("pgherd-benches", 6),
];

/// Dependencies that only the named crates may have outside their tests.
const KNOWN_TO: &[(&str, &[&str])] = &[
    ("postgres-protocol", &["pgherd-protocol"]),
    ("consistent_hash_ring", &["pgherd-topology"]),
    ("sqlparser", &["pgherd-router"]),
    ("deadpool-postgres", &["pgherd-control"]),
    (
        "tokio-postgres",
        &["pgherd-control", "pgherd", "pgherd-tests", "pgherd-benches"],
    ),
    ("rustls-native-certs", &["pgherd-tls"]),
    ("axum", &["pgherd-admin"]),
    ("metrics-exporter-prometheus", &["pgherd-telemetry"]),
    ("serde-saphyr", &["pgherd"]),
    ("clap", &["pgherd"]),
];

/// Dependencies that would let a crate do I/O, which these crates never do.
const NO_INPUT_OUTPUT: (&[&str], &[&str]) = (
    &["tokio", "tokio-postgres", "tokio-rustls", "nix"],
    &["pgherd-protocol", "pgherd-topology", "pgherd-router"],
);

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata reads this workspace")
}

fn floor(name: &str) -> Option<u8> {
    FLOORS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, floor)| *floor)
}

/// The names of what a crate uses outside its tests.
fn dependencies(package: &Package) -> impl Iterator<Item = &str> {
    package
        .dependencies
        .iter()
        .filter(|dependency| dependency.kind != DependencyKind::Development)
        .map(|dependency| dependency.name.as_str())
}

#[test]
fn every_crate_has_a_floor_and_uses_lower_ones_only() {
    for package in &metadata().packages {
        let name = package.name.as_str();
        let own = floor(name).unwrap_or_else(|| panic!("{name} has no floor: add it to FLOORS"));
        // a crate's tests, too, stay below its own floor
        for dependency in &package.dependencies {
            if let Some(below) = floor(&dependency.name) {
                assert!(
                    below < own,
                    "{name} (floor {own}) uses {} (floor {below})",
                    dependency.name
                );
            }
        }
    }
}

#[test]
fn every_crate_on_the_floors_exists() {
    let metadata = metadata();
    for (name, _) in FLOORS {
        assert!(
            metadata
                .packages
                .iter()
                .any(|package| package.name.as_str() == *name),
            "{name} is on a floor and not in the workspace"
        );
    }
}

#[test]
fn each_dependency_is_known_to_its_own_crate_alone() {
    for package in &metadata().packages {
        for name in dependencies(package) {
            if let Some((_, owners)) = KNOWN_TO.iter().find(|(known, _)| *known == name) {
                assert!(
                    owners.contains(&package.name.as_str()),
                    "{} uses {name}, which only {owners:?} may",
                    package.name
                );
            }
        }
    }
}

#[test]
fn protocol_topology_and_router_do_no_input_or_output() {
    let (forbidden, crates) = NO_INPUT_OUTPUT;
    for package in &metadata().packages {
        if crates.contains(&package.name.as_str()) {
            for name in dependencies(package) {
                assert!(!forbidden.contains(&name), "{} uses {name}", package.name);
            }
        }
    }
}

#[test]
fn every_crate_takes_the_workspaces_lints() {
    for package in &metadata().packages {
        let manifest = std::fs::read_to_string(&package.manifest_path)
            .expect("its manifest was just read by cargo");
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{} does not take the workspace's lints",
            package.name
        );
    }
}
