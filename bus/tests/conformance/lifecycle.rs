//! Bounds, health, the end.

use std::time::Duration;

use bus::{Error, Event, Message, Pattern, Subject};

use crate::world::{SOON, World, delivery, nothing, options, soon, text, words};

pub async fn too_large_is_refused_everywhere(world: World) -> Result<(), Error> {
    let large = || Message::new(vec![b'x'; 512 * 1024 + 1]);
    let refused = Error::TooLarge {
        size: 512 * 1024 + 1,
        limit: 512 * 1024,
    };
    let mut requests = world.bus.serve(&world.run(), Some("executors")).await?;
    assert_eq!(
        world.bus.request(&world.run(), large(), SOON).await,
        Err(refused.clone())
    );
    assert_eq!(
        world
            .bus
            .publish(&Subject::event(&world.account, "x"), large())
            .await,
        Err(refused.clone())
    );
    assert_eq!(
        world.bus.enqueue(&world.work(), "a", large()).await,
        Err(refused)
    );
    nothing("it was not sent", requests.next()).await;
    // At the bound it goes through, and the refused id is free.
    let largest = Message::new(vec![b'x'; 512 * 1024]);
    world.bus.enqueue(&world.work(), "a", largest).await?;
    let mut work = world.bus.work(&world.work(), options(1)).await?;
    assert_eq!(delivery(&mut work).await.message.payload.len(), 512 * 1024);
    Ok(())
}

pub async fn ping_answers(world: World) -> Result<(), Error> {
    assert!(world.bus.ping().await? < SOON);
    Ok(())
}

pub async fn drain_ends_the_takers_and_keeps_sending(world: World) -> Result<(), Error> {
    let kind = Subject::event(&world.account, "finished");
    let pattern = Pattern::events(Some(&world.account), None);
    let other = world.bounded(bus::Limits::default()).await?;
    let mut requests = other.serve(&world.run(), Some("executors")).await?;
    let mut events = other.subscribe(&pattern).await?;
    let mut work = other.work(&world.work(), options(2)).await?;
    other.enqueue(&world.work(), "a", text("a")).await?;
    let in_hand = delivery(&mut work).await;
    other.publish(&kind, text("before")).await?;
    let (asking, subject) = (other.clone(), world.run());
    let asking = async move { asking.request(&subject, text("last"), SOON).await };
    let serving = async {
        let request = soon("the request", requests.next()).await.expect("served");
        soon("the drain", other.drain()).await;
        // Taken before the drain: still answered and acknowledged.
        request.respond(text("answered")).await?;
        in_hand.ack().await
    };
    let (answer, ()) = tokio::try_join!(asking, serving)?;
    assert_eq!(words(&answer), "answered");
    assert_eq!(
        soon("what was heard", events.next()).await,
        Some(Event::Message(text("before")))
    );
    assert_eq!(soon("the end of events", events.next()).await, None);
    assert!(soon("the end of requests", requests.next()).await.is_none());
    assert!(soon("the end of work", work.next()).await.is_none());
    // Sending goes on, taking does not.
    other.publish(&kind, text("after")).await?;
    other.enqueue(&world.work(), "b", text("b")).await?;
    let refused = other.request(&world.run(), text("?"), SOON).await;
    assert_eq!(refused, Err(Error::NoResponders));
    assert_eq!(
        other.serve(&world.run(), None).await.err(),
        Some(Error::Closed)
    );
    assert_eq!(other.subscribe(&pattern).await.err(), Some(Error::Closed));
    assert_eq!(
        other.work(&world.work(), options(1)).await.err(),
        Some(Error::Closed)
    );
    Ok(())
}

pub async fn a_next_that_is_cancelled_loses_nothing(world: World) -> Result<(), Error> {
    const SENT: usize = 60;
    let other = world.other().await?;
    let mut work = world.bus.work(&world.work(), options(4)).await?;
    let enqueue = async {
        for number in 0..SENT {
            other
                .enqueue(&world.work(), &number.to_string(), text(number.to_string()))
                .await?;
        }
        Ok::<_, Error>(())
    };
    let take = async {
        let mut taken = 0;
        while taken < SENT {
            // Given up again and again at whatever point it has reached.
            if let Ok(Some(got)) =
                tokio::time::timeout(Duration::from_micros(300), work.next()).await
            {
                assert_eq!(got.deliveries, 1);
                got.ack().await?;
                taken += 1;
            }
        }
        Ok(())
    };
    soon("all of it", async { tokio::try_join!(enqueue, take) }).await?;
    Ok(())
}
