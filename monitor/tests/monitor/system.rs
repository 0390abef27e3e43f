//! The health of the whole is what its parts answer.

use crate::world::{Ran, World, now};
use domain::{
    Timestamp,
    execution::Status,
    id::{BootId, NodeId},
    liveness::LOST_AFTER,
};
use monitor::Config;
use proto::v1::{SystemReply, SystemRequest};
use std::time::{Duration, Instant};
use store::{
    leases::KEEPER,
    nodes::{Capacity, Node},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

async fn beat(world: &World, n: u128, address: &str, ago_ms: i64) {
    let node = Node {
        id: NodeId::from_uuid(uuid::Uuid::from_u128(n)),
        boot_id: BootId::from_uuid(uuid::Uuid::from_u128(n)),
        address: address.into(),
        capacity: Capacity {
            isolation: "namespaces".into(),
            ..Capacity::default()
        },
        started_at: Timestamp(0),
        heartbeat_at: Timestamp(now() - ago_ms),
    };
    world.deps.store.beat(&node).await.expect("beats");
}

async fn look(world: &mut World) -> SystemReply {
    let request = SystemRequest {
        account: "a".into(),
    };
    world
        .client
        .system(request)
        .await
        .expect("an answer")
        .into_inner()
}

fn status(reply: &SystemReply, name: &str) -> String {
    let found = reply
        .components
        .iter()
        .find(|component| component.name.contains(name));
    found
        .unwrap_or_else(|| panic!("{name} in {reply:?}"))
        .status
        .clone()
}

fn fresh() -> Config {
    Config {
        system_cache: Duration::ZERO,
        ..Config::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_component_is_probed() {
    let mut world = World::new(fresh()).await;
    let reply = look(&mut world).await;
    assert_eq!(status(&reply, "executor"), "unhealthy", "there is none");
    for name in ["database", "bus", "monitor"] {
        assert_eq!(status(&reply, name), "healthy");
    }
    // One that lives, one that beats late, one that beats and does not answer, one that is dead, one long taken away.
    let door = world.deps.peers.open("executor").await.expect("a door");
    let address = door.address().to_owned();
    let mut servers = JoinSet::new();
    servers.spawn(async move {
        door.serve(Routes::default(), &[], CancellationToken::new())
            .await
            .expect("serves");
    });
    beat(&world, 1, &address, 0).await;
    beat(&world, 2, &address, 5_000).await;
    beat(&world, 3, "memory:nobody", 0).await;
    beat(&world, 4, &address, 16_000).await;
    beat(&world, 5, &address, 4_000_000).await;
    let reply = look(&mut world).await;
    let of = |reply: &SystemReply, n: u128| {
        let id = uuid::Uuid::from_u128(n).as_simple().to_string();
        status(reply, &id)
    };
    // Who has only begun to look calls nobody dead that answers.
    let all = [1, 2, 3, 4].map(|n| of(&reply, n));
    assert_eq!(all, ["healthy", "degraded", "unhealthy", "degraded"]);
    let deadline = Instant::now() + LOST_AFTER * 3;
    while of(&look(&mut world).await, 4) != "unhealthy" {
        assert!(Instant::now() < deadline, "{:?}", look(&mut world).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(reply.nodes.len(), 4, "{reply:?}");
    assert_eq!(reply.nodes[0].isolation, "namespaces");
    assert!(reply.database_ms.is_some() && reply.database_connections.is_some_and(|n| n > 0));
    assert!(reply.memory.is_some_and(|share| share > 0.0 && share < 1.0));
    assert_eq!((reply.network, reply.metrics_lag_s), (None, Some(0.0)));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn executions_of_the_last_minute_are_counted() {
    let mut world = World::new(fresh()).await;
    for (n, ago) in [1_000, 2_000, 120_000].into_iter().enumerate() {
        let ran = Ran {
            at: now() - ago,
            status: Status::Completed,
            duration_ms: Some(1.0),
            version: 1,
            metrics: Default::default(),
        };
        world.ended(("a", "echo", &format!("e{n}")), ran).await;
    }
    let reply = look(&mut world).await;
    assert_eq!(
        (
            reply.executions_last_minute,
            reply.total_agents,
            reply.logs_per_s
        ),
        (2, 0, Some(0.0))
    );
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_questions_are_one_look() {
    let mut world = World::new(Config {
        system_cache: Duration::from_secs(60),
        ..Config::default()
    })
    .await;
    let first = look(&mut world).await;
    let mut tasks = JoinSet::new();
    for _ in 0..50 {
        let mut client = world.client.clone();
        tasks.spawn(async move {
            client
                .system(SystemRequest {
                    account: "a".into(),
                })
                .await
        });
    }
    while let Some(done) = tasks.join_next().await {
        let reply = done.expect("no panic").expect("an answer").into_inner();
        assert_eq!(reply, first);
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_that_it_serves() {
    let world = World::new(fresh()).await;
    let channel = world
        .deps
        .peers
        .channel(&world.address)
        .expect("an address");
    let request = HealthCheckRequest {
        service: "phalanx.v1.Monitor".into(),
    };
    let answer = HealthClient::new(channel)
        .check(request)
        .await
        .expect("an answer");
    assert_eq!(answer.into_inner().status, 1);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deployers_are_as_well_as_whoever_holds_their_lease() {
    let mut world = World::new(fresh()).await;
    // Who has only begun to look calls nobody dead.
    assert_eq!(status(&look(&mut world).await, "deployer"), "degraded");
    let store = world.deps.store.clone();
    let lease = store.acquire(KEEPER, "one", LOST_AFTER * 10).await;
    let lease = lease.expect("a write").expect("nobody holds it");
    assert_eq!(status(&look(&mut world).await, "deployer"), "healthy");
    store.release(&lease).await.expect("a write");
    let deadline = Instant::now() + LOST_AFTER * 3;
    while status(&look(&mut world).await, "deployer") != "unhealthy" {
        assert!(Instant::now() < deadline, "{:?}", look(&mut world).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let again = store.acquire(KEEPER, "another", LOST_AFTER * 10).await;
    assert!(again.expect("a write").is_some());
    assert_eq!(status(&look(&mut world).await, "deployer"), "healthy");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_that_is_behind_with_its_counting_says_so() {
    let never = Config {
        settle: Duration::from_secs(24 * 3600),
        ..fresh()
    };
    let mut world = World::new(never).await;
    let ran = Ran {
        at: now() - 120_000,
        status: Status::Completed,
        duration_ms: Some(1.0),
        version: 1,
        metrics: Default::default(),
    };
    assert_eq!(status(&look(&mut world).await, "monitor"), "healthy");
    world.ended(("a", "echo", "e"), ran).await;
    let reply = look(&mut world).await;
    assert_eq!(status(&reply, "monitor"), "degraded");
    let lag = reply.metrics_lag_s.expect("a figure");
    assert!((119.0..1_000.0).contains(&lag), "{lag}");
    world.close().await;
}
