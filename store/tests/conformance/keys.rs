//! Keys, what is sealed, and the record of what was asked for.

use crate::world::{account, agent, version};
use domain::{
    Result, Timestamp,
    id::{AccountId, KeyId},
    key::{Key, Permission},
};
use std::collections::{BTreeMap, BTreeSet};
use store::{Store, audit::Record, keys};

pub fn new_key(store: &Store, account: &AccountId, secret: &str) -> keys::New {
    keys::New {
        id: KeyId::from_uuid(uuid::Uuid::now_v7()),
        account: account.clone(),
        hash: store.hash_key(secret),
        name: "a key".into(),
        permissions: Key::all_permissions(),
        agents: None,
        created_at: Timestamp(1),
        expires_at: None,
    }
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
    let old = new_key(store, &ours, "old");
    store.issue_key(&old, Some(Timestamp(50))).await?;
    store
        .issue_key(&new_key(store, &theirs, "foreign"), None)
        .await?;
    let found = store.key(&old.hash).await?.expect("a key");
    assert_eq!(found.rotate_at, Some(Timestamp(50)));
    let mut new = new_key(store, &ours, "new");
    new.created_at = Timestamp(2);
    let rotated = store.rotate_key(&old.id, Timestamp(70), &new, None).await?;
    assert!(rotated);
    let twice = new_key(store, &ours, "twice");
    assert!(
        !store
            .rotate_key(&old.id, Timestamp(80), &twice, None)
            .await?
    );
    assert!(store.key(&twice.hash).await?.is_none(), "all or nothing");
    let stranger = new_key(store, &theirs, "stranger");
    assert!(
        !store
            .rotate_key(&new.id, Timestamp(80), &stranger, None)
            .await?
    );
    let kept = store.key_named(&ours, &old.id).await?.expect("a key");
    assert_eq!(
        (kept.expires_at, kept.replaced_by.as_ref()),
        (Some(Timestamp(70)), Some(&new.id))
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
