//! A strict reader of Prometheus' text format 0.0.4: whatever a scraper could stumble over is a fault here.

use std::collections::{BTreeMap, BTreeSet};

/// A page that was read: samples by name and sorted labels.
#[derive(Debug, Default)]
pub struct Page {
    pub samples: BTreeMap<String, BTreeMap<String, f64>>,
    pub kinds: BTreeMap<String, String>,
}

impl Page {
    /// Panics with the line that is wrong.
    #[track_caller]
    pub fn read(text: &str) -> Self {
        let mut page = Self::default();
        let (mut helps, mut family) = (BTreeSet::new(), String::new());
        assert!(text.ends_with('\n'), "the last line has no end");
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect(line);
                assert!(!help.is_empty() && helps.insert(name.to_owned()), "{line}");
                name.clone_into(&mut family);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect(line);
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(name, family, "HELP comes right before TYPE: {line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                let before = page.kinds.insert(name.to_owned(), kind.to_owned());
                assert_eq!(before, None, "twice: {line}");
            } else {
                page.sample(line, &family);
            }
        }
        page.histograms();
        page
    }

    fn sample(&mut self, line: &str, family: &str) {
        let (series, value) = line.rsplit_once(' ').expect(line);
        let value: f64 = value
            .parse()
            .unwrap_or_else(|_| panic!("no number: {line}"));
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').expect(line)),
            None => (series, ""),
        };
        let kind = self
            .kinds
            .get(family)
            .unwrap_or_else(|| panic!("no TYPE: {line}"));
        let suffix = name
            .strip_prefix(family)
            .unwrap_or_else(|| panic!("of no family: {line}"));
        let allowed: &[&str] = if kind == "histogram" {
            &["_bucket", "_sum", "_count"]
        } else {
            &[""]
        };
        assert!(allowed.contains(&suffix) && is_name(name), "{line}");
        let labels = read_labels(labels, line).join(",");
        let series = self.samples.entry(name.to_owned()).or_default();
        assert_eq!(series.insert(labels, value), None, "twice: {line}");
    }

    fn histograms(&self) {
        for name in self
            .kinds
            .iter()
            .filter(|(_, kind)| *kind == "histogram")
            .map(|(name, _)| name)
        {
            let mut of: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
            for (labels, count) in self.all(&format!("{name}_bucket")) {
                let (bounds, rest): (Vec<&str>, Vec<&str>) = labels
                    .split(',')
                    .partition(|label| label.starts_with("le="));
                let bound = bounds[0].trim_start_matches("le=").trim_matches('"');
                let bound = if bound == "+Inf" {
                    f64::INFINITY
                } else {
                    bound.parse().expect(labels)
                };
                of.entry(rest.join(",")).or_default().push((bound, *count));
            }
            for (labels, mut buckets) in of {
                buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
                assert!(
                    buckets.windows(2).all(|two| two[0].1 <= two[1].1),
                    "{name} {labels}: {buckets:?}"
                );
                let last = buckets.last().expect("a bucket");
                assert!(last.0.is_infinite(), "{name} {labels} has no +Inf");
                assert_eq!(
                    last.1,
                    self.value(&format!("{name}_count"), &labels),
                    "{name} {labels}"
                );
                self.value(&format!("{name}_sum"), &labels);
            }
        }
    }

    fn all(&self, name: &str) -> impl Iterator<Item = (&String, &f64)> {
        self.samples.get(name).into_iter().flatten()
    }

    /// One sample, by its labels in the order of their names.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &str) -> f64 {
        let series = self
            .samples
            .get(name)
            .unwrap_or_else(|| panic!("no {name} among {:?}", self.samples.keys()));
        *series
            .get(labels)
            .unwrap_or_else(|| panic!("no {{{labels}}} in {name}: {series:?}"))
    }

    /// All samples of a name together; 0 where there are none.
    pub fn sum(&self, name: &str) -> f64 {
        self.all(name).map(|(_, value)| value).sum()
    }
}

fn is_name(name: &str) -> bool {
    name.bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && name.starts_with(|c: char| c.is_ascii_lowercase())
}

/// `name="value"` each, sorted.
fn read_labels(mut text: &str, line: &str) -> Vec<String> {
    let mut labels = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text
            .split_once("=\"")
            .unwrap_or_else(|| panic!("no label: {line}"));
        assert!(is_name(name), "{line}");
        let mut escaped = false;
        let end = rest.bytes().position(|b| {
            let ends = b == b'"' && !escaped;
            escaped = b == b'\\' && !escaped;
            ends
        });
        let end = end.unwrap_or_else(|| panic!("no end of a label: {line}"));
        labels.push(format!("{name}=\"{}\"", &rest[..end]));
        text = &rest[end + 1..];
        if !text.is_empty() {
            text = text
                .strip_prefix(',')
                .filter(|rest| !rest.is_empty())
                .expect(line);
        }
    }
    labels.sort();
    let mut names: Vec<&str> = labels
        .iter()
        .filter_map(|label| label.split('=').next())
        .collect();
    names.dedup();
    assert_eq!(names.len(), labels.len(), "a label twice: {line}");
    labels
}
