//! Sends webhooks that are due, signed, and keeps every attempt. Any monitor may: whoever takes a delivery makes its attempt.
//!
//! Accounts have their turns, and within each its receivers: a slow one, or many, hold up nobody else.

mod attempt;

use crate::Config;
use bus::{Event, Events, typed};
use domain::{Result, id::AccountId};
use proto::v1::event::Event as Told;
use std::{collections::HashMap, sync::Arc, time::Duration};
use store::{
    Store,
    deliveries::{Due, Shares},
};
use tokio::{
    sync::Notify,
    task::{Id, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Between two looks at the rows where nobody says anything.
const EVERY: Duration = Duration::from_secs(1);
/// Between two looks at the least.
const APART: Duration = Duration::from_millis(20);
/// Whoever took a delivery and said nothing for so long is gone.
const GONE_AFTER: Duration = Duration::from_secs(60);
/// Deliveries that are on their way at a time, of those the ones of an account, and of those the ones to the same host.
const MOST: usize = 128;
const MOST_OF_ACCOUNT: usize = 32;
const MOST_TO_HOST: usize = 4;
/// Looked at, for those among them whose receiver is not busy.
const LOOK: Shares = Shares {
    of_account: 2 * MOST_OF_ACCOUNT as u32,
    of_host: 2 * MOST_TO_HOST as u32,
    all: 4 * MOST as u32,
};
/// What is on its way when we leave may take so long; then it is sent again by whoever is next.
const LEFT_WITHIN: Duration = Duration::from_secs(3);

/// What is on its way, and to whom.
#[derive(Default)]
struct Sending {
    tasks: JoinSet<()>,
    to: HashMap<Id, (AccountId, String)>,
}

impl Sending {
    fn has_room(&self, one: &Due) -> bool {
        let of_account = self
            .to
            .values()
            .filter(|(account, _)| *account == one.account);
        let to_host = of_account.clone().filter(|(_, host)| *host == one.host);
        self.tasks.len() < MOST
            && of_account.count() < MOST_OF_ACCOUNT
            && to_host.count() < MOST_TO_HOST
    }
}

/// `nudge` is what this monitor says to itself, `events` what others say.
pub async fn run(
    config: &Config,
    store: &Store,
    (mut events, nudge): (Events, Arc<Notify>),
    stop: &CancellationToken,
) {
    let mut sending = Sending::default();
    let (mut looked, mut look_at) = (Instant::now(), Instant::now());
    // Something is due that had no room.
    let (mut waiting, mut hears) = (false, true);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(done) = sending.tasks.join_next_with_id(), if !sending.tasks.is_empty() => {
                let id = match done {
                    Ok((id, ())) => id,
                    Err(error) => {
                        tracing::error!(error = ?error, "an attempt ran into a fault of ours; it is made again");
                        error.id()
                    }
                };
                sending.to.remove(&id);
                if waiting {
                    look_at = look_at.min(looked + APART);
                }
                continue;
            }
            event = events.next(), if hears => {
                hears = event.is_some();
                if event.is_some_and(is_due) {
                    look_at = look_at.min(looked + APART);
                }
                continue;
            }
            () = nudge.notified() => {
                look_at = look_at.min(looked + APART);
                continue;
            }
            () = tokio::time::sleep_until(look_at) => {}
        }
        looked = Instant::now();
        look_at = looked + EVERY;
        match begin(config, store, &mut sending).await {
            Ok(more) => waiting = more,
            Err(error) => {
                tracing::warn!(error = ?error, "webhooks could not be sent; it is tried again");
            }
        }
    }
    let rest = async { while sending.tasks.join_next().await.is_some() {} };
    tokio::time::timeout(LEFT_WITHIN, rest).await.ok();
}

fn is_due(event: Event) -> bool {
    match event {
        Event::Lagged(_) => true,
        Event::Message(message) => {
            matches!(typed::event(message), Ok(Some(Told::DeliveryDue(_))))
        }
    }
}

/// Takes what is due, as far as there is room. `true`: there is more.
async fn begin(config: &Config, store: &Store, sending: &mut Sending) -> Result<bool> {
    let due = store.due_deliveries(store.now(), LOOK).await?;
    let mut more = due.len() >= LOOK.all as usize;
    for one in due {
        if !sending.has_room(&one) {
            more = true;
            continue;
        }
        let again_at = store.now() + GONE_AFTER;
        let Some(taken) = store.take_delivery(&one, again_at).await? else {
            continue;
        };
        let (store, openness) = (store.clone(), config.webhooks.clone());
        let task = sending.tasks.spawn(async move {
            if let Err(error) = attempt::make(&store, &openness, &taken).await {
                tracing::warn!(delivery.id = %taken.id, error = ?error, "an attempt could not be kept; it is made again");
            }
        });
        sending.to.insert(task.id(), (one.account, one.host));
    }
    Ok(more)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::id::DeliveryId;

    fn due(account: &str, host: &str) -> Due {
        Due {
            id: DeliveryId::from_uuid(uuid::Uuid::now_v7()),
            account: account.parse().expect("an account"),
            host: host.to_owned(),
            attempts: 0,
        }
    }

    #[tokio::test]
    async fn nobody_takes_the_room_of_another() {
        let mut sending = Sending::default();
        let mut fill = |one: Due| {
            let room = sending.has_room(&one);
            if room {
                let task = sending.tasks.spawn(std::future::pending());
                sending.to.insert(task.id(), (one.account, one.host));
            }
            room
        };
        for _ in 0..MOST_TO_HOST {
            assert!(fill(due("a", "slow:443")));
        }
        assert!(!fill(due("a", "slow:443")), "the host is busy");
        assert!(fill(due("b", "slow:443")), "not for another account");
        let mut of_a = MOST_TO_HOST;
        for host in 0..1000 {
            of_a += usize::from(fill(due("a", &format!("h{host}:443"))));
        }
        assert_eq!(of_a, MOST_OF_ACCOUNT);
        assert!(fill(due("b", "good:443")));
    }
}
