//! The group commit: many writers at once, and each is told the truth about its own write.

use crate::world::{end, json, mine, new, start};
use domain::{Result, Timestamp, execution::Status};
use store::{
    Store,
    executions::{Progress, Withdraw},
};
use tokio::task::JoinSet;

/// Ten executions for each of two hundred ids' worth of writers: of ten that do the same, exactly one is told `true`.
pub async fn two_thousand_writers_each_win_once(store: &Store) -> Result<()> {
    const EXECUTIONS: usize = 200;
    const WRITERS: usize = 10;
    let mut tasks = JoinSet::new();
    for n in 0..EXECUTIONS * WRITERS {
        let store = store.clone();
        let (which, writer) = (n % EXECUTIONS, n / EXECUTIONS);
        tasks.spawn(async move {
            let key = mine(&format!("e{which}"));
            let inserted = store.insert_execution(new(&key, 1)).await?;
            let started = store.start_execution(start(&key, 1, 2)).await?;
            store
                .note_progress(Progress {
                    key: key.clone(),
                    attempt: 1,
                    percent: 1.0,
                })
                .await?;
            let mut done = end(&key, 1, Status::Completed, 9);
            done.output = Some(json(&writer.to_string()));
            let ended = store.end_execution(done).await?;
            domain::Result::Ok((which, writer, [inserted, started, ended]))
        });
    }
    let mut won = vec![[0; 3]; EXECUTIONS];
    let mut enders = vec![None; EXECUTIONS];
    while let Some(result) = tasks.join_next().await {
        let (which, writer, wins) = result.expect("no panic")?;
        for (count, win) in won[which].iter_mut().zip(wins) {
            *count += u32::from(win);
        }
        if wins[2] {
            enders[which] = Some(writer);
        }
    }
    for (which, counts) in won.iter().enumerate() {
        assert_eq!(counts[0], 1, "inserts of e{which}");
        // A start may come after the end, and then nobody starts.
        assert!(counts[1] <= 1, "starts of e{which}");
        assert_eq!(counts[2], 1, "ends of e{which}");
        let row = store
            .execution(&mine(&format!("e{which}")))
            .await?
            .expect("a row");
        assert_eq!(row.status, Status::Completed);
        let output = row.output.expect("an output");
        assert_eq!(
            Some(output.get().parse().expect("a number")),
            enders[which],
            "the outcome is the winner's"
        );
    }
    Ok(())
}

/// More than one statement holds, in a batch with starts of the same rows: of each two, one wins, and the row says which.
pub async fn hundreds_are_withdrawn_at_once(store: &Store) -> Result<()> {
    const ROWS: usize = 700;
    let mut tasks = JoinSet::new();
    for n in 0..ROWS {
        let store = store.clone();
        tasks.spawn(async move {
            let key = mine(&format!("e{n}"));
            assert!(store.insert_execution(new(&key, 1)).await?);
            let withdraw = Withdraw {
                key: key.clone(),
                accepted_at: Timestamp(1),
            };
            let begin = async {
                match n % 7 {
                    0 => store.start_execution(start(&key, 1, 2)).await,
                    _ => Ok(false),
                }
            };
            let (withdrawn, started) = tokio::join!(store.withdraw_execution(withdraw), begin);
            domain::Result::Ok((key, withdrawn?, started?))
        });
    }
    let mut withdrawals = 0;
    while let Some(result) = tasks.join_next().await {
        let (key, withdrawn, started) = result.expect("no panic")?;
        assert_ne!(withdrawn, started, "{key:?}");
        assert_eq!(store.execution(&key).await?.is_some(), started, "{key:?}");
        withdrawals += usize::from(withdrawn);
    }
    assert!(withdrawals >= ROWS - ROWS / 7, "{withdrawals}");
    Ok(())
}

/// While a first write commits, the others gather in one batch: there, too, the order decides and the row is the winner's.
pub async fn the_same_key_twice_in_one_batch(store: &Store) -> Result<()> {
    for round in 0..20 {
        let key = mine(&format!("e{round}"));
        store.insert_execution(new(&key, 1)).await?;
        let writes = (0..8).map(|n| {
            let mut done = end(
                &key,
                1,
                if n % 2 == 0 {
                    Status::Failed
                } else {
                    Status::Completed
                },
                10 + n,
            );
            done.output = Some(json(&n.to_string()));
            store.end_execution(done)
        });
        let answers: Vec<bool> = futures_in_order(writes).await?;
        assert_eq!(
            answers,
            [true, false, false, false, false, false, false, false]
        );
        let row = store.execution(&key).await?.expect("a row");
        assert_eq!(
            (row.status, row.output.expect("an output").get()),
            (Status::Failed, "0")
        );
    }
    // A second attempt that ends in the same batch as the first: both count, in order.
    let key = mine("again");
    store.insert_execution(new(&key, 1)).await?;
    let answers = futures_in_order([
        store.end_execution(end(&key, 1, Status::Queued, 10)),
        store.end_execution(end(&key, 2, Status::Completed, 11)),
    ])
    .await?;
    assert_eq!(answers, [true, true]);
    Ok(())
}

/// An execution that is written with its end: where no row is, where one waits or runs, where an end is; many at once, and the same
/// id twice in one batch.
pub async fn ends_are_recorded_with_their_rows(store: &Store) -> Result<()> {
    let writes = (0..150).map(|n| {
        let key = mine(&format!("e{}", n % 140));
        let mut done = end(&key, 1, Status::Completed, 9);
        done.output = Some(json(&n.to_string()));
        store.record_execution(new(&key, 1), done)
    });
    let answers = futures_in_order(writes).await?;
    let wins = answers.iter().filter(|won| **won).count();
    assert_eq!(wins, 140);
    for (n, won) in answers.iter().enumerate().take(140) {
        assert!(won, "the first of its id wins: {n}");
        let row = store
            .execution(&mine(&format!("e{n}")))
            .await?
            .expect("a row");
        assert_eq!(row.output.expect("an output").get(), n.to_string());
        assert_eq!(
            (row.status, row.attempt, row.losses),
            (Status::Completed, 1, 0)
        );
        assert_eq!(row.accepted_at, Timestamp(1));
    }
    let (waits, runs, later) = (mine("waits"), mine("runs"), mine("later"));
    for key in [&waits, &runs, &later] {
        assert!(store.insert_execution(new(key, 1)).await?);
    }
    assert!(store.start_execution(start(&runs, 1, 2)).await?);
    assert!(store.start_execution(start(&later, 1, 2)).await?);
    assert!(store.lose_execution(&later, 1, &[], Timestamp(3)).await?);
    assert!(store.start_execution(start(&later, 2, 4)).await?);
    let record = |key| store.record_execution(new(key, 1), end(key, 1, Status::Failed, 9));
    assert!(record(&waits).await? && record(&runs).await?);
    assert!(!record(&waits).await?, "it has its end");
    assert!(!record(&later).await?, "a later attempt has it");
    let row = store.execution(&runs).await?.expect("a row");
    assert_eq!(
        (row.status, row.completed_at),
        (Status::Failed, Some(Timestamp(9)))
    );
    assert!(!store.insert_execution(new(&runs, 1)).await?, "it is there");
    Ok(())
}

/// Polls all of them at once; each is handed in when it is first polled.
async fn futures_in_order<F>(writes: impl IntoIterator<Item = F>) -> Result<Vec<bool>>
where
    F: Future<Output = Result<bool>>,
{
    let mut waiting: Vec<_> = writes.into_iter().map(Box::pin).collect();
    let mut answers = vec![None; waiting.len()];
    std::future::poll_fn(|context| {
        for (write, answer) in waiting.iter_mut().zip(&mut answers) {
            if answer.is_none()
                && let std::task::Poll::Ready(done) = write.as_mut().poll(context)
            {
                *answer = Some(done);
            }
        }
        if answers.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    answers.into_iter().flatten().collect()
}

/// Postgres cannot hold U+0000 in text: whoever sends one fails alone.
pub async fn a_refused_row_takes_nobody_with_it(store: &Store) -> Result<()> {
    let writes = (0..50).map(|n| {
        let mut sent = new(&mine(&format!("e{n}")), 1);
        if n == 25 {
            sent.caller.session_id = Some("a\0b".into());
        }
        store.insert_execution(sent)
    });
    let mut waiting: Vec<_> = writes.map(Box::pin).collect();
    let mut good = 0;
    let mut tasks = Vec::new();
    std::future::poll_fn(|context| {
        waiting.retain_mut(|write| match write.as_mut().poll(context) {
            std::task::Poll::Ready(done) => {
                tasks.push(done);
                false
            }
            std::task::Poll::Pending => true,
        });
        if waiting.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    for done in tasks {
        good += u32::from(done.unwrap_or(false));
    }
    assert!(good >= 49, "{good} of 50 were written");
    assert!(store.execution(&mine("e49")).await?.is_some());
    Ok(())
}

pub async fn closing_writes_what_waits(store: &Store) -> Result<()> {
    let writes = (0..500).map(|n| store.insert_execution(new(&mine(&format!("e{n}")), 1)));
    let (answers, ()) = tokio::join!(futures_in_order(writes), async {
        tokio::task::yield_now().await;
        store.close().await;
    });
    assert_eq!(answers?.into_iter().filter(|written| *written).count(), 500);
    let late = store.insert_execution(new(&mine("late"), 1)).await;
    assert_eq!(late.expect_err("closed").kind, domain::Kind::Unavailable);
    Ok(())
}
