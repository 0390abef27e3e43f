//! Names of things. Ids that Phalanx makes have a printed prefix; ids that callers choose have a written form.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// Declares a newtype over a shared string: cheap to clone, checked when parsed.
macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident: $check:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let check: fn(&str) -> Result<(), String> = $check;
                check(text)?;
                Ok(Self(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

/// Ids that Phalanx makes: `prefix_` + UUID v7 as 32 hex digits, so they sort by time.
macro_rules! made {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {
        ids! {$( $(#[$doc])* $name: |text| made_form(text, $prefix); )*}
        $(impl $name {
            pub fn from_uuid(uuid: uuid::Uuid) -> Self {
                Self(format!(concat!($prefix, "_{}"), uuid.as_simple()).into())
            }
        })*
    };
}

made! {
    DeploymentId = "dep";
    /// One version of one agent, as deployed: code, environment and configuration.
    VersionId = "ver";
    InstanceId = "inst";
    /// One executor on one host; kept in its data directory over restarts.
    NodeId = "node";
    KeyId = "key";
    AlertId = "alert";
    /// A webhook that is sent until it is taken: its `webhook-id`.
    DeliveryId = "msg";
    /// One run of an executor process: a new one at every start.
    BootId = "boot";
}

ids! {
    /// The tenant. Every row belongs to one.
    AccountId: |text| plain(text, 64, "account id");
    /// Chosen by the caller: `^[a-z][a-z0-9-]{1,62}$`.
    AgentId: agent_id;
    /// Chosen by the caller or made (`exec_…`); the idempotency key of an execution within its agent.
    ExecutionId: |text| plain(text, 128, "execution id");
}

impl ExecutionId {
    pub fn from_uuid(uuid: uuid::Uuid) -> Self {
        Self(format!("exec_{}", uuid.as_simple()).into())
    }
}

impl AccountId {
    /// The account of a fresh store.
    pub fn default_account() -> Self {
        Self("default".into())
    }
}

fn made_form(text: &str, prefix: &str) -> Result<(), String> {
    let hex = text
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('_'));
    match hex {
        Some(hex) if hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()) => Ok(()),
        _ => Err(format!(
            "{} is not an id of this kind; allowed is {prefix}_ and 32 hex digits",
            crate::text::quote(text)
        )),
    }
}

fn plain(text: &str, most: usize, what: &str) -> Result<(), String> {
    let first = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b));
    if first && rest && text.len() <= most {
        return Ok(());
    }
    Err(format!(
        "{} is not an {what}; allowed are 1 to {most} letters, digits and . _ : - after a letter or digit",
        crate::text::quote(text)
    ))
}

fn agent_id(text: &str) -> Result<(), String> {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    let rest = text
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !(first && rest && (2..=63).contains(&text.len())) {
        return Err(format!(
            "{} is not an agent id; allowed is ^[a-z][a-z0-9-]{{1,62}}$",
            crate::text::quote(text)
        ));
    }
    // POST /agents/deploy is an endpoint, so GET /agents/deploy could never be that agent.
    if text == "deploy" {
        return Err("\"deploy\" is reserved; choose another agent id".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_ids() {
        for good in ["ab", "a1", "my-agent", &format!("a{}", "b".repeat(62))] {
            assert!(good.parse::<AgentId>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "a",
            "A1",
            "1a",
            "a_b",
            "a/b",
            "..",
            "a b",
            "å1",
            "deploy",
            &"a".repeat(64),
        ] {
            assert!(bad.parse::<AgentId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn execution_ids() {
        for good in ["1", "exec_0198", "order:17.a-b"] {
            assert!(good.parse::<ExecutionId>().is_ok(), "{good}");
        }
        for bad in ["", "..", "../x", "a/b", "a\0", ".hidden", &"x".repeat(129)] {
            assert!(bad.parse::<ExecutionId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn made_ids_print_their_prefix_and_parse_again() {
        let id = NodeId::from_uuid(uuid::Uuid::nil());
        assert_eq!(id.as_str(), "node_00000000000000000000000000000000");
        assert_eq!(id.as_str().parse::<NodeId>(), Ok(id));
        assert!(
            "dep_00000000000000000000000000000000"
                .parse::<NodeId>()
                .is_err()
        );
    }
}
