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
    let sealed = store.seal_environment(&version(1), &variables)?;
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
