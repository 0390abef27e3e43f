//! Durable work.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bus::{Error, Priority, Subject, WorkOptions};
use tokio::task::JoinSet;

use crate::world::{Engine, World, delivery, nothing, options, soon, text, words};

const SHORT: Duration = Duration::from_millis(1000);

pub async fn stored_before_anybody_works(world: World) -> Result<(), Error> {
    world
        .bus
        .enqueue(
            &world.work(),
            "a",
            text("waiting").with_header("traceparent", "00-aa-bb-01"),
        )
        .await?;
    let mut work = world.other().await?.work(&world.work(), options(1)).await?;
    let got = delivery(&mut work).await;
    assert_eq!(
        (words(&got.message).as_str(), got.deliveries),
        ("waiting", 1)
    );
    assert_eq!(got.message.headers.get("traceparent"), Some("00-aa-bb-01"));
    assert_eq!(
        got.message.headers.iter().count(),
        1,
        "the engine's own headers are not seen"
    );
    got.ack().await
}

pub async fn an_id_counts_once_per_subject(world: World) -> Result<(), Error> {
    let elsewhere = Subject::work(&world.account, "ver_2", Priority::Normal);
    for _ in 0..3 {
        world
            .bus
            .enqueue(&world.work(), "same", text("once"))
            .await?;
    }
    world
        .bus
        .enqueue(&elsewhere, "same", text("elsewhere"))
        .await?;
    let mut work = world.bus.work(&world.work(), options(10)).await?;
    let got = delivery(&mut work).await;
    assert_eq!(words(&got.message), "once");
    got.ack().await?;
    // Remembered even when it is done.
    world
        .bus
        .enqueue(&world.work(), "same", text("again"))
        .await?;
    nothing("it is stored once", work.next()).await;
    let mut work = world.bus.work(&elsewhere, options(1)).await?;
    assert_eq!(words(&delivery(&mut work).await.message), "elsewhere");
    Ok(())
}

pub async fn acknowledged_is_gone(world: World) -> Result<(), Error> {
    let options = WorkOptions {
        ack_wait: SHORT,
        ..options(10)
    };
    world.bus.enqueue(&world.work(), "a", text("a")).await?;
    let mut work = world.bus.work(&world.work(), options.clone()).await?;
    delivery(&mut work).await.ack().await?;
    drop(work);
    let mut work = world.other().await?.work(&world.work(), options).await?;
    let late = tokio::time::timeout(SHORT * 2, work.next()).await;
    assert!(late.is_err(), "an acknowledged message came again");
    Ok(())
}

pub async fn a_retry_does_not_come_before_its_delay(world: World) -> Result<(), Error> {
    world.bus.enqueue(&world.work(), "a", text("a")).await?;
    let mut work = world.bus.work(&world.work(), options(1)).await?;
    let delay = Duration::from_millis(700);
    let put_back = Instant::now();
    delivery(&mut work).await.retry(delay).await?;
    let got = delivery(&mut work).await;
    assert_eq!(got.deliveries, 2);
    assert!(
        put_back.elapsed() >= delay,
        "came after {:?}",
        put_back.elapsed()
    );
    got.retry(Duration::ZERO).await?;
    assert_eq!(delivery(&mut work).await.deliveries, 3);
    Ok(())
}

pub async fn a_dropped_delivery_comes_again(world: World) -> Result<(), Error> {
    world.bus.enqueue(&world.work(), "a", text("a")).await?;
    let options = WorkOptions {
        ack_wait: SHORT,
        ..options(1)
    };
    let mut work = world.bus.work(&world.work(), options.clone()).await?;
    drop(delivery(&mut work).await);
    let mut second = world.other().await?.work(&world.work(), options).await?;
    drop(work);
    let got = delivery(&mut second).await;
    assert_eq!((words(&got.message).as_str(), got.deliveries), ("a", 2));
    got.ack().await
}

pub async fn in_progress_keeps_it(world: World) -> Result<(), Error> {
    let options = WorkOptions {
        ack_wait: SHORT,
        ..options(1)
    };
    world.bus.enqueue(&world.work(), "a", text("a")).await?;
    let mut holder = world.bus.work(&world.work(), options.clone()).await?;
    let held = delivery(&mut holder).await;
    let mut second = world.other().await?.work(&world.work(), options).await?;
    let mut beat = tokio::time::interval(SHORT / 5);
    let until = Instant::now() + SHORT * 3;
    while Instant::now() < until {
        tokio::select! {
            _ = beat.tick() => held.in_progress().await?,
            _ = second.next() => panic!("it went to somebody else in spite of in_progress"),
        }
    }
    // Held on but silent: now it is somebody else's, and the late acknowledgement still ends it.
    let got = delivery(&mut second).await;
    assert_eq!(got.deliveries, 2);
    held.ack().await?;
    drop(got);
    let late = tokio::time::timeout(SHORT * 2, second.next()).await;
    assert!(late.is_err(), "it came a third time");
    Ok(())
}

pub async fn competing_workers_share_without_doubles(world: World) -> Result<(), Error> {
    const SENT: usize = 400;
    let mut workers = JoinSet::new();
    let (results, mut done) = tokio::sync::mpsc::unbounded_channel();
    for worker in 0..4 {
        let bus = if worker % 2 == 0 {
            world.bus.clone()
        } else {
            world.other().await?
        };
        let mut work = bus.work(&world.work(), options(8)).await?;
        let results = results.clone();
        workers.spawn(async move {
            while let Some(got) = work.next().await {
                tokio::task::yield_now().await;
                let done = (worker, words(&got.message));
                if got.ack().await.is_err() || results.send(done).is_err() {
                    break;
                }
            }
            drop(bus);
        });
    }
    for number in 0..SENT {
        world
            .bus
            .enqueue(&world.work(), &number.to_string(), text(number.to_string()))
            .await?;
    }
    let mut seen = BTreeMap::<usize, usize>::new();
    let mut shares = [0; 4];
    while seen.len() < SENT {
        let (worker, number) = soon("the next result", done.recv())
            .await
            .expect("workers run");
        *seen.entry(number.parse().expect("a number")).or_default() += 1;
        shares[worker] += 1;
    }
    nothing("no message came twice", done.recv()).await;
    assert!(seen.values().all(|times| *times == 1));
    assert!(
        shares.iter().filter(|share| **share > 0).count() > 1,
        "one worker took all: {shares:?}"
    );
    Ok(())
}

pub async fn one_slot_keeps_the_order(world: World) -> Result<(), Error> {
    let mut work = world.other().await?.work(&world.work(), options(1)).await?;
    for number in 0..50 {
        world
            .bus
            .enqueue(&world.work(), &number.to_string(), text(number.to_string()))
            .await?;
    }
    for number in 0..50 {
        let got = delivery(&mut work).await;
        assert_eq!(words(&got.message), number.to_string());
        got.ack().await?;
    }
    Ok(())
}

pub async fn workers_of_two_subjects_do_not_meet(world: World) -> Result<(), Error> {
    let subjects = Priority::ALL.map(|priority| Subject::work(&world.account, "ver_1", priority));
    for subject in &subjects {
        world
            .bus
            .enqueue(subject, "a", text(subject.as_str()))
            .await?;
    }
    world
        .bus
        .enqueue(&Subject::deploy(&world.account), "a", text("deploy"))
        .await?;
    for subject in &subjects {
        let mut work = world.bus.work(subject, options(5)).await?;
        let got = delivery(&mut work).await;
        assert_eq!(words(&got.message), subject.as_str());
        got.ack().await?;
        nothing("only its own", work.next()).await;
    }
    let mut work = world
        .bus
        .work(&Subject::deploy(&world.account), options(5))
        .await?;
    assert_eq!(words(&delivery(&mut work).await.message), "deploy");
    Ok(())
}

pub async fn a_worker_that_left_leaves_the_rest(world: World) -> Result<(), Error> {
    let mut leaver = world.bus.work(&world.work(), options(5)).await?;
    // It has asked for five.
    nothing("nothing is there yet", leaver.next()).await;
    drop(leaver);
    world.bus.ping().await?;
    for number in 0..5 {
        world
            .bus
            .enqueue(&world.work(), &number.to_string(), text(number.to_string()))
            .await?;
    }
    let mut stayer = world.other().await?.work(&world.work(), options(5)).await?;
    for _ in 0..5 {
        let got = delivery(&mut stayer).await;
        assert!(world.engine == Engine::Nats || got.deliveries == 1);
        got.ack().await?;
    }
    Ok(())
}
