//! Webhooks: where they may go, how they are signed, and what follows an attempt. By Standard Webhooks 1.0.
//!
//! Never here: a socket, a resolver. Whoever connects asks [`Openness::allows`] of the very address that is connected.

use crate::{Timestamp, address::is_public, egress::Rule, text, words};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use core::net::{IpAddr, SocketAddr};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use std::{sync::Arc, time::Duration};
use url::{Host, Url};

/// Longer ones are refused.
pub const MOST_URL: usize = 2048;

/// Below 1024 only these; above, all but those of services that act on whatever a stranger's HTTP request holds.
const LOW_PORTS: [u16; 2] = [80, 443];
const DENIED_PORTS: [u16; 24] = [
    1433, 1521, 2049, 2181, 2375, 2376, 2379, 2380, 3128, 3306, 3389, 4222, 5432, 5672, 5900, 5984,
    6000, 6379, 6443, 8500, 9042, 9200, 11211, 27017,
];

/// What an operator opens beyond the public internet: for laptops, tests and receivers in the same network.
#[derive(Debug, Clone, Default)]
pub struct Openness {
    pub private: Arc<[Rule]>,
}

impl Openness {
    fn opened(&self, ip: IpAddr, port: u16) -> bool {
        self.private.iter().any(|rule| rule.holds(ip, port))
    }

    /// Of an address that a name resolved to, right before it is connected.
    pub fn allows(&self, url: &Url, address: SocketAddr) -> Result<(), String> {
        let (ip, port) = (address.ip(), address.port());
        if self.opened(ip, port) {
            return Ok(());
        }
        if !is_public(ip) {
            return Err(format!("{ip} is not a public address"));
        }
        if url.scheme() != "https" {
            return Err("only https is sent over the internet".to_owned());
        }
        port_allowed(port)
    }
}

/// A receiver's URL, checked as far as that goes without a resolver. What is wrong with it, and what is allowed.
pub fn target(url: &str, openness: &Openness) -> Result<Url, String> {
    let shown = text::quote(url);
    let refused = |why: &str| {
        format!(
            "{shown} {why}; allowed is https:// with a public host, as https://hooks.example.org/phalanx"
        )
    };
    if url.len() > MOST_URL {
        return Err(format!(
            "has {} bytes; allowed are at most {MOST_URL}",
            url.len()
        ));
    }
    let parsed = Url::parse(url).map_err(|_| refused("is not a URL"))?;
    let some = !openness.private.is_empty();
    if parsed.scheme() != "https" && !(parsed.scheme() == "http" && some) {
        return Err(refused("is not https"));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(refused("holds credentials"));
    }
    let Some(port) = parsed.port_or_known_default() else {
        return Err(refused("has no port"));
    };
    match parsed.host() {
        None => Err(refused("has no host")),
        Some(Host::Ipv4(ip)) => {
            checked(&parsed, openness, ip.into(), port).map_err(|why| refused(&why))
        }
        Some(Host::Ipv6(ip)) => {
            checked(&parsed, openness, ip.into(), port).map_err(|why| refused(&why))
        }
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            let local = name == "localhost" || name.ends_with(".localhost");
            if local && !some {
                return Err(refused("is this host"));
            }
            // A name may yet resolve to what was opened.
            if !some {
                port_allowed(port).map_err(|why| refused(&why))?;
            }
            Ok(())
        }
    }?;
    Ok(parsed)
}

/// What of a URL is connected, and may be slow: its host and port.
pub fn host(url: &str) -> String {
    let parsed = Url::parse(url).ok();
    let host = parsed.as_ref().and_then(|url| {
        let name = url.host_str()?.trim_end_matches('.');
        Some(format!("{name}:{}", url.port_or_known_default()?))
    });
    host.unwrap_or_default()
}

fn checked(url: &Url, openness: &Openness, ip: IpAddr, port: u16) -> Result<(), String> {
    openness.allows(url, SocketAddr::new(ip, port))
}

fn port_allowed(port: u16) -> Result<(), String> {
    let low = port < 1024 && !LOW_PORTS.contains(&port);
    if low || DENIED_PORTS.contains(&port) {
        return Err(format!("port {port} is another service's"));
    }
    Ok(())
}

/// `webhook-signature` of a message: one `v1,…` for each secret that counts, with a space between.
pub fn signature(secrets: &[&str], id: &str, at: Timestamp, body: &str) -> Result<String, String> {
    let mut signed = Vec::with_capacity(secrets.len());
    for secret in secrets {
        let encoded = secret.strip_prefix("whsec_").unwrap_or(secret);
        let key = STANDARD
            .decode(encoded)
            .map_err(|_| "the secret is not whsec_ and base64".to_owned())?;
        let mut mac = Hmac::<Sha256>::new_from_slice(&key)
            .map_err(|_| "the secret has no bytes".to_owned())?;
        mac.update(format!("{id}.{}.", at.0.div_euclid(1000)).as_bytes());
        mac.update(body.as_bytes());
        signed.push(format!(
            "v1,{}",
            STANDARD.encode(mac.finalize().into_bytes())
        ));
    }
    Ok(signed.join(" "))
}

words! {
    pub enum Status { Pending = "pending", Delivered = "delivered", Failed = "failed", Disabled = "disabled", }
}

/// How one attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    Answered {
        status: u16,
        retry_after: Option<Duration>,
    },
    /// Nobody answered, or the policy was against it.
    Broken,
    /// Nor can it ever be sent.
    Impossible,
}

/// `Retry-After`: seconds or a date (RFC 9110, 10.2.3).
pub fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let parser = jiff::fmt::rfc2822::DateTimeParser::new();
    let at = parser.parse_timestamp(text).ok()?;
    Some(Timestamp(at.as_millisecond()).since(now))
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Over(Status),
    Again(Timestamp),
}

/// Between attempts, by the recommendation of Standard Webhooks.
const WAITS_S: [u64; 9] = [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400];
/// Attempts in all: the last one's end is the end.
pub const ATTEMPTS: u32 = WAITS_S.len() as u32 + 1;
/// A receiver may ask for a longer wait, up to this.
const LONGEST: Duration = Duration::from_secs(86_400);
/// By so much of itself a wait is longer at most: what failed together does not come back together.
const JITTER: f64 = 0.2;

/// After `attempts` attempts, the last of which ended so. `chance` is from 0 to 1.
pub fn next(attempts: u32, ended: &Ended, now: Timestamp, chance: f64) -> Next {
    let asked = match ended {
        Ended::Answered {
            status: 200..=299, ..
        } => return Next::Over(Status::Delivered),
        Ended::Answered { status: 410, .. } => return Next::Over(Status::Disabled),
        Ended::Answered { retry_after, .. } => retry_after.unwrap_or_default().min(LONGEST),
        Ended::Broken => Duration::ZERO,
        Ended::Impossible => return Next::Over(Status::Failed),
    };
    let place = attempts.max(1) as usize - 1;
    match WAITS_S.get(place) {
        Some(wait) => {
            let wait = Duration::from_secs(*wait).mul_f64(1.0 + JITTER * chance.clamp(0.0, 1.0));
            Next::Again(now + wait.max(asked))
        }
        None => Next::Over(Status::Failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Openness {
        let rule = "127.0.0.0/8:*".parse().expect("a rule");
        Openness {
            private: Arc::from([rule]),
        }
    }

    #[test]
    fn public_https_is_allowed() {
        for url in [
            "https://hooks.example.org/a?b=c",
            "https://1.1.1.1/",
            "https://[2606:4700:4700::1111]:8443/",
            "https://example.org:8080",
        ] {
            assert!(target(url, &Openness::default()).is_ok(), "{url}");
        }
    }

    #[test]
    fn every_spelling_of_what_is_not_public_is_refused() {
        for url in [
            "",
            "hooks",
            "http://example.org/",
            "ftp://example.org/",
            "file:///etc/passwd",
            "https://",
            "https://127.0.0.1/",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://0x7f.0x0.0x0.0x1/",
            "https://127.0.1/",
            "https://127.0.0.1./",
            "https://017700000001./",
            "https://0x00000000007f000001/",
            "https://[0:0:0:0:0:ffff:7f00:1]/",
            "https://[::ffff:0:127.0.0.1]/",
            "https://[64:ff9b::a9fe:a9fe]/",
            "https://[64:ff9b:1::a00:1]/",
            "https://[2002:a9fe:a9fe::]/",
            "https://[2001:0:a00:1::f7f7:f7f7]/",
            "https://[fe80::1%25eth0]/",
            "https://[fe80::1%eth0]/",
            "https://[::1]./",
            "https://l\u{ad}ocalhost/",
            "https://\u{24db}\u{24de}\u{24d2}\u{24d0}\u{24db}\u{24d7}\u{24de}\u{24e2}\u{24e3}/",
            "https://localhost\u{3002}/",
            "https://127\u{ff0e}0\u{ff0e}0\u{ff0e}1/",
            "https://\u{ff11}\u{ff12}\u{ff17}.0.0.1/",
            "https:127.0.0.1/",
            "https:\\\\127.0.0.1\\",
            "https://example.org@127.0.0.1/",
            "https://127.0.0.1#@example.org/",
            "https://127.0.0.1\\@example.org/",
            " https://127.0.0.1/",
            "https://127.0\t.0.1/",
            "https://12\n7.0.0.1/",
            "https://[::ffff:7f00:1]:443/",
            "https://255.255.255.255/",
            "https://224.0.0.1/",
            "gopher://example.org/",
            "javascript:alert(1)",
            "//example.org/",
            "https://0x7f.1/",
            "https://0177.0.0.1/",
            "https://017700000001/",
            "https://0/",
            "https://%31%32%37.0.0.1/",
            "https://127。0。0。1/",
            "https://①②⑦.0.0.1/",
            "https://localhost/",
            "https://LOCALHOST./",
            "https://a.localhost/",
            "https://[::1]/",
            "https://[::]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:a9fe:a9fe]/",
            "https://[::127.0.0.1]/",
            "https://[64:ff9b::10.0.0.1]/",
            "https://[2002:7f00:1::1]/",
            "https://[fd00:ec2::254]/",
            "https://[fe80::1]/",
            "https://169.254.169.254/latest/meta-data",
            "https://2852039166/",
            "https://10.0.0.1/",
            "https://192.168.1.1/",
            "https://172.16.0.1/",
            "https://100.100.100.200/",
            "https://168.63.129.16/",
            "https://user@example.org/",
            "https://user:word@example.org/",
            "https://example.org:22/",
            "https://example.org:25/",
            "https://example.org:6379/",
            "https://example.org:5432/",
            "https://1.1.1.1:4222/",
        ] {
            assert!(target(url, &Openness::default()).is_err(), "{url}");
        }
    }

    #[test]
    fn an_operator_opens_networks_and_no_more() {
        assert!(target("http://127.0.0.1:4999/", &open()).is_ok());
        assert!(target("http://localhost:4999/", &open()).is_ok());
        for url in [
            "http://10.0.0.1/",
            "http://1.1.1.1/",
            "https://169.254.169.254/",
            "http://a:b@127.0.0.1/",
        ] {
            assert!(target(url, &open()).is_err(), "{url}");
        }
    }

    #[test]
    fn a_name_is_judged_by_what_it_resolves_to() {
        let url = Url::parse("https://rebind.example.org/").expect("a URL");
        let at = |text: &str| text.parse().expect("an address");
        assert!(Openness::default().allows(&url, at("1.1.1.1:443")).is_ok());
        for bad in [
            "127.0.0.1:443",
            "[::ffff:127.0.0.1]:443",
            "10.0.0.1:443",
            "[fd00::1]:443",
            "1.1.1.1:5432",
        ] {
            assert!(Openness::default().allows(&url, at(bad)).is_err(), "{bad}");
        }
        let plain = Url::parse("http://example.org/").expect("a URL");
        assert!(open().allows(&plain, at("1.1.1.1:80")).is_err());
    }

    #[test]
    fn the_example_of_the_specification() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let (id, at) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", Timestamp(1_614_265_330_999));
        let signed = signature(&[secret], id, at, r#"{"test": 2432232314}"#);
        let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(signed.as_deref(), Ok(expected));
        let both = signature(&[secret, secret], id, at, r#"{"test": 2432232314}"#);
        assert_eq!(both, Ok(format!("{expected} {expected}")));
        assert!(signature(&["whsec_%"], id, at, "").is_err());
    }

    #[test]
    fn one_host_is_one_however_it_is_written() {
        for url in [
            "https://hooks.example.org/a",
            "https://HOOKS.example.org./b?c",
            "https://hooks.example.org:443/",
            "https://hooks\u{3002}example.org/",
        ] {
            assert_eq!(host(url), "hooks.example.org:443", "{url}");
        }
        assert_eq!(host("http://2130706433:81/"), "127.0.0.1:81");
        assert_eq!(host("nothing"), "");
    }

    #[test]
    fn how_long_a_receiver_wants_to_be_left_alone() {
        let now = Timestamp::parse("2026-01-01T00:00:00Z").expect("a time");
        for (text, seconds) in [
            ("120", Some(120)),
            ("Thu, 01 Jan 2026 00:01:00 GMT", Some(60)),
            ("Wed, 31 Dec 2025 00:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            let wait = retry_after(text, now).map(|wait| wait.as_secs());
            assert_eq!(wait, seconds, "{text}");
        }
    }

    #[test]
    fn what_follows_an_attempt() {
        let now = Timestamp(1_000_000);
        let answered = |status| Ended::Answered {
            status,
            retry_after: None,
        };
        assert_eq!(
            next(1, &answered(204), now, 0.0),
            Next::Over(Status::Delivered)
        );
        assert_eq!(
            next(1, &answered(410), now, 0.0),
            Next::Over(Status::Disabled)
        );
        // A redirect is no delivery.
        for ended in [answered(302), answered(400), answered(503), Ended::Broken] {
            assert_eq!(
                next(1, &ended, now, 0.0),
                Next::Again(Timestamp(1_005_000)),
                "{ended:?}"
            );
            assert_eq!(
                next(9, &ended, now, 0.0),
                Next::Again(Timestamp(87_400_000))
            );
            assert_eq!(next(10, &ended, now, 0.0), Next::Over(Status::Failed));
        }
        let asks = |secs| Ended::Answered {
            status: 429,
            retry_after: Some(Duration::from_secs(secs)),
        };
        assert_eq!(
            next(1, &asks(60), now, 0.0),
            Next::Again(Timestamp(1_060_000))
        );
        assert_eq!(
            next(1, &asks(1), now, 0.0),
            Next::Again(Timestamp(1_005_000))
        );
        assert_eq!(
            next(1, &asks(u64::MAX), now, 0.0),
            Next::Again(Timestamp(87_400_000))
        );
        // Those that failed together are apart.
        let late = next(1, &answered(503), now, 1.0);
        assert_eq!(late, Next::Again(Timestamp(1_006_000)));
        assert_eq!(
            next(1, &asks(60), now, 1.0),
            Next::Again(Timestamp(1_060_000))
        );
    }
}
