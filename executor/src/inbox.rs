//! From the bus to calls: sync requests, durable work in three lanes, cancels. One set of loops per hosted version.

use crate::{host::Node, pool::Pool, run::Verdict, spans};
use bus::{Delivery, Message, Priority, Request, Requests, Subject, Work, WorkOptions};
use domain::{Result, execution::MOST_DELIVERIES};
use proto::{
    convert::{self, Execute, Reply},
    v1,
};
use std::{sync::Arc, time::Duration};
use store::executions::Key;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// One serves its own requests; a group's refusals are said at once.
const GROUP: &str = "executors";
const ACK_WAIT: Duration = Duration::from_secs(30);
/// One delivery more than may be worked on: it only says that those are used up.
const MAX_DELIVER: u32 = MOST_DELIVERIES + 1;
/// The wait after handling has erred, doubled each time, so that a store that is away for minutes makes no dead letters.
const ERRED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Deliveries in hand beyond the running ones: enough to sort them by priority.
const LOOK_AHEAD: usize = 64;
const MOST_IN_HAND: usize = 4096;

/// Subscribes, and works until `stop`. When this returns, the version can be reached.
pub async fn serve(node: &Arc<Node>, pool: &Arc<Pool>, stop: &CancellationToken) -> Result<()> {
    let (account, version) = (pool.version.account.as_str(), pool.version.id.as_str());
    let runs = node
        .bus
        .serve(
            &Subject::run(account, version, node.config.node_id.as_str()),
            Some(GROUP),
        )
        .await?;
    let cancels = node
        .bus
        .serve(&Subject::cancel(account, version), None)
        .await?;
    node.tasks.spawn(take_runs(
        Arc::clone(node),
        Arc::clone(pool),
        runs,
        stop.clone(),
    ));
    node.tasks
        .spawn(take_cancels(Arc::clone(node), cancels, stop.clone()));
    for lane in Priority::ALL {
        let most = *pool.max_instances().borrow();
        let options = WorkOptions {
            max_in_flight: in_hand(pool, most),
            ack_wait: ACK_WAIT,
            max_deliver: MAX_DELIVER,
        };
        let work = node
            .bus
            .work(&Subject::work(account, version, lane), options)
            .await?;
        node.tasks.spawn(take_work(
            Arc::clone(node),
            Arc::clone(pool),
            work,
            stop.clone(),
        ));
    }
    Ok(())
}

async fn take_runs(node: Arc<Node>, pool: Arc<Pool>, mut runs: Requests, stop: CancellationToken) {
    let take = |request| {
        let (node, pool) = (Arc::clone(&node), Arc::clone(&pool));
        let tasks = node.tasks.clone();
        // Some 10 KB that spawning would copy eight times.
        tasks.spawn(Box::pin(async move { attend(&node, &pool, request).await }));
    };
    loop {
        let request = tokio::select! {
            () = stop.cancelled() => break,
            request = runs.next() => request,
        };
        let Some(request) = request else { return };
        take(request);
    }
    // What the bus has handed over already is refused in words, so that no caller wonders whether it was run.
    for _ in 0..MOST_IN_HAND {
        let waiting = tokio::time::timeout(Duration::ZERO, runs.next());
        let Ok(Some(request)) = waiting.await else {
            return;
        };
        take(request);
    }
}

async fn attend(node: &Node, pool: &Arc<Pool>, mut request: Request) {
    let message = std::mem::take(&mut request.message);
    let mut execute = match Execute::decode(message.payload) {
        Ok(execute) => execute,
        Err(error) => return answer(request, &Reply::Refused(error)).await,
    };
    let span = spans::taken(&node.bus, "run", &message.headers, &mut execute);
    run(node, pool, request, &execute).instrument(span).await;
}

async fn run(node: &Node, pool: &Arc<Pool>, request: Request, execute: &Execute) {
    if execute.options.mode == domain::execution::Mode::Stream {
        // The feed is there before the watcher is told where to look.
        let _feed = node.hub.execution(&crate::run::key(execute));
        answer(
            request,
            &Reply::Accepted {
                node_address: node.address.clone(),
            },
        )
        .await;
        if let Reply::Refused(error) = node.runner.attended(pool, execute).await {
            node.hub.end(
                &crate::run::key(execute),
                crate::run::refused_outcome(execute, &error, node.store.now()),
            );
        }
        return tell_owed(node, execute).await;
    }
    let reply = node.runner.attended(pool, execute).await;
    answer(request, &reply).await;
    tell_owed(node, execute).await;
}

/// Says that somebody wants to be told of this end. Lost, the row is found a second later.
async fn tell_owed(node: &Node, execute: &Execute) {
    if execute.options.callback_url.is_none() {
        return;
    }
    let owed = v1::CallbackOwed {
        account: execute.account.to_string(),
    };
    let event = v1::event::Event::CallbackOwed(owed);
    if let Err(error) = node.bus.tell(&execute.account, event).await {
        tracing::debug!(error = ?error, "gateways were not told of an owed callback; they find its row");
    }
}

async fn answer(request: Request, reply: &Reply) {
    let sent = match reply.encode() {
        Ok(payload) => request
            .respond(Message::new(payload))
            .await
            .map_err(domain::Error::from),
        Err(error) => Err(error),
    };
    if let Err(error) = sent {
        tracing::warn!(error = ?error, "an answer could not be sent");
    }
}

/// What this node can run at once and a little more, so that the rest stays for the others.
fn in_hand(pool: &Pool, max_instances: u32) -> usize {
    let concurrent = pool.version.spec.configuration.concurrent_executions as usize;
    let slots = max_instances.max(1) as usize * concurrent;
    (slots + slots.min(LOOK_AHEAD)).min(MOST_IN_HAND)
}

async fn take_work(node: Arc<Node>, pool: Arc<Pool>, mut work: Work, stop: CancellationToken) {
    let mut most = pool.max_instances();
    most.mark_changed();
    loop {
        let delivery = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Ok(()) = most.changed() => {
                work.set_in_flight(in_hand(&pool, *most.borrow_and_update()));
                continue;
            }
            delivery = work.next() => delivery,
        };
        let Some(delivery) = delivery else { return };
        let (node, pool) = (Arc::clone(&node), Arc::clone(&pool));
        let tasks = node.tasks.clone();
        tasks.spawn(Box::pin(async move {
            work_off(&node, &pool, delivery).await;
        }));
    }
}

async fn work_off(node: &Node, pool: &Arc<Pool>, delivery: Delivery) {
    // What is put back or buried needs its message whole.
    let verdict = match Execute::decode(delivery.message.payload.clone()) {
        Ok(execute) if delivery.deliveries > MOST_DELIVERIES => {
            node.runner.rest(&execute).await;
            Verdict::Dead
        }
        Ok(mut execute) => {
            let headers = &delivery.message.headers;
            let span = spans::taken(&node.bus, "work", headers, &mut execute);
            let redelivered = delivery.deliveries > 1;
            let working = node.runner.durable(pool, &execute, redelivered);
            let working = working.instrument(span);
            tokio::pin!(working);
            let mut alive = tokio::time::interval(ACK_WAIT / 3);
            alive.tick().await;
            let verdict = loop {
                tokio::select! {
                    verdict = &mut working => break verdict,
                    _ = alive.tick() => if let Err(error) = delivery.in_progress().await {
                        tracing::debug!(error = ?error, "a delivery could not be extended");
                    },
                }
            };
            if verdict == Verdict::Done {
                tell_owed(node, &execute).await;
            }
            verdict
        }
        Err(error) => {
            tracing::error!(error = ?error, "a message of durable work cannot be read; it is a dead letter now");
            Verdict::Dead
        }
    };
    let told = match verdict {
        Verdict::Done => delivery.ack().await,
        Verdict::Again(wait) => delivery.retry(wait).await,
        Verdict::Erred => {
            let doubled = ERRED.0 * (1 << delivery.deliveries.saturating_sub(1).min(10));
            delivery.retry(doubled.min(ERRED.1)).await
        }
        Verdict::Dead => delivery.bury().await,
    };
    if let Err(error) = told {
        tracing::debug!(error = ?error, "a delivery could not be settled; it comes again and finds its row");
    }
}

async fn take_cancels(node: Arc<Node>, mut cancels: Requests, stop: CancellationToken) {
    loop {
        let request = tokio::select! {
            () = stop.cancelled() => return,
            request = cancels.next() => request,
        };
        let Some(request) = request else { return };
        let node = Arc::clone(&node);
        node.tasks
            .clone()
            .spawn(async move { cancel(&node, request).await });
    }
}

/// Answers only for what is held here; silence is another's.
async fn cancel(node: &Node, mut request: Request) {
    let message = std::mem::take(&mut request.message);
    let Ok(key) = convert::read::<v1::Cancel>(message.payload).and_then(|cancel| {
        Ok(Key {
            account: convert::word(&cancel.account)?,
            agent_id: convert::word(&cancel.agent_id)?,
            id: convert::word(&cancel.execution_id)?,
        })
    }) else {
        return;
    };
    let Some(handle) = node.runner.held.get(&key) else {
        return;
    };
    handle.cancel.cancel();
    if let Some(status) = handle.stopped().await {
        answer(request, &Reply::Cancelled(status)).await;
    }
}
