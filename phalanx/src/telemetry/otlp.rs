//! The page of figures as OTLP has it, so that nothing is counted twice: every family becomes a metric, cumulative from the
//! process's start. Suffixes that say a unit become the unit, as OpenTelemetry's rules for Prometheus have it.

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum,
        metric::Data, number_data_point,
    },
};
use std::collections::BTreeMap;

/// Nanoseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    pub from: u64,
    pub to: u64,
}

type Labels = Vec<(String, String)>;

/// One family of the page while it is read.
struct Family<'a> {
    name: &'a str,
    help: &'a str,
    kind: &'a str,
    /// The name's rest (as `_bucket`), the labels, the value.
    samples: Vec<(&'a str, Labels, f64)>,
}

/// Reads a page that [`super::Figures::text`] wrote.
pub fn metrics(page: &str, over: Span) -> Vec<Metric> {
    let mut families: Vec<Family<'_>> = Vec::new();
    let mut about = ("", "");
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            about = rest.split_once(' ').unwrap_or((rest, ""));
        } else if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        {
            families.push(Family {
                name,
                help: if about.0 == name { about.1 } else { "" },
                kind,
                samples: Vec::new(),
            });
        } else if let Some(family) = families.last_mut() {
            family.samples.extend(sample(line, family.name));
        }
    }
    families
        .into_iter()
        .filter(|family| !family.samples.is_empty())
        .map(|family| metric(family, over))
        .collect()
}

fn sample<'a>(line: &'a str, family: &str) -> Option<(&'a str, Labels, f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, read_labels(labels.strip_suffix('}')?)),
        None => (series, Labels::new()),
    };
    Some((name.strip_prefix(family)?, labels, value.parse().ok()?))
}

fn read_labels(text: &str) -> Labels {
    let mut labels = Labels::new();
    let mut letters = text.chars();
    loop {
        let name: String = letters
            .by_ref()
            .skip_while(|letter| *letter == ',')
            .take_while(|letter| *letter != '=')
            .collect();
        if name.is_empty() || letters.next() != Some('"') {
            return labels;
        }
        let mut value = String::new();
        while let Some(letter) = letters.next().filter(|letter| *letter != '"') {
            value.push(match letter {
                '\\' => match letters.next() {
                    Some('n') => '\n',
                    Some(other) => other,
                    None => return labels,
                },
                other => other,
            });
        }
        labels.push((name, value));
    }
}

fn metric(family: Family<'_>, over: Span) -> Metric {
    let counter = family.kind == "counter";
    let name = family.name.strip_suffix("_total").filter(|_| counter);
    let name = name.unwrap_or(family.name);
    let (name, unit) = match (name.strip_suffix("_seconds"), name.strip_suffix("_bytes")) {
        (Some(name), _) => (name, "s"),
        (_, Some(name)) => (name, "By"),
        _ => (name, ""),
    };
    Metric {
        name: name.to_owned(),
        description: family.help.to_owned(),
        unit: unit.to_owned(),
        data: Some(match family.kind {
            "histogram" => Data::Histogram(Histogram {
                data_points: distributions(family.samples, over),
                aggregation_temporality: AggregationTemporality::Cumulative.into(),
            }),
            "counter" => Data::Sum(Sum {
                data_points: numbers(family.samples, over),
                aggregation_temporality: AggregationTemporality::Cumulative.into(),
                is_monotonic: true,
            }),
            _ => Data::Gauge(Gauge {
                data_points: numbers(family.samples, over),
            }),
        }),
        ..Metric::default()
    }
}

fn numbers(samples: Vec<(&str, Labels, f64)>, over: Span) -> Vec<NumberDataPoint> {
    let point = |(_, labels, value): (&str, Labels, f64)| NumberDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: over.from,
        time_unix_nano: over.to,
        value: Some(number_data_point::Value::AsDouble(value)),
        ..NumberDataPoint::default()
    };
    samples.into_iter().map(point).collect()
}

#[derive(Default)]
struct Distribution {
    sum: f64,
    count: u64,
    /// Upper bounds, and how many are at most that.
    buckets: Vec<(f64, u64)>,
}

fn distributions(samples: Vec<(&str, Labels, f64)>, over: Span) -> Vec<HistogramDataPoint> {
    let mut found: BTreeMap<Labels, Distribution> = BTreeMap::new();
    for (part, mut labels, value) in samples {
        let bound = labels.iter().position(|(name, _)| name == "le");
        let bound = bound.map(|at| labels.swap_remove(at).1);
        labels.sort();
        let one = found.entry(labels).or_default();
        match (part, bound.and_then(|bound| bound.parse().ok())) {
            ("_sum", _) => one.sum = value,
            ("_count", _) => one.count = value as u64,
            (_, Some(bound)) => one.buckets.push((bound, value as u64)),
            (_, None) => {}
        }
    }
    found
        .into_iter()
        .map(|(labels, one)| distribution(labels, one, over))
        .collect()
}

fn distribution(labels: Labels, mut one: Distribution, over: Span) -> HistogramDataPoint {
    one.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut below = 0;
    let counts = one.buckets.iter().map(|(_, so_far)| {
        let own = so_far.saturating_sub(below);
        below = *so_far;
        own
    });
    HistogramDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: over.from,
        time_unix_nano: over.to,
        count: one.count,
        sum: Some(one.sum),
        bucket_counts: counts.collect(),
        explicit_bounds: one
            .buckets
            .iter()
            .map(|(bound, _)| *bound)
            .filter(|bound| bound.is_finite())
            .collect(),
        ..HistogramDataPoint::default()
    }
}

pub fn attributes(labels: impl IntoIterator<Item = (String, String)>) -> Vec<KeyValue> {
    let one = |(key, value)| KeyValue {
        key,
        value: Some(AnyValue {
            value: Some(Value::StringValue(value)),
        }),
        ..KeyValue::default()
    };
    labels.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_becomes_metrics() {
        let page = "\
# HELP a_total Words.
# TYPE a_total counter
a_total{x=\"1\",y=\"q\\\"\\\\\\n{,\"} 3
# HELP b_bytes B.
# TYPE b_bytes gauge
b_bytes 1.5
# HELP none_total Nothing yet.
# TYPE none_total counter
# HELP c_seconds C.
# TYPE c_seconds histogram
c_seconds_sum{k=\"v\"} 2.5
c_seconds_count{k=\"v\"} 4
c_seconds_bucket{k=\"v\",le=\"0.1\"} 1
c_seconds_bucket{k=\"v\",le=\"1.0\"} 3
c_seconds_bucket{k=\"v\",le=\"+Inf\"} 4
";
        let found = metrics(page, Span { from: 1, to: 2 });
        let named: Vec<(&str, &str, &str)> = found
            .iter()
            .map(|one| {
                (
                    one.name.as_str(),
                    one.unit.as_str(),
                    one.description.as_str(),
                )
            })
            .collect();
        assert_eq!(
            named,
            [("a", "", "Words."), ("b", "By", "B."), ("c", "s", "C.")]
        );
        let Some(Data::Sum(sum)) = &found[0].data else {
            panic!("no sum: {found:?}")
        };
        let labels = [("x", "1"), ("y", "q\"\\\n{,")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(sum.data_points[0].attributes, attributes(labels));
        assert!(sum.is_monotonic);
        let Some(Data::Histogram(histogram)) = &found[2].data else {
            panic!("no histogram: {found:?}")
        };
        let point = &histogram.data_points[0];
        assert_eq!((point.count, point.sum), (4, Some(2.5)));
        assert_eq!(point.bucket_counts, [1, 2, 1]);
        assert_eq!(point.explicit_bounds, [0.1, 1.0]);
        assert_eq!(
            point.attributes,
            attributes([("k".to_owned(), "v".to_owned())])
        );
    }
}
