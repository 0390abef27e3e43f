//! What only a server can do to us.

use std::time::Duration;

use async_nats::jetstream;
use bus::{Bus, Error, Event, Pattern, Subject};

use crate::{
    proxy::Proxy,
    world::{SOON, World, config, delivery, nothing, options, soon, text, words},
};

async fn server() -> jetstream::Context {
    let client = async_nats::connect(config().servers[0].to_string())
        .await
        .expect("the server can be reached");
    jetstream::new(client)
}

#[tokio::test]
async fn a_deleted_consumer_is_made_again() -> Result<(), Error> {
    let world = World::nats("deleted").await;
    let mut work = world.bus.work(&world.work(), options(2)).await?;
    nothing("nothing is there yet", work.next()).await;
    let stream = server()
        .await
        .get_stream("PHALANX_WORK")
        .await
        .expect("the stream exists");
    let name = world.work().as_str().replace('.', "~");
    stream
        .delete_consumer(&name)
        .await
        .expect("the consumer existed");
    world.bus.enqueue(&world.work(), "a", text("a")).await?;
    let got = delivery(&mut work).await;
    assert_eq!(words(&got.message), "a");
    got.ack().await
}

#[tokio::test]
async fn a_stream_with_other_settings_is_brought_in_line() -> Result<(), Error> {
    let world = World::nats("settings").await;
    let server = server().await;
    let config_of = async || {
        let stream = server
            .get_stream("PHALANX_DEPLOY")
            .await
            .expect("the stream exists");
        stream.cached_info().config.clone()
    };
    let ours = config_of().await;
    let changed = jetstream::stream::Config {
        max_messages: 7,
        ..ours.clone()
    };
    server
        .update_stream(changed)
        .await
        .expect("the stream can be changed");
    let _second = world.other().await?;
    assert_eq!(config_of().await.max_messages, ours.max_messages);
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said_at_start() {
    let config = bus::nats::Config {
        connect_timeout: Duration::from_millis(500),
        ..bus::nats::Config::new(["nats://127.0.0.1:1"])
    };
    let refused = soon("a refusal", Bus::nats(config)).await.err();
    assert!(
        matches!(&refused, Some(Error::Unavailable(why)) if why.contains("127.0.0.1:1")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_cut_connection_comes_back_with_everything_on_it() -> Result<(), Error> {
    let world = World::nats("cut").await;
    let proxy = Proxy::in_front_of(&config().servers[0]).await;
    let bus = Bus::nats(bus::nats::Config::new([&proxy.url])).await?;
    let mut requests = bus.serve(&world.run(), Some("executors")).await?;
    let mut events = bus
        .subscribe(&Pattern::events(Some(&world.account), None))
        .await?;
    let mut work = bus.work(&world.work(), options(2)).await?;
    world
        .bus
        .enqueue(&world.work(), "before", text("before"))
        .await?;
    let in_hand = delivery(&mut work).await;
    nothing("a pull is open", work.next()).await;
    proxy.cut();
    // Waits for the connection instead of failing, and is acknowledged on the new one.
    in_hand.ack().await?;
    soon("the connection", async {
        while bus.ping().await.is_err() {}
    })
    .await;
    world
        .bus
        .enqueue(&world.work(), "after", text("after"))
        .await?;
    let got = delivery(&mut work).await;
    // Twice if the server had handed it to the pull that the cut has ended.
    assert_eq!(words(&got.message), "after");
    assert!(got.deliveries <= 2, "delivered {} times", got.deliveries);
    world
        .bus
        .publish(&Subject::event(&world.account, "finished"), text("heard"))
        .await?;
    assert_eq!(
        soon("the event", events.next()).await,
        Some(Event::Message(text("heard")))
    );
    let subject = world.run();
    let (answer, ()) = tokio::join!(world.bus.request(&subject, text("there?"), SOON), async {
        let request = soon("the request", requests.next()).await.expect("served");
        request.respond(text("yes")).await.expect("answered");
    });
    assert_eq!(words(&answer?), "yes");
    Ok(())
}
