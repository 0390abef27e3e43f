//! Keys, what is sealed, and the record of what was asked for.

use crate::world::{account, agent, version};
use domain::{
    Result, Timestamp,
    agent::Environment,
    id::{AccountId, KeyId},
    key::{Key, Permission},
    limit::{Amount, Limits, Rate},
};
use std::collections::{BTreeMap, BTreeSet};
use store::{
    Store,
    audit::Record,
    keys::{self, Change, Rotation},
    limits::Whose,
};

pub fn new_key(store: &Store, account: &AccountId, secret: &str) -> keys::New {
    keys::New::lasting(
        (KeyId::from_uuid(uuid::Uuid::now_v7()), account.clone()),
        store.hash_key(secret),
        "a key".into(),
        Key::all_permissions(),
        Timestamp(1),
    )
}

pub async fn an_empty_store_begins_once(store: &Store) -> Result<()> {
    let first = new_key(store, &account("a"), "one");
    assert!(store.begin(&first).await?);
    assert!(!store.begin(&new_key(store, &account("a"), "two")).await?);
    let found = store.key(&first.hash).await?.expect("the first key");
    assert_eq!(
        (found.id, found.permissions),
        (first.id, Key::all_permissions())
    );
    assert!(store.key(&store.hash_key("two")).await?.is_none());
    store.ping().await?;
    assert!(store.connections() > 0);
    Ok(())
}

pub async fn rotated_once_listed_and_revoked(store: &Store) -> Result<()> {
    let (ours, theirs) = (account("a"), account("b"));
    let mut old = new_key(store, &ours, "old");
    (old.rotate_at, old.auto_rotation) = (Some(Timestamp(50)), true);
    store.insert_key(&old).await?;
    store
        .insert_key(&new_key(store, &theirs, "foreign"))
        .await?;
    let found = store.key(&old.hash).await?.expect("a key");
    assert_eq!(
        (found.rotate_at, found.auto_rotation, found.replaced),
        (Some(Timestamp(50)), true, false)
    );
    let mut new = new_key(store, &ours, "new");
    new.created_at = Timestamp(2);
    let rotated = store.rotate_key(&old.id, Timestamp(70), &new).await?;
    assert!(rotated);
    let twice = new_key(store, &ours, "twice");
    assert!(!store.rotate_key(&old.id, Timestamp(80), &twice).await?);
    assert!(store.key(&twice.hash).await?.is_none(), "all or nothing");
    let stranger = new_key(store, &theirs, "stranger");
    assert!(!store.rotate_key(&new.id, Timestamp(80), &stranger).await?);
    let kept = store.key_named(&ours, &old.id).await?.expect("a key");
    assert_eq!(
        (kept.expires_at, kept.replaced_by.as_ref()),
        (Some(Timestamp(70)), Some(&new.id))
    );
    let found = store.key(&old.hash).await?.expect("a key");
    assert_eq!(
        (found.rotate_at, found.auto_rotation, found.replaced),
        (Some(Timestamp(2)), true, true),
        "deprecated since it was replaced"
    );
    assert!(store.key_named(&theirs, &old.id).await?.is_none());

    for at in [9, 5] {
        store
            .note_used_keys(&[(new.id.clone(), Timestamp(at))])
            .await?;
    }
    let (list, total) = store.keys(&ours, false, Timestamp(60), (0, 1)).await?;
    assert_eq!(
        (total, &list[0].id, list[0].last_used_at),
        (2, &new.id, Some(Timestamp(9)))
    );
    let (list, total) = store.keys(&ours, false, Timestamp(70), (0, 9)).await?;
    assert_eq!((total, list.len()), (1, 1), "the old one is over");
    assert!(store.revoke_key(&ours, &new.id, Timestamp(71)).await?);
    assert!(!store.revoke_key(&ours, &new.id, Timestamp(72)).await?);
    assert!(!store.revoke_key(&theirs, &old.id, Timestamp(72)).await?);
    assert!(store.key(&new.hash).await?.is_none());
    assert_eq!(store.keys(&ours, false, Timestamp(72), (0, 9)).await?.1, 0);
    assert_eq!(store.keys(&ours, true, Timestamp(72), (0, 9)).await?.1, 2);
    Ok(())
}

pub async fn limits_and_walls_are_kept_and_changed(store: &Store) -> Result<()> {
    let ours = account("a");
    let limits = Limits {
        rate: Some(Rate {
            per_1000_s: 2500,
            burst: 7,
        }),
        ..Limits::default()
    };
    let mut one = new_key(store, &ours, "one");
    (one.limits, one.environments) = (limits, Some(BTreeSet::from([Environment::Staging])));
    store.insert_key(&one).await?;
    let found = store.key(&one.hash).await?.expect("a key");
    assert_eq!(
        (found.limits, found.environments),
        (limits, one.environments.clone())
    );
    let rotation = Rotation {
        auto: true,
        rotate_at: Some(Timestamp(5)),
        expires_at: Some(Timestamp(9)),
    };
    let change = Change {
        name: Some("other".to_owned()),
        limits: None,
        rotation: Some(rotation),
    };
    assert!(!store.change_key(&account("b"), &one.id, &change).await?);
    assert!(store.change_key(&ours, &one.id, &change).await?);
    let free = Change {
        limits: Some(Limits::default()),
        ..Change::default()
    };
    let kept = store.key_named(&ours, &one.id).await?.expect("a key");
    assert_eq!((kept.name.as_str(), kept.limits), ("other", limits));
    assert_eq!(
        (kept.auto_rotation, kept.rotate_at, kept.expires_at),
        (true, Some(Timestamp(5)), Some(Timestamp(9)))
    );
    assert!(store.change_key(&ours, &one.id, &free).await?);
    let found = store.key(&one.hash).await?.expect("a key");
    assert_eq!(
        (found.limits, found.rotate_at),
        (Limits::default(), Some(Timestamp(5)))
    );
    store.revoke_key(&ours, &one.id, Timestamp(6)).await?;
    assert!(!store.change_key(&ours, &one.id, &free).await?);
    Ok(())
}

pub async fn limits_are_leased_to_one_at_a_time(store: &Store) -> Result<()> {
    let limits = Limits {
        executions_per_day: Some(100),
        ..Limits::default()
    };
    let ask = |back: u32, want: u32| {
        let [back, want] = [back, want].map(|executions| Amount {
            executions,
            ..Amount::NOTHING
        });
        async move {
            let ours = account("a");
            let lease = store
                .lease_limits((&ours, "key_1"), &limits, back, want)
                .await;
            lease.map(|lease| lease.given.executions)
        }
    };
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let store = store.clone();
        asking.spawn(async move {
            let want = Amount {
                executions: 3,
                ..Amount::NOTHING
            };
            let ours = account("a");
            store
                .lease_limits((&ours, "key_1"), &limits, Amount::NOTHING, want)
                .await
        });
    }
    let mut given = 0;
    for lease in asking.join_all().await {
        given += lease?.given.executions;
    }
    assert_eq!(given, 100);
    assert_eq!((ask(4, 9).await?, ask(0, 9).await?), (4, 0));
    let foreign = store
        .lease_limits(
            (&account("b"), "key_1"),
            &limits,
            Amount::NOTHING,
            Amount {
                requests: 0,
                executions: 5,
            },
        )
        .await?;
    assert_eq!((foreign.given.executions, foreign.day_left), (5, 95));
    assert_eq!(store.purge_spent(Timestamp(1), 10).await?, 0);
    let far = store.now() + std::time::Duration::from_secs(60);
    assert_eq!(store.purge_spent(far, 1).await?, 1);
    assert_eq!(store.purge_spent(far, 10).await?, 1);

    let id = KeyId::from_uuid(uuid::Uuid::now_v7());
    let (ours, echo) = (account("a"), agent("echo"));
    let whose = Whose {
        account: &ours,
        agent_id: &echo,
        incarnation: "i1",
    };
    assert!(store.agent_limits("i1").await?.is_empty());
    for limits in [Limits::default(), limits] {
        store
            .set_agent_limits(whose, &limits, (&id, Timestamp(1)))
            .await?;
    }
    assert_eq!(store.agent_limits("i1").await?, limits);
    Ok(())
}

pub async fn found_by_hash_until_revoked(store: &Store) -> Result<()> {
    let mut only = new_key(store, &account("a"), "only");
    only.permissions = BTreeSet::from([Permission::AgentExecute]);
    only.agents = Some(BTreeSet::from([agent("echo")]));
    only.expires_at = Some(Timestamp(99));
    store.insert_key(&only).await?;
    let mut both = new_key(store, &account("a"), "both");
    both.agents = Some(BTreeSet::from([agent("echo"), agent("other")]));
    store.insert_key(&both).await?;
    let mut foreign = new_key(store, &account("b"), "foreign");
    foreign.agents = Some(BTreeSet::from([agent("echo")]));
    store.insert_key(&foreign).await?;
    let mut twice = new_key(store, &account("b"), "only");
    twice.name = "the same secret".into();
    assert!(store.insert_key(&twice).await.is_err());

    let found = store.key(&only.hash).await?.expect("a key");
    assert_eq!(
        (found.account, found.expires_at),
        (account("a"), Some(Timestamp(99)))
    );
    assert_eq!(
        (found.permissions, found.agents),
        (only.permissions.clone(), only.agents.clone())
    );
    store
        .revoke_agent_keys(&account("a"), &agent("echo"), Timestamp(5))
        .await?;
    assert!(store.key(&only.hash).await?.is_none());
    assert!(
        store.key(&both.hash).await?.is_some(),
        "it opens another agent too"
    );
    assert!(store.key(&foreign.hash).await?.is_some());
    Ok(())
}

pub async fn environments_are_sealed_and_audits_kept(store: &Store) -> Result<()> {
    let variables = BTreeMap::from([("TOKEN".to_owned(), "s3cret".to_owned())]);
    let sealed = store.seal_environment(&account("a"), &version(1), &variables)?;
    assert!(!sealed.windows(6).any(|bytes| bytes == b"s3cret"));
    let record = |n: i64, name: &str| Record {
        id: format!("aud_{n}"),
        account: account(name),
        at: Timestamp(n),
        key_id: (n % 2 == 0).then(|| "key_1".to_owned()),
        action: "agent:deploy".into(),
        subject: "it's \"echo\"".into(),
        remote: None,
        request_id: "r".into(),
        outcome: "ok".into(),
    };
    for n in 0..5 {
        store.note_audit(&record(n, "a")).await?;
    }
    store.note_audit(&record(9, "b")).await?;
    let kept = store.audit(&account("a"), 2).await?;
    assert_eq!(kept, [record(4, "a"), record(3, "a")]);
    Ok(())
}
