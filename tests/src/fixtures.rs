//! Requests and sources that tests begin with.

use crate::{Value, json};
use base64::{Engine, engine::general_purpose::STANDARD};
use std::io::{Cursor, Write};

pub const ECHO: &str = "def handler(input):\n    return input\n";

/// One agent that serves from a single file: `handler` of `source`, one instance up, at most four.
pub fn agent(id: &str, source: &str) -> Value {
    agent_of(id, source.as_bytes())
}

/// The same of any bytes.
pub fn agent_of(id: &str, bytes: &[u8]) -> Value {
    json!({
        "agent_metadata": {"agent_id": id, "name": id, "version": "1.0.0"},
        "agent_code": {"source_code": STANDARD.encode(bytes), "entrypoint": "handler"},
        "deployment_config": {"environment": "dev", "auto_scaling": {"min_instances": 1, "max_instances": 4}},
    })
}

/// The body of an execution.
pub fn call(parameters: Value) -> Value {
    let mut body = json!({"input_data": {}});
    body["input_data"]["parameters"] = parameters;
    body
}

/// `changes` laid over `document`: objects are merged, everything else is replaced.
pub fn with(mut document: Value, changes: Value) -> Value {
    merge(&mut document, changes);
    document
}

fn merge(into: &mut Value, changes: Value) {
    match (into, changes) {
        (Value::Object(into), Value::Object(changes)) => {
            for (name, change) in changes {
                merge(into.entry(name).or_insert(Value::Null), change);
            }
        }
        (into, changes) => *into = changes,
    }
}

pub fn zipped(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        writer
            .start_file(*name, zip::write::SimpleFileOptions::default())
            .expect("a name");
        writer.write_all(bytes).expect("memory");
    }
    writer.finish().expect("memory").into_inner()
}
