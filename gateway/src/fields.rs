//! Reads the members of a parsed document and collects every fault at once.
//!
//! Each getter gives `None` where there is nothing good to give and has then said why, if there is anything to say. What
//! nobody asked for is a fault too, when its [`Fields`] goes out of scope. `null` counts as left out.

use domain::{Error, Result, text::quote};
use serde_json::{Map, Value};
use std::{cell::RefCell, collections::BTreeMap, fmt, ops::RangeInclusive, str::FromStr};

/// Faults that are told one by one.
const MOST: usize = 50;

/// Everything that is wrong with one request.
#[derive(Debug, Default)]
pub struct Faults(RefCell<(Vec<String>, usize)>);

impl Faults {
    pub fn add(&self, path: impl fmt::Display, what: impl fmt::Display) {
        let mut faults = self.0.borrow_mut();
        if faults.0.len() < MOST {
            faults.0.push(format!("{path}: {what}"));
        } else {
            faults.1 += 1;
        }
    }

    /// An error if there are any.
    pub fn check(&self) -> Result<()> {
        let (mut listed, more) = self.0.borrow().clone();
        if listed.is_empty() {
            return Ok(());
        }
        let count = listed.len() + more;
        if more > 0 {
            listed.push(format!("and {more} more"));
        }
        let mut error = Error::invalid(listed);
        if more > 0 {
            error.message = format!("the request has {count} faults");
        }
        Err(error)
    }
}

/// One object of a document; nothing, where it was left out.
pub struct Fields<'a> {
    members: Option<&'a Map<String, Value>>,
    path: String,
    faults: &'a Faults,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Fields<'a> {
    /// The whole document.
    pub fn of(value: &'a Value, faults: &'a Faults) -> Self {
        if !value.is_object() {
            faults.add(
                "body",
                format_args!("{}; allowed is an object", describe(value)),
            );
        }
        Self::new(value.as_object(), String::new(), faults)
    }

    fn new(members: Option<&'a Map<String, Value>>, path: String, faults: &'a Faults) -> Self {
        Self {
            members,
            path,
            faults,
            asked: RefCell::default(),
        }
    }

    pub fn path(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    pub fn fault(&self, name: &str, what: impl fmt::Display) {
        self.faults.add(self.path(name), what);
    }

    /// Anything that is not null.
    pub fn value(&self, name: &'static str) -> Option<&'a Value> {
        let mut asked = self.asked.borrow_mut();
        if !asked.contains(&name) {
            asked.push(name);
        }
        drop(asked);
        self.members?.get(name).filter(|value| !value.is_null())
    }

    /// Says so where it was left out.
    fn needed(&self, name: &'static str, allowed: &str) -> Option<&'a Value> {
        let value = self.value(name);
        if value.is_none() && self.members.is_some() {
            self.fault(name, format_args!("is required; allowed is {allowed}"));
        }
        value
    }

    fn object_at(&self, name: &'static str, value: Option<&'a Value>) -> Fields<'a> {
        if let Some(value) = value.filter(|value| !value.is_object()) {
            self.fault(
                name,
                format_args!("{}; allowed is an object", describe(value)),
            );
        }
        Self::new(
            value.and_then(Value::as_object),
            self.path(name),
            self.faults,
        )
    }

    pub fn object(&self, name: &'static str) -> Fields<'a> {
        self.object_at(name, self.value(name))
    }

    pub fn needed_object(&self, name: &'static str) -> Fields<'a> {
        self.object_at(name, self.needed(name, "an object"))
    }

    fn as_text(&self, name: &str, value: &'a Value) -> Option<&'a str> {
        let text = value.as_str();
        if text.is_none() {
            self.fault(
                name,
                format_args!("{}; allowed is a string", describe(value)),
            );
        }
        text
    }

    fn checked<T>(&self, name: &str, checked: Result<T, String>) -> Option<T> {
        checked.map_err(|what| self.fault(name, what)).ok()
    }

    pub fn text(&self, name: &'static str) -> Option<&'a str> {
        self.as_text(name, self.value(name)?)
    }

    pub fn needed_text(&self, name: &'static str) -> Option<&'a str> {
        self.as_text(name, self.needed(name, "a string")?)
    }

    /// Text that `check` has nothing against.
    pub fn text_that(
        &self,
        name: &'static str,
        check: impl FnOnce(&str) -> Result<(), String>,
    ) -> Option<&'a str> {
        let text = self.text(name)?;
        self.checked(name, check(text)).map(|()| text)
    }

    pub fn parsed<T: FromStr<Err = String>>(&self, name: &'static str) -> Option<T> {
        let text = self.text(name)?;
        self.checked(name, text.parse())
    }

    pub fn needed_parsed<T: FromStr<Err = String>>(&self, name: &'static str) -> Option<T> {
        let text = self.needed_text(name)?;
        self.checked(name, text.parse())
    }

    pub fn flag(&self, name: &'static str) -> Option<bool> {
        let value = self.value(name)?;
        if !value.is_boolean() {
            self.fault(
                name,
                format_args!("{}; allowed is true or false", describe(value)),
            );
        }
        value.as_bool()
    }

    pub fn integer(&self, name: &'static str, allowed: RangeInclusive<u32>) -> Option<u32> {
        let value = self.value(name)?;
        let found = whole(value)
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| allowed.contains(n));
        if found.is_none() {
            let (from, to) = (allowed.start(), allowed.end());
            self.fault(
                name,
                format_args!(
                    "{}; allowed is an integer from {from} to {to}",
                    describe(value)
                ),
            );
        }
        found
    }

    /// The same, and it says so where it was left out.
    pub fn needed_number(
        &self,
        name: &'static str,
        allowed: &str,
        good: impl FnOnce(f64) -> bool,
    ) -> Option<f64> {
        self.needed(name, allowed)?;
        self.number(name, allowed, good)
    }

    /// `allowed` says in words what `good` accepts.
    pub fn number(
        &self,
        name: &'static str,
        allowed: &str,
        good: impl FnOnce(f64) -> bool,
    ) -> Option<f64> {
        let value = self.value(name)?;
        let found = value
            .as_f64()
            .filter(|n| n.is_finite())
            .filter(|n| good(*n));
        if found.is_none() {
            self.fault(
                name,
                format_args!("{}; allowed is {allowed}", describe(value)),
            );
        }
        found
    }

    /// A list of at most `most` texts; each fault names its place.
    pub fn texts<T>(
        &self,
        name: &'static str,
        most: usize,
        check: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let Some(value) = self.value(name) else {
            return Vec::new();
        };
        let Some(items) = value.as_array() else {
            self.fault(
                name,
                format_args!("{}; allowed is a list of strings", describe(value)),
            );
            return Vec::new();
        };
        if items.len() > most {
            self.fault(
                name,
                format_args!("has {} items; allowed are at most {most}", items.len()),
            );
        }
        let mut good = Vec::new();
        for (at, item) in items.iter().enumerate() {
            let checked = match item.as_str() {
                Some(text) => check(text),
                None => Err(format!("{}; allowed is a string", describe(item))),
            };
            match checked {
                Ok(item) => good.push(item),
                Err(what) => self.fault(&format!("{name}[{at}]"), what),
            }
        }
        good
    }

    /// An object of any names.
    pub fn map(&self, name: &'static str) -> Option<&'a Map<String, Value>> {
        let value = self.value(name)?;
        if !value.is_object() {
            self.fault(
                name,
                format_args!("{}; allowed is an object", describe(value)),
            );
        }
        value.as_object()
    }

    /// An object of any good names with texts as values.
    pub fn text_map(
        &self,
        name: &'static str,
        check: impl Fn(&str, &str) -> Result<(), String>,
    ) -> BTreeMap<String, String> {
        let mut good = BTreeMap::new();
        for (key, value) in self.map(name).into_iter().flatten() {
            let checked = match value.as_str() {
                Some(text) => check(key, text).map(|()| text),
                None => Err(format!("{}; allowed is a string", describe(value))),
            };
            match checked {
                Ok(text) => {
                    good.insert(key.clone(), text.to_owned());
                }
                Err(what) => self.fault(&format!("{name}.{}", member(key)), what),
            }
        }
        good
    }
}

impl Drop for Fields<'_> {
    fn drop(&mut self) {
        let asked = self.asked.borrow();
        for name in self.members.into_iter().flat_map(Map::keys) {
            if asked.contains(&name.as_str()) {
                continue;
            }
            let near = asked.iter().find(|known| are_near(known, name));
            let hint = near.map_or(String::new(), |known| format!("; did you mean {known}?"));
            let known = asked.join(", ");
            self.faults.add(
                self.path(&member(name)),
                format_args!("is not known{hint}; allowed are {known}"),
            );
        }
    }
}

/// A number without a fraction, however it is written: 24.0 is an integer (JSON Schema, core 6.3).
fn whole(value: &Value) -> Option<u64> {
    let written = || {
        value
            .as_f64()
            .filter(|n| n.fract() == 0.0 && (0.0..9e15).contains(n))
    };
    value.as_u64().or_else(|| written().map(|n| n as u64))
}

/// A member's name as a part of a path: plain, or quoted and cut.
pub fn member(name: &str) -> String {
    let plain = !name.is_empty()
        && name.len() <= 64
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    if plain { name.to_owned() } else { quote(name) }
}

/// What a value is, for an error; never the value itself beyond a number or a few characters.
pub fn describe(value: &Value) -> String {
    match value {
        Value::Null => "is null".to_owned(),
        Value::Bool(flag) => format!("is {flag}"),
        Value::Number(number) => format!("is {number}"),
        Value::String(_) => "is a string".to_owned(),
        Value::Array(_) => "is a list".to_owned(),
        Value::Object(_) => "is an object".to_owned(),
    }
}

/// Whether one is the other with at most two letters changed, added or left out (Levenshtein).
fn are_near(known: &str, name: &str) -> bool {
    if name.len() > 64 || known.len().abs_diff(name.len()) > 2 {
        return false;
    }
    let mut row: Vec<usize> = (0..=name.len()).collect();
    for (i, a) in known.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in name.bytes().enumerate() {
            let change = diagonal + usize::from(!a.eq_ignore_ascii_case(&b));
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[name.len()] <= 2.min(known.len() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn all_faults_at_once_with_near_names() {
        let body = json!({"nam": "x", "count": -1, "tags": ["ok", 5, "a\u{0}b"], "ratio": 7, "flag": "yes", "odd\n": 1});
        let faults = Faults::default();
        {
            let fields = Fields::of(&body, &faults);
            fields.needed_text("name");
            fields.integer("count", 0..=10);
            fields.texts("tags", 10, |text| domain::text::line(text, 10));
            fields.number("ratio", "a number over 0 up to 1", |n| n > 0.0 && n <= 1.0);
            fields.flag("flag");
        }
        assert_eq!(
            faults.check().expect_err("faults").faults,
            [
                "name: is required; allowed is a string",
                "count: is -1; allowed is an integer from 0 to 10",
                "tags[1]: is 5; allowed is a string",
                "tags[2]: holds the control character U+0000; allowed is printable text",
                "ratio: is 7; allowed is a number over 0 up to 1",
                "flag: is a string; allowed is true or false",
                "nam: is not known; did you mean name?; allowed are name, count, tags, ratio, flag",
                "\"odd\\n\": is not known; allowed are name, count, tags, ratio, flag",
            ]
        );
    }

    #[test]
    fn integers_are_integers() {
        for (value, good) in [
            (json!(5), true),
            (json!(5.0), true),
            (json!(5e0), true),
            (json!(5.5), false),
            (json!("5"), false),
            (json!(-5), false),
            (json!(18_446_744_073_709_551_615_u64), false),
            (json!(1e300), false),
            (json!(true), false),
            (json!([5]), false),
        ] {
            let (body, faults) = (json!({"n": value}), Faults::default());
            let found = Fields::of(&body, &faults).integer("n", 1..=100);
            assert_eq!(
                (found.is_some(), faults.check().is_ok()),
                (good, good),
                "{body}"
            );
        }
    }

    #[test]
    fn ten_thousand_faults_are_bounded() {
        let body = json!({"tags": vec![0; 10_000]});
        let faults = Faults::default();
        Fields::of(&body, &faults).texts("tags", 50, |text| Ok::<_, String>(text.len()));
        let error = faults.check().expect_err("faults");
        assert_eq!(
            (error.faults.len(), error.faults[50].as_str()),
            (51, "and 9951 more")
        );
        assert_eq!(error.message, "the request has 10001 faults");
    }

    #[test]
    fn what_is_left_out_is_silent_below() {
        let (body, faults) = (json!({"a": null}), Faults::default());
        {
            let fields = Fields::of(&body, &faults);
            let a = fields.object("a");
            a.needed_text("b");
            assert_eq!(fields.text("c"), None);
        }
        assert!(faults.check().is_ok());
    }

    #[test]
    fn a_document_is_an_object() {
        for body in [json!([]), json!("x"), json!(null), json!(1)] {
            let faults = Faults::default();
            Fields::of(&body, &faults).needed_text("a");
            assert_eq!(
                faults.check().expect_err("no object").faults.len(),
                1,
                "{body}"
            );
        }
    }
}
