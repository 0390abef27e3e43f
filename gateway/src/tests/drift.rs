//! The documented request bodies and what is really read cannot drift apart.

use super::world::somebody;
use crate::{api, openapi};
use domain::{Error, artifact::Limits};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// By the path of every object of a schema: the names of its properties.
fn documented(name: &str) -> BTreeMap<String, BTreeSet<String>> {
    let document = serde_json::to_value(openapi::document()).expect("a document");
    let mut found = BTreeMap::new();
    collect(
        &document,
        &document["components"]["schemas"][name],
        "",
        &mut found,
    );
    found
}

fn collect(
    document: &Value,
    schema: &Value,
    path: &str,
    found: &mut BTreeMap<String, BTreeSet<String>>,
) {
    let schema = match schema["$ref"].as_str() {
        Some(reference) => document
            .pointer(reference.trim_start_matches('#'))
            .expect("it leads somewhere"),
        // What may be left out is the object or null.
        None => ["allOf", "anyOf"]
            .iter()
            .find_map(|of| schema.get(of))
            .map_or(schema, |all| &all[0]),
    };
    if schema.get("$ref").is_some() {
        return collect(document, schema, path, found);
    }
    let Some(properties) = schema["properties"].as_object() else {
        return;
    };
    found.insert(path.to_owned(), properties.keys().cloned().collect());
    for (name, property) in properties {
        let below = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        collect(document, property, &below, found);
    }
}

/// A document with every documented object, each with one member that nobody knows.
fn probe(objects: &BTreeMap<String, BTreeSet<String>>) -> Value {
    let mut root = Value::Object(Map::new());
    for path in objects.keys() {
        let mut at = &mut root;
        for part in path.split('.').filter(|part| !part.is_empty()) {
            at = &mut at[part];
        }
        if !at.is_object() {
            *at = json!({});
        }
        at["zzzzzzzz"] = json!(1);
    }
    root
}

/// By the path of every object: the names that the fault of the unknown member allows.
fn read(error: &Error) -> BTreeMap<String, BTreeSet<String>> {
    let unknown = error
        .faults
        .iter()
        .filter_map(|fault| fault.split_once("zzzzzzzz: is not known; allowed are "));
    unknown
        .map(|(path, names)| {
            (
                path.trim_end_matches('.').to_owned(),
                names.split(", ").map(str::to_owned).collect(),
            )
        })
        .collect()
}

#[test]
fn deploy() {
    let objects = documented("DeployRequest");
    let sent = probe(&objects).to_string();
    let error = api::agents::request::read(sent.as_bytes(), Limits::default())
        .expect_err("unknown members");
    assert_eq!(objects, read(&error));
    assert_eq!(objects.len(), 13);
}

#[test]
fn update() {
    let objects = documented("UpdateRequest");
    let sent = probe(&objects).to_string();
    let error = api::agents::update_request::read(sent.as_bytes(), Limits::default())
        .expect_err("unknown members");
    assert_eq!(objects, read(&error));
    assert_eq!(objects.len(), 8);
}

#[test]
fn execute() {
    let objects = documented("ExecuteRequest");
    let sent = probe(&objects).to_string();
    let open = domain::webhook::Openness::default();
    let error = api::executions::request::read(sent.as_bytes(), &somebody(), &open)
        .expect_err("unknown members");
    assert_eq!(objects, read(&error));
    assert_eq!(objects.len(), 6);
}
