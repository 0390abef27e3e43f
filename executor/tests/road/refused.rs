//! No seat: said, and nothing of it is left.

use super::{World, now};
use domain::execution::{Mode, Status};
use proto::convert::Reply;
use std::time::Duration;

/// One that found no seat was never begun: its inserter can take the row back, and the same id runs when it is tried again.
#[tokio::test(flavor = "multi_thread")]
async fn the_refused_can_be_taken_back() {
    let world = World::new().await;
    let source = "import time\ndef handler(input):\n    time.sleep(input)\n    return input\n";
    world
        .version(source, |spec| {
            spec.configuration.concurrent_executions = 1;
            spec.scaling.max_instances = 1;
        })
        .await;
    let busy = |seconds: &str| {
        let execute = world.execution(seconds, Mode::Sync, 60);
        let world = &world;
        async move {
            world.insert(&execute).await;
            world
                .bus
                .execute(&execute, &world.node, Duration::from_secs(60))
                .await
        }
    };
    let refused = async {
        world.until_running().await;
        let execute = world.execution("0", Mode::Sync, 1);
        // As of a gateway elsewhere: the row comes while the call waits already.
        let (_, reply) = tokio::join!(
            world.insert(&execute),
            world
                .bus
                .execute(&execute, &world.node, Duration::from_secs(60))
        );
        assert!(
            matches!(&reply, Ok(Reply::Refused(error)) if error.kind == domain::Kind::Exhausted),
            "{reply:?}"
        );
        world.withdraw(&execute).await;
        execute
    };
    let (held, mut execute) = tokio::join!(busy("4"), refused);
    assert!(
        matches!(&held, Ok(Reply::Outcome(outcome)) if outcome.status == Status::Completed),
        "{held:?}"
    );
    (execute.accepted_at, execute.options.timeout_s) = (now(), 30);
    world.insert(&execute).await;
    let reply = world
        .bus
        .execute(&execute, &world.node, Duration::from_secs(60))
        .await;
    assert!(
        matches!(&reply, Ok(Reply::Outcome(outcome)) if outcome.status == Status::Completed),
        "{reply:?}"
    );
    assert_eq!(world.row(&execute).await.status, Status::Completed);

    // A version that leaves refuses those who wait for a seat of it.
    let waiting = world.execution("0", Mode::Sync, 60);
    let leave = async {
        world.until_running().await;
        world.insert(&waiting).await;
        let (reply, ()) = tokio::join!(
            world
                .bus
                .execute(&waiting, &world.node, Duration::from_secs(60)),
            world.retire()
        );
        reply
    };
    let (_, reply) = tokio::join!(busy("20"), leave);
    assert!(
        matches!(&reply, Ok(Reply::Refused(error)) if error.kind == domain::Kind::Unavailable),
        "{reply:?}"
    );
    world.withdraw(&waiting).await;
    world.end().await;
}
