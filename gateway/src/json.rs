//! JSON from callers: parsed once, bounded in depth, without doubled keys; one member may stay as it was sent.

use domain::{Error, Kind, Result};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value, value::RawValue};
use std::{cell::Cell, fmt};

/// Objects and lists within each other; deeper than this, Python's own parser would give up on it.
pub const DEPTH: usize = 100;

/// The document, and the member at `keep` as it was sent. In the document that member is null.
pub fn read<'a>(bytes: &'a [u8], keep: &[&str]) -> Result<(Value, Option<&'a RawValue>)> {
    if depth(bytes) > DEPTH {
        return Err(malformed(format_args!(
            "objects and lists lie more than {DEPTH} deep within each other"
        )));
    }
    let kept = Cell::new(None);
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let build = Build { keep, kept: &kept };
    let value = build.deserialize(&mut parser).map_err(malformed)?;
    parser.end().map_err(malformed)?;
    Ok((value, kept.get()))
}

/// JSON without the white space between its tokens.
pub fn compact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut in_text, mut escaped) = (false, false);
    for c in text.chars() {
        if in_text {
            in_text = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if matches!(c, ' ' | '\t' | '\n' | '\r') {
            continue;
        } else {
            in_text = c == '"';
        }
        out.push(c);
    }
    out
}

fn malformed(why: impl fmt::Display) -> Error {
    let mut error = Error::new(Kind::Invalid, "the body is not JSON that can be read");
    error.faults = vec![format!("body: {why}; allowed is one JSON object")];
    error
}

fn depth(bytes: &[u8]) -> usize {
    let (mut now, mut most, mut in_text, mut escaped) = (0usize, 0usize, false, false);
    for byte in bytes {
        if in_text {
            in_text = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b'{' | b'[' => {
                now += 1;
                most = most.max(now);
            }
            b'}' | b']' => now = now.saturating_sub(1),
            _ => {}
        }
    }
    most
}

/// Builds one value; `keep` is the rest of the way to the member that stays raw.
struct Build<'k, 'c, 'a> {
    keep: &'k [&'k str],
    kept: &'c Cell<Option<&'a RawValue>>,
}

impl<'a> DeserializeSeed<'a> for Build<'_, '_, 'a> {
    type Value = Value;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Build<'_, '_, 'a> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        let kept = self.kept;
        while let Some(item) = items.next_element_seed(Build { keep: &[], kept })? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'a>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        let kept = self.kept;
        while let Some(name) = members.next_key::<String>()? {
            if map.contains_key(&name) {
                let name = domain::text::quote(&name);
                return Err(A::Error::custom(format_args!(
                    "the key {name} is given twice"
                )));
            }
            let value = match self.keep.split_first() {
                Some((first, [])) if *first == name => {
                    kept.set(Some(members.next_value::<&'a RawValue>()?));
                    Value::Null
                }
                Some((first, keep)) if *first == name => {
                    members.next_value_seed(Build { keep, kept })?
                }
                _ => members.next_value_seed(Build { keep: &[], kept })?,
            };
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_member_stays_as_it_was_sent() {
        let body = br#"{"input_data": {"parameters": {"n": 1.10, "n" : 2}, "context": {"a": 1}}}"#;
        let (value, raw) = read(body, &["input_data", "parameters"]).expect("JSON");
        assert_eq!(raw.expect("kept").get(), r#"{"n": 1.10, "n" : 2}"#);
        assert_eq!(value["input_data"]["context"]["a"], 1);
    }

    #[test]
    fn what_is_refused() {
        let deep = format!("{{\"a\": {}{}}}", "[".repeat(200), "]".repeat(200));
        let deep_kept = format!("{{\"p\": {}{}}}", "[".repeat(200), "]".repeat(200));
        for bad in [
            "",
            "{",
            "{} x",
            r#"{"a": 1, "a": 2}"#,
            "{\"a\": NaN}",
            "{\"a\": 1e999}",
            &deep,
            &deep_kept,
        ] {
            let error = read(bad.as_bytes(), &["p"]).expect_err(bad);
            assert_eq!(
                (error.kind, error.faults.len()),
                (Kind::Invalid, 1),
                "{bad}"
            );
        }
        assert!(read(b"{\"a\": \"\xff\"}", &[]).is_err());
        assert!(read(b"{\"p\": \"\xff\"}", &["p"]).is_err());
    }

    #[test]
    fn compacts_outside_of_texts_only() {
        assert_eq!(
            compact("{ \"a b\" : [ 1 , \"x\\\" y\" ] }\n"),
            r#"{"a b":[1,"x\" y"]}"#
        );
    }

    #[test]
    fn brackets_in_texts_are_not_depth() {
        let body = format!("{{\"a\": \"{}\"}}", "[".repeat(1000));
        assert!(read(body.as_bytes(), &[]).is_ok());
    }
}
