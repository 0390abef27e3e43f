//! `deployment_config.security.egress` of a deploy: where the agent may connect to.

use crate::{fields::Fields, openapi};
use domain::egress::{Egress, MAX_RULES, Policy};
use utoipa::ToSchema;

/// Where the agent may connect to, always by way of the proxy that its environment names, and never to private, loopback or metadata addresses.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "the schema of what the walk below reads; a test holds them together"
)]
pub struct EgressConfig {
    /// Every public host, those of the rules, or nobody.
    #[schema(required = false, default = "open", schema_with = openapi::egress_policy)]
    policy: String,
    /// With allowlist only: a host name, *.name, an address or a network, and with it :port, :from-to or :*; without, ports 80 and 443.
    #[schema(required = false, min_items = 1, max_items = 200)]
    allow: Vec<String>,
}

pub fn read(fields: &Fields<'_>) -> Egress {
    let policy = fields.parsed("policy").unwrap_or_default();
    let allow = fields.texts("allow", MAX_RULES, str::parse);
    let given = fields.value("allow").is_some();
    if given && policy != Policy::Allowlist {
        let what = format!("is given with the policy {policy}; allowed is it with allowlist only");
        fields.fault("allow", what);
    }
    if policy == Policy::Allowlist && (!given || allow.is_empty()) {
        let what = format!("has no rule; allowed are 1 to {MAX_RULES}");
        fields.fault("allow", what);
    }
    Egress { policy, allow }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Faults;
    use serde_json::{Value, json};

    fn walked(sent: &Value) -> (Egress, Vec<String>) {
        let faults = Faults::default();
        let egress = read(&Fields::of(sent, &faults));
        let faults = faults
            .check()
            .map_or_else(|error| error.faults, |()| Vec::new());
        (egress, faults)
    }

    #[test]
    fn rules_belong_to_an_allow_list() {
        assert_eq!(walked(&json!({})), (Egress::default(), Vec::new()));
        let (egress, faults) = walked(
            &json!({"policy": "allowlist", "allow": ["api.example.org", "*.example.net:8443"]}),
        );
        assert!(faults.is_empty() && egress.permits("a.example.net", 8443).is_ok());
        for (sent, path) in [
            (json!({"policy": "closed"}), "policy: "),
            (json!({"policy": "allowlist"}), "allow: has no rule"),
            (
                json!({"policy": "allowlist", "allow": []}),
                "allow: has no rule",
            ),
            (
                json!({"policy": "allowlist", "allow": ["http://a"]}),
                "allow[0]: ",
            ),
            (json!({"policy": "allowlist", "allow": "a"}), "allow: "),
            (
                json!({"allow": ["a"]}),
                "allow: is given with the policy open",
            ),
            (
                json!({"policy": "none", "allow": ["a"]}),
                "allow: is given with the policy none",
            ),
            (json!({"deny": []}), "deny: "),
        ] {
            let (_, faults) = walked(&sent);
            assert!(
                faults.iter().any(|fault| fault.starts_with(path)),
                "{sent}: {faults:?}"
            );
        }
    }
}
