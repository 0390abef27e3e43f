//! Where an agent may connect to: what it asked for itself, and rules of hosts and ports. Whether an address is the host's business at all
//! (private, loopback, metadata) is decided beside this, on the address that is really connected.

use crate::text::quote;
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr, str::FromStr};

/// Rules that one agent may have.
pub const MAX_RULES: usize = 200;

crate::words! {
    /// Which way an agent wants to be kept.
    #[derive(Default)]
    pub enum Policy {
        /// Every public host.
        #[default]
        Open = "open",
        /// The hosts of its rules, and no other.
        Allowlist = "allowlist",
        /// Nobody.
        None = "none",
    }
}

/// An agent's own word on its connections.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Egress {
    pub policy: Policy,
    /// Of `allowlist`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Rule>,
}

impl Egress {
    /// Whether it may ask for this host, in the form that [`host`] gives. The error is for the agent.
    pub fn permits(&self, host: &str, port: u16) -> Result<(), &'static str> {
        match self.policy {
            Policy::Open => Ok(()),
            Policy::None => Err("the agent's egress policy is none"),
            Policy::Allowlist if self.allow.iter().any(|rule| rule.matches(host, port)) => Ok(()),
            Policy::Allowlist => Err("it is not on the agent's allow-list"),
        }
    }
}

/// `example.org`, `*.example.org:443`, `203.0.113.0/24:8000-8100`, `[2001:db8::1]:443`, `*:443`; without ports 80 and 443, `:*` all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    host: Host,
    ports: Ports,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Any,
    Name(String),
    /// Everything below a name, itself not.
    Below(String),
    Network(IpAddr, u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ports {
    Web,
    Between(u16, u16),
}

const ALLOWED: &str = "allowed is a host name, *.name, an address or network, with or without :port, :from-to or :*, as api.example.org, *.example.org:443 or 203.0.113.0/24:8000-8100";

impl Rule {
    fn matches(&self, host: &str, port: u16) -> bool {
        let host_matches = match &self.host {
            Host::Any => true,
            Host::Name(name) => host == name,
            Host::Below(name) => host
                .strip_suffix(name.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            Host::Network(..) => {
                return host.parse().is_ok_and(|address| self.holds(address, port));
            }
        };
        host_matches && self.ports.hold(port)
    }

    /// Whether it names a network, and this address of it.
    pub fn holds(&self, address: IpAddr, port: u16) -> bool {
        match &self.host {
            Host::Network(network, prefix) => {
                let (asked, of) = bits(address.to_canonical());
                let (wanted, width) = bits(*network);
                let shift = width - u32::from(*prefix);
                of == width
                    && (shift == 128 || asked >> shift == wanted >> shift)
                    && self.ports.hold(port)
            }
            Host::Any | Host::Name(_) | Host::Below(_) => false,
        }
    }

    pub fn is_network(&self) -> bool {
        matches!(self.host, Host::Network(..))
    }
}

fn bits(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    }
}

impl Ports {
    fn hold(self, port: u16) -> bool {
        match self {
            Ports::Web => port == 80 || port == 443,
            Ports::Between(from, to) => (from..=to).contains(&port),
        }
    }

    fn read(text: &str) -> Option<Self> {
        let number = |text: &str| -> Option<u16> {
            let good = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|port| good && *port > 0)
        };
        if text == "*" {
            return Some(Ports::Between(1, u16::MAX));
        }
        match text.split_once('-') {
            Some((from, to)) => {
                let (from, to) = (number(from)?, number(to)?);
                (from <= to).then_some(Ports::Between(from, to))
            }
            None => number(text).map(|port| Ports::Between(port, port)),
        }
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{} is no rule; {ALLOWED}", quote(text));
        // An IPv6 address has colons of its own: with ports it stands in brackets.
        let (host, ports) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest
                    .split_once(']')
                    .filter(|(host, _)| host.contains(':'))
                    .ok_or_else(bad)?;
                let (prefix, ports) = match rest.split_once(':') {
                    Some((prefix, ports)) => (prefix, Some(ports)),
                    None => (rest, None),
                };
                (format!("{host}{prefix}"), ports)
            }
            None if text.matches(':').count() > 1 => (text.to_owned(), None),
            None => match text.split_once(':') {
                Some((host, ports)) => (host.to_owned(), Some(ports)),
                None => (text.to_owned(), None),
            },
        };
        let ports = match ports {
            Some(ports) => Ports::read(ports).ok_or_else(bad)?,
            None => Ports::Web,
        };
        let host = read_host(&host).ok_or_else(bad)?;
        Ok(Rule { host, ports })
    }
}

fn read_host(text: &str) -> Option<Host> {
    if text == "*" {
        return Some(Host::Any);
    }
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    if let Ok(address) = address.parse::<IpAddr>() {
        let (bits, width) = bits(address);
        let prefix = match prefix {
            Some(prefix) => prefix
                .parse::<u8>()
                .ok()
                .filter(|n| u32::from(*n) <= width)?,
            None => u8::try_from(width).ok()?,
        };
        // A network, not an address of it: whoever writes 10.1.2.3/8 means something else.
        let host_bits = width - u32::from(prefix);
        let whole = host_bits == 128 && bits == 0
            || host_bits < 128 && bits & ((1u128 << host_bits) - 1) == 0;
        // One of IPv4 in the disguise of IPv6 (::ffff:0:0/96) is what it is.
        let (address, prefix) = match address.to_canonical() {
            v4 @ IpAddr::V4(_) if width == 128 => (v4, prefix.checked_sub(96)?),
            same => (same, prefix),
        };
        return whole.then_some(Host::Network(address, prefix));
    }
    if prefix.is_some() {
        return None;
    }
    match text.strip_prefix("*.") {
        Some(name) => name_of(name).map(Host::Below),
        None => name_of(text).map(Host::Name),
    }
}

/// A name of the DNS, in lower case and without the dot at its end. No number in disguise: a top-level domain is not numeric
/// (RFC 3696, section 2).
fn name_of(text: &str) -> Option<String> {
    let name = host(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next()?;
    let named = last.bytes().next()?.is_ascii_alphabetic();
    (name.len() <= 253 && named && name.split('.').all(label)).then_some(name)
}

/// A host as rules compare it: in lower case, without the dot at the end of an absolute name.
pub fn host(text: &str) -> String {
    text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase()
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Any => f.write_str("*")?,
            Host::Name(name) => f.write_str(name)?,
            Host::Below(name) => write!(f, "*.{name}")?,
            Host::Network(address @ IpAddr::V4(_), 32) => write!(f, "{address}")?,
            Host::Network(address @ IpAddr::V4(_), prefix) => write!(f, "{address}/{prefix}")?,
            Host::Network(address @ IpAddr::V6(_), 128) => write!(f, "[{address}]")?,
            Host::Network(address @ IpAddr::V6(_), prefix) => write!(f, "[{address}]/{prefix}")?,
        }
        match self.ports {
            Ports::Web => Ok(()),
            Ports::Between(1, u16::MAX) => f.write_str(":*"),
            Ports::Between(from, to) if from == to => write!(f, ":{from}"),
            Ports::Between(from, to) => write!(f, ":{from}-{to}"),
        }
    }
}

impl Serialize for Rule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(text: &str) -> Rule {
        text.parse().expect(text)
    }

    #[test]
    fn rules_match_hosts_and_ports() {
        for (text, yes, no) in [
            (
                "example.org",
                &["example.org:80", "example.org:443"][..],
                &[
                    "example.org:22",
                    "www.example.org:443",
                    "example.org.evil.com:443",
                    "xexample.org:443",
                ][..],
            ),
            (
                "*.Example.org:443",
                &["www.example.org:443", "a.b.example.org:443"],
                &[
                    "example.org:443",
                    "www.example.org:80",
                    "wwwexample.org:443",
                    ".example.org:443",
                ],
            ),
            ("*:443", &["a:443", "1.1.1.1:443", "::1:443"], &["a:80"]),
            ("a.b:*", &["a.b:1", "a.b:65535"], &["b:1"]),
            (
                "a.b:8000-8002",
                &["a.b:8000", "a.b:8002"],
                &["a.b:7999", "a.b:8003"],
            ),
            (
                "203.0.113.0/24:5432",
                &[
                    "203.0.113.0:5432",
                    "203.0.113.255:5432",
                    "::ffff:203.0.113.9:5432",
                ],
                &[
                    "203.0.114.0:5432",
                    "203.0.113.0:443",
                    "name:5432",
                    "::cb00:7100:5432",
                ],
            ),
            ("0.0.0.0/0:1", &["1.2.3.4:1"], &["::1:1"]),
            ("::/0", &["::1:80", "2001:db8::1:443"], &["1.2.3.4:80"]),
            (
                "[2001:db8::]/32:22",
                &["2001:db8:ffff::1:22"],
                &["2001:db9::1:22"],
            ),
            ("2001:db8::7", &["2001:db8::7:443"], &["2001:db8::8:443"]),
        ] {
            let egress = Egress {
                policy: Policy::Allowlist,
                allow: vec![rule(text)],
            };
            for (list, expected) in [(yes, true), (no, false)] {
                for target in list {
                    let (host, port) = target.rsplit_once(':').expect("a port");
                    let permitted = egress.permits(host, port.parse().expect("a number"));
                    assert_eq!(permitted.is_ok(), expected, "{text} {target}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in [
            "",
            ":",
            ":443",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "a:2-1",
            "a:1-",
            "a b",
            "a..b",
            ".a",
            "-a.b",
            "a-.b",
            "http://a",
            "a/b",
            "*.",
            "*a",
            "a.*",
            "**",
            "1.2.3",
            "1.2.3.4/33",
            "1.2.3.4/8",
            "0x7f.1",
            "2130706433",
            "a.1",
            "*.1",
            "[::1",
            "::1]:5",
            "[::1]x:5",
            "[a]:5",
            "::1/129",
            "user@a",
            "a%00b",
            "ä.org",
            "a\n",
        ] {
            let error = text.parse::<Rule>().expect_err(text);
            assert!(error.contains("allowed is"), "{error}");
        }
    }

    #[test]
    fn a_network_in_the_disguise_of_another_family_is_what_it_is() {
        let one = rule("[::ffff:192.0.2.1]:443");
        assert_eq!(one.to_string(), "192.0.2.1:443");
        assert!(one.matches("192.0.2.1", 443) && one.matches("::ffff:192.0.2.1", 443));
        assert!(!one.matches("192.0.2.2", 443));
        let net = rule("[::ffff:10.0.0.0]/104:*");
        assert_eq!(net, rule("10.0.0.0/8:*"));
        assert!("[::ffff:0.0.0.0]/90".parse::<Rule>().is_err());
    }

    #[test]
    fn without_rules() {
        let egress = |policy| Egress {
            policy,
            allow: Vec::new(),
        };
        assert!(egress(Policy::Open).permits("a", 1).is_ok());
        assert!(egress(Policy::None).permits("a", 1).is_err());
        assert!(egress(Policy::Allowlist).permits("a", 1).is_err());
        let old: Egress = serde_json::from_str(r#"{"policy":"open"}"#).expect("read");
        assert_eq!(old, Egress::default());
    }

    proptest! {
        #[test]
        fn a_rule_is_read_as_it_is_written(text in r"(\*|(\*\.)?([a-z][a-z0-9]{0,5}\.){0,3}[a-z]{1,5}|[1-9][0-9]?\.0\.0\.0/8|\[2001:db8::[1-9a-f]\])(:(\*|[1-9][0-9]{0,3}|[1-9]-[1-9][0-9]))?") {
            let read = rule(&text);
            prop_assert_eq!(rule(&read.to_string()), read);
        }
    }
}
