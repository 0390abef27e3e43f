//! Every figure equals what replaying the executions gives.

use crate::world::{Ran, World, eager, now};
use domain::{execution::Status, metrics::percentile};
use monitor::Config;
use proto::v1::{QueryReply, QueryRequest, SummarizeRequest};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use tonic::Code;

/// A small generator of our own: the same figures in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

fn executions(seed: u64, count: u64) -> Vec<Ran> {
    let mut random = Random(seed);
    (0..count)
        .map(|_| {
            let status = [
                Status::Completed,
                Status::Completed,
                Status::Completed,
                Status::Failed,
                Status::Timeout,
            ];
            let mut metrics = BTreeMap::new();
            if random.below(3) == 0 {
                metrics.insert("quality".to_owned(), random.below(100) as f64 / 7.0);
            }
            Ran {
                // Ten buckets of a minute, the fifth of them empty; many in the same millisecond, at edges too.
                at: {
                    let bucket = [0, 1, 2, 3, 5, 6, 7, 8, 9][random.below(9) as usize];
                    600_000 + bucket * 60_000 + [0, 1, 30_000, 59_999][random.below(4) as usize]
                },
                status: status[random.below(5) as usize],
                duration_ms: (random.below(10) > 0)
                    .then(|| random.below(1_000_000) as f64 / 1000.0),
                version: u128::from(random.below(2)),
                metrics,
            }
        })
        .collect()
}

fn question(start_ms: i64, end_ms: i64, granularity: &str) -> QueryRequest {
    QueryRequest {
        account: "a".into(),
        agent_id: "echo".into(),
        start_ms,
        end_ms,
        granularity: granularity.into(),
        brief: false,
    }
}

fn mean(figures: &[f64]) -> Option<f64> {
    (!figures.is_empty()).then(|| figures.iter().sum::<f64>() / figures.len() as f64)
}

fn near(one: Option<f64>, other: Option<f64>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => (one - other).abs() < 1e-9 * one.abs().max(1.0),
        (one, other) => one == other,
    }
}

/// A percentile is told within one percent.
fn told(one: Option<f64>, exact: Option<f64>) -> bool {
    match (one, exact) {
        (Some(one), Some(exact)) => (one - exact).abs() <= 0.01 * exact + 0.001,
        (one, exact) => one == exact,
    }
}

/// Asks until everything is counted: what ended long before it was written is found a moment later.
async fn counted(world: &mut World, asked: QueryRequest, total: u64) -> QueryReply {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = world.client.query(asked.clone()).await;
        let seen = match answer {
            Ok(answer) if answer.get_ref().total == total => return answer.into_inner(),
            Ok(answer) => format!("{} are counted", answer.get_ref().total),
            // Nothing is counted twice, even for a moment.
            Err(error) => format!("{error}"),
        };
        assert!(Instant::now() < deadline, "of {total}: {seen}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Every figure of an answer against a replay of all executions.
fn equals_a_replay(answer: &QueryReply, ran: &[Ran], (first, step): (i64, i64)) {
    let (mut total, mut busy, mut up) = (0, 0, 0);
    for (n, bucket) in answer.buckets.iter().enumerate() {
        let from = first + n as i64 * step;
        assert_eq!(bucket.start_ms, from);
        let inside: Vec<&Ran> = ran
            .iter()
            .filter(|ran| (from..from + step).contains(&ran.at))
            .collect();
        let ended = |statuses: &[Status]| {
            let of = |ran: &&&Ran| statuses.contains(&ran.ended());
            inside.iter().filter(of).count() as u64
        };
        assert_eq!(
            (bucket.count, bucket.failed, bucket.cancelled),
            (
                inside.len() as u64,
                ended(&[Status::Failed, Status::Timeout]),
                ended(&[Status::Cancelled])
            )
        );
        let completed = ended(&[Status::Completed]) > 0;
        busy += u32::from(completed || bucket.failed > 0);
        up += u32::from(completed);
        let mut durations: Vec<f64> = inside.iter().filter_map(|ran| ran.duration_ms).collect();
        durations.sort_unstable_by(f64::total_cmp);
        assert!(near(bucket.avg_ms, mean(&durations)), "{bucket:?}");
        for (one, p) in [
            (bucket.p50_ms, 0.5),
            (bucket.p95_ms, 0.95),
            (bucket.p99_ms, 0.99),
        ] {
            assert!(told(one, percentile(&durations, p)), "{p} of {bucket:?}");
        }
        let reported: Vec<f64> = inside
            .iter()
            .filter(|ran| ran.duration_ms.is_some())
            .filter_map(|ran| ran.metrics.get("quality").copied())
            .collect();
        assert!(near(bucket.custom.get("quality").copied(), mean(&reported)));
        total += bucket.count;
    }
    assert_eq!(answer.total, total);
    assert!(near(
        answer.uptime_percent,
        (busy > 0).then(|| 100.0 * f64::from(up) / f64::from(busy))
    ));
}

fn aligned(at: i64, step: i64) -> i64 {
    at.div_euclid(step) * step
}

async fn write(world: &World, ran: &[Ran], from: usize) {
    for (n, ran) in ran.iter().enumerate() {
        let id = format!("e{}", from + n);
        world.ended(("a", "echo", &id), ran.clone()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn query_equals_brute_force() {
    for seed in 1..4 {
        // Slices that are smaller than what one millisecond holds.
        let config = Config {
            slice: 16,
            ..eager()
        };
        let mut world = World::new(config).await;
        let base = aligned(now(), 3_600_000) - 2 * 3_600_000;
        let mut ran = executions(seed, 900);
        // A third long ago, a third some hours ago, a third now, all of them written now: the first two are late.
        for (n, one) in ran.iter_mut().enumerate() {
            match n % 3 {
                0 => {}
                1 => one.at += base - 600_000,
                _ => one.at = now() - one.at % 10_000,
            }
        }
        let foreign = ran[0].clone();
        world.ended(("b", "echo", "e1"), foreign.clone()).await;
        world.ended(("a", "other", "e1"), foreign).await;
        write(&world, &ran[..300], 0).await;
        // Nobody rolls up meanwhile; and then another does.
        world.stop_monitor().await;
        write(&world, &ran[300..600], 300).await;
        world.start_again().await;
        write(&world, &ran[600..], 600).await;
        for (granularity, step, start, end) in [
            ("1m", 60_000, 600_000, 1_200_000),
            ("5m", 300_000, 900_000, 1_200_000),
            ("1m", 60_000, 661_234, 779_999),
            ("1d", 86_400_000, 0, 86_400_000),
            ("1m", 60_000, base, now() + 60_000),
            ("1h", 3_600_000, base - 7_200_000, now() + 60_000),
            ("1d", 86_400_000, base - 86_400_000, now() + 60_000),
        ] {
            let (first, last) = (aligned(start, step), aligned(end + step - 1, step));
            let inside = ran.iter().filter(|ran| (first..last).contains(&ran.at));
            let asked = question(start, end, granularity);
            let total = inside.count() as u64;
            assert!(total > 0);
            let answer = counted(&mut world, asked.clone(), total).await;
            assert_eq!(answer.buckets.len() as i64, (last - first) / step);
            equals_a_replay(&answer, &ran, (first, step));
            let brief = QueryRequest {
                brief: true,
                ..asked
            };
            let brief = world
                .client
                .query(brief)
                .await
                .expect("an answer")
                .into_inner();
            assert_eq!(
                (brief.total, brief.failed, brief.uptime_percent),
                (answer.total, answer.failed, answer.uptime_percent)
            );
            assert!(near(brief.avg_ms, answer.avg_ms));
        }
        world.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_monitors_count_once() {
    let mut world = World::new(eager()).await;
    let second = monitor::bind(eager(), world.deps.clone())
        .await
        .expect("binds");
    let stop = tokio_util::sync::CancellationToken::new();
    let token = stop.clone();
    let mut served = tokio::task::JoinSet::new();
    served.spawn(async move { second.serve(token).await });
    let ran = executions(7, 400);
    write(&world, &ran[..200], 0).await;
    // Whoever has the lease gives it back; the other goes on.
    world.start_again().await;
    write(&world, &ran[200..], 200).await;
    let answer = counted(&mut world, question(600_000, 1_200_000, "1m"), 400).await;
    equals_a_replay(&answer, &ran, (600_000, 60_000));
    stop.cancel();
    let ended = served.join_next().await.expect("it was served");
    ended.expect("no panic").expect("serves");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_checked() {
    // Nothing is ever old enough to be rolled up.
    let config = Config {
        most_rows: 3,
        settle: Duration::from_secs(100 * 365 * 24 * 3600),
        ..Config::default()
    };
    let mut world = World::new(config).await;
    for (start, end, granularity) in [(5, 5, "1m"), (0, i64::MAX, "1m"), (0, 60_000, "2m")] {
        let error = world
            .client
            .query(question(start, end, granularity))
            .await
            .expect_err("a bad question");
        assert!(
            matches!(error.code(), Code::InvalidArgument | Code::Internal),
            "{error}"
        );
    }
    let empty = world
        .client
        .query(question(0, 180_000, "1m"))
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(
        (
            empty.buckets.len(),
            empty.total,
            empty.avg_ms,
            empty.uptime_percent
        ),
        (3, 0, None, None)
    );
    write(&world, &executions(9, 3), 0).await;
    let error = world
        .client
        .query(question(0, 1_200_000, "1m"))
        .await
        .expect_err("too much");
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_and_their_percentile() {
    let mut world = World::new(eager()).await;
    let ran = executions(5, 300);
    for (n, ran) in ran.iter().enumerate() {
        world
            .ended(("a", "echo", &format!("e{n}")), ran.clone())
            .await;
    }
    counted(&mut world, question(600_000, 1_200_000, "1m"), 300).await;
    let ask = |agent_ids: &[&str], since_ms, version: Option<u128>| SummarizeRequest {
        account: "a".into(),
        agent_ids: agent_ids.iter().map(|id| (*id).to_owned()).collect(),
        since_ms,
        version_id: version.map_or(String::new(), |n| {
            domain::id::VersionId::from_uuid(uuid::Uuid::from_u128(n)).to_string()
        }),
    };
    for (since, version) in [(0, None), (0, Some(1)), (800_000, None), (800_000, Some(1))] {
        let inside: Vec<&Ran> = ran
            .iter()
            .filter(|ran| ran.at >= since && version.is_none_or(|n| ran.version == n))
            .collect();
        let mut durations: Vec<f64> = inside.iter().filter_map(|ran| ran.duration_ms).collect();
        durations.sort_unstable_by(f64::total_cmp);
        let answer = world
            .client
            .summarize(ask(&["echo"], since, version))
            .await
            .expect("an answer")
            .into_inner();
        let summary = &answer.summaries[0];
        assert_eq!(summary.total, inside.len() as u64);
        assert!(near(summary.avg_ms, mean(&durations)));
        let p95 = version.and_then(|_| percentile(&durations, 0.95));
        assert!(told(summary.p95_ms, p95), "{summary:?}");
        assert_eq!(summary.first_ms, inside.iter().map(|ran| ran.at).min());
    }
    let all = world
        .client
        .summarize(ask(&[], 0, None))
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!((all.summaries.len(), all.summaries[0].p95_ms), (1, None));
    let none = world
        .client
        .summarize(ask(&["nobody"], 0, None))
        .await
        .expect("an answer")
        .into_inner();
    assert!(none.summaries.is_empty());
    world.close().await;
}
