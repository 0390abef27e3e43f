//! One holder at a time, and nothing written by one who is not it any more.

use crate::{
    agents::{accepted, spec},
    world::account,
};
use domain::{
    Result, Timestamp,
    deployment::{Kind, State as Deployment, Status},
    envelope::State,
    id::{NodeId, VersionId},
};
use std::time::{Duration, Instant};
use store::{Store, agents::Accepted, envelopes::Wanted, leases::Lease};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(150);

fn node(n: u128) -> NodeId {
    NodeId::from_uuid(uuid::Uuid::from_u128(n))
}

/// Tries until the one who holds it has held it for too long.
async fn taken_over(store: &Store, holder: &str) -> Result<Lease> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(lease) = store.acquire("keeper", holder, LONG).await? {
            return Ok(lease);
        }
        assert!(Instant::now() < deadline, "the lease never expired");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// An agent whose one deployment has ended.
async fn deployed(store: &Store) -> Result<Accepted> {
    let new = accepted(store, &account("a"), spec("echo", (1, 0), &[]), 1)?;
    store.accept_deployment(&new).await?;
    let done = Deployment {
        status: Status::Deployed,
        ..Deployment::accepted(Kind::Deploy, domain::rollout::Plan::default())
    };
    let id = &new.deployment.id;
    let ended = store
        .advance_deployment(&account("a"), id, 0, &done, Timestamp(2))
        .await?;
    assert!(ended);
    Ok(new)
}

fn serving(version_id: &VersionId) -> Wanted<'_> {
    Wanted {
        version_id,
        state: State::Serving,
        min_instances: 1,
        max_instances: 2,
    }
}

pub async fn of_many_that_race_one_holds_it(store: &Store) -> Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..16 {
        let store = store.clone();
        tasks.spawn(async move { store.acquire("keeper", &format!("h{n}"), LONG).await });
    }
    let mut holders = Vec::new();
    while let Some(done) = tasks.join_next().await {
        holders.extend(done.expect("no panic")?);
    }
    assert_eq!(holders.len(), 1, "{holders:?}");
    assert!(store.is_leased("keeper").await?);
    assert!(!store.is_leased("another").await?);
    let other = store.acquire("another", "h", LONG).await?;
    assert_eq!(other.expect("nobody's").epoch, 1);
    Ok(())
}

/// Who holds the turn to write and does not get on keeps nobody waiting for ever.
pub async fn a_writer_that_stands_still_is_not_waited_for(store: &Store) -> Result<()> {
    let names: Vec<String> = (0..1000).map(|n| format!("still-{n}")).collect();
    let mut stands = None;
    for name in &names {
        let mut still = Box::pin(store.acquire(name, "one", LONG));
        // Now and then the database answers while it is asked; that one does not stand still.
        if futures::poll!(still.as_mut()).is_pending() {
            stands = Some(still);
            break;
        }
    }
    assert!(stands.is_some(), "the database answers everything at once");
    let behind = tokio::time::timeout(LONG, store.acquire("behind", "two", LONG));
    let behind = behind.await.expect("an answer");
    assert!(
        behind.as_ref().map_or_else(
            |error| error.kind == domain::Kind::Unavailable,
            Option::is_some
        ),
        "{behind:?}"
    );
    drop(stands);
    assert!(store.acquire("after", "two", LONG).await?.is_some());
    Ok(())
}

pub async fn held_while_renewed_and_given_back(store: &Store) -> Result<()> {
    let one = store.acquire("keeper", "one", SHORT).await?.expect("free");
    // Renewed over several of its lives, nobody else gets it.
    for _ in 0..20 {
        assert!(store.renew(&one, LONG).await?);
        assert_eq!(store.acquire("keeper", "two", LONG).await?, None);
    }
    store.release(&one).await?;
    assert!(!store.is_leased("keeper").await?);
    assert!(!store.renew(&one, LONG).await?, "given back is given back");
    let two = store.acquire("keeper", "two", LONG).await?.expect("free");
    assert!(two.epoch > one.epoch);
    // What the one before gives back once more is not his.
    store.release(&one).await?;
    assert!(store.renew(&two, LONG).await?);
    Ok(())
}

pub async fn who_was_overtaken_writes_nothing(store: &Store) -> Result<()> {
    let new = deployed(store).await?;
    let (ours, version) = (account("a"), new.version.expect("a version").id);
    let place = async |lease: &Lease, n| {
        let place = (&ours, &node(n));
        store
            .place_under(lease, place, &serving(&version), Timestamp(3))
            .await
    };
    let one = store.acquire("keeper", "one", LONG).await?.expect("free");
    assert_eq!(place(&one, 1).await?, Some(1));
    assert_eq!(place(&one, 1).await?, Some(2));
    assert!(store.renew(&one, SHORT).await?);
    let two = taken_over(store, "two").await?;
    assert!(two.epoch > one.epoch);
    assert_eq!(
        place(&one, 1).await?,
        None,
        "it woke up and is not it any more"
    );
    assert_eq!(place(&one, 2).await?, None);
    assert!(!store.renew(&one, LONG).await?);
    assert_eq!(place(&two, 1).await?, Some(3));
    let placed = store.envelopes_of_version(&ours, &version).await?;
    assert_eq!(placed.len(), 1);
    assert_eq!(
        (
            placed[0].envelope.generation,
            placed[0].envelope.max_instances
        ),
        (3, 2)
    );
    assert_eq!(store.envelopes().await?, placed);
    Ok(())
}

pub async fn who_held_it_too_long_writes_nothing(store: &Store) -> Result<()> {
    let new = deployed(store).await?;
    let (ours, version) = (account("a"), new.version.expect("a version").id);
    let one = store.acquire("keeper", "one", SHORT).await?.expect("free");
    let deadline = Instant::now() + Duration::from_secs(10);
    while store.is_leased("keeper").await? {
        assert!(Instant::now() < deadline, "the lease never expired");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let place = (&ours, &node(1));
    let written = store
        .place_under(&one, place, &serving(&version), Timestamp(3))
        .await?;
    assert_eq!(written, None);
    assert!(!store.renew(&one, LONG).await?);
    assert!(
        store
            .envelopes_of_version(&ours, &version)
            .await?
            .is_empty()
    );
    Ok(())
}

pub async fn an_unfinished_deployment_has_the_word(store: &Store) -> Result<()> {
    let new = accepted(store, &account("a"), spec("echo", (1, 0), &[]), 1)?;
    store.accept_deployment(&new).await?;
    let (ours, version) = (account("a"), new.version.expect("a version").id);
    let lease = store.acquire("keeper", "one", LONG).await?.expect("free");
    let place = (&ours, &node(1));
    let written = store
        .place_under(&lease, place, &serving(&version), Timestamp(3))
        .await?;
    assert_eq!(written, None);
    Ok(())
}
