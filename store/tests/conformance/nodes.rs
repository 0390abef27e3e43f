//! Nodes, what they shall run, and what they do run.

use crate::{
    agents::{accepted, incarnation, spec},
    world::{account, agent, version},
};
use domain::{
    Result, Timestamp,
    envelope::State,
    execution::{Failure, FailureCode, FailurePhase},
    id::{BootId, InstanceId, NodeId},
    instance,
};
use store::{
    Store,
    envelopes::Wanted,
    instances::{Instance, ScalingEvent},
    nodes::{Capacity, Node},
};

fn node(n: u128) -> NodeId {
    NodeId::from_uuid(uuid::Uuid::from_u128(n))
}

fn boot(n: u128) -> BootId {
    BootId::from_uuid(uuid::Uuid::from_u128(n))
}

pub async fn beats_replace(store: &Store) -> Result<()> {
    let mut one = Node {
        id: node(1),
        boot_id: boot(1),
        address: "memory:executor".into(),
        capacity: Capacity {
            memory_mb: 4096,
            cpu: Some(0.25),
            isolation: "namespaces".into(),
            labels: [("environment".to_owned(), "prod".to_owned())].into(),
            draining: true,
            ..Capacity::default()
        },
        started_at: Timestamp(1),
        heartbeat_at: Timestamp(2),
    };
    store.beat(&one).await?;
    one.boot_id = boot(2);
    one.heartbeat_at = Timestamp(9);
    one.capacity.promised_mb = 128;
    store.beat(&one).await?;
    store
        .beat(&Node {
            id: node(2),
            ..one.clone()
        })
        .await?;
    let nodes = store.nodes().await?;
    assert_eq!(nodes.len(), 2);
    assert_eq!(
        (&nodes[0].id, &nodes[0].boot_id, nodes[0].heartbeat_at),
        (&node(1), &boot(2), Timestamp(9))
    );
    assert_eq!(nodes[0].capacity, one.capacity);
    Ok(())
}

/// As the previous release writes it.
pub async fn a_row_without_labels_is_read(_: &Store) -> Result<()> {
    let text = r#"{"memory_mb":1,"promised_mb":0,"cpus":1,"instances":0,"cpu":null,"memory":null,"isolation":"none"}"#;
    let capacity: Capacity = serde_json::from_str(text).expect("the older document");
    assert!(capacity.labels.is_empty() && !capacity.draining && !capacity.left);
    Ok(())
}

pub async fn instances_of_a_lost_node_end_with_its_envelopes(store: &Store) -> Result<()> {
    let ours = account("a");
    store.keep_instance(&living(1, boot(1))).await?;
    let (kept, id) = (living(1, boot(1)).version_id, living(1, boot(1)).node_id);
    let place = async |state| {
        let wanted = Wanted {
            version_id: &kept,
            state,
            min_instances: 1,
            max_instances: 1,
        };
        store.place(&ours, &id, &wanted, Timestamp(1)).await
    };
    place(State::Serving).await?;
    assert_eq!(
        store.end_instances_of_lost_node(&id, Timestamp(9)).await?,
        0,
        "it may come back"
    );
    place(State::Retired).await?;
    assert_eq!(
        store
            .end_instances_of_lost_node(&node(77), Timestamp(9))
            .await?,
        0
    );
    assert_eq!(
        store.end_instances_of_lost_node(&id, Timestamp(9)).await?,
        1
    );
    Ok(())
}

pub async fn envelopes_grow_by_generations(store: &Store) -> Result<()> {
    let ours = account("a");
    let new = accepted(store, &ours, spec("echo", (1, 0), &[]), 1)?;
    store.accept_deployment(&new).await?;
    let mine = new.version.expect("a version").id;
    let place = async |node: &NodeId, state, min, max| {
        store
            .place(
                &ours,
                node,
                &Wanted {
                    version_id: &mine,
                    state,
                    min_instances: min,
                    max_instances: max,
                },
                Timestamp(1),
            )
            .await
    };
    assert_eq!(place(&node(1), State::Serving, 1, 9).await?, 1);
    assert_eq!(place(&node(2), State::Serving, 0, 1).await?, 1);
    assert_eq!(place(&node(1), State::Retiring, 0, 0).await?, 2);
    let placed = store
        .envelope(&ours, &node(1), &mine)
        .await?
        .expect("an envelope");
    assert_eq!(
        (placed.envelope.generation, placed.envelope.state),
        (2, State::Retiring)
    );
    assert_eq!(
        (placed.envelope.min_instances, placed.envelope.max_instances),
        (0, 0)
    );
    assert_eq!(store.envelopes_of_version(&ours, &mine).await?.len(), 2);
    assert_eq!(place(&node(1), State::Retired, 0, 0).await?, 3);
    assert_eq!(store.envelopes_of_version(&ours, &mine).await?.len(), 1);
    assert_eq!(store.envelopes_of_node(&node(1)).await?.len(), 0);
    assert_eq!(store.envelopes_of_node(&node(2)).await?.len(), 1);
    let of_agent = store
        .envelopes_of_agent(&ours, &incarnation(&ours, "echo"))
        .await?;
    assert_eq!(of_agent.len(), 1);
    assert!(
        store
            .envelopes_of_agent(&account("b"), &incarnation(&ours, "echo"))
            .await?
            .is_empty()
    );
    assert!(
        store
            .envelope(&account("b"), &node(2), &mine)
            .await?
            .is_none()
    );
    // At once from many: every generation is given once.
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (store, ours, mine) = (store.clone(), ours.clone(), mine.clone());
        tasks.spawn(async move {
            store
                .place(
                    &ours,
                    &node(3),
                    &Wanted {
                        version_id: &mine,
                        state: State::Serving,
                        min_instances: 1,
                        max_instances: 1,
                    },
                    Timestamp(1),
                )
                .await
        });
    }
    let mut given = Vec::new();
    while let Some(done) = tasks.join_next().await {
        given.push(done.expect("no panic")?);
    }
    given.sort_unstable();
    assert_eq!(given, (1..=20).collect::<Vec<_>>());
    Ok(())
}

fn living(n: u128, boot_id: BootId) -> Instance {
    Instance {
        id: InstanceId::from_uuid(uuid::Uuid::from_u128(n)),
        account: account("a"),
        agent_id: agent("echo"),
        version_id: version(1),
        node_id: node(1),
        boot_id,
        state: instance::State::Starting,
        pid: Some(77),
        created_at: Timestamp(n as i64),
        ready_at: None,
        ended_at: None,
        failure: None,
        health: domain::health::Health::Healthy,
        complaint: None,
        session_id: None,
        start: None,
        failed_checks: 0,
    }
}

pub async fn instances_live_and_end(store: &Store) -> Result<()> {
    let mut one = living(1, boot(1));
    store.keep_instance(&one).await?;
    store.keep_instance(&living(2, boot(1))).await?;
    store.keep_instance(&living(3, boot(2))).await?;
    one.state = instance::State::Failed;
    one.ended_at = Some(Timestamp(50));
    one.failure = Some(Failure::new(
        FailureCode::InitFailed,
        FailurePhase::Import,
        "no module",
    ));
    store.keep_instance(&one).await?;
    let rows = store
        .living_instances(&account("a"), &agent("echo"))
        .await?;
    assert_eq!(rows.len(), 2);
    assert_eq!(
        (rows[0].pid, rows[0].state),
        (Some(77), instance::State::Starting)
    );
    assert!(
        store
            .living_instances(&account("b"), &agent("echo"))
            .await?
            .is_empty()
    );
    assert_eq!(
        store
            .end_instances_of_earlier_boots(&node(1), &boot(2), Timestamp(60))
            .await?,
        1
    );
    assert_eq!(
        store
            .living_instances(&account("a"), &agent("echo"))
            .await?
            .len(),
        1
    );
    assert_eq!(store.purge_instances(Timestamp(60)).await?, 1);
    assert_eq!(store.purge_instances(Timestamp(61)).await?, 1);
    assert_eq!(
        store
            .living_instances(&account("a"), &agent("echo"))
            .await?
            .len(),
        1
    );
    Ok(())
}

pub async fn scaling_is_kept_newest_first(store: &Store) -> Result<()> {
    let event = |n: u32, name: &str| ScalingEvent {
        id: format!("{name}{n}"),
        account: account(name),
        agent_id: agent("echo"),
        version_id: version(1),
        node_id: node(1),
        at: Timestamp(i64::from(n)),
        reason: "7 wait > 0.7 × 10".into(),
        from_instances: n,
        to_instances: 2,
    };
    for n in 0..4 {
        store.note_scaling(&event(n, "a")).await?;
    }
    store.note_scaling(&event(9, "b")).await?;
    let kept = store
        .scaling_events(&account("a"), &agent("echo"), 2)
        .await?;
    assert_eq!(kept, [event(3, "a"), event(2, "a")]);
    assert_eq!(
        (kept[0].action(), kept[1].action()),
        ("scale_down", "scale_up")
    );
    store.purge_instances(Timestamp(3)).await?;
    assert_eq!(
        store
            .scaling_events(&account("a"), &agent("echo"), 9)
            .await?
            .len(),
        1
    );
    Ok(())
}
