//! Counts requests by route and status, and how long they took, for Prometheus (text format 0.0.4).

use crate::router::ENDPOINTS;
use std::{
    fmt::Write as _,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

/// Every status that the gateway answers with; others count as the last.
const STATUSES: [u16; 17] = [
    200, 202, 307, 400, 401, 403, 404, 405, 409, 413, 415, 429, 500, 503, 504, 304, 0,
];
/// Upper bounds in seconds.
const BOUNDS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0,
];

/// One line a route, and one for what has no route.
pub struct Meter {
    routes: Vec<Counts>,
    pub in_flight: AtomicI64,
}

#[derive(Default)]
struct Counts {
    statuses: [AtomicU64; STATUSES.len()],
    /// Not cumulative; the last one is for what took longer than every bound.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            routes: std::iter::repeat_with(Counts::default)
                .take(ENDPOINTS.len() + 1)
                .collect(),
            in_flight: AtomicI64::new(0),
        }
    }
}

impl Meter {
    /// `route` is the endpoint's place in the table, or its length.
    pub fn count(&self, route: usize, status: u16, took: Duration) {
        let counts = &self.routes[route.min(ENDPOINTS.len())];
        let status = STATUSES
            .iter()
            .position(|known| *known == status)
            .unwrap_or(STATUSES.len() - 1);
        counts.statuses[status].fetch_add(1, Ordering::Relaxed);
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS
            .iter()
            .position(|bound| seconds <= *bound)
            .unwrap_or(BOUNDS.len());
        counts.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        counts.micros.fetch_add(micros, Ordering::Relaxed);
    }

    pub fn text(&self) -> String {
        let mut out = String::with_capacity(16 * 1024);
        out += "# HELP phalanx_http_requests_total Requests answered.\n# TYPE phalanx_http_requests_total counter\n";
        for (labels, counts) in self.lines() {
            for (status, count) in STATUSES.iter().zip(&counts.statuses) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    writeln!(
                        out,
                        "phalanx_http_requests_total{{{labels},status=\"{status}\"}} {count}"
                    )
                    .ok();
                }
            }
        }
        out += "# HELP phalanx_http_request_duration_seconds From a request's head to its answer's head.\n# TYPE phalanx_http_request_duration_seconds histogram\n";
        for (labels, counts) in self.lines() {
            let buckets: Vec<u64> = counts
                .buckets
                .iter()
                .map(|count| count.load(Ordering::Relaxed))
                .collect();
            let total: u64 = buckets.iter().sum();
            if total == 0 {
                continue;
            }
            let mut so_far = 0;
            for (bound, count) in BOUNDS.iter().zip(&buckets) {
                so_far += count;
                writeln!(out, "phalanx_http_request_duration_seconds_bucket{{{labels},le=\"{bound}\"}} {so_far}").ok();
            }
            writeln!(
                out,
                "phalanx_http_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} {total}"
            )
            .ok();
            let sum = counts.micros.load(Ordering::Relaxed) as f64 / 1e6;
            writeln!(
                out,
                "phalanx_http_request_duration_seconds_sum{{{labels}}} {sum}"
            )
            .ok();
            writeln!(
                out,
                "phalanx_http_request_duration_seconds_count{{{labels}}} {total}"
            )
            .ok();
        }
        out += "# HELP phalanx_http_requests_in_flight Requests whose answer has not begun.\n# TYPE phalanx_http_requests_in_flight gauge\n";
        writeln!(
            out,
            "phalanx_http_requests_in_flight {}",
            self.in_flight.load(Ordering::Relaxed)
        )
        .ok();
        out
    }

    fn lines(&self) -> impl Iterator<Item = (String, &Counts)> {
        self.routes.iter().enumerate().map(|(at, counts)| {
            let labels = match ENDPOINTS.get(at) {
                Some(endpoint) => {
                    format!("method=\"{}\",route=\"{}\"", endpoint.method, endpoint.path)
                }
                None => "method=\"other\",route=\"other\"".to_owned(),
            };
            (labels, counts)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_route_and_status() {
        let meter = Meter::default();
        meter.count(0, 200, Duration::from_micros(1500));
        meter.count(0, 200, Duration::from_secs(1000));
        meter.count(usize::MAX, 404, Duration::ZERO);
        let text = meter.text();
        for line in [
            "phalanx_http_requests_total{method=\"POST\",route=\"/api/v1/agents/deploy\",status=\"200\"} 2",
            "phalanx_http_request_duration_seconds_bucket{method=\"POST\",route=\"/api/v1/agents/deploy\",le=\"0.0025\"} 1",
            "phalanx_http_request_duration_seconds_bucket{method=\"POST\",route=\"/api/v1/agents/deploy\",le=\"+Inf\"} 2",
            "phalanx_http_requests_total{method=\"other\",route=\"other\",status=\"404\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
