//! Load: over some connections in a closed loop or at a given rate, or one request on each of very many connections at once.

use crate::http::Connection;
use anyhow::{Result, bail};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::Barrier, task::JoinSet};

/// What came of it; latencies in milliseconds, sorted.
pub struct Figures {
    pub latencies: Vec<f64>,
    pub failed: usize,
    pub per_second: f64,
}

impl Figures {
    pub fn percentile(&self, share: f64) -> f64 {
        let rank = (share * self.latencies.len() as f64).ceil() as usize;
        self.latencies
            .get(rank.saturating_sub(1))
            .copied()
            .unwrap_or(f64::NAN)
    }
}

/// A server, and what is sent to it in turn.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub requests: Arc<[Vec<u8>]>,
}

impl Target {
    pub fn one(address: SocketAddr, request: Vec<u8>) -> Self {
        Self {
            address,
            requests: Arc::new([request]),
        }
    }
}

/// When the next request is sent, each connection having one in flight.
#[derive(Clone, Copy)]
pub enum Pace {
    /// At once, for so long.
    For(Duration),
    /// At once, so many in all.
    Count(usize),
    /// So many in all, each at its own moment, whether those before it were answered or not; latencies count from that moment.
    Every { count: usize, per_second: f64 },
}

/// What the connections of one run share.
struct Run {
    pace: Pace,
    start: Barrier,
    next: AtomicUsize,
}

/// What one connection saw.
#[derive(Default)]
struct Seen {
    latencies: Vec<f64>,
    failed: usize,
    lasted: Duration,
}

/// Drives `targets`, the connections dealt out among them.
pub async fn drive(targets: &[Target], connections: usize, pace: Pace) -> Result<Figures> {
    let run = Arc::new(Run {
        pace,
        start: Barrier::new(connections),
        next: AtomicUsize::new(0),
    });
    let mut loops = JoinSet::new();
    for (place, target) in targets.iter().cycle().take(connections).enumerate() {
        loops.spawn(one_of(Arc::clone(&run), target.clone(), place));
    }
    let mut all = Seen::default();
    while let Some(done) = loops.join_next().await {
        let seen = done??;
        all.latencies.extend(seen.latencies);
        all.failed += seen.failed;
        all.lasted = all.lasted.max(seen.lasted);
    }
    let lasted = match pace {
        Pace::For(lasts) => lasts,
        Pace::Count(_) | Pace::Every { .. } => all.lasted,
    };
    all.latencies.sort_by(f64::total_cmp);
    Ok(Figures {
        per_second: all.latencies.len() as f64 / lasted.as_secs_f64(),
        latencies: all.latencies,
        failed: all.failed,
    })
}

async fn one_of(run: Arc<Run>, target: Target, place: usize) -> Result<Seen> {
    // One that cannot be opened must not leave the others waiting at the start.
    let opened = open_patiently(target.address).await;
    run.start.wait().await;
    let mut connection = opened?;
    let (began, mut seen) = (Instant::now(), Seen::default());
    for request in target.requests.iter().cycle().skip(place) {
        let Some(due) = run.due(began) else { break };
        tokio::time::sleep_until(due.into()).await;
        let answer = connection.send(request).await?;
        seen.latencies.push(due.elapsed().as_secs_f64() * 1000.0);
        seen.failed += usize::from(!fine(&answer));
        seen.lasted = began.elapsed();
    }
    Ok(seen)
}

impl Run {
    /// When the next request is to be sent; `None`: there is none.
    fn due(&self, began: Instant) -> Option<Instant> {
        let turn = || self.next.fetch_add(1, Ordering::Relaxed);
        match self.pace {
            Pace::For(lasts) => (began.elapsed() < lasts).then(Instant::now),
            Pace::Count(count) => (turn() < count).then(Instant::now),
            Pace::Every { count, per_second } => {
                let turn = turn();
                let after = Duration::from_secs_f64(turn as f64 / per_second);
                (turn < count).then(|| began + after)
            }
        }
    }
}

/// Opens `count` connections first, then sends one request on each at the same moment.
pub async fn all_at_once(address: SocketAddr, request: Vec<u8>, count: usize) -> Result<Figures> {
    let request = Arc::new(request);
    let start = Arc::new(Barrier::new(count + 1));
    let mut calls = JoinSet::new();
    for _ in 0..count {
        let (request, start) = (Arc::clone(&request), Arc::clone(&start));
        calls.spawn(async move {
            let opened = open_patiently(address).await;
            start.wait().await;
            let sent = Instant::now();
            let answer = match opened {
                Ok(mut connection) => connection.send(&request).await,
                Err(error) => Err(error),
            };
            (
                sent.elapsed().as_secs_f64() * 1000.0,
                answer.is_ok_and(|answer| fine(&answer)),
            )
        });
    }
    start.wait().await;
    let began = Instant::now();
    let (mut latencies, mut failed) = (Vec::with_capacity(count), 0);
    while let Some(done) = calls.join_next().await {
        let (latency, good) = done?;
        latencies.push(latency);
        failed += usize::from(!good);
    }
    if latencies.is_empty() {
        bail!("nothing was sent");
    }
    let per_second = latencies.len() as f64 / began.elapsed().as_secs_f64();
    latencies.sort_by(f64::total_cmp);
    Ok(Figures {
        latencies,
        failed,
        per_second,
    })
}

/// A server's backlog is short; a connection that is refused is tried again.
async fn open_patiently(address: SocketAddr) -> Result<Connection> {
    let mut last = Connection::open(address).await;
    for _ in 0..50 {
        if last.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        last = Connection::open(address).await;
    }
    last
}

/// Phalanx answers failures of a handler with 200 as well: then the body says so.
fn fine(answer: &crate::http::Answer) -> bool {
    answer.status == 200
        && !answer
            .body
            .windows(17)
            .any(|window| window == b"\"status\":\"failed\"")
}
