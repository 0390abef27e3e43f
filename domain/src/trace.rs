//! Which trace something belongs to (W3C Trace Context, level 1): what comes in a `traceparent` and a `tracestate`.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};

/// Members and bytes of a `tracestate` that are passed on (3.3.1.1 and 3.3.1.5); a longer one is dropped as a whole.
const MOST_MEMBERS: usize = 32;
const MOST_STATE_BYTES: usize = 512;
const SAMPLED: u8 = 1;

/// A trace, the span in it that comes before, and whether the trace is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traceparent {
    pub trace: u128,
    pub span: u64,
    pub sampled: bool,
}

/// All that is passed on of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    pub parent: Traceparent,
    pub state: Option<String>,
}

impl From<Traceparent> for Context {
    fn from(parent: Traceparent) -> Self {
        Self {
            parent,
            state: None,
        }
    }
}

impl Context {
    /// What the two headers say. A state without a parent says nothing.
    pub fn read(parent: Option<&str>, state: Option<&str>) -> Option<Self> {
        let parent = parent?.parse().ok()?;
        let state = state.filter(|state| is_state(state)).map(str::to_owned);
        Some(Self { parent, state })
    }
}

fn is_state(text: &str) -> bool {
    let member = |member: &str| member.trim().is_empty() || member.contains('=');
    !text.trim().is_empty()
        && text.len() <= MOST_STATE_BYTES
        && text.split(',').count() <= MOST_MEMBERS
        && text
            .bytes()
            .all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte))
        && text.split(',').all(member)
}

impl Traceparent {
    /// The same, kept or not.
    #[must_use]
    pub fn kept(self, sampled: bool) -> Self {
        Self { sampled, ..self }
    }
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = if self.sampled { SAMPLED } else { 0 };
        write!(f, "00-{:032x}-{:016x}-{flags:02x}", self.trace, self.span)
    }
}

impl FromStr for Traceparent {
    type Err = String;

    /// A later version than ours is read as far as ours goes (4.3).
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "not a traceparent".to_owned();
        let mut parts = text.split('-');
        let mut hex = |length: usize| {
            let part = parts.next().filter(|part| part.len() == length)?;
            let small = part
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            small.then_some(part)
        };
        let read = (hex(2), hex(32), hex(16), hex(2));
        let (Some(version), Some(trace), Some(span), Some(flags)) = read else {
            return Err(wrong());
        };
        if text.len() > 256 || version == "ff" || (version == "00" && parts.next().is_some()) {
            return Err(wrong());
        }
        let trace = u128::from_str_radix(trace, 16).map_err(|_| wrong())?;
        let span = u64::from_str_radix(span, 16).map_err(|_| wrong())?;
        let flags = u8::from_str_radix(flags, 16).map_err(|_| wrong())?;
        if trace == 0 || span == 0 {
            return Err(wrong());
        }
        Ok(Self {
            trace,
            span,
            sampled: flags & SAMPLED != 0,
        })
    }
}

impl Serialize for Traceparent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Traceparent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Traceparent;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a traceparent")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Traceparent, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn parents_both_ways() {
        let parent: Traceparent = GOOD.parse().expect("good");
        assert!(parent.sampled);
        assert_eq!(parent.to_string(), GOOD);
        assert_eq!(
            parent.kept(false).to_string(),
            GOOD.replace("331-01", "331-00")
        );
        let json = serde_json::to_string(&parent).expect("writes");
        assert_eq!(json, format!("\"{GOOD}\""));
        assert_eq!(
            serde_json::from_str::<Traceparent>(&json).expect("reads"),
            parent
        );
        // The 2 of level 2 says something about the id's making that we do not pass on.
        let later: Traceparent = GOOD
            .replacen("00", "cc", 1)
            .replace("-01", "-03-what-will-be")
            .parse()
            .expect("a later version");
        assert_eq!(later, parent);
    }

    #[test]
    fn what_is_no_parent() {
        for bad in [
            "",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert!(bad.parse::<Traceparent>().is_err(), "{bad}");
        }
    }

    #[test]
    fn states_are_passed_on_whole_or_not_at_all() {
        let read = |state: &str| {
            Context::read(Some(GOOD), Some(state))
                .expect("the parent is good")
                .state
        };
        assert_eq!(read("a=1,b=2").as_deref(), Some("a=1,b=2"));
        for bad in [
            "",
            "a",
            "a=1\nb=2",
            "a=ü",
            &format!("a={}", "x".repeat(512)),
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(Context::read(None, Some("a=1")), None);
    }
}
