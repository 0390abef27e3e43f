//! Every parser here of what anybody may send: whatever comes, it is read or refused with words that say what is allowed; what was read
//! is what was written, stays inside its bounds, and passes no wall by another spelling.

#[path = "../../tests/mutate.rs"]
mod mutate;

use domain::{
    Timestamp, address, agent,
    artifact::{self, ArtifactKind, Limits},
    egress::{self, Egress, Policy, Rule},
    trace,
    webhook::{self, Ended, Next, Openness},
};
use mutate::{cases, changed};
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    io::{Cursor, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Component, Path},
    time::Duration,
};
use url::{Host, Url};
use zip::{
    CompressionMethod,
    write::{SimpleFileOptions, ZipWriter},
};

const LIMITS: Limits = Limits {
    unpacked_bytes: 4000,
    entries: 8,
};

/// What a refusal may be: short, whatever was sent, and without what a terminal would act on.
fn told(fault: &str) -> Result<(), TestCaseError> {
    prop_assert!(!fault.is_empty() && fault.len() < 4000, "{fault}");
    prop_assert!(!fault.contains(char::is_control), "{fault:?}");
    Ok(())
}

fn zipped(files: &[(String, Vec<u8>, bool)]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes, stored) in files {
        let method = if *stored {
            CompressionMethod::Stored
        } else {
            CompressionMethod::Deflated
        };
        let options = SimpleFileOptions::default().compression_method(method);
        // The same name once more is refused here already.
        let begun = match name.strip_prefix("link:") {
            Some(name) => writer.add_symlink(name, "/etc/passwd", options).is_err(),
            None => writer.start_file(name.as_str(), options).is_ok(),
        };
        if begun && !name.starts_with("link:") {
            writer.write_all(bytes).expect("memory");
        }
    }
    writer.finish().expect("memory").into_inner()
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[ -~\n]{0,60}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..60),
        (0usize..6000).prop_map(|many| vec![0; many]),
        requirements().prop_map(String::into_bytes),
    ]
}

fn hostile_zip() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        Just("requirements.txt".to_owned()),
        Just("pyproject.toml".to_owned()),
        "[a-z]{1,3}(/[a-z]{1,3}){0,2}(\\.py|/)?",
        r"(\.\./|/|\./|C:|a\\|a//|link:|\x00){1,2}[a-z]{1,3}(\.py)?",
    ];
    let files = prop::collection::vec((name, content(), any::<bool>()), 0..6);
    changed(files.prop_map(|files| zipped(&files)))
}

/// What stands in files of requirements, well or badly.
fn requirements() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        "[a-z][a-z0-9._-]{0,8}[a-z0-9]((>=|==|~=|<)[0-9]{1,2}(\\.[0-9]){0,2})?",
        "[a-z]{1,4}\\[[a-z]{1,3}\\] ?; ?python_version >= '3.[0-9]'",
        Just("-r /etc/passwd".to_owned()),
        Just("--index-url=http://h/".to_owned()),
        Just("x @ file:///etc/passwd".to_owned()),
        Just("a \\\n ==1".to_owned()),
        "#[ -~]{0,8}",
        "[ -~]{0,12}",
        "[a-z]\\PC{0,6}",
    ];
    let lines = prop::collection::vec(line, 0..6);
    prop_oneof![
        lines.clone().prop_map(|lines| lines.join("\n")),
        lines.prop_map(|lines| format!("[project]\ndependencies = {lines:?}\n")),
        (1usize..3000).prop_map(|deep| format!("a = {}", "[".repeat(deep))),
        (1usize..3000).prop_map(|deep| format!("a{} = 1", ".a".repeat(deep))),
    ]
}

/// Addresses, most of them such that matter.
fn v4() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![
        any::<u32>().prop_map(Ipv4Addr::from),
        (
            prop::sample::select(vec![
                [127, 0],
                [10, 0],
                [169, 254],
                [172, 16],
                [192, 168],
                [100, 64],
                [0, 0],
                [224, 0],
                [1, 1]
            ]),
            any::<[u8; 2]>()
        )
            .prop_map(|([a, b], [c, d])| Ipv4Addr::new(a, b, c, d)),
    ]
}

/// One address in one of the ways that readers of URLs know.
fn spelt(ip: Ipv4Addr, way: u8) -> String {
    let [a, b, c, d] = ip.octets();
    let whole = u32::from(ip);
    match way % 12 {
        0 => ip.to_string(),
        1 => whole.to_string(),
        2 => format!("0x{whole:x}"),
        3 => format!("0{whole:o}"),
        4 => format!("{a}.{}", whole & 0xff_ffff),
        5 => format!("{a}.{b}.{}", whole & 0xffff),
        6 => format!("0x{a:X}.0{b:o}.{c}.0x{d:x}"),
        7 => format!("{ip}."),
        8 => ip
            .to_string()
            .bytes()
            .map(|byte| format!("%{byte:02x}"))
            .collect(),
        9 => ip
            .to_string()
            .chars()
            .map(|c| char::from_u32(c as u32 + 0xfee0).unwrap_or(c))
            .collect(),
        10 => format!("[::ffff:{ip}]"),
        _ => format!("[64:ff9b::{ip}]"),
    }
}

fn hosts() -> impl Strategy<Value = String> {
    prop_oneof![
        (v4(), any::<u8>()).prop_map(|(ip, way)| spelt(ip, way)),
        any::<u128>().prop_map(|bits| Ipv6Addr::from(bits).to_string()),
        v4().prop_map(|ip| ip.to_ipv6_mapped().to_string()),
        "(\\*\\.)?([a-z0-9-]{1,4}\\.){0,3}[a-z]{0,4}\\.?",
        "\\PC{0,10}",
    ]
}

fn rules() -> impl Strategy<Value = String> {
    let host = prop_oneof![
        hosts(),
        Just("*".to_owned()),
        (hosts(), 0u8..140).prop_map(|(host, prefix)| format!("{host}/{prefix}")),
        (v4(), 0u32..33).prop_map(|(ip, prefix)| {
            let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
            format!("{}/{prefix}", Ipv4Addr::from(u32::from(ip) & mask))
        }),
        (v4(), 0u32..33).prop_map(|(ip, prefix)| {
            let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
            format!(
                "[{}]/{}",
                Ipv4Addr::from(u32::from(ip) & mask).to_ipv6_mapped(),
                96 + prefix
            )
        }),
        (any::<u128>(), 0u32..129).prop_map(|(bits, prefix)| {
            let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
            format!("[{}]/{prefix}", Ipv6Addr::from(bits & mask))
        }),
        hosts().prop_map(|host| format!("[{host}]")),
    ];
    (
        host,
        "(:(\\*|[0-9]{1,5}|[0-9]{1,5}-[0-9]{1,5}|[ -~]{0,4}))?",
    )
        .prop_map(|(host, ports)| host + &ports)
}

proptest! {
    #![proptest_config(cases())]

    /// A zip unpacks to no more than it may, to plain names only; what is refused is named.
    #[test]
    fn zips(bytes in prop_oneof![3 => hostile_zip(), 1 => prop::collection::vec(any::<u8>(), 0..60)]) {
        match artifact::inspect(&bytes, LIMITS) {
            Ok(artifact) => {
                prop_assert_eq!(artifact.digest, artifact::digest(&bytes));
                prop_assert!(artifact.requirements.len() <= agent::MAX_REQUIREMENTS);
            }
            Err(faults) => {
                prop_assert!((1..=20).contains(&faults.len()));
                faults.iter().try_for_each(|fault| told(fault))?;
            }
        }
        let (mut out, mut inside) = (0, true);
        let done = artifact::unpack(&bytes, "agent.py", LIMITS, |entry| {
            out += entry.bytes.len() as u64;
            let path = Path::new(&entry.path);
            inside &= path.components().all(|part| matches!(part, Component::Normal(_))) && !entry.path.contains(['\\', ':', '\0']) && !entry.path.ends_with('/');
            Ok(())
        });
        let most = LIMITS.unpacked_bytes.max(bytes.len() as u64);
        prop_assert!(inside && out <= most, "{} bytes came out", out);
        if let Err(faults) = done {
            prop_assert!((1..=20).contains(&faults.len()));
            faults.iter().try_for_each(|fault| told(fault))?;
        }
    }

    /// What was packed well comes out as it went in.
    #[test]
    fn good_zips(files in prop::collection::btree_map("[a-z]{1,3}(/[a-z]{4,6}){0,2}\\.py", prop::collection::vec(any::<u8>(), 0..500), 1..6), stored in any::<bool>()) {
        let listed: Vec<(String, Vec<u8>, bool)> = files.clone().into_iter().map(|(name, bytes)| (name, bytes, stored)).collect();
        let bytes = zipped(&listed);
        prop_assert_eq!(artifact::inspect(&bytes, LIMITS).map(|artifact| artifact.kind), Ok(ArtifactKind::Zip));
        let mut back = BTreeMap::new();
        artifact::unpack(&bytes, "agent.py", LIMITS, |entry| {
            back.insert(entry.path, entry.bytes);
            Ok(())
        }).map_err(|faults| TestCaseError::fail(faults.join("; ")))?;
        prop_assert_eq!(back, files);
    }

    /// No requirement is an option, a path, an address or two lines; what is refused is found by its line or its place.
    #[test]
    fn requirements_of_a_zip(text in changed(requirements().prop_map(String::into_bytes)), name in "(requirements\\.txt|pyproject\\.toml)") {
        let bytes = zipped(&[("a.py".to_owned(), b"x".to_vec(), true), (name.clone(), text, true)]);
        match artifact::inspect(&bytes, Limits::default()) {
            Ok(artifact) => for one in artifact.requirements {
                let text = one.as_str();
                prop_assert_eq!(text.parse(), Ok(one.clone()));
                prop_assert!(text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.len() <= 512, "{text}");
                prop_assert!(!text.contains(['@', '\n', '\r', '/', '\\', '#', '$', '`', '&', '|', '{', ':', '\0']), "{text}");
            },
            Err(faults) => for fault in faults {
                told(&fault)?;
                prop_assert!(fault.starts_with(&format!("{name} in the zip")), "{fault}");
            }
        }
    }

    /// A rule is what it is printed as, allows what it names, and nothing that is spelt as no rule says.
    #[test]
    fn rules_of_egress(text in prop_oneof![rules(), changed(rules().prop_map(String::into_bytes)).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())], host in hosts(), port in any::<u16>()) {
        match text.parse::<Rule>() {
            Ok(rule) => {
                let shown = rule.to_string();
                prop_assert_eq!(shown.parse::<Rule>(), Ok(rule.clone()), "{}", shown);
                let egress = Egress { policy: Policy::Allowlist, allow: vec![rule.clone()] };
                let asked = egress::host(&host);
                let allowed = egress.permits(&asked, port).is_ok();
                if let Ok(address) = asked.parse::<IpAddr>() {
                    prop_assert!(!rule.is_network() || allowed == rule.holds(address, port));
                    prop_assert_eq!(rule.holds(address, port), rule.holds(address.to_canonical(), port));
                }
                // A network holds its own first address at a port that it names.
                let first = shown.trim_start_matches('[').split([']', '/', ':']).next().and_then(|ip| ip.parse::<Ipv4Addr>().ok());
                if let Some(first) = first.filter(|_| rule.is_network()) {
                    let port = shown.split(':').nth(1).map_or(443, |ports| ports.split('-').next().and_then(|from| from.parse().ok()).unwrap_or(1));
                    prop_assert!(rule.holds(first.into(), port), "{}", shown);
                }
            }
            Err(fault) => {
                told(&fault)?;
                prop_assert!(fault.contains("allowed is"), "{fault}");
            }
        }
    }

    /// No spelling of an address that is not public is a receiver's; a refusal says what is.
    #[test]
    fn receivers(ip in v4(), way in any::<u8>(), around in ("(https|HTTPS|http|ftp|file|javascript)", "(|a@|a:b@|@)", "(|:443|:0443|:8080|:22|:6379|:99999|:)", "(|/|/a?b#c|\\?x|/\\.\\./)")) {
        let (scheme, user, port, path) = around;
        let url = format!("{scheme}://{user}{}{port}{path}", spelt(ip, way));
        let read = webhook::target(&url, &Openness::default());
        let plain = scheme.eq_ignore_ascii_case("https") && matches!(user.as_str(), "" | "@") && matches!(port.as_str(), "" | ":443" | ":0443" | ":8080" | ":");
        prop_assert_eq!(read.is_ok(), plain && address::is_public(ip.into()), "{}: {:?}", url, read);
        if let Err(fault) = read {
            told(&fault)?;
            prop_assert!(fault.contains("allowed"), "{fault}");
        }
    }

    /// Whatever else is said to be a receiver.
    #[test]
    fn urls(text in changed(prop_oneof![
        (hosts(), "(|:[0-9]{1,5})(/[ -~]{0,12})?").prop_map(|(host, rest)| format!("https://{host}{rest}")),
        "(https?|HTTPS|wss|data):/{0,3}\\PC{0,20}",
    ].prop_map(String::into_bytes))) {
        let text = String::from_utf8_lossy(&text).into_owned();
        match webhook::target(&text, &Openness::default()) {
            Ok(url) => {
                prop_assert!(url.scheme() == "https" && url.username().is_empty() && url.password().is_none(), "{url}");
                let public = match url.host() {
                    Some(Host::Ipv4(ip)) => address::is_public(ip.into()),
                    Some(Host::Ipv6(ip)) => address::is_public(ip.into()),
                    // No reader takes what is left for an address.
                    Some(Host::Domain(name)) => name.parse::<IpAddr>().is_err() && !name.trim_end_matches('.').ends_with("localhost"),
                    None => false,
                };
                prop_assert!(public, "{url}");
                let port = url.port_or_known_default().unwrap_or_default();
                prop_assert!(port >= 1024 || port == 443 || port == 80, "{url}");
                // It is the same to whoever reads what we keep.
                prop_assert_eq!(Url::parse(url.as_str()), Ok(url));
                prop_assert!(webhook::host(&text).ends_with(&format!(":{port}")), "{text}");
            }
            Err(fault) => {
                told(&fault)?;
                prop_assert!(fault.contains("allowed"), "{fault}");
            }
        }
    }

    /// A receiver can ask for a wait of a day at most, and never for less than the schedule.
    #[test]
    fn waits(text in prop_oneof![
        "[+-]?[0-9]{0,22}",
        "(Mon|Sun), [0-9]{2} (Jan|Feb|Dec) [0-9]{1,5} [0-9]{2}:[0-9]{2}:[0-9]{2} (GMT|\\+0000|-9999)",
        "\\PC{0,20}",
    ], attempts in 0u32..12, now in -1_000_000_000_000i64..5_000_000_000_000, chance in any::<f64>()) {
        let now = Timestamp(now);
        let ended = Ended::Answered { status: 503, retry_after: webhook::retry_after(&text, now) };
        let Next::Again(bare) = webhook::next(attempts, &Ended::Broken, now, chance) else {
            prop_assert!(attempts >= 10);
            return Ok(());
        };
        let Next::Again(at) = webhook::next(attempts, &ended, now, chance) else {
            return Err(TestCaseError::fail("given up"));
        };
        prop_assert!(at >= bare && at.since(now) <= Duration::from_secs(86_400).mul_f64(1.2), "{at}");
    }

    /// Names and times are read as they are printed, and refusals are short.
    #[test]
    fn words(text in prop_oneof![
        changed(prop_oneof![
            "[a-z]{1,4}(\\.[a-z]{1,4}){0,2}:[a-z]{1,4}",
            "[a-z]{1,4}(/[a-z]{1,4}){0,2}\\.py",
            "[a-z0-9][a-z0-9+.-]{1,6}(=[0-9][0-9a-z.+~:-]{0,6})?",
            "[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,30}(-[a-z0-9.]{1,5})?",
            "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{0,12})?(Z|[+-][0-9]{2}:[0-9]{2})(\\[[A-Za-z/]{0,9}\\])?",
            "[A-Za-z_.]{1,70}",
        ].prop_map(String::into_bytes)).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        "\\PC{0,600}",
        any::<String>(),
    ]) {
        let mut faults = Vec::new();
        let unsafe_name = |text: &str| text.contains(char::is_whitespace) || text.contains(char::is_control) || text.contains("..") || text.starts_with(['/', '-', '.']);
        match text.parse::<agent::Entrypoint>() {
            Ok(entrypoint) => {
                prop_assert!(entrypoint.as_str() == text && !unsafe_name(&text), "{text:?}");
                let file = artifact::single_file(&entrypoint);
                prop_assert!(file.ends_with(".py") && Path::new(&file).components().all(|part| matches!(part, Component::Normal(_))), "{file}");
            }
            Err(fault) => faults.push(fault),
        }
        match agent::system_package(&text) {
            Ok(()) => prop_assert!(!text.contains(char::is_whitespace) && text.is_ascii() && !text.starts_with(['-', '.', '/']) && text.len() <= 201, "{text:?}"),
            Err(fault) => faults.push(fault),
        }
        match agent::version(&text) {
            Ok(version) => prop_assert_eq!(version.to_string(), text.as_str()),
            Err(fault) => faults.push(fault),
        }
        match agent::environment_name(&text) {
            Ok(()) => prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')),
            Err(fault) => faults.push(fault),
        }
        faults.extend(agent::metric_name(&text).err());
        match Timestamp::parse(&text) {
            Ok(at) => prop_assert_eq!(Timestamp::parse(&at.to_string()), Ok(at)),
            Err(fault) => faults.push(fault),
        }
        for fault in faults {
            told(&fault)?;
            prop_assert!(fault.len() < 1000 && fault.contains("allowed"), "{fault}");
        }
    }

    /// A trace is passed on as it came, and nothing comes along with it.
    #[test]
    fn traces(parent in changed("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[0-9a-z]{0,9})?".prop_map(String::into_bytes)), state in changed("([a-z]{1,5}=[!-~]{0,9},?){0,40}".prop_map(String::into_bytes))) {
        let (parent, state) = (String::from_utf8_lossy(&parent), String::from_utf8_lossy(&state));
        if let Some(context) = trace::Context::read(Some(&parent), Some(&state)) {
            let shown = context.parent.to_string();
            prop_assert_eq!(shown.parse(), Ok(context.parent));
            prop_assert!(shown.len() == 55 && shown[3..52] == parent[3..52], "{parent}");
            if let Some(state) = context.state {
                prop_assert!(state.len() <= 512 && state.split(',').count() <= 32 && !state.contains(['\r', '\n', '\0']), "{state:?}");
            }
        }
    }
}
