//! Names that would like to be more than names.

use bus::{Error, Event, Pattern, Priority, Subject};

use crate::world::{SOON, World, delivery, nothing, options, soon, text, words};

fn hostile() -> Vec<String> {
    let mut tokens: Vec<String> = [
        "",
        " ",
        ".",
        "..",
        "*",
        ">",
        "a.b",
        "a b",
        "a\r\nPUB x 1",
        "a\0b",
        "ü",
        "日本語",
        "%2A",
        "$JS.API.INFO",
        "../../etc",
    ]
    .map(str::to_owned)
    .to_vec();
    tokens.push("long".repeat(2000));
    tokens
}

pub async fn hostile_tokens_stay_apart(world: World) -> Result<(), Error> {
    let other = world.other().await?;
    let mut victim = world.bus.serve(&world.run(), Some("executors")).await?;
    let mut events = world
        .bus
        .subscribe(&Pattern::events(Some(&world.account), Some("finished")))
        .await?;
    for token in hostile() {
        // As a version: reaches nobody but itself.
        let subject = Subject::run(&world.account, &token, "node_1");
        assert_eq!(
            other.request(&subject, text("?"), SOON).await,
            Err(Error::NoResponders),
            "{token:?}"
        );
        let mut own = other.serve(&subject, Some(&token)).await?;
        let (answer, ()) = tokio::join!(world.bus.request(&subject, text("?"), SOON), async {
            let request = soon("its own request", own.next()).await.expect("served");
            request
                .respond(text(token.clone()))
                .await
                .expect("answered");
        });
        assert_eq!(words(&answer?), token);
        // As an account or a kind: neither heard by others nor hearing them.
        let mut spy = other
            .subscribe(&Pattern::events(Some(&world.account), Some(&token)))
            .await?;
        world
            .bus
            .publish(&Subject::event(&world.account, "finished"), text("secret"))
            .await?;
        world
            .bus
            .publish(&Subject::event(&token, "finished"), text("noise"))
            .await?;
        world
            .bus
            .publish(&Subject::event(&world.account, &token), text(token.clone()))
            .await?;
        assert_eq!(
            soon("its own event", spy.next()).await,
            Some(Event::Message(text(token.clone())))
        );
        assert_eq!(
            soon("the real event", events.next()).await,
            Some(Event::Message(text("secret")))
        );
        // As durable work.
        let subject = Subject::work(&world.account, &token, Priority::Low);
        world
            .bus
            .enqueue(&subject, &token, text(token.clone()))
            .await?;
        let mut work = other.work(&subject, options(1)).await?;
        let got = delivery(&mut work).await;
        assert_eq!(words(&got.message), token);
        got.ack().await?;
    }
    nothing("nobody reached the victim", victim.next()).await;
    nothing("nobody spoke to its subscriber", events.next()).await;
    Ok(())
}

pub async fn hostile_ids_and_headers_are_carried(world: World) -> Result<(), Error> {
    for (number, id) in hostile().into_iter().enumerate() {
        let message =
            text(number.to_string()).with_header("x-note", format!("a{id}b\r\nNats-Rollup: all"));
        world.bus.enqueue(&world.work(), &id, message).await?;
    }
    let mut work = world.bus.work(&world.work(), options(1)).await?;
    for number in 0..hostile().len() {
        let got = delivery(&mut work).await;
        assert_eq!(words(&got.message), number.to_string());
        assert!(
            got.message
                .headers
                .get("x-note")
                .is_some_and(|note| note.ends_with("b  Nats-Rollup: all"))
        );
        got.ack().await?;
    }
    nothing("no id met another", work.next()).await;
    Ok(())
}
