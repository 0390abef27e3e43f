//! What the memory bus carries per second, for the record:
//! `cargo run --release -p bus --example throughput`.
#![expect(clippy::print_stdout, reason = "a program that prints its result")]

use std::time::{Duration, Instant};

use bus::{Bus, Error, Limits, Message, Priority, Subject, WorkOptions};
use tokio::task::JoinSet;

const MESSAGES: u32 = 1_000_000;
const DEADLINE: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for threads in [1, 2] {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()?;
        for concurrency in [1, 64] {
            let rate = runtime.block_on(on_a_worker(requests(concurrency)))?;
            println!("request and reply, {threads} threads, {concurrency} at once: {rate:.0}/s");
        }
        let rate = runtime.block_on(on_a_worker(durable()))?;
        println!("enqueue, take, ack, {threads} threads: {rate:.0}/s");
    }
    Ok(())
}

/// `block_on`'s own thread is not a worker and would be measured with its wake-ups.
async fn on_a_worker(
    measured: impl Future<Output = Result<f64, Error>> + Send + 'static,
) -> Result<f64, Box<dyn std::error::Error>> {
    let mut set = JoinSet::new();
    set.spawn(measured);
    Ok(set.join_next().await.ok_or("one task was spawned")???)
}

async fn requests(concurrency: u32) -> Result<f64, Error> {
    let bus = Bus::memory(Limits::default());
    let subject = Subject::run("acct", "ver_1", "node_1");
    let mut requests = bus.serve(&subject, Some("executors")).await?;
    let mut server = JoinSet::new();
    server.spawn(async move {
        while let Some(mut request) = requests.next().await {
            let payload = std::mem::take(&mut request.message.payload);
            request.respond(Message::new(payload)).await?;
        }
        Ok::<_, Error>(())
    });
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..concurrency {
        let (bus, subject) = (bus.clone(), subject.clone());
        clients.spawn(async move {
            for _ in 0..MESSAGES / concurrency {
                bus.request(&subject, Message::new(&b"256 bytes or so"[..]), DEADLINE)
                    .await?;
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(client) = clients.join_next().await {
        client.map_err(|error| Error::Unavailable(error.to_string()))??;
    }
    Ok(f64::from(MESSAGES) / start.elapsed().as_secs_f64())
}

async fn durable() -> Result<f64, Error> {
    let bus = Bus::memory(Limits::default());
    let subject = Subject::work("acct", "ver_1", Priority::Normal);
    let options = WorkOptions {
        max_in_flight: 64,
        ack_wait: DEADLINE,
        max_deliver: 5,
    };
    let mut work = bus.work(&subject, options).await?;
    let start = Instant::now();
    for number in 0..MESSAGES {
        bus.enqueue(
            &subject,
            &number.to_string(),
            Message::new(&b"a command"[..]),
        )
        .await?;
        if let Some(delivery) = work.next().await {
            delivery.ack().await?;
        }
    }
    Ok(f64::from(MESSAGES) / start.elapsed().as_secs_f64())
}
