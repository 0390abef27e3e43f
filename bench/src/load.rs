//! Load: a closed loop over some connections for some time, or one request on each of very many connections at once.

use crate::http::Connection;
use anyhow::{Result, bail};
use std::{
    net::SocketAddr,
    sync::Arc,
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

pub async fn closed_loop(
    address: SocketAddr,
    request: Vec<u8>,
    connections: usize,
    lasts: Duration,
) -> Result<Figures> {
    let request = Arc::new(request);
    let start = Arc::new(Barrier::new(connections));
    let mut loops = JoinSet::new();
    for _ in 0..connections {
        let (request, start) = (Arc::clone(&request), Arc::clone(&start));
        loops.spawn(async move {
            let mut connection = Connection::open(address).await?;
            start.wait().await;
            let (began, mut latencies, mut failed) =
                (Instant::now(), Vec::with_capacity(65_536), 0);
            while began.elapsed() < lasts {
                let sent = Instant::now();
                let answer = connection.send(&request).await?;
                latencies.push(sent.elapsed().as_secs_f64() * 1000.0);
                failed += usize::from(!fine(&answer));
            }
            anyhow::Ok((latencies, failed))
        });
    }
    let (mut latencies, mut failed) = (Vec::new(), 0);
    while let Some(done) = loops.join_next().await {
        let (some, bad) = done??;
        latencies.extend(some);
        failed += bad;
    }
    let per_second = latencies.len() as f64 / lasts.as_secs_f64();
    latencies.sort_by(f64::total_cmp);
    Ok(Figures {
        latencies,
        failed,
        per_second,
    })
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
