//! What a parameter of a URL may be, by its name: the same word means the same everywhere.

use super::{alert_status, execution_status, granularity, time, webhook_status};
use utoipa::openapi::{
    path::{Parameter, ParameterIn},
    schema::{ObjectBuilder, Type},
};

/// Says it, in place of what a handler's own word for a type came to.
pub fn say(path: &str, parameter: &mut Parameter) {
    let schema = match parameter.parameter_in {
        ParameterIn::Path => of_path(&parameter.name),
        ParameterIn::Query => of_query(path, &parameter.name),
        ParameterIn::Header => of_header(&parameter.name),
        ParameterIn::Cookie | ParameterIn::QueryString => None,
    };
    if let Some(schema) = schema {
        parameter.schema = Some(schema.into());
    }
}

fn of_path(name: &str) -> Option<ObjectBuilder> {
    Some(match name {
        "agent_id" => agent_id(),
        "deployment_id" => of_form("^dep_[0-9a-f]{32}$"),
        "key_id" => of_form("^key_[0-9a-f]{32}$"),
        "alert_id" => of_form("^alert_[0-9a-f]{32}$"),
        "execution_id" => of_form("^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"),
        "dead_letter_id" => of_form("^[0-9]{1,20}$"),
        _ => return None,
    })
}

fn of_query(path: &str, name: &str) -> Option<ObjectBuilder> {
    let logs = path.ends_with("/logs") || path.ends_with("/audit");
    Some(match name {
        "agent_id" => agent_id(),
        "page" => number(1.0, 1_000_000.0).default(Some(1.into())),
        "limit" if logs => number(1.0, 1000.0),
        "limit" => number(1.0, 200.0).default(Some(50.into())),
        "follow" | "all" => ObjectBuilder::new()
            .schema_type(Type::Boolean)
            .default(Some(false.into())),
        "since" | "from" | "to" | "start_time" | "end_time" => time(),
        "metrics" => of_form("^[a-zA-Z][a-zA-Z0-9_.]{0,63}(,[a-zA-Z][a-zA-Z0-9_.]{0,63}){0,20}$"),
        "granularity" => granularity().default(Some("5m".into())),
        "status" if path.ends_with("/executions") => execution_status(),
        "status" if path.ends_with("/alerts") => alert_status(),
        "status" if path.ends_with("/callbacks") => webhook_status(),
        _ => return None,
    })
}

fn of_header(name: &str) -> Option<ObjectBuilder> {
    (name == "Last-Event-ID").then(|| of_form("^[0-9]{0,19}$"))
}

fn of_form(pattern: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(pattern))
}

pub fn agent_id() -> ObjectBuilder {
    of_form("^[a-z][a-z0-9-]{1,62}$")
}

fn number(least: f64, most: f64) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(least))
        .maximum(Some(most))
}
