//! `phalanx status`: of the whole system, of an agent, of one of its deployments or executions.

use super::{
    api::{Api, Body, segment},
    out, text,
    trouble::Trouble,
};
use clap::Args;
use serde_json::Value;
use std::process::ExitCode;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Without one: the system's health
    agent: Option<String>,
    #[arg(value_name = "DEPLOYMENT|EXECUTION")]
    part: Option<String>,
}

pub async fn run(arguments: Arguments, api: &Api) -> Result<ExitCode, Trouble> {
    let body = match (&arguments.agent, &arguments.part) {
        (None, _) => api.get("/api/v1/system/health").await?,
        (Some(agent), None) => {
            api.get(&format!("/api/v1/agents/{}", segment(agent)))
                .await?
        }
        (Some(agent), Some(part)) => part_of(agent, part, api).await?,
    };
    if api.json {
        out::json(&body.0)?;
    } else {
        show(&body.value()?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Callers choose the ids of executions, so an id may look like anything; only that of a deployment has a form of its own.
async fn part_of(agent: &str, part: &str, api: &Api) -> Result<Body, Trouble> {
    let path = |kind: &str| format!("/api/v1/agents/{}/{kind}/{}", segment(agent), segment(part));
    let kinds = if part.starts_with("dep_") {
        ["deployments", "executions"]
    } else {
        ["executions", "deployments"]
    };
    match api.get(&path(kinds[0])).await {
        Err(Trouble::Refused(refusal)) if matches!(refusal.status, 400 | 404) => {
            match api.get(&path(kinds[1])).await {
                // What the likelier kind said is the better answer.
                Err(Trouble::Refused(_)) => Err(Trouble::Refused(refusal)),
                other => other,
            }
        }
        other => other,
    }
}

/// Any document of the API, one value a line under its path.
fn show(value: &Value) -> Result<(), Trouble> {
    let mut rows = Vec::new();
    flatten("", value, &mut rows);
    let width = rows
        .iter()
        .map(|(path, _)| path.chars().count())
        .max()
        .unwrap_or(0)
        .min(50);
    for (path, value) in rows {
        out::line(&format!(
            "{:width$}  {}",
            text::line(&path),
            text::lines(&value)
        ))?;
    }
    Ok(())
}

fn flatten(path: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    let under = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, member) in members {
                flatten(&under(name), member, rows);
            }
        }
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            for (at, item) in items.iter().enumerate() {
                flatten(&format!("{path}[{at}]"), item, rows);
            }
        }
        Value::Array(items) => rows.push((
            path.to_owned(),
            items.iter().map(word).collect::<Vec<_>>().join(", "),
        )),
        other => rows.push((path.to_owned(), word(other))),
    }
}

/// One value as a cell shows it: what is unknown is a dash.
pub fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => {
            format!("{:.1}", number.as_f64().unwrap_or_default())
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_become_lines() {
        let mut rows = Vec::new();
        flatten(
            "",
            &serde_json::json!({"a": {"b": null, "c": [1, 2]}, "d": [{"e": "x"}], "f": 1.25}),
            &mut rows,
        );
        let rows: Vec<String> = rows
            .into_iter()
            .map(|(path, value)| format!("{path}={value}"))
            .collect();
        assert_eq!(rows, ["a.b=-", "a.c=1, 2", "d[0].e=x", "f=1.2"]);
    }
}
