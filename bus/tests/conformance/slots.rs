//! How much a worker has in hand.

use bus::Error;

use crate::world::{World, delivery, nothing, options, text};

pub async fn slots_bound_what_is_in_hand(world: World) -> Result<(), Error> {
    for number in 0..10 {
        world
            .bus
            .enqueue(&world.work(), &number.to_string(), text(number.to_string()))
            .await?;
    }
    let mut work = world.bus.work(&world.work(), options(3)).await?;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(delivery(&mut work).await);
    }
    assert_eq!(work.slots().held(), 3);
    nothing("three slots, three deliveries", work.next()).await;
    // What this worker has no slot for is there for others.
    let mut other = world.other().await?.work(&world.work(), options(7)).await?;
    for _ in 0..7 {
        delivery(&mut other).await.ack().await?;
    }
    drop(held);
    Ok(())
}

pub async fn slots_can_shrink_and_grow(world: World) -> Result<(), Error> {
    let mut work = world.bus.work(&world.work(), options(0)).await?;
    for number in 0..10 {
        world
            .bus
            .enqueue(&world.work(), &number.to_string(), text(number.to_string()))
            .await?;
    }
    nothing("no slots, nothing taken", work.next()).await;
    let slots = work.slots();
    let (first, ()) = tokio::join!(delivery(&mut work), async {
        tokio::task::yield_now().await;
        slots.set(2);
    });
    let second = delivery(&mut work).await;
    nothing("two slots", work.next()).await;
    work.set_in_flight(4);
    let third = delivery(&mut work).await;
    let fourth = delivery(&mut work).await;
    nothing("four slots", work.next()).await;
    // Fewer slots than are held: two must finish before there is room for one.
    work.set_in_flight(3);
    first.ack().await?;
    nothing("three held, three slots", work.next()).await;
    second.ack().await?;
    let fifth = delivery(&mut work).await;
    for got in [third, fourth, fifth] {
        got.ack().await?;
    }
    // An open pull for three is taken back; nothing that it brought is lost.
    work.set_in_flight(1);
    for _ in 5..10 {
        let got = delivery(&mut work).await;
        assert_eq!(work.slots().held(), 1);
        got.ack().await?;
    }
    nothing("all ten were taken", work.next()).await;
    Ok(())
}
