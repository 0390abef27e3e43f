//! What each role of a cluster may do in Postgres, where every role logs in as a user of its own.
//!
//! The table says the same as the comments above the tables in the migrations, and reading. No role may change the schema, and only
//! who opens a sealed column may read it.

/// A role and its column of [`RIGHTS`].
pub const ROLES: [&str; 4] = ["gateway", "deployer", "executor", "monitor"];

type Row = (&'static str, [&'static str; 4]);

/// `read`, `read-but:columns`, `insert`, `update`, `update:columns`, `delete`; columns with commas. A lease that a write depends on is
/// locked, for which Postgres wants `update`.
#[rustfmt::skip]
const RIGHTS: &[Row] = &[
    ("_sqlx_migrations",  ["read", "read", "read", "read"]),
    ("accounts",          ["read insert", "", "", ""]),
    ("agent_limits",      ["read insert update", "", "", ""]),
    ("agents",            ["read insert update:webhook_secret,webhook_secret_before,webhook_secret_until", "read-but:webhook_secret,webhook_secret_before update:deleted_at", "read-but:webhook_secret,webhook_secret_before", "read"]),
    ("alert_policies",    ["read insert update delete", "", "", "read"]),
    ("alert_position",    ["", "", "", "read insert update"]),
    ("alerts",            ["read update:acknowledged_at,acknowledged_by,acknowledged_note,rev", "", "", "read insert update delete"]),
    ("artifacts",         ["read insert update", "read", "read", ""]),
    ("audit",             ["read insert", "", "", ""]),
    ("crash_loops",       ["read", "", "read insert update delete", ""]),
    ("deliveries",        ["read insert update", "", "", "read insert update:status,attempts,due_at delete"]),
    ("delivery_attempts", ["read", "", "", "read insert delete"]),
    ("deployment_orders", ["read insert", "read", "", ""]),
    ("deployments",       ["read insert", "read update:status,state,rev,updated_at", "", ""]),
    ("envelopes",         ["read", "read insert update", "read", ""]),
    ("environments",      ["", "", "read insert update delete", ""]),
    ("executions",        ["read insert update delete", "read-but:input,output", "read insert update delete", "read-but:input,output delete"]),
    ("gone_receivers",    ["read update:used_at delete", "", "", "read insert update:used_at delete"]),
    ("instances",         ["read", "read", "read insert update", "read delete"]),
    ("keys",              ["read insert update", "read-but:hash update:revoked_at", "", ""]),
    ("leases",            ["", "read insert update", "read", "read insert update"]),
    ("locks",             ["", "read insert", "read", ""]),
    ("logs",              ["read", "", "read insert", "read delete"]),
    ("nodes",             ["read", "read", "read insert update", "read"]),
    ("peppers",           ["read insert", "", "", ""]),
    ("rollup_position",   ["", "", "", "read update"]),
    ("rollups",           ["", "", "", "read insert update delete"]),
    ("scaling_events",    ["read", "", "insert", "read delete"]),
    ("spent",             ["read insert update", "", "", "read delete"]),
    ("traffic",           ["read", "read insert update", "", "read"]),
    ("version_tags",      ["read insert", "", "", ""]),
    ("versions",          ["read insert", "read-but:secrets", "read", "read-but:secrets"]),
];

/// The statements that give `user` what `role` may, and take everything else. `columns` tells a table's.
pub(crate) fn statements(
    role: &str,
    user: &str,
    schema: &str,
    columns: &dyn Fn(&str) -> Vec<String>,
) -> Vec<String> {
    let (schema, user) = (quoted(schema), quoted(user));
    let mut said = vec![
        format!("REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {user}"),
        format!("REVOKE ALL ON SCHEMA {schema} FROM {user}"),
        format!("GRANT USAGE ON SCHEMA {schema} TO {user}"),
    ];
    let Some(place) = ROLES.iter().position(|one| *one == role) else {
        return said;
    };
    for (table, may) in RIGHTS {
        let given: Vec<String> = may[place]
            .split_whitespace()
            .map(|word| given(word, &columns(table)))
            .collect();
        if !given.is_empty() {
            said.push(format!(
                "GRANT {} ON {schema}.{} TO {user}",
                given.join(", "),
                quoted(table)
            ));
        }
    }
    said
}

fn given(word: &str, columns: &[String]) -> String {
    let (verb, named) = word.split_once(':').unwrap_or((word, ""));
    let named: Vec<&str> = named.split(',').filter(|name| !name.is_empty()).collect();
    let listed = |names: Vec<&str>| {
        let names: Vec<String> = names.into_iter().map(quoted).collect();
        format!("({})", names.join(", "))
    };
    match (verb, named.is_empty()) {
        ("read", _) => "SELECT".to_owned(),
        ("read-but", _) => {
            let rest = columns.iter().map(String::as_str);
            let rest = rest.filter(|column| !named.contains(column)).collect();
            format!("SELECT {}", listed(rest))
        }
        (verb, true) => verb.to_uppercase(),
        (verb, false) => format!("{} {}", verb.to_uppercase(), listed(named)),
    }
}

pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_table_has_an_inserter() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        let mut made = BTreeSet::new();
        for entry in std::fs::read_dir(folder).expect("migrations").flatten() {
            let text = std::fs::read_to_string(entry.path()).expect("a migration");
            let tables = text
                .lines()
                .filter_map(|line| line.strip_prefix("CREATE TABLE "));
            made.extend(tables.map(|rest| rest.trim_end_matches(" (").to_owned()));
        }
        for table in &made {
            let row = RIGHTS.iter().find(|(name, _)| name == table);
            let (_, may) =
                row.unwrap_or_else(|| panic!("{table} is not in RIGHTS: who may do what with it?"));
            let inserted = may.iter().any(|may| may.contains("insert"));
            // Its one row comes from the migration.
            assert!(
                inserted || table == "rollup_position",
                "nobody inserts into {table}"
            );
        }
        for (table, _) in RIGHTS {
            assert!(
                made.contains(*table) || *table == "_sqlx_migrations",
                "{table} is no table"
            );
        }
    }

    #[test]
    fn words_are_known_and_become_sql() {
        for (table, may) in RIGHTS {
            for word in may.iter().flat_map(|may| may.split_whitespace()) {
                let verb = word.split(':').next().expect("a verb");
                let known = ["read", "read-but", "insert", "update", "delete"].contains(&verb);
                assert!(known, "{table}: {word}");
            }
        }
        let columns = |table: &str| match table {
            "versions" => vec!["id".to_owned(), "spec".to_owned(), "secrets".to_owned()],
            _ => Vec::new(),
        };
        let said = statements("monitor", "phx\"m", "public", &columns);
        let of_versions = said.iter().find(|one| one.contains("versions"));
        assert_eq!(
            of_versions.expect("a grant"),
            "GRANT SELECT (\"id\", \"spec\") ON \"public\".\"versions\" TO \"phx\"\"m\""
        );
        assert!(!said.iter().any(|one| one.contains("peppers")));
    }
}
