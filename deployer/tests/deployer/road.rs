//! What becomes of a deployment while nobody dies.

use crate::{
    fake::Script,
    world::{ADDRESS, World, now, text},
};
use domain::{
    Timestamp,
    deployment::{Phase, PhaseStatus, Status},
    envelope,
};
use std::time::{Duration, Instant};
use store::nodes::Capacity;

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_road() {
    let world = World::new().await;
    let running = world.deployer();
    let mut events = world
        .deps
        .bus
        .subscribe(&bus::typed::events())
        .await
        .expect("listens");
    let id = world.accept(0, |_| {}).await;
    let begun = Instant::now();
    world.nudge(&id).await;
    let state = world.ended(&id).await;
    let took = begun.elapsed();
    assert_eq!(state.status, Status::Deployed, "{state:#?}");
    assert!(took < Duration::from_millis(400), "took {took:?}");
    assert!(
        state
            .phases
            .iter()
            .all(
                |phase| phase.status == PhaseStatus::Completed && !phase.logs.is_empty()
                    || phase.name == Phase::Retire
            )
    );
    assert!(text(&state).contains("Collecting nothing"));
    assert_eq!(world.answers().await, Some(world.version(0)));
    assert_eq!(
        world.fake.state(&world.version(0)),
        Some(envelope::State::Serving)
    );
    let lock = world
        .deps
        .store
        .lock(&world.account, &world.version(0))
        .await
        .expect("reads");
    assert_eq!(lock.expect("kept").lock, "the lock");
    assert!(
        matches!(events.next().await, Some(bus::Event::Message(_))),
        "the gateways are told"
    );

    // A second version takes over, and nothing of the first is left.
    let id = world.accept(1, |_| {}).await;
    world.nudge(&id).await;
    assert_eq!(world.ended(&id).await.status, Status::Deployed);
    assert_eq!(world.answers().await, Some(world.version(1)));
    assert_eq!(
        world.fake.state(&world.version(0)),
        Some(envelope::State::Retired)
    );
    assert_eq!(world.envelopes().await, 1);

    // And back: a rollback is a deployment like any other, with the lock that was kept.
    let id = world.accept_again(Some(world.version(0))).await;
    world.nudge(&id).await;
    assert_eq!(world.ended(&id).await.status, Status::Deployed);
    assert_eq!(world.answers().await, Some(world.version(0)));
    assert_eq!(world.fake.locks(), ["", "", "the lock"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_import_shows_its_traceback_and_leaves_nothing() {
    let world = World::new().await;
    let _running = world.deployer();
    let first = world.accept(0, |_| {}).await;
    assert_eq!(world.ended(&first).await.status, Status::Deployed);
    world.fake.script(
        &world.version(1),
        Script {
            import_fails: true,
            ..Script::default()
        },
    );
    let id = world.accept(1, |_| {}).await;
    world.nudge(&id).await;
    let state = world.ended(&id).await;
    assert_eq!(state.status, Status::Failed);
    let reason = state.reason.clone().expect("a reason");
    assert!(
        reason.contains("ModuleNotFoundError: No module named 'nonesuch'"),
        "{reason}"
    );
    for line in [
        "Traceback (most recent call last):",
        "File \"agent.py\", line 1",
        "INFO printed at import",
    ] {
        assert!(text(&state).contains(line), "{state:#?}");
    }
    assert_eq!(
        state.current().map(|phase| phase.name),
        Some(Phase::Provision)
    );
    assert_eq!(
        world.fake.state(&world.version(1)),
        Some(envelope::State::Retired)
    );
    assert_eq!(
        world.answers().await,
        Some(world.version(0)),
        "the old version keeps serving"
    );
    assert_eq!(
        world.fake.state(&world.version(0)),
        Some(envelope::State::Serving)
    );

    // The version that answers fails when it is rolled out again: it is not taken down.
    world.fake.script(
        &world.version(0),
        Script {
            import_fails: true,
            ..Script::default()
        },
    );
    let id = world.accept_again(Some(world.version(0))).await;
    assert_eq!(world.ended(&id).await.status, Status::Failed);
    assert_eq!(
        world.fake.state(&world.version(0)),
        Some(envelope::State::Serving)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_installer_says_is_the_reason() {
    let world = World::new().await;
    let _running = world.deployer();
    world.fake.script(
        &world.version(0),
        Script {
            package_fails: true,
            ..Script::default()
        },
    );
    let id = world.accept(0, |_| {}).await;
    let state = world.ended(&id).await;
    assert_eq!(state.status, Status::Failed);
    assert!(
        state
            .reason
            .expect("a reason")
            .contains("No matching distribution")
    );
    assert_eq!(world.answers().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn system_packages_are_refused_in_words() {
    let world = World::new().await;
    let _running = world.deployer();
    let capacity = |system_packages: &str| Capacity {
        memory_mb: 4096,
        system_packages: system_packages.to_owned(),
        ..Capacity::default()
    };
    let why = "none (overlay /usr: EPERM)";
    world.beat_with(ADDRESS, 3600, capacity(why)).await;
    let id = world
        .accept(0, |spec| spec.system = vec!["ffmpeg".into()])
        .await;
    let state = world.ended(&id).await;
    assert_eq!(state.status, Status::Failed);
    let reason = state.reason.expect("a reason");
    assert!(
        reason.contains("no executor can install") && reason.contains(why),
        "{reason}"
    );

    world.beat_with(ADDRESS, 3600, capacity("overlay")).await;
    let id = world
        .accept(1, |spec| spec.system = vec!["ffmpeg".into()])
        .await;
    let state = world.ended(&id).await;
    assert_eq!(state.status, Status::Deployed, "{state:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_deployment_takes_over_while_traffic_has_not_moved() {
    let world = World::new().await;
    let _running = world.deployer();
    world.fake.script(
        &world.version(0),
        Script {
            never_ready: true,
            ..Script::default()
        },
    );
    let old = world.accept(0, |_| {}).await;
    world.nudge(&old).await;
    world
        .until(&old, |state| {
            state
                .current()
                .is_some_and(|phase| phase.name == Phase::Provision)
        })
        .await;
    let new = world.accept(1, |_| {}).await;
    world.nudge(&new).await;
    let state = world.ended(&old).await;
    assert_eq!(state.status, Status::Superseded);
    assert!(state.reason.expect("a reason").contains(new.as_str()));
    assert_eq!(world.ended(&new).await.status, Status::Deployed);
    assert_eq!(
        world.fake.state(&world.version(0)),
        Some(envelope::State::Retired)
    );
    assert_eq!(world.envelopes().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_at_once_the_later_answers() {
    let world = World::new().await;
    let (first, second) = (world.accept(0, |_| {}).await, world.accept(1, |_| {}).await);
    let _running = world.deployer();
    world.nudge(&second).await;
    world.nudge(&first).await;
    assert_eq!(world.ended(&second).await.status, Status::Deployed);
    assert_eq!(world.ended(&first).await.status, Status::Superseded);
    assert_eq!(world.answers().await, Some(world.version(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_deployers_do_everything_once() {
    let world = World::new().await;
    let (_one, _other) = (world.deployer(), world.deployer());
    for minor in 0..5 {
        let id = world.accept(minor, |_| {}).await;
        world.nudge(&id).await;
        assert_eq!(world.ended(&id).await.status, Status::Deployed);
    }
    assert_eq!(world.envelopes().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_leaves_nothing() {
    let world = World::new().await;
    let running = world.deployer();
    let id = world.accept(0, |_| {}).await;
    assert_eq!(world.ended(&id).await.status, Status::Deployed);
    let key = world.deps.store.hash_key("the agent's");
    assert!(world.deps.store.key(&key).await.expect("reads").is_some());
    let id = world.accept_again(None).await;
    world.nudge(&id).await;
    let state = world.ended(&id).await;
    assert_eq!(state.status, Status::Deployed, "{state:#?}");
    assert_eq!(state.phases.len(), 2);
    assert_eq!(world.answers().await, None);
    assert_eq!(world.envelopes().await, 0);
    assert_eq!(
        world.fake.state(&world.version(0)),
        Some(envelope::State::Retired)
    );
    assert!(
        world
            .deps
            .store
            .agent(&world.account, &world.agent)
            .await
            .expect("reads")
            .is_none()
    );
    assert!(
        world.deps.store.key(&key).await.expect("reads").is_none(),
        "its key opens nothing"
    );

    // What was accepted for it before anybody knew cannot run.
    let late = world.accept_again(Some(world.version(0))).await;
    let state = world.ended(&late).await;
    assert!(state.reason.expect("a reason").contains("deleted"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_gets_ready_fails_by_its_deadline() {
    let mut world = World::new().await;
    world.config.provision = Duration::from_millis(300);
    let _running = world.deployer();
    world.fake.script(
        &world.version(0),
        Script {
            never_ready: true,
            ..Script::default()
        },
    );
    let id = world.accept(0, |_| {}).await;
    let state = world.ended(&id).await;
    assert_eq!(state.status, Status::Failed);
    let reason = state.reason.expect("a reason");
    assert!(
        reason.contains("within 300ms: 0 of 1 instances were ready"),
        "{reason}"
    );
    assert_eq!(
        world.fake.state(&world.version(0)),
        Some(envelope::State::Retired)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_is_away_is_tried_again_and_said() {
    let world = World::new().await;
    let _running = world.deployer();
    world.fake.script(
        &world.version(0),
        Script {
            away: 3,
            ..Script::default()
        },
    );
    let id = world.accept(0, |_| {}).await;
    let state = world.ended(&id).await;
    assert_eq!(state.status, Status::Deployed, "{state:#?}");
    assert!(
        text(&state).contains("restarting; trying again"),
        "{state:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_executor_the_reason_says_so() {
    let mut world = World::new().await;
    world.config.package = Duration::from_millis(300);
    world.beat(ADDRESS, -60).await;
    let _running = world.deployer();
    let id = world.accept(0, |_| {}).await;
    let state = world.ended(&id).await;
    assert!(
        state
            .reason
            .expect("a reason")
            .contains("no executor is alive")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_on_the_old_version_may_finish() {
    let world = World::new().await;
    let _running = world.deployer();
    let busy = |in_flight| Script {
        in_flight,
        ..Script::default()
    };
    world.fake.script(&world.version(0), busy(2));
    let id = world.accept(0, |_| {}).await;
    assert_eq!(world.ended(&id).await.status, Status::Deployed);
    let id = world.accept(1, |_| {}).await;
    world.nudge(&id).await;
    world
        .until(&id, |state| {
            state
                .current()
                .is_some_and(|phase| phase.name == Phase::Retire)
        })
        .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(
        world.fake.state(&world.version(0)),
        Some(envelope::State::Retiring)
    );
    assert_eq!(world.answers().await, Some(world.version(1)));
    assert_eq!(world.look(&id).await.state.status, Status::Deploying);
    world.fake.script(&world.version(0), busy(0));
    assert_eq!(world.ended(&id).await.status, Status::Deployed);
    assert_eq!(
        world.fake.state(&world.version(0)),
        Some(envelope::State::Retired)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_nudge_is_found_by_the_sweep() {
    let world = World::new().await;
    let _running = world.deployer();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let id = world.accept(0, |_| {}).await;
    assert_eq!(world.ended(&id).await.status, Status::Deployed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_phase_shows_what_it_says() {
    let world = World::new().await;
    let _running = world.deployer();
    world.fake.script(
        &world.version(0),
        Script {
            never_ready: true,
            ..Script::default()
        },
    );
    let id = world.accept(0, |_| {}).await;
    let state = world
        .until(&id, |state| {
            let current = state.current();
            current.is_some_and(|phase| phase.name == Phase::Provision && !phase.logs.is_empty())
        })
        .await;
    assert!(text(&state).contains("keeps 1 to 100 instances"));
    assert!(world.look(&id).await.updated_at <= Timestamp(now().0));
}
