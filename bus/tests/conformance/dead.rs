//! What was delivered too often: kept, listed, put back.

use std::time::{Duration, SystemTime};

use bus::{DeadLetter, Error, Priority, Subject, WorkOptions};
use domain::Timestamp;

use crate::world::{SOON, World, delivery, nothing, options, soon, text, words};

const SHORT: Duration = Duration::from_millis(1000);

/// So many dead letters of the account, once they are there.
async fn letters(world: &World, count: usize) -> Result<Vec<DeadLetter>, Error> {
    soon("the dead letters", async {
        loop {
            let found = world.bus.dead_letters(&world.account).await?;
            if found.len() == count {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

async fn message(world: &World, id: u64) -> Result<String, Error> {
    let found = world.bus.dead_letter(id).await?;
    Ok(words(&found.expect("it is kept").1))
}

async fn dead_letter(world: &World) -> Result<(String, u32), Error> {
    let letter = letters(world, 1).await?.remove(0);
    assert_eq!(letter.subject, world.work());
    let age = now().since(letter.dead_at).max(letter.dead_at.since(now()));
    assert!(age < SOON, "{letter:?}");
    Ok((message(world, letter.id).await?, letter.deliveries))
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let ms = since.expect("after 1970").as_millis();
    Timestamp(i64::try_from(ms).expect("fits"))
}

/// A worker buries it at once.
async fn buried(world: &World, subject: &Subject, id: &str) -> Result<(), Error> {
    world.bus.enqueue(subject, id, text(id)).await?;
    let mut work = world.bus.work(subject, options(1)).await?;
    let got = delivery(&mut work).await;
    assert_eq!(words(&got.message), id);
    got.bury().await
}

pub async fn too_often_is_a_dead_letter(world: World) -> Result<(), Error> {
    let options = WorkOptions {
        max_deliver: 2,
        ..options(1)
    };
    world
        .bus
        .enqueue(&world.work(), "a", text("poison"))
        .await?;
    world.bus.enqueue(&world.work(), "b", text("good")).await?;
    let mut work = world.bus.work(&world.work(), options).await?;
    assert!(world.bus.dead_letters(&world.account).await?.is_empty());
    let mut good = 0;
    for _ in 0..3 {
        let got = delivery(&mut work).await;
        match words(&got.message).as_str() {
            "good" => {
                good += 1;
                got.ack().await?;
            }
            _ => got.retry(Duration::ZERO).await?,
        }
    }
    assert_eq!(good, 1);
    assert_eq!(dead_letter(&world).await?, ("poison".to_owned(), 2));
    nothing("a dead letter does not come back", work.next()).await;
    Ok(())
}

pub async fn too_often_dropped_is_a_dead_letter(world: World) -> Result<(), Error> {
    let options = WorkOptions {
        max_deliver: 2,
        ack_wait: SHORT,
        ..options(1)
    };
    world
        .bus
        .enqueue(&world.work(), "a", text("poison"))
        .await?;
    let mut work = world.bus.work(&world.work(), options).await?;
    for deliveries in 1..=2 {
        assert_eq!(delivery(&mut work).await.deliveries, deliveries);
    }
    // In NATS the worker that would get it a third time buries it instead.
    let (letter, ()) = tokio::join!(dead_letter(&world), async {
        let third = tokio::time::timeout(SHORT * 3, work.next()).await;
        assert!(third.is_err(), "it came a third time");
    });
    assert_eq!(letter?, ("poison".to_owned(), 2));
    Ok(())
}

pub async fn of_all_subjects_of_one_account_newest_first(world: World) -> Result<(), Error> {
    let subjects = [
        world.work(),
        Subject::work(&world.account, "ver_2", Priority::High),
        Subject::deploy(&world.account),
    ];
    let stranger = Subject::work(&format!("{}-2", world.account), "ver_1", Priority::Normal);
    for (subject, id) in subjects.iter().zip(["first", "second", "third"]) {
        buried(&world, subject, id).await?;
    }
    buried(&world, &stranger, "theirs").await?;
    let found = letters(&world, 3).await?;
    let mut told = Vec::new();
    for letter in &found {
        told.push((letter.subject.clone(), message(&world, letter.id).await?));
    }
    let [one, two, three] = subjects;
    assert_eq!(
        told,
        [
            (three, "third".to_owned()),
            (two, "second".to_owned()),
            (one, "first".to_owned())
        ]
    );
    // Seen from elsewhere, and later, they have the same names.
    let again = world.other().await?.dead_letters(&world.account).await?;
    assert_eq!(again, found);
    for nobody in [0, u64::from(u32::MAX)] {
        assert!(world.bus.dead_letter(nobody).await?.is_none());
    }
    Ok(())
}

pub async fn put_back_once(world: World) -> Result<(), Error> {
    let message = text("poison").with_header("traceparent", "00-aa-bb-01");
    world.bus.enqueue(&world.work(), "a", message).await?;
    let mut work = world.bus.work(&world.work(), options(5)).await?;
    delivery(&mut work).await.bury().await?;
    nothing("it is dead", work.next()).await;
    let id = letters(&world, 1).await?.remove(0).id;
    let other = world.other().await?;
    let both = tokio::try_join!(world.bus.redrive(id), other.redrive(id))?;
    assert!(both.0 || both.1, "nobody put it back");
    assert!(!world.bus.redrive(id).await?, "it was put back already");
    assert!(letters(&world, 0).await?.is_empty());
    let got = delivery(&mut work).await;
    assert_eq!(
        (words(&got.message).as_str(), got.deliveries),
        ("poison", 1)
    );
    assert_eq!(got.message.headers.get("traceparent"), Some("00-aa-bb-01"));
    assert_eq!(got.message.headers.iter().count(), 1);
    nothing("it was put back once", work.next()).await;
    // What kills again is a dead letter again, by another name.
    got.bury().await?;
    let again = letters(&world, 1).await?.remove(0);
    assert!(again.id > id, "{again:?}");
    Ok(())
}

/// The message may have been taken out of its delivery where it is acknowledged, never where it is put back.
pub async fn a_last_retry_keeps_the_message(world: World) -> Result<(), Error> {
    let options = WorkOptions {
        max_deliver: 1,
        ..options(1)
    };
    world.bus.enqueue(&world.work(), "a", text("whole")).await?;
    let mut work = world.bus.work(&world.work(), options).await?;
    let got = delivery(&mut work).await;
    let copy = got.message.payload.clone();
    got.retry(Duration::ZERO).await?;
    let letter = letters(&world, 1).await?.remove(0);
    assert_eq!(message(&world, letter.id).await?.as_bytes(), &copy[..]);
    Ok(())
}

pub async fn only_the_newest_of_a_subject_are_kept(world: World) -> Result<(), Error> {
    // The bound of every stream on this server.
    let most = bus::Limits::default().dead;
    let mut work = world.bus.work(&world.work(), options(most + 5)).await?;
    for number in 0..most + 2 {
        let number = number.to_string();
        world
            .bus
            .enqueue(&world.work(), &number, text(&number))
            .await?;
    }
    for _ in 0..most + 2 {
        delivery(&mut work).await.bury().await?;
    }
    let found = letters(&world, most).await?;
    let oldest = found.last().expect("some");
    assert_eq!(message(&world, oldest.id).await?, "2");
    assert_eq!(message(&world, found[0].id).await?, (most + 1).to_string());
    Ok(())
}
