//! The walls of the house: which room may import what, read from the manifests, and how large a file may grow.

use phalanx_tests::program::repository;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// A file that is longer tells more than one story.
const MOST_LINES: usize = 600;
const SERVICES: [&str; 4] = ["gateway", "deployer", "executor", "monitor"];
const ROOMS: [&str; 9] = [
    "domain", "proto", "store", "bus", "gateway", "deployer", "executor", "monitor", "phalanx",
];

/// Room by room, what its shipped code depends on. Tests may depend on more.
fn dependencies() -> BTreeMap<&'static str, BTreeSet<String>> {
    ROOMS
        .iter()
        .map(|room| (*room, dependencies_of(room)))
        .collect()
}

fn dependencies_of(room: &str) -> BTreeSet<String> {
    let path = repository().join(room).join("Cargo.toml");
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let manifest: toml::Table = text
        .parse()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut found = keys(manifest.get("dependencies"));
    for target in manifest
        .get("target")
        .and_then(toml::Value::as_table)
        .into_iter()
        .flat_map(toml::Table::values)
    {
        found.extend(keys(target.get("dependencies")));
    }
    assert!(
        !found.is_empty(),
        "{} names no dependency: is it read rightly?",
        path.display()
    );
    found
}

fn keys(table: Option<&toml::Value>) -> BTreeSet<String> {
    table
        .and_then(toml::Value::as_table)
        .into_iter()
        .flat_map(toml::Table::keys)
        .cloned()
        .collect()
}

fn only_in(crates: &[&str], rooms: &[&str]) {
    for (room, dependencies) in dependencies() {
        for name in crates.iter().filter(|name| dependencies.contains(**name)) {
            assert!(
                rooms.contains(&room),
                "{room} depends on {name}; only {} may",
                rooms.join(", ")
            );
        }
    }
}

#[test]
fn services_never_import_each_other() {
    let all = dependencies();
    for service in SERVICES {
        for other in SERVICES.iter().filter(|other| **other != service) {
            assert!(
                !all[service].contains(*other),
                "{service} depends on {other}: they meet on the bus or by gRPC"
            );
        }
    }
}

#[test]
fn the_lower_rooms_know_nothing_of_the_upper_ones() {
    let all = dependencies();
    for (room, allowed) in [
        ("domain", &[][..]),
        ("proto", &["domain"]),
        ("store", &["domain"]),
        ("bus", &["domain", "proto"]),
    ] {
        for other in ROOMS.iter().filter(|other| all[room].contains(**other)) {
            assert!(
                allowed.contains(other),
                "{room} depends on {other}; allowed are {}",
                allowed.join(", ")
            );
        }
    }
    for service in SERVICES {
        assert!(
            !all[service].contains("phalanx"),
            "{service} depends on phalanx"
        );
    }
}

#[test]
fn one_room_for_each_craft() {
    only_in(&["sqlx"], &["store"]);
    only_in(&["object_store"], &["store"]);
    only_in(&["async-nats"], &["bus"]);
    only_in(
        &["axum", "tower-http", "utoipa", "utoipa-swagger-ui"],
        &["gateway"],
    );
    only_in(&["rustix"], &["executor"]);
    only_in(&["nix"], &["executor", "phalanx"]);
    only_in(&["prost"], &["proto", "bus"]);
    only_in(
        &["opentelemetry", "tracing-opentelemetry"],
        &["proto", "phalanx"],
    );
    only_in(
        &[
            "opentelemetry_sdk",
            "opentelemetry-otlp",
            "opentelemetry-proto",
        ],
        &["phalanx"],
    );
    // The command line is a client like any other, and monitor sends webhooks.
    only_in(&["reqwest"], &["gateway", "monitor", "phalanx"]);
    only_in(
        &["clap", "indicatif", "comfy-table", "anyhow"],
        &["phalanx"],
    );
}

#[test]
fn the_domain_is_pure() {
    let allowed = [
        "serde",
        "serde_json",
        "thiserror",
        "semver",
        "uuid",
        "jiff",
        "zip",
        "base64",
        "sha2",
        "hmac",
        "hex",
        "toml",
        "url",
    ];
    for name in dependencies_of("domain") {
        assert!(allowed.contains(&name.as_str()), "domain depends on {name}");
    }
    let impure = [
        "SystemTime::now",
        "Instant::now",
        "Timestamp::now(",
        "std::env::",
        "std::fs",
        "std::net",
        "std::thread",
        "async fn",
    ];
    for (path, text) in sources(&repository().join("domain/src")) {
        // Tests may read files.
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for word in impure {
            assert!(
                !code.contains(word),
                "{path} uses {word}: the domain takes time and world as arguments"
            );
        }
    }
}

#[test]
fn sql_is_written_in_the_store_alone() {
    for room in ROOMS.iter().filter(|room| **room != "store") {
        for (path, text) in sources(&repository().join(room).join("src")) {
            for word in ["SELECT ", "INSERT INTO ", "DELETE FROM ", "UPDATE "] {
                let found = text
                    .lines()
                    .find(|line| line.contains(word) && line.contains('"'));
                assert_eq!(found, None, "{path} writes SQL");
            }
        }
    }
}

#[test]
fn no_file_tells_more_than_one_story() {
    let mut long = Vec::new();
    for room in ROOMS.iter().chain(&["tests", "bench"]) {
        for (path, text) in sources(&repository().join(room)) {
            let lines = text.lines().count();
            if lines > MOST_LINES {
                long.push(format!("{path}: {lines} lines"));
            }
        }
    }
    assert!(
        long.is_empty(),
        "longer than {MOST_LINES} lines:\n{}",
        long.join("\n")
    );
}

#[test]
fn every_file_says_what_it_is_for() {
    for room in ROOMS.iter().chain(&["tests"]) {
        for (path, text) in sources(&repository().join(room)) {
            // A room's own unit tests are about the file beside them.
            if path.ends_with("/tests.rs") {
                continue;
            }
            assert!(text.starts_with("//!"), "{path} does not begin with //!");
        }
    }
}

/// Every Rust file below a folder, with its text.
fn sources(dir: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir)
            .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
            .flatten()
        {
            let path = entry.path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("source is text");
                let short = path
                    .strip_prefix(repository())
                    .unwrap_or(&path)
                    .display()
                    .to_string();
                found.push((short, text));
            }
        }
    }
    found.sort();
    found
}
