//! Webhooks on their way: of alerts and of executions.

use crate::{
    agents::accepted,
    alerts::{leased, message, one},
    world::{account, agent, end, key, mine, new},
};
use domain::{Result, Timestamp, execution::Status, id::DeliveryId, webhook::Status as Sent};
use store::{
    Place, Store,
    deliveries::{Attempt, Delivery, Due, Filter, New},
    executions::Key,
};

const A: &str = "https://a.example/";
const B: &str = "https://b.example/";

fn attempt(attempt: u32, status: Option<u16>, error: Option<&str>) -> Attempt {
    Attempt {
        attempt,
        at: Timestamp(2600),
        duration_ms: 12,
        status,
        error: error.map(str::to_owned),
    }
}

fn callback(n: u128, of: &Key, url: &str, at: i64) -> New {
    New {
        id: DeliveryId::from_uuid(uuid::Uuid::from_u128(n)),
        account: of.account.clone(),
        subject: format!("{}/{}/{}", of.account, of.agent_id, of.id),
        callback: Some((of.agent_id.clone(), of.id.to_string())),
        event: "execution.completed".to_owned(),
        level: 0,
        round: 0,
        url: url.to_owned(),
        body: format!("{{\"n\": {n}}}"),
        secret: Vec::new(),
        sealed_for: "inc".to_owned(),
        created_at: Timestamp(at),
    }
}

/// An ended execution that owes a callback.
async fn owing(store: &Store, key: &Key) -> Result<()> {
    owing_since(store, key, 1500).await
}

async fn owing_since(store: &Store, key: &Key, at: i64) -> Result<()> {
    let mut row = new(key, 1000);
    row.options.callback_url = Some(A.to_owned());
    assert!(store.insert_execution(row).await?);
    assert!(
        store
            .end_execution(end(key, 1, Status::Completed, at))
            .await?
    );
    Ok(())
}

/// Kept as the callback of an execution of its own.
pub async fn kept(store: &Store, n: u128, account: &str, url: &str, at: i64) -> Result<()> {
    let key = key(account, "echo", &format!("e{n}"));
    owing(store, &key).await?;
    assert!(
        store
            .keep_callback(&key, Some(&callback(n, &key, url, at)))
            .await?
    );
    Ok(())
}

/// Everything that is due by then.
pub async fn all_due(store: &Store, at: i64) -> Result<Vec<Due>> {
    let looked = store.due_deliveries(Timestamp(at), 100).await?;
    assert_eq!(looked.unreadable, []);
    Ok(looked.due)
}

pub async fn taken(store: &Store, at: i64) -> Result<Delivery> {
    let due = all_due(store, at).await?;
    let taken = store
        .take_delivery(due.first().expect("one is due"), Timestamp(at + 60_000))
        .await?;
    Ok(taken.expect("nobody else took it").expect("it can be read"))
}

pub async fn a_delivery_is_attempted_by_one_until_it_is_over(store: &Store) -> Result<()> {
    let lease = leased(store).await?;
    let alert = one(1, "echo");
    let sent = [
        message(1, &alert, A),
        message(2, &alert, A),
        message(3, &alert, B),
    ];
    assert!(store.write_alert(&lease, &alert, &sent).await?);
    assert!(all_due(store, 1999).await?.is_empty());
    let due = all_due(store, 2000).await?;
    assert_eq!(due.len(), 2, "a receiver is told once");
    let (first, second) = (&due[0], &due[1]);
    assert_eq!(first.host, "a.example:443");
    let lost = store.take_delivery(first, Timestamp(2500)).await?;
    let lost = lost.expect("it was there").expect("it can be read");
    assert_eq!(
        (lost.body.as_str(), lost.secret.as_slice(), lost.attempts),
        ("{\"ä\": 1}", &[0, 255][..], 1)
    );
    let again = store.take_delivery(first, Timestamp(2500)).await?;
    assert_eq!(again, None, "it is taken");
    assert_eq!(all_due(store, 2499).await?.len(), 1);
    // Whoever took it died: it is taken again, and the first one's word does not count any longer.
    let due = all_due(store, 2500).await?;
    let due = due
        .iter()
        .find(|one| one.id == first.id)
        .expect("due again");
    let again = store.take_delivery(due, Timestamp(3000)).await?;
    let again = again.expect("nobody else took it").expect("it can be read");
    let good = attempt(1, Some(200), None);
    assert!(!store.attempted(&lost, &good, Sent::Delivered, None).await?);
    let bad = attempt(2, None, Some("refused"));
    let later = Some(Timestamp(4000));
    assert!(store.attempted(&again, &bad, Sent::Pending, later).await?);
    let other = store.take_delivery(second, Timestamp(3000)).await?;
    let other = other.expect("nobody else took it").expect("it can be read");
    let gone = attempt(1, Some(410), None);
    assert!(store.attempted(&other, &gone, Sent::Disabled, None).await?);
    assert!(all_due(store, 3999).await?.is_empty());
    let mine = account("a");
    let ids = [alert.id.as_str(), "nothing"];
    let all = store.deliveries_of(&mine, &ids).await?;
    let all = &all[alert.id.as_str()];
    assert_eq!(all[0].1, [good, bad]);
    assert_eq!((all[1].0.status, all[1].0.attempts), (Sent::Disabled, 1));
    assert!(store.deliveries_of(&account("b"), &ids).await?.is_empty());
    // What is still on its way stays.
    assert_eq!(store.purge_deliveries(Timestamp(9999), 10).await?, 1);
    let left = store.deliveries_of(&mine, &ids).await?;
    assert_eq!(left[alert.id.as_str()].len(), 1);
    Ok(())
}

pub async fn a_callback_is_kept_once_with_the_end(store: &Store) -> Result<()> {
    let key = mine("e1");
    let mut row = new(&key, 1000);
    row.options.callback_url = Some(A.to_owned());
    assert!(store.insert_execution(row).await?);
    // One that nobody wants to be told of.
    let silent = mine("e2");
    assert!(store.insert_execution(new(&silent, 1000)).await?);
    let told = callback(1, &key, A, 2000);
    assert!(
        store.owed_callbacks(None, 10).await?.is_empty(),
        "it goes on"
    );
    assert!(!store.keep_callback(&key, Some(&told)).await?);
    for key in [&key, &silent] {
        let end = end(key, 1, Status::Completed, 1500);
        assert!(store.end_execution(end).await?);
    }
    let owed = store.owed_callbacks(None, 10).await?;
    assert_eq!((owed.len(), &owed[0].key), (1, &key));
    assert!(store.keep_callback(&key, Some(&told)).await?);
    // Another gateway was on its way with the same.
    let twin = callback(2, &key, A, 2000);
    assert!(!store.keep_callback(&key, Some(&twin)).await?);
    assert!(!store.keep_callback(&silent, Some(&twin)).await?);
    assert!(store.owed_callbacks(None, 10).await?.is_empty());
    let (all, total) = store
        .callbacks(&key.account, &key.agent_id, &Filter::default(), (0, 10))
        .await?;
    assert_eq!((all.len(), total), (1, 1));
    assert_eq!(
        (all[0].0.id.clone(), all[0].0.execution_id.as_str()),
        (told.id.clone(), "e1")
    );
    // Others see and send nothing of it.
    let (other, id) = (account("b"), &told.id);
    let echo = agent("echo");
    assert_eq!(store.callback(&other, &echo, id).await?, None);
    let list = store
        .callbacks(&other, &echo, &Filter::default(), (0, 10))
        .await?;
    assert_eq!(list.1, 0);
    let elsewhere = store.callback(&key.account, &agent("other"), id).await?;
    assert_eq!(elsewhere, None);
    let found = store.callback(&key.account, &echo, id).await?;
    let mut stolen = found.expect("there").0;
    stolen.account = other;
    assert!(!store.redeliver(&stolen, 100, Timestamp(1)).await?);
    Ok(())
}

pub async fn whoever_cannot_be_told_is_gone_past(store: &Store) -> Result<()> {
    let names = ["e1", "e2", "e3", "e4", "e5"];
    for (n, name) in names.iter().enumerate() {
        // Some ended in the same millisecond.
        owing_since(store, &mine(name), 1500 + n as i64 / 2).await?;
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let owed = store.owed_callbacks(after.as_ref(), 2).await?;
        seen.extend(owed.iter().map(|one| one.key.id.to_string()));
        match owed.last() {
            Some(last) => after = Some(last.clone()),
            None => break,
        }
        assert!(seen.len() < 20, "it never ends: {seen:?}");
    }
    assert_eq!(seen, names);
    Ok(())
}

pub async fn callbacks_are_listed_and_sent_again(store: &Store) -> Result<()> {
    for n in 1..=3 {
        kept(store, n, "a", A, 2000).await?;
    }
    let (mine, echo) = (account("a"), agent("echo"));
    let first = taken(store, 2000).await?;
    let good = attempt(1, Some(200), None);
    assert!(
        store
            .attempted(&first, &good, Sent::Delivered, None)
            .await?
    );
    let only = async |filter: Filter| {
        let found = store.callbacks(&mine, &echo, &filter, (0, 10)).await;
        let (found, total) = found.expect("rows");
        assert_eq!(found.len() as u64, total);
        let ids = found.into_iter().map(|(one, _)| one.execution_id);
        ids.collect::<Vec<_>>()
    };
    let all = Filter::default();
    assert_eq!(only(all.clone()).await, ["e3", "e2", "e1"]);
    let status = Some(Sent::Delivered);
    let delivered = Filter { status, ..all };
    assert_eq!(only(delivered).await, ["e1"]);
    let one = Filter {
        execution_id: Some("e2".to_owned()),
        ..Filter::default()
    };
    assert_eq!(only(one).await, ["e2"]);
    let (page, total) = store
        .callbacks(&mine, &echo, &Filter::default(), (1, 1))
        .await?;
    assert_eq!((page[0].0.execution_id.as_str(), total), ("e2", 3));
    // Again: by the whole schedule, and counted on.
    assert!(!store.redeliver(&first, 1, Timestamp(3000)).await?);
    assert!(store.redeliver(&first, 100, Timestamp(1)).await?);
    let again = taken(store, 3000).await?;
    assert_eq!(
        (again.id.clone(), again.attempts, again.tried_before),
        (first.id, 2, 1)
    );
    let bad = attempt(2, Some(500), None);
    let later = Some(Timestamp(9000));
    assert!(store.attempted(&again, &bad, Sent::Pending, later).await?);
    let told = store.callback(&mine, &echo, &again.id).await?;
    assert_eq!(told.expect("there").1, [good, bad]);
    Ok(())
}

pub async fn who_is_gone_is_sent_nothing_until_asked_anew(store: &Store) -> Result<()> {
    kept(store, 1, "a", A, 2000).await?;
    kept(store, 2, "a", A, 2001).await?;
    kept(store, 3, "a", B, 2002).await?;
    kept(store, 4, "b", A, 2003).await?;
    let first = taken(store, 2000).await?;
    let gone = attempt(1, Some(410), None);
    assert!(store.attempted(&first, &gone, Sent::Disabled, None).await?);
    kept(store, 5, "a", A, 2004).await?;
    let due = all_due(store, 9000).await?;
    let mut left: Vec<(&str, &str)> = due
        .iter()
        .map(|one| (one.account.as_str(), one.host.as_str()))
        .collect();
    left.sort_unstable();
    assert_eq!(left, [("a", "b.example:443"), ("b", "a.example:443")]);
    let mine = (account("a"), agent("echo"));
    let filter = Filter {
        status: Some(Sent::Disabled),
        ..Filter::default()
    };
    let (disabled, _) = store.callbacks(&mine.0, &mine.1, &filter, (0, 10)).await?;
    let names: Vec<&str> = disabled
        .iter()
        .map(|(one, _)| one.execution_id.as_str())
        .collect();
    assert_eq!(names, ["e5", "e2", "e1"], "to be seen, and over");
    // It stays so when its deliveries are gone, as long as anything is withheld.
    assert_eq!(store.purge_deliveries(Timestamp(2004), 10).await?, 2);
    kept(store, 6, "a", A, 2005).await?;
    assert_eq!(all_due(store, 9000).await?.len(), 2);
    // Sent again, it may be back.
    let one = store.callback(&mine.0, &mine.1, &disabled[0].0.id).await?;
    let one = one.expect("it was not purged").0;
    assert!(store.redeliver(&one, 100, Timestamp(2006)).await?);
    kept(store, 7, "a", A, 2007).await?;
    assert_eq!(all_due(store, 9000).await?.len(), 4);
    Ok(())
}

pub async fn a_policy_that_is_put_anew_has_its_receivers_back(store: &Store) -> Result<()> {
    let lease = leased(store).await?;
    let policy = store::alerts::KeptPolicy {
        account: account("a"),
        agent_id: None,
        id: "p".to_owned(),
        policy: domain::alert::Policy::default(),
        secret: vec![1],
        updated_at: Timestamp(1),
        updated_by: "k".to_owned(),
    };
    assert!(store.keep_alert_policy(&policy).await?);
    let alert = one(1, "echo");
    let sent = [message(1, &alert, A)];
    assert!(store.write_alert(&lease, &alert, &sent).await?);
    let first = taken(store, 2000).await?;
    let gone = attempt(1, Some(410), None);
    assert!(store.attempted(&first, &gone, Sent::Disabled, None).await?);
    // However long nothing was to be said.
    assert_eq!(store.purge_deliveries(Timestamp(i64::MAX), 10).await?, 1);
    let other = one(2, "other");
    let sent = [message(2, &other, A)];
    assert!(store.write_alert(&lease, &other, &sent).await?);
    assert!(all_due(store, 9000).await?.is_empty());
    store.keep_alert_policy(&policy).await?;
    let third = one(3, "third");
    let sent = [message(3, &third, A)];
    assert!(store.write_alert(&lease, &third, &sent).await?);
    assert_eq!(all_due(store, 9000).await?.len(), 1);
    Ok(())
}

pub async fn attempts_go_with_their_deliveries(store: &Store) -> Result<()> {
    // All made in the same millisecond: their ids say which go first.
    for n in 1..=6 {
        kept(store, n, "a", A, 2000).await?;
        let one = taken(store, 2000).await?;
        let good = attempt(1, Some(200), None);
        assert!(store.attempted(&one, &good, Sent::Delivered, None).await?);
    }
    assert_eq!(store.purge_deliveries(Timestamp(3000), 4).await?, 4);
    let left = store
        .callbacks(&account("a"), &agent("echo"), &Filter::default(), (0, 10))
        .await?;
    let left: Vec<(&str, usize)> = left
        .0
        .iter()
        .map(|(one, attempts)| (one.execution_id.as_str(), attempts.len()))
        .collect();
    assert_eq!(left, [("e6", 1), ("e5", 1)]);
    Ok(())
}

pub async fn two_secrets_sign_for_a_while(store: &Store) -> Result<()> {
    let mine = account("a");
    let mut whole = accepted(store, &mine, crate::agents::spec("echo", (1, 0), &[]), 1)?;
    let made = whole.agent.as_mut().expect("new");
    let incarnation = made.agent.incarnation.clone();
    let place = Place::webhook_secret(&mine, &incarnation);
    let seal = |secret: &str| store.seal(&place, secret.as_bytes());
    made.webhook_secret = seal("whsec_one")?;
    assert!(store.accept_deployment(&whole).await?);
    let key = crate::world::mine("e1");
    owing(store, &key).await?;
    let mut told = callback(1, &key, A, 2000);
    told.sealed_for.clone_from(&incarnation);
    assert!(store.keep_callback(&key, Some(&told)).await?);
    let one = taken(store, 2000).await?;
    let signs = async |at| store.signing_secrets(&one, Timestamp(at)).await;
    assert_eq!(signs(5).await?, ["whsec_one"]);
    let whose = (&mine, incarnation.as_str());
    let other = (&account("b"), incarnation.as_str());
    let second = seal("whsec_two")?;
    assert!(
        !store
            .rotate_webhook_secret(other, &second, Timestamp(100))
            .await?
    );
    assert!(
        store
            .rotate_webhook_secret(whose, &second, Timestamp(100))
            .await?
    );
    assert_eq!(signs(99).await?, ["whsec_two", "whsec_one"]);
    assert_eq!(signs(100).await?, ["whsec_two"]);
    Ok(())
}
