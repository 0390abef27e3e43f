//! Executions that nobody has begun: put off, or taken back by who put them there.

use crate::{
    executions::look,
    world::{end, key, mine, new, start},
};
use domain::{
    Result, Timestamp,
    execution::{Failure, FailureCode, FailurePhase, Status},
};
use store::{
    Store,
    executions::{Key, Withdraw},
};

pub async fn only_the_queued_are_postponed(store: &Store) -> Result<()> {
    let (queued, running) = (mine("queued"), mine("running"));
    for key in [&queued, &running] {
        store.insert_execution(new(key, 1)).await?;
        assert!(store.postpone_execution(key, Timestamp(50)).await?);
    }
    let due = |before| store.unfinished_executions(Timestamp(before), 10);
    assert_eq!((due(50).await?.len(), due(51).await?.len()), (0, 2));
    assert!(store.start_execution(start(&running, 1, 2)).await?);
    assert!(!store.postpone_execution(&running, Timestamp(90)).await?);
    assert!(
        !store
            .postpone_execution(&mine("nobody"), Timestamp(90))
            .await?
    );
    Ok(())
}

/// A row whose attempt has begun, or that has ended, stays; so does one that the same id was accepted with anew.
pub async fn what_never_began_is_withdrawn(store: &Store) -> Result<()> {
    let withdraw = |key: &Key, at: i64| Withdraw {
        key: key.clone(),
        accepted_at: Timestamp(at),
    };
    let keys = ["queued", "running", "again", "ended", "cancelled"].map(mine);
    let [queued, running, again, ended, cancelled] = &keys;
    assert!(
        !store.withdraw_execution(withdraw(queued, 1)).await?,
        "no such row"
    );
    for key in &keys {
        store.insert_execution(new(key, 1)).await?;
    }
    let elsewhere = key("b", "echo", "queued");
    store.insert_execution(new(&elsewhere, 1)).await?;
    store.start_execution(start(running, 1, 2)).await?;
    store.start_execution(start(again, 1, 2)).await?;
    store
        .end_execution(end(again, 1, Status::Queued, 500))
        .await?;
    store
        .end_execution(end(ended, 1, Status::Failed, 9))
        .await?;
    let failure = Failure::new(FailureCode::Cancelled, FailurePhase::Spawn, "c");
    store
        .cancel_queued_execution(cancelled, &failure, Timestamp(9))
        .await?;
    for key in [running, again, ended, cancelled] {
        assert!(
            !store.withdraw_execution(withdraw(key, 1)).await?,
            "{key:?}"
        );
        look(store, key).await?;
    }
    assert!(
        !store.withdraw_execution(withdraw(queued, 2)).await?,
        "accepted at another time"
    );
    assert!(store.withdraw_execution(withdraw(queued, 1)).await?);
    assert!(!store.withdraw_execution(withdraw(queued, 1)).await?);
    assert!(store.execution(queued).await?.is_none());
    assert_eq!(
        look(store, &elsewhere).await?.status,
        Status::Queued,
        "another account's"
    );
    assert!(
        store.insert_execution(new(queued, 3)).await?,
        "the id is free"
    );
    assert!(store.start_execution(start(queued, 1, 4)).await?);
    Ok(())
}
