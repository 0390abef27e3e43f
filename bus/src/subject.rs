//! The subject grammar, all of it. A subject can only be built here, so a token can neither carry a
//! separator nor a wildcard, and nobody reaches another account by choosing a clever name.
//!
//! | subject | kind | who takes it |
//! |--|--|--|
//! | `phalanx.v1.<account>.run.<version>.<node>` | request | that executor: a sync execution |
//! | `phalanx.v1.<account>.cancel.<version>` | request | every hosting executor; only the one that holds the execution answers |
//! | `phalanx.v1.<account>.work.<version>.<high\|normal\|low>` | durable | one executor: an async execution |
//! | `phalanx.v1.<account>.deploy` | durable | one deployer |
//! | `phalanx.v1.<account>.event.<kind>` | event | every subscriber |
//! | `phalanx.v1.<account>.dead.…` | durable | nobody: what was delivered too often (the rest is the tail of its subject) |
//!
//! A token is `[A-Za-z0-9_-]`; any other byte is written `%XX`. An empty token is `%`, one longer
//! than [`TOKEN_MAX`] is `%h` and its SHA-256. All three are injective and cannot meet each other.

use std::fmt::{self, Write as _};

use sha2::{Digest as _, Sha256};

const ROOT: &str = "phalanx.v1";
/// Bytes of an encoded token. Six of them stay far below the 4096 bytes of a NATS protocol line.
const TOKEN_MAX: usize = 96;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Priority {
    High,
    Normal,
    Low,
}

impl Priority {
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    const fn token(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

/// Where a message goes. Build it once and keep it where many go the same way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject(String);

impl Subject {
    pub fn run(account: &str, version: &str, node: &str) -> Self {
        Self(format!(
            "{ROOT}.{}.run.{}.{}",
            Token(account),
            Token(version),
            Token(node)
        ))
    }

    pub fn cancel(account: &str, version: &str) -> Self {
        Self(format!(
            "{ROOT}.{}.cancel.{}",
            Token(account),
            Token(version)
        ))
    }

    pub fn work(account: &str, version: &str, priority: Priority) -> Self {
        Self(format!(
            "{ROOT}.{}.work.{}.{}",
            Token(account),
            Token(version),
            priority.token()
        ))
    }

    pub fn deploy(account: &str) -> Self {
        Self(format!("{ROOT}.{}.deploy", Token(account)))
    }

    pub fn event(account: &str, kind: &str) -> Self {
        Self(format!("{ROOT}.{}.event.{}", Token(account), Token(kind)))
    }

    /// Where this subject's messages go when they were delivered too often.
    pub(crate) fn dead(&self) -> Self {
        let tail = self
            .0
            .strip_prefix(ROOT)
            .unwrap_or(&self.0)
            .trim_start_matches('.');
        let (account, tail) = tail.split_once('.').unwrap_or((tail, ""));
        Self(format!("{ROOT}.{account}.dead.{tail}"))
    }

    /// The other way round.
    pub(crate) fn of_dead(subject: &str) -> Option<Self> {
        let tail = subject.strip_prefix(ROOT)?.strip_prefix('.')?;
        let (account, tail) = tail.split_once('.')?;
        let tail = tail.strip_prefix("dead.")?;
        Some(Self(format!("{ROOT}.{account}.{tail}")))
    }

    pub fn is_of(&self, account: &str) -> bool {
        self.0.split('.').nth(2) == Some(Token(account).to_string().as_str())
    }

    /// What follows the account: `run`, `work`, `deploy` and so on.
    pub(crate) fn verb(&self) -> &str {
        self.0.split('.').nth(3).unwrap_or_default()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which events to hear.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern(String);

impl Pattern {
    /// `None` means any.
    pub fn events(account: Option<&str>, kind: Option<&str>) -> Self {
        let mut pattern = format!("{ROOT}.");
        push_or_any(&mut pattern, account);
        pattern.push_str(".event.");
        push_or_any(&mut pattern, kind);
        Self(pattern)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn matches(&self, subject: &Subject) -> bool {
        let mut tokens = subject.0.split('.');
        self.0.split('.').all(|want| {
            tokens
                .next()
                .is_some_and(|token| want == "*" || want == token)
        }) && tokens.next().is_none()
    }
}

fn push_or_any(pattern: &mut String, token: Option<&str>) {
    match token {
        None => pattern.push('*'),
        Some(token) => pattern.push_str(&Token(token).to_string()),
    }
}

/// An id as one token: for names and headers of the NATS engine.
pub(crate) fn token(id: &str) -> String {
    Token(id).to_string()
}

/// The stream subjects, for the NATS engine only.
pub(crate) const WORK_STREAM: &str = "phalanx.v1.*.work.>";
pub(crate) const DEPLOY_STREAM: &str = "phalanx.v1.*.deploy";
pub(crate) const DEAD_STREAM: &str = "phalanx.v1.*.dead.>";

/// All dead letters of an account.
pub(crate) fn dead_of(account: &str) -> String {
    format!("{ROOT}.{}.dead.>", Token(account))
}

/// Writes one token encoded.
struct Token<'a>(&'a str);

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_char('%');
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let length: usize = self
            .0
            .bytes()
            .map(|byte| if plain(byte) { 1 } else { 3 })
            .sum();
        if length > TOKEN_MAX {
            return write!(f, "%h{}", hex::encode(Sha256::digest(self.0.as_bytes())));
        }
        if length == self.0.len() {
            return f.write_str(self.0);
        }
        for byte in self.0.bytes() {
            if plain(byte) {
                f.write_char(char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::mutate::{cases, changed};

    #[test]
    fn tokens_are_closed_and_injective() {
        let long = "x".repeat(97);
        let hostile = [
            "", "%", "%2E", ".", "..", "*", ">", "a.b", "a b", "a\tb", "a\r\nb", "é", "中", "\0",
            "a", "A", "%h", &long,
        ];
        let mut seen = HashSet::new();
        for token in hostile {
            let encoded = Token(token).to_string();
            assert!(
                !encoded.is_empty() && encoded.len() <= TOKEN_MAX,
                "{token:?} became {encoded:?}"
            );
            assert!(
                encoded
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_-%".contains(&byte)),
                "{token:?} became {encoded:?}"
            );
            assert!(seen.insert(encoded), "{token:?} meets another token");
        }
    }

    #[test]
    fn patterns_match_whole_tokens() {
        let subject = Subject::event("acct", "finished");
        assert!(Pattern::events(None, None).matches(&subject));
        assert!(Pattern::events(Some("acct"), None).matches(&subject));
        assert!(Pattern::events(None, Some("finished")).matches(&subject));
        assert!(!Pattern::events(Some("acc"), None).matches(&subject));
        assert!(!Pattern::events(Some("*"), None).matches(&subject));
        assert!(!Pattern::events(None, Some(">")).matches(&subject));
        assert!(!Pattern::events(None, None).matches(&Subject::run("acct", "v", "n")));
    }

    #[test]
    fn a_dead_subject_names_where_it_came_from() {
        for subject in [
            Subject::work("a.b", "dead", Priority::Low),
            Subject::deploy("dead"),
        ] {
            assert_eq!(Subject::of_dead(subject.dead().as_str()), Some(subject));
        }
        assert_eq!(Subject::of_dead(Subject::deploy("a").as_str()), None);
        assert_eq!(Subject::of_dead("phalanx.v1.a"), None);
        assert!(Subject::deploy("a.b").is_of("a.b") && !Subject::deploy("a.b").is_of("a"));
    }

    #[test]
    fn the_written_grammar() {
        let all = [
            Subject::run("acct", "ver_1", "node_1"),
            Subject::cancel("acct", "ver_1"),
            Subject::work("acct", "ver_1", Priority::High),
            Subject::deploy("a.b"),
            Subject::event("acct", "finished"),
            Subject::work("acct", "ver_1", Priority::Low).dead(),
            Subject::deploy("acct").dead(),
        ];
        assert_eq!(
            all.map(|subject| subject.0),
            [
                "phalanx.v1.acct.run.ver_1.node_1",
                "phalanx.v1.acct.cancel.ver_1",
                "phalanx.v1.acct.work.ver_1.high",
                "phalanx.v1.a%2Eb.deploy",
                "phalanx.v1.acct.event.finished",
                "phalanx.v1.acct.dead.work.ver_1.low",
                "phalanx.v1.acct.dead.deploy",
            ]
        );
    }

    fn names() -> impl Strategy<Value = String> {
        let text = prop_oneof![
            "[A-Za-z0-9_.%*>-]{0,9}",
            "(%[0-9A-Fh]{2}){0,3}",
            "\\PC{0,40}",
            any::<String>(),
        ];
        changed(text.prop_map(String::into_bytes))
            .prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    proptest! {
        #![proptest_config(cases())]

        /// Whatever an account, an agent or a node is called, its subject is that one's and nobody else's, and fits a line of NATS.
        #[test]
        fn no_name_reaches_another(mine in names(), other in names(), version in names()) {
            let subjects = [Subject::run(&mine, &version, &other), Subject::work(&mine, &version, Priority::Low), Subject::deploy(&mine), Subject::event(&mine, &version)];
            for subject in subjects {
                let tokens: Vec<&str> = subject.as_str().split('.').collect();
                prop_assert!((4..=6).contains(&tokens.len()) && subject.as_str().len() < 700, "{subject}");
                let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-%".contains(&b);
                prop_assert!(tokens.iter().all(|token| !token.is_empty() && token.bytes().all(plain)), "{subject}");
                prop_assert_eq!(subject.is_of(&mine), true);
                prop_assert_eq!(subject.is_of(&other), mine == other);
                let dead = subject.dead();
                prop_assert_eq!(Subject::of_dead(dead.as_str()), Some(subject.clone()));
                prop_assert_eq!(Pattern::events(Some(&other), None).matches(&subject), mine == other && subject.verb() == "event");
            }
        }

        /// What is no dead letter's subject names none.
        #[test]
        fn nearly_good_subjects(text in changed("phalanx\\.v1\\.[a-z%0-9]{1,5}\\.(dead\\.)?(work|deploy|event)(\\.[a-z]{1,4}){0,2}".prop_map(String::into_bytes))) {
            let text = String::from_utf8_lossy(&text);
            if let Some(subject) = Subject::of_dead(&text) {
                prop_assert!(text.starts_with("phalanx.v1.") && text.contains(".dead."), "{}", text);
                prop_assert!(subject.as_str().len() + 5 == text.len(), "{}", text);
            }
        }
    }
}
