//! A deployer is killed, and the next one goes on: at every boundary between phases and in the middle of every call.

use crate::{
    fake::Script,
    world::{World, text},
};
use domain::{
    deployment::{Input, Kind, Phase, State, Status},
    envelope,
    rollout::{Plan, Strategy},
};

/// The states that a row may be left in, in order.
fn boundaries(kind: Kind) -> Vec<State> {
    let mut states = vec![State::accepted(kind, Plan::default())];
    for phase in Phase::of(kind, Strategy::Rolling) {
        for input in [Input::Begin(*phase), Input::Complete(*phase)] {
            let next = states[states.len() - 1].step(input, crate::world::now());
            states.push(next.expect("in order"));
        }
    }
    states.pop();
    states
}

#[tokio::test(flavor = "multi_thread")]
async fn every_boundary_is_gone_on_from() {
    for state in boundaries(Kind::Deploy) {
        let world = World::new().await;
        let id = world.accept(0, |_| {}).await;
        let left = world
            .deps
            .store
            .advance_deployment(&world.account, &id, 0, &state, crate::world::now())
            .await;
        assert!(left.expect("writes"));
        if state.phases[4].status == domain::deployment::PhaseStatus::Completed {
            let version = world
                .deps
                .store
                .version(&world.account, &world.version(0))
                .await
                .expect("reads")
                .expect("is there");
            let traffic = domain::traffic::Traffic::all_to(version.id, version.spec.version);
            world
                .deps
                .store
                .set_traffic(
                    &world.account,
                    &world.agent,
                    &world.incarnation,
                    &traffic,
                    crate::world::now(),
                )
                .await
                .expect("writes");
        }
        let _running = world.deployer();
        let state = world.ended(&id).await;
        assert_eq!(state.status, Status::Deployed, "{state:#?}");
        assert_eq!(world.answers().await, Some(world.version(0)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_every_call() {
    for call in ["package", "ensure", "inspect", "drain"] {
        let world = World::new().await;
        let first = world.deployer();
        let id = world.accept(0, |_| {}).await;
        assert_eq!(world.ended(&id).await.status, Status::Deployed);
        world.fake.script(&world.version(0), Script::default());
        world.fake.hold(Some(call));
        let id = world.accept(1, |_| {}).await;
        world.nudge(&id).await;
        world.fake.reached(call).await;
        first.kill();
        world.fake.hold(None);
        let second = world.deployer();
        let state = world.ended(&id).await;
        assert_eq!(
            state.status,
            Status::Deployed,
            "killed in {call}: {state:#?}"
        );
        assert_eq!(world.answers().await, Some(world.version(1)));
        assert_eq!(
            world.fake.state(&world.version(0)),
            Some(envelope::State::Retired)
        );
        assert_eq!(world.envelopes().await, 1);
        second.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_is_gone_on_with() {
    for call in ["drain", "ensure"] {
        let world = World::new().await;
        let first = world.deployer();
        let id = world.accept(0, |_| {}).await;
        assert_eq!(world.ended(&id).await.status, Status::Deployed);
        world.fake.hold(Some(call));
        let id = world.accept_again(None).await;
        world.nudge(&id).await;
        world.fake.reached(call).await;
        first.kill();
        world.fake.hold(None);
        let _second = world.deployer();
        let state = world.ended(&id).await;
        assert_eq!(state.status, Status::Deployed, "{}", text(&state));
        assert_eq!(world.envelopes().await, 0);
        assert!(
            world
                .deps
                .store
                .agent(&world.account, &world.agent)
                .await
                .expect("reads")
                .is_none()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_returns_at_once_and_the_next_process_finishes() {
    let world = World::new().await;
    let first = world.deployer();
    world.fake.hold(Some("inspect"));
    let id = world.accept(0, |_| {}).await;
    world.nudge(&id).await;
    world.fake.reached("inspect").await;
    first.stop().await;
    assert_eq!(world.look(&id).await.state.status, Status::Deploying);
    world.fake.hold(None);
    let _second = world.deployer();
    assert_eq!(world.ended(&id).await.status, Status::Deployed);
    assert!(world.fake.packages() >= 1);
}
