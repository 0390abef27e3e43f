//! Request and reply.

use std::{collections::HashMap, time::Duration};

use bus::{Error, Limits, Message};
use tokio::task::JoinSet;

use crate::world::{Engine, SOON, World, answer_with, nothing, soon, text, words};

pub async fn a_request_is_answered_with_headers_both_ways(world: World) -> Result<(), Error> {
    let mut requests = world.bus.serve(&world.run(), Some("executors")).await?;
    let other = world.other().await?;
    let subject = world.run();
    let asked = text("question").with_header("traceparent", "00-aa-bb-01");
    let (answer, ()) = tokio::try_join!(other.request(&subject, asked, SOON), async {
        let request = soon("the request", requests.next()).await.expect("served");
        assert_eq!(words(&request.message), "question");
        assert_eq!(
            request.message.headers.get("traceparent"),
            Some("00-aa-bb-01")
        );
        request
            .respond(text("answer").with_header("x-attempt", "1"))
            .await
    })?;
    assert_eq!(words(&answer), "answer");
    assert_eq!(answer.headers.get("x-attempt"), Some("1"));
    Ok(())
}

pub async fn nobody_there_is_said_at_once(world: World) -> Result<(), Error> {
    let never = Duration::from_secs(3600);
    let answer = soon(
        "a refusal",
        world.bus.request(&world.run(), text("anybody?"), never),
    )
    .await;
    assert_eq!(answer, Err(Error::NoResponders));
    Ok(())
}

pub async fn a_group_shares_and_each_request_goes_to_one(world: World) -> Result<(), Error> {
    let (one, two) = (world.bus.clone(), world.other().await?);
    let mut servers = JoinSet::new();
    servers.spawn(answer_with(
        one.serve(&world.run(), Some("executors")).await?,
        "one".to_owned(),
    ));
    servers.spawn(answer_with(
        two.serve(&world.run(), Some("executors")).await?,
        "two".to_owned(),
    ));
    let mut answers = HashMap::<String, u32>::new();
    for _ in 0..200 {
        let answer = world.bus.request(&world.run(), text("who?"), SOON).await?;
        *answers.entry(words(&answer)).or_default() += 1;
    }
    assert_eq!(answers.values().sum::<u32>(), 200);
    assert!(
        answers.values().all(|count| *count >= 40) && answers.len() == 2,
        "not shared: {answers:?}"
    );
    Ok(())
}

pub async fn two_groups_hear_it_both(world: World) -> Result<(), Error> {
    let mut executors = world.bus.serve(&world.run(), Some("executors")).await?;
    let mut auditors = world
        .other()
        .await?
        .serve(&world.run(), Some("auditors"))
        .await?;
    let (bus, subject) = (world.bus.clone(), world.run());
    let asking = async { bus.request(&subject, text("both?"), SOON).await };
    let hearing = async {
        let first = soon("the executor", executors.next())
            .await
            .expect("served");
        let second = soon("the auditor", auditors.next()).await.expect("served");
        assert_eq!(
            (words(&first.message), words(&second.message)),
            ("both?".to_owned(), "both?".to_owned())
        );
        first.respond(text("yes")).await?;
        second.respond(text("yes")).await
    };
    let (answer, ()) = tokio::try_join!(asking, hearing)?;
    assert_eq!(words(&answer), "yes");
    Ok(())
}

pub async fn without_a_group_the_first_answer_counts(world: World) -> Result<(), Error> {
    let subject = bus::Subject::cancel(&world.account, "ver_1");
    let other = world.other().await?;
    let mut silent = world.bus.serve(&subject, None).await?;
    let mut holder = other.serve(&subject, None).await?;
    let (bus, asked) = (world.bus.clone(), subject.clone());
    let (answer, ()) = tokio::try_join!(
        async { bus.request(&asked, text("exec_1"), SOON).await },
        async {
            drop(
                soon("the one without it", silent.next())
                    .await
                    .expect("served"),
            );
            let request = soon("the one with it", holder.next())
                .await
                .expect("served");
            request.respond(text("stopped")).await
        }
    )?;
    assert_eq!(words(&answer), "stopped");
    Ok(())
}

pub async fn silence_of_all_is_an_error(world: World) -> Result<(), Error> {
    let subject = bus::Subject::cancel(&world.account, "ver_1");
    let mut first = world.bus.serve(&subject, None).await?;
    let mut second = world.bus.serve(&subject, None).await?;
    let (answer, ()) = tokio::join!(
        world
            .bus
            .request(&subject, text("exec_1"), Duration::from_millis(500)),
        async {
            drop(soon("the first", first.next()).await);
            drop(soon("the second", second.next()).await);
        }
    );
    // Only memory can know that nobody is left who could answer.
    let expected = if world.engine == Engine::Memory {
        Error::Unanswered
    } else {
        Error::Timeout
    };
    assert_eq!(answer, Err(expected));
    Ok(())
}

pub async fn no_answer_is_a_timeout(world: World) -> Result<(), Error> {
    let mut requests = world.bus.serve(&world.run(), Some("executors")).await?;
    let answer = world
        .bus
        .request(&world.run(), text("slow"), Duration::from_millis(100))
        .await;
    assert_eq!(answer, Err(Error::Timeout));
    // The answer comes too late: nobody is hurt.
    let request = soon("the request", requests.next()).await.expect("served");
    request.respond(text("late")).await
}

pub async fn a_dropped_request_is_said_at_once(world: World) -> Result<(), Error> {
    let mut requests = world
        .other()
        .await?
        .serve(&world.run(), Some("executors"))
        .await?;
    let subject = world.run();
    let (answer, ()) = tokio::join!(
        soon(
            "a refusal",
            world
                .bus
                .request(&subject, text("crash"), Duration::from_secs(3600))
        ),
        async { drop(soon("the request", requests.next()).await) }
    );
    assert_eq!(answer, Err(Error::Unanswered));
    Ok(())
}

pub async fn a_full_server_is_busy_at_once(world: World) -> Result<(), Error> {
    let bus = world
        .bounded(Limits {
            requests: 2,
            ..Limits::default()
        })
        .await?;
    let mut requests = bus.serve(&world.run(), Some("executors")).await?;
    let mut asking = JoinSet::new();
    for _ in 0..2 {
        let (bus, subject) = (bus.clone(), world.run());
        asking.spawn(async move { bus.request(&subject, text("waits"), SOON).await });
    }
    // Both are in the queue before the third comes; which two they are is open.
    tokio::task::yield_now().await;
    let third = soon("a refusal", async {
        loop {
            match bus
                .request(&world.run(), text("third"), Duration::from_millis(200))
                .await
            {
                Err(Error::Timeout) => {}
                other => return other,
            }
        }
    })
    .await;
    assert_eq!(third, Err(Error::Busy));
    for _ in 0..2 {
        let request = soon("a request", requests.next()).await.expect("served");
        request.respond(text("done")).await?;
    }
    Ok(())
}

pub async fn a_server_that_left_gets_nothing(world: World) -> Result<(), Error> {
    let leaver = world.bus.serve(&world.run(), Some("executors")).await?;
    let mut stayer = world.bus.serve(&world.run(), Some("executors")).await?;
    drop(leaver);
    world.bus.ping().await?;
    for _ in 0..20 {
        let subject = world.run();
        let (answer, ()) = tokio::join!(world.bus.request(&subject, text("who?"), SOON), async {
            let request = soon("the one that stays", stayer.next())
                .await
                .expect("served");
            request.respond(text("me")).await.expect("answered");
        });
        assert_eq!(words(&answer?), "me");
    }
    drop(stayer);
    soon("nobody to be left", async {
        while world.bus.request(&world.run(), text("who?"), SOON).await != Err(Error::NoResponders)
        {
        }
    })
    .await;
    Ok(())
}

pub async fn an_answer_too_large_is_an_error_on_both_sides(world: World) -> Result<(), Error> {
    let mut requests = world.bus.serve(&world.run(), Some("executors")).await?;
    let subject = world.run();
    let (answer, answered) = tokio::join!(
        soon("a refusal", world.bus.request(&subject, text("much"), SOON)),
        async {
            let request = soon("the request", requests.next()).await.expect("served");
            request.respond(Message::new(vec![0; 600 * 1024])).await
        }
    );
    assert_eq!(answer, Err(Error::Unanswered));
    assert_eq!(
        answered,
        Err(Error::TooLarge {
            size: 600 * 1024,
            limit: 512 * 1024
        })
    );
    nothing("no second request came", requests.next()).await;
    Ok(())
}
