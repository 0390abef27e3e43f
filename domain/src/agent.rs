//! What a caller may ask for when it deploys: the checked, complete description of one version of an agent.
//!
//! Every check says what is wrong and what is allowed; the gateway puts the field's path before it.

use crate::{id::AgentId, text};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

/// Everything about one version except its code's bytes and its environment variables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    pub agent_id: AgentId,
    pub name: String,
    pub version: semver::Version,
    pub description: String,
    pub tags: Vec<String>,
    pub entrypoint: Entrypoint,
    /// What the caller named, or else what the zip's own files name.
    pub python: Vec<Requirement>,
    pub system: Vec<String>,
    pub configuration: Configuration,
    pub environment: Environment,
    pub scaling: Scaling,
    pub placement: Placement,
    pub health_check: HealthCheck,
    pub custom_metrics: Vec<String>,
    pub log_level: crate::log::Level,
    #[serde(default)]
    pub isolation: Isolation,
    #[serde(default)]
    pub egress: crate::egress::Egress,
    #[serde(default)]
    pub warm: Warm,
}

/// How further instances start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Warm {
    /// Forked from one that has imported the agent, where that is safe. `false`: each in a sandbox of its own.
    pub start: bool,
    /// What that one handles once before it is forked.
    pub up: Option<serde_json::Value>,
}

impl Default for Warm {
    fn default() -> Self {
        Self {
            start: true,
            up: None,
        }
    }
}

crate::words! {
    /// Who shares an instance.
    #[derive(Default)]
    pub enum Isolation {
        #[default]
        Agent = "agent",
        /// Each session has one of its own; a call without a session has one for itself.
        Session = "session",
    }
}

/// Limits of one instance of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    pub memory_limit_mb: u32,
    pub timeout_s: u32,
    pub concurrent_executions: u32,
}

impl Configuration {
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.timeout_s))
    }
}

impl Default for Configuration {
    fn default() -> Self {
        Self {
            memory_limit_mb: 128,
            timeout_s: 30,
            concurrent_executions: 10,
        }
    }
}

/// Between how many instances, and aiming at which share of their slots.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    pub enabled: bool,
    pub min_instances: u32,
    pub max_instances: u32,
    pub target_utilization: f64,
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            enabled: true,
            min_instances: 1,
            max_instances: 100,
            target_utilization: 0.7,
        }
    }
}

/// Words for clouds: kept and shown, without effect on the local backend.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Placement {
    pub subnet_ids: Vec<String>,
    pub security_group_ids: Vec<String>,
    pub iam_role_arn: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    pub enabled: bool,
    pub path: String,
    pub interval_s: u32,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            enabled: true,
            path: "/health".to_owned(),
            interval_s: 30,
        }
    }
}

/// Declares an enum of words with `parse`, `as_str` and serde by those words.
#[macro_export]
macro_rules! words {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        $vis enum $name { $($(#[$vmeta])* #[serde(rename = $word)] $variant,)* }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// The words in order, as an error names them.
            pub const WORDS: &'static [&'static str] = &[$($word,)*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(format!("{} is not allowed; allowed are {}", $crate::text::quote(text), Self::WORDS.join(", "))),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    pub enum Environment { Dev = "dev", Staging = "staging", Prod = "prod", }
}

words! {
    /// An agent's state as its list shows it.
    pub enum Status {
        Deploying = "deploying",
        Active = "active",
        Inactive = "inactive",
        Failed = "failed",
        Deleting = "deleting",
    }
}

pub const MAX_TAGS: usize = 50;
pub const MAX_REQUIREMENTS: usize = 500;
pub const MAX_SYSTEM_PACKAGES: usize = 100;
pub const MAX_ENVIRONMENT_VARIABLES: usize = 200;
/// Names and values together.
pub const MAX_ENVIRONMENT_BYTES: usize = 64 * 1024;
pub const MAX_CUSTOM_METRICS: usize = 50;
/// It is kept with the version, and sent to each template.
pub const MAX_WARM_UP_BYTES: usize = 64 * 1024;

pub fn name(value: &str) -> Result<(), String> {
    text::line(value, 128)
}

pub fn description(value: &str) -> Result<(), String> {
    text::prose(value, 2000, true)
}

pub fn tag(value: &str) -> Result<(), String> {
    text::line(value, 64)
}

/// A name under which the agent reports figures: `^[a-zA-Z][a-zA-Z0-9_.]{0,63}$`.
pub fn metric_name(value: &str) -> Result<(), String> {
    let first = value
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic());
    if first
        && value.len() <= 64
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.')
    {
        return Ok(());
    }
    Err(format!(
        "{} is not a metric name; allowed is ^[a-zA-Z][a-zA-Z0-9_.]{{0,63}}$",
        text::quote(value)
    ))
}

/// SemVer 2.0.0, at most 64 characters.
pub fn version(value: &str) -> Result<semver::Version, String> {
    if value.len() > 64 {
        return Err(format!(
            "has {} characters; allowed are at most 64",
            value.len()
        ));
    }
    semver::Version::parse(value).map_err(|error| {
        format!(
            "{} is not a semantic version ({error}); allowed is MAJOR.MINOR.PATCH, as 1.2.3",
            text::quote(value)
        )
    })
}

/// A Debian package name, and a version if it must be that one (Debian Policy 5.6.1, 5.6.12). No name ends with `-`, which asks apt to
/// remove.
pub fn system_package(value: &str) -> Result<(), String> {
    let (name, version) = value
        .split_once('=')
        .map_or((value, None), |(name, version)| (name, Some(version)));
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let named = name.bytes().next().is_some_and(plain)
        && name.bytes().all(|b| plain(b) || b"+-.".contains(&b))
        && !name.ends_with('-')
        && (2..=100).contains(&name.len());
    let dated = version.is_none_or(|version| {
        version.bytes().next().is_some_and(|b| b.is_ascii_digit())
            && version
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b".+-~:".contains(&b))
            && version.len() <= 100
    });
    if named && dated {
        return Ok(());
    }
    Err(format!(
        "{} is not a Debian package; allowed is NAME or NAME=VERSION, with 2 to 100 of a-z 0-9 + - . as a name",
        text::quote(value)
    ))
}

/// POSIX names; not those that would change how the interpreter itself starts or what we set.
pub fn environment_name(value: &str) -> Result<(), String> {
    let first = value
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !first
        || value.len() > 256
        || !value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_')
    {
        return Err(format!(
            "{} is not a name of an environment variable; allowed is ^[A-Za-z_][A-Za-z0-9_]{{0,255}}$",
            text::quote(value)
        ));
    }
    Ok(())
}

/// All variables together: count and bytes.
pub fn environment_size(variables: &BTreeMap<String, String>) -> Result<(), String> {
    let bytes: usize = variables
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if variables.len() > MAX_ENVIRONMENT_VARIABLES {
        return Err(format!(
            "has {} variables; allowed are at most {MAX_ENVIRONMENT_VARIABLES}",
            variables.len()
        ));
    }
    if bytes > MAX_ENVIRONMENT_BYTES {
        return Err(format!(
            "has {bytes} bytes; allowed are at most {MAX_ENVIRONMENT_BYTES}"
        ));
    }
    Ok(())
}

/// Where the handler is: `function` | `module:attribute` | `package.module:object.method` | `file.py`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Entrypoint(String);

impl Entrypoint {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Entrypoint {
    type Err = String;

    fn from_str(value: &str) -> Result<Self, String> {
        let dotted = |part: &str| !part.is_empty() && part.split('.').all(is_identifier);
        let file = |path: &str| {
            path.strip_suffix(".py")
                .is_some_and(|stem| !stem.is_empty() && stem.split('/').all(is_identifier))
        };
        let good = match value.split_once(':') {
            Some((module, attribute)) => (dotted(module) || file(module)) && dotted(attribute),
            None => is_identifier(value) || file(value),
        };
        if good && value.len() <= 256 {
            return Ok(Self(value.to_owned()));
        }
        Err(format!(
            "{} is not an entrypoint; allowed are function, module:attribute, package.module:object.method or file.py",
            text::quote(value)
        ))
    }
}

impl TryFrom<String> for Entrypoint {
    type Error = String;

    fn try_from(value: String) -> Result<Self, String> {
        value.parse()
    }
}

impl From<Entrypoint> for String {
    fn from(value: Entrypoint) -> Self {
        value.0
    }
}

impl fmt::Display for Entrypoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Python's identifiers, near enough: the interpreter has the last word at import.
fn is_identifier(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c == '_' || c.is_alphabetic())
        && chars.all(|c| c == '_' || c.is_alphanumeric())
}

/// One PEP 508 requirement on a package of the index. Options, paths and URLs are refused: they would make the host's
/// resolver read files or addresses that the caller names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Requirement(String);

impl Requirement {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Requirement {
    type Err = String;

    fn from_str(value: &str) -> Result<Self, String> {
        let value = value.trim();
        let refuse = |what: &str| {
            Err(format!(
                "{} {what}; allowed is a PEP 508 requirement on a package of the index, as requests>=2.31",
                text::quote(value)
            ))
        };
        if value.is_empty() || value.len() > 512 {
            return refuse("has a wrong length (1 to 512 characters)");
        }
        if value.starts_with('-') {
            return refuse("is an option of the installer");
        }
        if value.contains('@') || value.contains("://") {
            return refuse("is a direct reference");
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || " \t._-[],<>=!~*+;'\"()".contains(c);
        if let Some(bad) = value.chars().find(|c| !allowed(*c)) {
            return refuse(&format!("holds the character {bad:?}"));
        }
        let name_end = value
            .find(|c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c)))
            .unwrap_or(value.len());
        let name = &value[..name_end];
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        if !edge(name.chars().next()) || !edge(name.chars().last()) {
            return refuse("does not begin with a package name");
        }
        let rest = value[name_end..].trim_start();
        if !(rest.is_empty() || rest.starts_with(['[', '<', '>', '=', '!', '~', ';', '('])) {
            return refuse("has something other than extras, a version or a marker after its name");
        }
        Ok(Self(value.to_owned()))
    }
}

impl TryFrom<String> for Requirement {
    type Error = String;

    fn try_from(value: String) -> Result<Self, String> {
        value.parse()
    }
}

impl From<Requirement> for String {
    fn from(value: Requirement) -> Self {
        value.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_packages() {
        for good in [
            "graphviz",
            "g++",
            "libsodium23=1.0.18-1+deb12u1",
            "7zip",
            "tzdata=2024a-0+deb12u1~1",
            "a.b=1:2",
        ] {
            assert!(system_package(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a",
            "Graphviz",
            "-y",
            "graphviz-",
            "graphviz=",
            "graphviz=-1",
            "a;b",
            "../a",
            "a b",
            "a:i386",
            "a/stable",
            "a^",
            "a*",
            "--reinstall",
            "a=1;b",
            "a=1 b",
            "a=b=c",
            "a\nb",
            "그래프",
        ] {
            let fault = system_package(bad).expect_err(bad);
            assert!(fault.contains("NAME=VERSION"), "{fault}");
        }
    }

    #[test]
    fn entrypoints() {
        for good in [
            "handler",
            "agent:handle",
            "pkg.mod:obj.method",
            "agent.py",
            "pkg/app.py",
            "app.py:main",
            "에이전트:run",
        ] {
            assert!(good.parse::<Entrypoint>().is_ok(), "{good}");
        }
        for bad in [
            "",
            ":",
            "a:",
            ":b",
            "a b",
            "../x.py",
            "/etc/x.py",
            "a:b:c",
            "a..b:c",
            "1a",
            "a.b",
            ".py",
            "x;y",
            "a\n",
        ] {
            assert!(bad.parse::<Entrypoint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn requirements() {
        for good in [
            "requests",
            "requests>=2.31,<3",
            "uvicorn[standard]==0.30.1",
            "numpy ; python_version >= '3.11'",
            "a.b_c-d~=1.0",
            "zope (>=4)",
        ] {
            assert!(good.parse::<Requirement>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-r /etc/passwd",
            "--index-url=x",
            "-e .",
            "x @ file:///etc/passwd",
            "git+https://h/x",
            "./local",
            "a b",
            "x\n-r y",
            "x>=1 # c",
            "_x",
            "x$y",
        ] {
            assert!(bad.parse::<Requirement>().is_err(), "{bad}");
        }
    }

    #[test]
    fn versions() {
        assert!(version("1.2.3-rc.1+build.5").is_ok());
        for bad in ["1", "1.2", "v1.2.3", "01.2.3", "1.2.3.4", "", "latest"] {
            assert!(version(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn variables() {
        assert!(environment_name("OPENAI_API_KEY").is_ok());
        for bad in ["", "1A", "A B", "A=B", "A\0"] {
            assert!(environment_name(bad).is_err(), "{bad}");
        }
    }
}
