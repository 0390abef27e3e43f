//! What lost and leaving executors host is hosted by others, once, whoever of several deployers does it.

use crate::{
    fake::Script,
    world::{ADDRESS, World},
};
use domain::{deployment::Status, envelope::State, id::NodeId, liveness::LOST_AFTER};
use std::time::{Duration, Instant};
use store::{envelopes::Placed, nodes::Capacity};

/// A loss is judged after 6 s, a lease is free after 10 s.
const MOVED_WITHIN: Duration = Duration::from_secs(25);

/// An agent that runs on the first of two nodes.
async fn on_the_first() -> World {
    let world = World::new().await;
    let running = world.deployer();
    let id = world.accept(0, |_| {}).await;
    world.nudge(&id).await;
    assert_eq!(world.ended(&id).await.status, Status::Deployed);
    running.stop().await;
    world.beat_second(3600).await;
    world
}

async fn placed(world: &World) -> Vec<Placed> {
    let store = &world.deps.store;
    let version = world.version(0);
    let placed = store.envelopes_of_version(&world.account, &version).await;
    placed.expect("reads")
}

async fn until(world: &World, what: &str, fits: impl Fn(&[Placed]) -> bool) -> Vec<Placed> {
    let deadline = Instant::now() + MOVED_WITHIN;
    loop {
        let placed = placed(world).await;
        if fits(&placed) {
            return placed;
        }
        assert!(Instant::now() < deadline, "{what}; last seen: {placed:#?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn only(placed: &[Placed], node: &NodeId) -> bool {
    matches!(placed, [one] if one.node_id == *node && one.envelope.state == State::Serving)
}

/// What the first node was told last is there to be seen in its row, retired or not.
async fn generations(world: &World) -> (i64, i64) {
    let of = async |node: &NodeId| {
        let store = &world.deps.store;
        let row = store
            .envelope(&world.account, node, &world.version(0))
            .await;
        row.expect("reads")
            .map_or(0, |placed| placed.envelope.generation)
    };
    (of(&world.node).await, of(&world.second.0).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_is_moved_from_once_though_two_deployers_run() {
    let world = on_the_first().await;
    let mut events = world
        .deps
        .bus
        .subscribe(&bus::typed::events())
        .await
        .expect("listens");
    let (one, two) = (world.deployer(), world.deployer());
    let begun = Instant::now();
    world.beat(ADDRESS, -60).await;
    let placed = until(&world, "the second takes over", |placed| {
        only(placed, &world.second.0)
    })
    .await;
    // It had to be looked for as long as the silence that counts.
    assert!(begun.elapsed() >= LOST_AFTER, "after {:?}", begun.elapsed());
    let envelope = &placed[0].envelope;
    assert_eq!((envelope.min_instances, envelope.max_instances), (1, 100));
    assert_eq!(
        world.second.1.state(&world.version(0)),
        Some(State::Serving)
    );
    assert!(
        matches!(events.next().await, Some(bus::Event::Message(_))),
        "the gateways are told"
    );
    let moved = generations(&world).await;
    assert_eq!(moved.1, 1, "placed once");
    // And it stays so, over some looks of both.
    let settled = Instant::now() + Duration::from_secs(5);
    while Instant::now() < settled {
        assert_eq!(generations(&world).await, moved);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_keeper_is_followed() {
    for call in ["package", "ensure", "inspect"] {
        let world = on_the_first().await;
        let one = world.deployer();
        world.second.1.hold(Some(call));
        world.beat(ADDRESS, -60).await;
        world.second.1.reached_within(call, MOVED_WITHIN).await;
        one.kill();
        world.second.1.hold(None);
        let two = world.deployer();
        let placed = until(&world, "the next one goes on", |placed| {
            only(placed, &world.second.0)
        })
        .await;
        let envelope = &placed[0].envelope;
        assert_eq!(
            (envelope.min_instances, envelope.max_instances),
            (1, 100),
            "killed in {call}"
        );
        two.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaving_node_finishes_what_runs() {
    let world = on_the_first().await;
    let version = world.version(0);
    let busy = |in_flight| Script {
        in_flight,
        ..Script::default()
    };
    world.fake.script(&version, busy(2));
    let leaving = Capacity {
        draining: true,
        memory_mb: 4096,
        ..Capacity::default()
    };
    world.beat_with(ADDRESS, 3600, leaving).await;
    let running = world.deployer();
    let both = |placed: &[Placed]| {
        let state = |node: &NodeId| {
            placed
                .iter()
                .find(|one| one.node_id == *node)
                .map(|one| one.envelope.state)
        };
        (state(&world.node), state(&world.second.0))
            == (Some(State::Retiring), Some(State::Serving))
    };
    until(&world, "it retires beside its stand-in", both).await;
    world.fake.reached_state(&version, State::Retiring).await;
    world.fake.script(&version, busy(0));
    until(&world, "it lets go", |placed| only(placed, &world.second.0)).await;
    world.fake.reached_state(&version, State::Retired).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_left_is_not_waited_for() {
    let world = on_the_first().await;
    let left = Capacity {
        left: true,
        ..Capacity::default()
    };
    let begun = Instant::now();
    world.beat_with(ADDRESS, 3600, left).await;
    let running = world.deployer();
    until(&world, "the second takes over", |placed| {
        only(placed, &world.second.0)
    })
    .await;
    assert!(begun.elapsed() < LOST_AFTER, "after {:?}", begun.elapsed());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stand_in_that_does_not_start_leaves_a_leaving_node_serving() {
    let world = on_the_first().await;
    let version = world.version(0);
    world.second.1.script(
        &version,
        Script {
            import_fails: true,
            ..Script::default()
        },
    );
    let leaving = Capacity {
        draining: true,
        ..Capacity::default()
    };
    world.beat_with(ADDRESS, 3600, leaving).await;
    let running = world.deployer();
    world.second.1.reached_state(&version, State::Serving).await;
    // Over two tries and more.
    let tried = Instant::now() + Duration::from_secs(7);
    while Instant::now() < tried {
        assert_eq!(world.fake.state(&version), Some(State::Serving));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.second.1.script(&version, Script::default());
    until(&world, "then it may go", |placed| {
        only(placed, &world.second.0)
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_other_node_is_nothing_is_moved() {
    let world = on_the_first().await;
    world.beat_second(-60).await;
    world.beat(ADDRESS, -60).await;
    let before = generations(&world).await;
    let running = world.deployer();
    let looked = Instant::now() + LOST_AFTER + Duration::from_secs(4);
    while Instant::now() < looked {
        assert_eq!(generations(&world).await, before);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // It comes back and goes on as if nothing had been.
    world.beat(ADDRESS, 3600).await;
    assert!(only(&placed(&world).await, &world.node));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_host_what_wants_two_instances() {
    let world = World::new().await;
    world.beat_second(3600).await;
    let running = world.deployer();
    let id = world.accept(0, |spec| spec.scaling.min_instances = 3).await;
    world.nudge(&id).await;
    let state = world.ended(&id).await;
    assert_eq!(state.status, Status::Deployed, "{state:#?}");
    let both = placed(&world).await;
    let shares = |placed: &[Placed]| {
        let mut shares: Vec<_> = placed
            .iter()
            .map(|one| (one.envelope.min_instances, one.envelope.max_instances))
            .collect();
        shares.sort_unstable();
        shares
    };
    assert_eq!(shares(&both), [(1, 50), (2, 50)]);
    // One is lost: the other has it all.
    world.beat(ADDRESS, -60).await;
    until(&world, "the other has it all", |placed| {
        only(placed, &world.second.0) && shares(placed) == [(3, 100)]
    })
    .await;
    running.stop().await;
}
