//! Alerts, their policies, and webhooks on their way.

use crate::world::{account, agent};
use domain::{
    Result, Timestamp,
    alert::{Alert, Figures, Policy, Rule, Status},
    id::{AlertId, DeliveryId},
};
use std::time::Duration;
use store::{
    Store,
    alerts::{Filter, Kept, KeptPolicy},
    deliveries::New,
    leases::{Lease, ROLLER},
};

pub fn one(n: u128, name: &str) -> Kept {
    let at = Timestamp(1000 + i64::try_from(n).expect("small"));
    Kept {
        id: AlertId::from_uuid(uuid::Uuid::from_u128(n)),
        account: account("a"),
        agent_id: agent(name),
        incarnation: "i".to_owned(),
        rule: Rule::ErrorRate,
        alert: Alert {
            opened_at: at,
            raised_at: at,
            figures: Figures {
                value: 0.5,
                threshold: 0.01,
                samples: 20,
                since: Timestamp(1),
            },
            bad_at: at,
            level: 0,
            told_at: None,
            acknowledged_at: None,
            good_since: None,
            resolved_at: None,
            returns: 0,
        },
        acknowledged_by: None,
        note: None,
        rev: 0,
    }
}

pub fn message(n: u128, of: &Kept, url: &str) -> New {
    New {
        id: DeliveryId::from_uuid(uuid::Uuid::from_u128(n)),
        account: of.account.clone(),
        subject: of.id.to_string(),
        callback: None,
        event: "alert.escalated".to_owned(),
        level: 1,
        round: of.alert.returns,
        url: url.to_owned(),
        body: "{\"ä\": 1}".to_owned(),
        secret: vec![0, 255],
        sealed_for: "p".to_owned(),
        created_at: Timestamp(2000),
    }
}

pub async fn leased(store: &Store) -> Result<Lease> {
    let lease = store.acquire(ROLLER, "m", Duration::from_secs(60)).await?;
    Ok(lease.expect("nobody holds it"))
}

pub async fn one_open_alert_a_rule_by_whoever_read_last(store: &Store) -> Result<()> {
    let lease = leased(store).await?;
    let mut first = one(1, "echo");
    assert!(store.write_alert(&lease, &first, &[]).await?);
    assert!(
        !store.write_alert(&lease, &one(2, "echo"), &[]).await?,
        "there is an open one"
    );
    assert!(store.write_alert(&lease, &one(3, "other"), &[]).await?);
    first.rev = 1;
    assert_eq!(
        store.alert(&first.account, &first.id).await?,
        Some(first.clone())
    );
    // Somebody answers meanwhile: whoever did not know writes nothing, its messages neither.
    let by = ("key_1", Some("on it"));
    assert!(
        store
            .acknowledge_alert(&first.account, &first.id, by, Timestamp(5))
            .await?
    );
    assert!(
        !store
            .acknowledge_alert(&first.account, &first.id, by, Timestamp(6))
            .await?
    );
    let mut told = first.clone();
    told.alert.level = 1;
    let sent = [message(1, &told, "https://a.example/")];
    assert!(!store.write_alert(&lease, &told, &sent).await?);
    assert!(
        store
            .due_deliveries(Timestamp(9999), 10)
            .await?
            .due
            .is_empty()
    );
    let read = store
        .alert(&first.account, &first.id)
        .await?
        .expect("there");
    assert_eq!(
        (
            read.rev,
            read.acknowledged_by.as_deref(),
            read.note.as_deref()
        ),
        (2, Some("key_1"), Some("on it"))
    );
    assert_eq!(read.alert.acknowledged_at, Some(Timestamp(5)));
    // Over; then there may be another one, and nobody answers for what is over.
    let mut over = read.clone();
    over.alert.resolved_at = Some(Timestamp(3000));
    assert!(store.write_alert(&lease, &over, &[]).await?);
    assert!(
        !store
            .acknowledge_alert(&first.account, &first.id, by, Timestamp(7))
            .await?
    );
    let work = store.alerts_at_work(Timestamp(3000)).await?;
    assert_eq!(
        work.iter().map(|one| &one.id).collect::<Vec<_>>(),
        [&over.id, &one(3, "other").id]
    );
    assert_eq!(store.alerts_at_work(Timestamp(3001)).await?.len(), 1);
    // It comes back: nobody has answered.
    let mut back = store
        .alert(&first.account, &first.id)
        .await?
        .expect("there");
    back.alert.resolved_at = None;
    back.alert.acknowledged_at = None;
    assert!(store.write_alert(&lease, &back, &[]).await?);
    let read = store
        .alert(&first.account, &first.id)
        .await?
        .expect("there");
    assert_eq!((read.acknowledged_by, read.note), (None, None));
    // Whoever was overtaken writes nothing.
    store.release(&lease).await?;
    assert!(!store.write_alert(&lease, &one(4, "third"), &[]).await?);
    Ok(())
}

pub async fn alerts_are_listed_by_status_and_purged(store: &Store) -> Result<()> {
    let lease = leased(store).await?;
    let (mut told, mut over) = (one(2, "told"), one(3, "over"));
    told.alert.level = 2;
    over.alert.resolved_at = Some(Timestamp(3000));
    for alert in [&one(1, "firing"), &told, &over, &one(4, "answered")] {
        assert!(store.write_alert(&lease, alert, &[]).await?);
    }
    let answered = one(4, "answered");
    assert!(
        store
            .acknowledge_alert(&answered.account, &answered.id, ("k", None), Timestamp(5))
            .await?
    );
    let mine = account("a");
    for (status, name) in [
        (Status::Firing, "firing"),
        (Status::Escalated, "told"),
        (Status::Resolved, "over"),
        (Status::Acknowledged, "answered"),
    ] {
        let filter = Filter {
            status: Some(status),
            ..Filter::default()
        };
        let (found, total) = store.alerts(&mine, &filter, (0, 10)).await?;
        assert_eq!((found.len(), total), (1, 1), "{status}");
        assert_eq!(
            (found[0].agent_id.as_str(), found[0].alert.status()),
            (name, status)
        );
    }
    let (page, total) = store.alerts(&mine, &Filter::default(), (1, 2)).await?;
    assert_eq!(
        (
            page.iter()
                .map(|one| one.agent_id.as_str())
                .collect::<Vec<_>>(),
            total
        ),
        (vec!["over", "told"], 4)
    );
    let filter = Filter {
        scope: Some(vec![agent("told")]),
        ..Filter::default()
    };
    assert_eq!(store.alerts(&mine, &filter, (0, 10)).await?.1, 1);
    let nobody = Filter {
        scope: Some(Vec::new()),
        ..Filter::default()
    };
    assert_eq!(store.alerts(&mine, &nobody, (0, 10)).await?.1, 0);
    assert_eq!(
        store
            .alerts(&account("b"), &Filter::default(), (0, 10))
            .await?
            .1,
        0
    );
    assert_eq!(store.alert(&account("b"), &told.id).await?, None);
    assert!(
        !store
            .acknowledge_alert(&account("b"), &told.id, ("k", None), Timestamp(5))
            .await?
    );
    assert_eq!(store.purge_alerts(Timestamp(3000), 10).await?, 0);
    assert_eq!(store.purge_alerts(Timestamp(3001), 10).await?, 1);
    assert_eq!(store.alerts(&mine, &Filter::default(), (0, 10)).await?.1, 3);
    Ok(())
}

pub async fn minutes_are_judged_by_whoever_holds_the_lease(store: &Store) -> Result<()> {
    assert_eq!(store.alerts_judged().await?, None);
    let lease = leased(store).await?;
    for at in [1000, 2000, 1500] {
        assert!(store.alerts_are_judged(&lease, Timestamp(at)).await?);
        assert_eq!(store.alerts_judged().await?, Some(Timestamp(at)));
    }
    store.release(&lease).await?;
    assert!(!store.alerts_are_judged(&lease, Timestamp(9000)).await?);
    assert_eq!(store.alerts_judged().await?, Some(Timestamp(1500)));
    Ok(())
}

pub async fn policies_are_replaced_and_keep_their_secret(store: &Store) -> Result<()> {
    let mut policy = KeptPolicy {
        account: account("a"),
        agent_id: None,
        id: "p1".to_owned(),
        policy: Policy::default(),
        secret: vec![1, 0, 255],
        updated_at: Timestamp(1),
        updated_by: "k".to_owned(),
    };
    assert_eq!(store.alert_policy(&policy.account, None).await?, None);
    assert!(store.keep_alert_policy(&policy).await?);
    assert_eq!(
        store.alert_policy(&policy.account, None).await?,
        Some(policy.clone())
    );
    let mut other = policy.clone();
    other.id = "p2".to_owned();
    other.secret = vec![2];
    other.policy.levels[0]
        .webhooks
        .push("https://a.example/".to_owned());
    assert!(!store.keep_alert_policy(&other).await?, "it is not new");
    policy.policy = other.policy.clone();
    assert_eq!(
        store.alert_policy(&policy.account, None).await?,
        Some(policy.clone())
    );
    other.agent_id = Some(agent("echo"));
    assert!(store.keep_alert_policy(&other).await?);
    assert_eq!(
        store
            .alert_policy(&policy.account, other.agent_id.as_ref())
            .await?,
        Some(other)
    );
    assert_eq!(store.alert_policies().await?.len(), 2);
    assert_eq!(store.alert_policy(&account("b"), None).await?, None);
    let echo = agent("echo");
    assert!(!store.delete_alert_policy(&account("b"), &echo).await?);
    assert!(store.delete_alert_policy(&policy.account, &echo).await?);
    assert!(!store.delete_alert_policy(&policy.account, &echo).await?);
    assert_eq!(
        store.alert_policies().await?.len(),
        1,
        "the account's stays"
    );
    Ok(())
}
