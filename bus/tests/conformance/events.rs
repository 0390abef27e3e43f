//! Publish and subscribe.

use bus::{Error, Event, Events, Limits, Pattern, Subject};

use crate::world::{World, nothing, soon, text, words};

async fn heard(events: &mut Events) -> String {
    match soon("an event", events.next()).await {
        Some(Event::Message(message)) => words(&message),
        other => panic!("heard {other:?}"),
    }
}

pub async fn patterns_choose(world: World) -> Result<(), Error> {
    let stranger = format!("{}-stranger", world.account);
    let other = world.other().await?;
    let mut all_mine = other
        .subscribe(&Pattern::events(Some(&world.account), None))
        .await?;
    let mut finished_mine = other
        .subscribe(&Pattern::events(Some(&world.account), Some("finished")))
        .await?;
    let mut again = world
        .bus
        .subscribe(&Pattern::events(Some(&world.account), Some("finished")))
        .await?;
    // Other cases publish too, so "any account" is only asked for a kind of this case's own.
    let kind = format!("kind-{}", world.account);
    let mut any_account = other.subscribe(&Pattern::events(None, Some(&kind))).await?;
    for (account, kind, words) in [
        (world.account.as_str(), "finished", "mine finished"),
        (stranger.as_str(), "finished", "theirs finished"),
        (world.account.as_str(), kind.as_str(), "mine own"),
        (stranger.as_str(), kind.as_str(), "theirs own"),
        (world.account.as_str(), "changed", "mine changed"),
    ] {
        world
            .bus
            .publish(&Subject::event(account, kind), text(words))
            .await?;
    }
    for expected in ["mine finished", "mine own", "mine changed"] {
        assert_eq!(heard(&mut all_mine).await, expected);
    }
    assert_eq!(heard(&mut finished_mine).await, "mine finished");
    assert_eq!(heard(&mut again).await, "mine finished");
    assert_eq!(heard(&mut any_account).await, "mine own");
    assert_eq!(heard(&mut any_account).await, "theirs own");
    nothing("all of it was heard", all_mine.next()).await;
    nothing("nothing of another kind or account", finished_mine.next()).await;
    Ok(())
}

pub async fn nobody_listening_is_no_error(world: World) -> Result<(), Error> {
    world
        .bus
        .publish(
            &Subject::event(&world.account, "finished"),
            text("into the wind"),
        )
        .await
}

pub async fn a_slow_reader_loses_the_oldest_and_is_told(world: World) -> Result<(), Error> {
    const SENT: u64 = 100;
    const KEPT: u64 = 8;
    let bus = world
        .bounded(Limits {
            events: 8,
            ..Limits::default()
        })
        .await?;
    let mut events = bus
        .subscribe(&Pattern::events(Some(&world.account), None))
        .await?;
    for number in 0..SENT {
        bus.publish(
            &Subject::event(&world.account, "tick"),
            text(number.to_string()),
        )
        .await?;
    }
    // The answer comes after the events, on the same connection; then the bus's own task has its turn.
    bus.ping().await?;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        soon("the loss", events.next()).await,
        Some(Event::Lagged(SENT - KEPT))
    );
    for number in SENT - KEPT..SENT {
        assert_eq!(heard(&mut events).await, number.to_string());
    }
    bus.publish(&Subject::event(&world.account, "tick"), text("quick again"))
        .await?;
    assert_eq!(heard(&mut events).await, "quick again");
    Ok(())
}

pub async fn a_dropped_subscription_ends(world: World) -> Result<(), Error> {
    let pattern = Pattern::events(Some(&world.account), None);
    drop(world.bus.subscribe(&pattern).await?);
    let mut second = world.bus.subscribe(&pattern).await?;
    world
        .bus
        .publish(&Subject::event(&world.account, "finished"), text("once"))
        .await?;
    assert_eq!(heard(&mut second).await, "once");
    nothing("it came once", second.next()).await;
    Ok(())
}
