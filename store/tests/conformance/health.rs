//! Who is not well, whose every start leads nowhere, and who calls in sessions.

use crate::world::{account, agent, end, mine, new, version};
use domain::{
    Result, Timestamp,
    execution::{Failure, FailureCode, FailurePhase, Status},
    health::Health,
    id::{InstanceId, NodeId},
    instance::State,
};
use store::{Store, crash_loops::CrashLoop, instances::Instance};

fn node(n: u128) -> NodeId {
    NodeId::from_uuid(uuid::Uuid::from_u128(n))
}

fn crash_loop(n: u128, crashes: u32) -> CrashLoop {
    CrashLoop {
        version_id: version(1),
        node_id: node(n),
        account: account("a"),
        agent_id: agent("echo"),
        crashes,
        since: Timestamp(i64::from(crashes)),
        retry_at: Timestamp(100 + i64::from(crashes)),
        failure: Failure::new(FailureCode::InitFailed, FailurePhase::Import, "no"),
    }
}

pub fn ready(n: u128) -> Instance {
    Instance {
        id: InstanceId::from_uuid(uuid::Uuid::from_u128(n)),
        account: account("a"),
        agent_id: agent("echo"),
        version_id: version(1),
        node_id: node(1),
        boot_id: domain::id::BootId::from_uuid(uuid::Uuid::from_u128(1)),
        state: State::Ready,
        pid: Some(1),
        created_at: Timestamp(1),
        ready_at: Some(Timestamp(2)),
        ended_at: None,
        failure: None,
        health: Health::Healthy,
        complaint: None,
        session_id: None,
        start: None,
        failed_checks: 0,
    }
}

pub async fn a_crash_loop_goes_on_until_it_ends(store: &Store) -> Result<()> {
    store.keep_crash_loop(&crash_loop(1, 5)).await?;
    store.keep_crash_loop(&crash_loop(1, 6)).await?;
    store.keep_crash_loop(&crash_loop(2, 7)).await?;
    let echo = agent("echo");
    let all = store.crash_loops(&account("a"), Some(&echo)).await?;
    let told: Vec<_> = all
        .iter()
        .map(|one| (one.crashes, one.since.0, one.retry_at.0))
        .collect();
    assert_eq!(told, [(6, 5, 106), (7, 7, 107)]);
    assert_eq!(all[0].failure.message, "no");
    assert_eq!(store.crash_loops(&account("a"), None).await?.len(), 2);
    let others = store
        .crash_loops(&account("a"), Some(&agent("other")))
        .await?;
    assert!(others.is_empty() && store.crash_loops(&account("b"), None).await?.is_empty());
    store.end_crash_loop(&version(1), &node(2)).await?;
    assert_eq!(store.crash_loops(&account("a"), None).await?.len(), 1);
    store.end_crash_loops_of_node(&node(1)).await?;
    assert!(store.crash_loops(&account("a"), None).await?.is_empty());
    Ok(())
}

pub async fn instances_say_how_they_are(store: &Store) -> Result<()> {
    store.keep_instance(&ready(1)).await?;
    let mut ill = ready(2);
    (ill.health, ill.complaint) = (Health::Degraded, Some("GET /health answered 503".into()));
    ill.session_id = Some("s".into());
    store.keep_instance(&ill).await?;
    let living = store
        .living_instances(&account("a"), &agent("echo"))
        .await?;
    let told: Vec<_> = living
        .iter()
        .map(|one| {
            (
                one.health,
                one.complaint.as_deref(),
                one.session_id.as_deref(),
            )
        })
        .collect();
    let expected = [
        (Health::Healthy, None, None),
        (
            Health::Degraded,
            Some("GET /health answered 503"),
            Some("s"),
        ),
    ];
    assert_eq!(told, expected);
    let ready = store.ready_instances(&account("a")).await?;
    assert_eq!(ready.get("echo"), Some(&(2, 1)));
    assert!(store.ready_instances(&account("b")).await?.is_empty());
    assert!(
        store
            .session_is_known(&account("a"), &agent("echo"), "s")
            .await?
    );
    (ill.state, ill.ended_at) = (State::Stopped, Some(Timestamp(9)));
    store.keep_instance(&ill).await?;
    assert_eq!(
        store.ready_instances(&account("a")).await?.get("echo"),
        Some(&(1, 0))
    );
    assert!(
        !store
            .session_is_known(&account("a"), &agent("echo"), "s")
            .await?
    );
    Ok(())
}

pub async fn sessions_by_what_they_executed(store: &Store) -> Result<()> {
    for (id, session, at) in [
        ("e1", Some("one"), 1_000),
        ("e2", Some("two"), 2_000),
        ("e3", Some("one"), 3_000),
        ("e4", None, 4_000),
        ("e5", Some("old"), 10),
    ] {
        let mut sent = new(&mine(id), at);
        sent.caller.session_id = session.map(str::to_owned);
        sent.version_id = version(if id == "e3" { 2 } else { 1 });
        assert!(store.insert_execution(sent).await?);
    }
    assert!(
        store
            .end_execution(end(&mine("e1"), 1, Status::Completed, 3_500))
            .await?
    );
    let key = mine("e1");
    let (who, which) = (&key.account, &key.agent_id);
    let (sessions, total) = store.sessions(who, which, Timestamp(500), 0, 10).await?;
    let told: Vec<_> = sessions
        .iter()
        .map(|one| {
            (
                one.session_id.as_str(),
                one.executions,
                one.open,
                one.first_at.0,
                one.last_at.0,
                &one.version_id,
            )
        })
        .collect();
    assert_eq!(total, 2);
    assert_eq!(
        told,
        [
            ("one", 2, 1, 1_000, 3_000, &version(2)),
            ("two", 1, 1, 2_000, 2_000, &version(1))
        ]
    );
    let (page, total) = store.sessions(who, which, Timestamp(0), 2, 1).await?;
    assert_eq!((page[0].session_id.as_str(), total), ("old", 3));
    let open = store.open_executions_of_session(who, which, "one").await?;
    assert_eq!(open, ["e3"]);
    assert!(store.session_is_known(who, which, "two").await?);
    assert!(!store.session_is_known(who, which, "three").await?);
    assert!(!store.session_is_known(&account("b"), which, "two").await?);
    Ok(())
}
