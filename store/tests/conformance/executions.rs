//! Executions: one outcome each, whatever the order of those who write.

use crate::world::{end, holder, json, key, mine, new, options, start, version};
use domain::{
    Result, Timestamp,
    execution::{
        Attempt, Caller, Failure, FailureCode, FailurePhase, Mode, Priority, Status, Usage,
    },
    id::InstanceId,
};
use std::collections::BTreeMap;
use store::{
    Store,
    executions::{Execution, Filter, Key, Progress},
};

pub async fn look(store: &Store, key: &Key) -> Result<Execution> {
    Ok(store.execution(key).await?.expect("there is such a row"))
}

pub async fn inserted_once_and_read_back(store: &Store) -> Result<()> {
    let key = mine("e1");
    let mut sent = new(&key, 1_000);
    sent.mode = Mode::Sync;
    sent.priority = Priority::High;
    sent.body_digest = Some("d1".into());
    sent.options = options(Mode::Sync);
    sent.caller = Caller {
        user_id: Some("u".into()),
        session_id: Some("s".into()),
        request_id: Some("r".into()),
        metadata: serde_json::from_str(r#"{"k": [1, null]}"#).expect("an object"),
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            .parse()
            .ok(),
        tracestate: Some("a=1".into()),
    };
    sent.input = json("{\"x\":  1}");
    assert!(store.insert_execution(sent.clone()).await?);
    let mut other = sent.clone();
    other.input = json("2");
    assert!(!store.insert_execution(other).await?, "the id is taken");

    let got = look(store, &key).await?;
    assert_eq!(
        (got.status, got.mode, got.priority),
        (Status::Queued, Mode::Sync, Priority::High)
    );
    assert_eq!((&got.caller, &got.options), (&sent.caller, &sent.options));
    assert_eq!(
        (got.accepted_at, got.due_at),
        (Timestamp(1_000), Timestamp(1_000))
    );
    assert_eq!((got.attempt, got.losses, got.attempts.len()), (0, 0, 0));
    assert_eq!(got.body_digest.as_deref(), Some("d1"));
    assert_eq!(got.version_id, version(1));
    assert!(got.started_at.is_none() && got.completed_at.is_none() && got.output.is_none());
    assert!(got.duration_ms.is_none() && got.progress.is_none() && got.node_id.is_none());
    let input = store.execution_input(&key).await?.expect("an input");
    assert_eq!(input.get(), "{\"x\":  1}", "byte for byte");
    assert!(store.execution(&mine("none")).await?.is_none());
    assert!(store.execution_input(&mine("none")).await?.is_none());
    Ok(())
}

pub async fn a_start_is_taken_once(store: &Store) -> Result<()> {
    let key = mine("e1");
    assert!(
        !store.start_execution(start(&key, 1, 5)).await?,
        "no such row"
    );
    store.insert_execution(new(&key, 1)).await?;
    assert!(
        !store.start_execution(start(&key, 2, 5)).await?,
        "out of turn"
    );
    assert!(store.start_execution(start(&key, 1, 5)).await?);
    assert!(
        !store.start_execution(start(&key, 1, 6)).await?,
        "another began it"
    );
    let got = look(store, &key).await?;
    assert_eq!(
        (got.status, got.attempt, got.started_at),
        (Status::Running, 1, Some(Timestamp(5)))
    );
    assert_eq!(got.node_id, Some(holder(1).node_id));
    assert_eq!(got.boot_id, Some(holder(1).boot_id));
    Ok(())
}

pub async fn an_end_is_recorded_once(store: &Store) -> Result<()> {
    let key = mine("e1");
    store.insert_execution(new(&key, 1)).await?;
    store.start_execution(start(&key, 1, 5)).await?;
    let instance = InstanceId::from_uuid(uuid::Uuid::from_u128(9));
    let mut failure = Failure::new(FailureCode::HandlerRaised, FailurePhase::Handler, "bo\"om");
    failure.traceback = Some("Traceback…\n  line".into());
    let mut sent = end(&key, 1, Status::Failed, 50);
    sent.attempts = vec![Attempt {
        attempt: 1,
        started_at: Timestamp(5),
        completed_at: Some(Timestamp(50)),
        node_id: Some(holder(1).node_id),
        instance_id: Some(instance.clone()),
        error: Some(failure.clone()),
    }];
    sent.instance_id = Some(instance.clone());
    sent.error = Some(failure);
    sent.duration_ms = 12.75;
    sent.usage = Usage {
        cpu_ms: Some(3.0),
        memory_peak_mb: Some(31.5),
        tokens: Some(77),
        metrics: BTreeMap::from([("quality".to_owned(), 0.5)]),
        logs_dropped: 4,
    };
    assert!(store.end_execution(sent.clone()).await?);
    assert!(
        !store
            .end_execution(end(&key, 1, Status::Completed, 60))
            .await?
    );
    assert!(
        !store
            .end_execution(end(&key, 2, Status::Completed, 60))
            .await?
    );
    assert!(!store.start_execution(start(&key, 2, 70)).await?);
    let got = look(store, &key).await?;
    assert_eq!(
        (got.status, got.completed_at, got.started_at),
        (Status::Failed, Some(Timestamp(50)), Some(Timestamp(45)))
    );
    assert_eq!((&got.attempts, &got.error), (&sent.attempts, &sent.error));
    assert_eq!(
        (got.duration_ms, got.queue_ms, got.instance_id),
        (Some(12.75), Some(0.5), Some(instance))
    );
    assert_eq!(got.usage, sent.usage);
    assert!(got.output.is_none());
    Ok(())
}

/// A sync call is ended by the write that answers it.
pub async fn an_end_without_a_start_is_an_end(store: &Store) -> Result<()> {
    let key = mine("e1");
    assert!(
        !store
            .end_execution(end(&key, 1, Status::Completed, 9))
            .await?,
        "no row yet"
    );
    store.insert_execution(new(&key, 1)).await?;
    assert!(
        store
            .end_execution(end(&key, 1, Status::Completed, 9))
            .await?
    );
    let got = look(store, &key).await?;
    assert_eq!(
        (got.status, got.attempt, got.completed_at),
        (Status::Completed, 1, Some(Timestamp(9)))
    );
    assert_eq!(got.output.expect("an output").get(), "42");
    Ok(())
}

pub async fn a_later_attempt_wins(store: &Store) -> Result<()> {
    let key = mine("e1");
    store.insert_execution(new(&key, 1)).await?;
    store.start_execution(start(&key, 1, 2)).await?;
    store
        .lose_execution(&key, 1, &[], Timestamp(3))
        .await?
        .then_some(())
        .expect("running");
    assert!(store.start_execution(start(&key, 2, 4)).await?);
    assert!(
        !store
            .end_execution(end(&key, 1, Status::Completed, 9))
            .await?,
        "the first attempt was given up"
    );
    assert!(
        store
            .end_execution(end(&key, 2, Status::Completed, 10))
            .await?
    );
    assert_eq!(look(store, &key).await?.completed_at, Some(Timestamp(10)));
    Ok(())
}

pub async fn again_is_queued_until_it_is_due(store: &Store) -> Result<()> {
    let key = mine("e1");
    store.insert_execution(new(&key, 1)).await?;
    store.start_execution(start(&key, 1, 2)).await?;
    let mut again = end(&key, 1, Status::Queued, 500);
    again.error = Some(Failure::new(
        FailureCode::HandlerRaised,
        FailurePhase::Handler,
        "x",
    ));
    assert!(store.end_execution(again).await?);
    let got = look(store, &key).await?;
    assert_eq!(
        (got.status, got.attempt, got.due_at, got.completed_at),
        (Status::Queued, 1, Timestamp(500), None)
    );
    assert!(
        store
            .unfinished_executions(Timestamp(500), 10)
            .await?
            .is_empty()
    );
    assert_eq!(
        store.unfinished_executions(Timestamp(501), 10).await?.len(),
        1
    );
    assert!(store.start_execution(start(&key, 2, 501)).await?);
    assert!(
        store
            .end_execution(end(&key, 2, Status::Completed, 502))
            .await?
    );
    let got = look(store, &key).await?;
    assert!(got.error.is_none(), "the outcome is the last attempt's");
    Ok(())
}

pub async fn a_loss_counts_and_queues(store: &Store) -> Result<()> {
    let key = mine("e1");
    store.insert_execution(new(&key, 1)).await?;
    assert!(
        !store.lose_execution(&key, 0, &[], Timestamp(9)).await?,
        "nobody runs it"
    );
    store.start_execution(start(&key, 1, 2)).await?;
    assert!(!store.lose_execution(&key, 2, &[], Timestamp(9)).await?);
    let attempts = [Attempt {
        attempt: 1,
        started_at: Timestamp(2),
        completed_at: Some(Timestamp(9)),
        node_id: None,
        instance_id: None,
        error: None,
    }];
    assert!(
        store
            .lose_execution(&key, 1, &attempts, Timestamp(9))
            .await?
    );
    assert!(
        !store
            .lose_execution(&key, 1, &attempts, Timestamp(9))
            .await?
    );
    let got = look(store, &key).await?;
    assert_eq!(
        (got.status, got.attempt, got.losses, got.due_at),
        (Status::Queued, 1, 1, Timestamp(9))
    );
    assert_eq!(got.attempts, attempts);
    Ok(())
}

pub async fn only_the_queued_are_cancelled(store: &Store) -> Result<()> {
    let (queued, running) = (mine("queued"), mine("running"));
    let failure = Failure::new(FailureCode::Cancelled, FailurePhase::Spawn, "cancelled");
    for key in [&queued, &running] {
        store.insert_execution(new(key, 1)).await?;
    }
    store.start_execution(start(&running, 1, 2)).await?;
    assert!(
        !store
            .cancel_queued_execution(&running, &failure, Timestamp(5))
            .await?
    );
    assert!(
        store
            .cancel_queued_execution(&queued, &failure, Timestamp(5))
            .await?
    );
    assert!(
        !store
            .cancel_queued_execution(&queued, &failure, Timestamp(6))
            .await?
    );
    let got = look(store, &queued).await?;
    assert_eq!(
        (got.status, got.completed_at, got.error),
        (Status::Cancelled, Some(Timestamp(5)), Some(failure))
    );
    assert!(!store.start_execution(start(&queued, 1, 9)).await?);
    Ok(())
}

pub async fn progress_only_of_the_running_attempt(store: &Store) -> Result<()> {
    let key = mine("e1");
    store.insert_execution(new(&key, 1)).await?;
    store.start_execution(start(&key, 1, 2)).await?;
    for (attempt, percent) in [(1, 30.0), (1, 55.5), (2, 99.0)] {
        store
            .note_progress(Progress {
                key: key.clone(),
                attempt,
                percent,
            })
            .await?;
    }
    // A later write of the same caller comes after.
    store.insert_execution(new(&mine("after"), 1)).await?;
    assert_eq!(look(store, &key).await?.progress, Some(55.5));
    Ok(())
}

pub async fn lists_filter_page_and_count(store: &Store) -> Result<()> {
    for n in 0..25_i64 {
        let key = mine(&format!("e{n:02}"));
        // Five of one millisecond each: pages must not depend on time alone.
        let mut execution = new(&key, 1_000 + n / 5);
        execution.caller.session_id = Some(if n % 2 == 0 { "even" } else { "odd" }.into());
        store.insert_execution(execution).await?;
        if n % 5 == 0 {
            store
                .end_execution(end(&key, 1, Status::Completed, 2_000))
                .await?;
        }
    }
    let (account, agent) = (mine("x").account, mine("x").agent_id);
    let mut seen = Vec::new();
    for page in 0..3 {
        let (rows, total) = store
            .executions(&account, &agent, &Filter::default(), page * 10, 10)
            .await?;
        assert_eq!(total, 25);
        seen.extend(rows.into_iter().map(|row| row.key.id.to_string()));
    }
    let expected: Vec<String> = (0..25).rev().map(|n| format!("e{n:02}")).collect();
    assert_eq!(seen, expected, "newest first, each once");
    let (rows, total) = store
        .executions(&account, &agent, &Filter::default(), 100, 10)
        .await?;
    assert_eq!((rows.len(), total), (0, 25), "past the end");

    let done = Filter {
        status: Some(Status::Completed),
        ..Filter::default()
    };
    let (rows, total) = store.executions(&account, &agent, &done, 0, 3).await?;
    assert_eq!((rows.len(), total), (3, 5));
    let both = Filter {
        status: Some(Status::Completed),
        session_id: Some("even".into()),
        ..Filter::default()
    };
    assert_eq!(store.executions(&account, &agent, &both, 0, 10).await?.1, 3);
    let window = Filter {
        from: Some(Timestamp(1_001)),
        to: Some(Timestamp(1_003)),
        ..Filter::default()
    };
    let (rows, total) = store.executions(&account, &agent, &window, 0, 50).await?;
    assert_eq!((rows.len(), total), (10, 10), "half open");
    let session = Filter {
        session_id: Some("' OR 1=1 --".into()),
        ..Filter::default()
    };
    assert_eq!(
        store.executions(&account, &agent, &session, 0, 10).await?.1,
        0
    );
    Ok(())
}

pub async fn unfinished_by_due_time_and_no_others(store: &Store) -> Result<()> {
    for n in 0..6_i64 {
        let key = mine(&format!("e{n}"));
        store.insert_execution(new(&key, 100 - n)).await?;
    }
    store.start_execution(start(&mine("e1"), 1, 101)).await?;
    store
        .end_execution(end(&mine("e2"), 1, Status::Failed, 101))
        .await?;
    let failure = Failure::new(FailureCode::Cancelled, FailurePhase::Spawn, "c");
    store
        .cancel_queued_execution(&mine("e3"), &failure, Timestamp(101))
        .await?;
    let ids = |rows: Vec<Execution>| {
        rows.iter()
            .map(|row| row.key.id.to_string())
            .collect::<Vec<_>>()
    };
    let due = store.unfinished_executions(Timestamp(100), 10).await?;
    assert_eq!(ids(due), ["e5", "e4", "e1"], "due before 100, oldest first");
    assert_eq!(
        ids(store.unfinished_executions(Timestamp(101), 2).await?),
        ["e5", "e4"]
    );
    Ok(())
}

pub async fn purge_takes_the_old_in_slices(store: &Store) -> Result<()> {
    for n in 0..10_i64 {
        let key = mine(&format!("e{n}"));
        store.insert_execution(new(&key, 1)).await?;
        store
            .end_execution(end(&key, 1, Status::Completed, 100 + n))
            .await?;
    }
    store.insert_execution(new(&mine("open"), 1)).await?;
    assert_eq!(store.purge_executions(Timestamp(107), 5).await?, 5);
    assert!(
        store.execution(&mine("e4")).await?.is_none(),
        "the oldest first"
    );
    assert!(store.execution(&mine("e5")).await?.is_some());
    assert_eq!(store.purge_executions(Timestamp(107), 5).await?, 2);
    assert_eq!(store.purge_executions(Timestamp(107), 5).await?, 0);
    let (rows, total) = store
        .executions(
            &mine("x").account,
            &mine("x").agent_id,
            &Filter::default(),
            0,
            50,
        )
        .await?;
    assert_eq!(
        (rows.len(), total),
        (4, 4),
        "three that are young and one that is open"
    );
    Ok(())
}

/// What a hostile or only foreign caller may write: quotes, other alphabets, escaped NUL, what looks like parameters.
pub async fn every_text_comes_back_as_it_went(store: &Store) -> Result<()> {
    let texts = [
        "it's \"quoted\" \\ $1 ? %s {} ; DROP TABLE executions; --",
        "에이전트 🦀\u{10FFFF} e\u{301}",
        "tab\tline\nreturn\r",
        "{\"routes\":[]}",
    ];
    for (n, text) in texts.iter().enumerate() {
        let key = mine(&format!("e{n}"));
        let quoted = serde_json::to_string(text).expect("JSON");
        let mut sent = new(&key, 1);
        sent.caller.session_id = Some((*text).to_owned());
        sent.input = json(&quoted);
        store.insert_execution(sent).await?;
        let mut done = end(&key, 1, Status::Completed, 5);
        done.output = Some(json(&quoted));
        done.error = Some(Failure::new(
            FailureCode::HandlerRaised,
            FailurePhase::Handler,
            *text,
        ));
        store.end_execution(done).await?;
        let got = look(store, &key).await?;
        assert_eq!(got.caller.session_id.as_deref(), Some(*text));
        assert_eq!(got.output.expect("an output").get(), quoted);
        assert_eq!(got.error.expect("an error").message, *text);
        assert_eq!(
            store.execution_input(&key).await?.expect("an input").get(),
            quoted
        );
        let filter = Filter {
            session_id: Some((*text).to_owned()),
            ..Filter::default()
        };
        assert_eq!(
            store
                .executions(&key.account, &key.agent_id, &filter, 0, 9)
                .await?
                .1,
            1
        );
    }
    // JSON writes NUL as an escape; it stays one.
    let key = mine("nul");
    let mut sent = new(&key, 1);
    sent.input = json("\"a\\u0000b\"");
    sent.caller.user_id = Some("a\0b".into());
    store.insert_execution(sent).await?;
    let mut done = end(&key, 1, Status::Completed, 5);
    done.output = Some(json("\"\\u0000\""));
    store.end_execution(done).await?;
    let got = look(store, &key).await?;
    assert_eq!(got.caller.user_id.as_deref(), Some("a\0b"));
    assert_eq!(got.output.expect("an output").get(), "\"\\u0000\"");
    Ok(())
}

pub async fn a_megabyte_comes_back(store: &Store) -> Result<()> {
    let key = mine("e1");
    let text = format!("\"{}\"", "é".repeat(512 * 1024));
    let mut sent = new(&key, 1);
    sent.input = json(&text);
    store.insert_execution(sent).await?;
    let mut done = end(&key, 1, Status::Completed, 5);
    done.output = Some(json(&text));
    assert!(store.end_execution(done).await?);
    assert_eq!(
        look(store, &key).await?.output.expect("an output").get(),
        text
    );
    assert_eq!(
        store.execution_input(&key).await?.expect("an input").get(),
        text
    );
    Ok(())
}

pub async fn accounts_do_not_meet(store: &Store) -> Result<()> {
    let keys = [
        key("a", "echo", "e1"),
        key("b", "echo", "e1"),
        key("a", "other", "e1"),
    ];
    for (n, key) in keys.iter().enumerate() {
        let mut sent = new(key, 1);
        sent.input = json(&n.to_string());
        assert!(
            store.insert_execution(sent).await?,
            "the same id elsewhere is another execution"
        );
    }
    assert!(store.start_execution(start(&keys[0], 1, 2)).await?);
    assert!(
        store
            .end_execution(end(&keys[0], 1, Status::Completed, 3))
            .await?
    );
    for key in &keys[1..] {
        assert_eq!(look(store, key).await?.status, Status::Queued);
        assert_eq!(
            store
                .executions(&key.account, &key.agent_id, &Filter::default(), 0, 9)
                .await?
                .1,
            1
        );
    }
    assert_eq!(
        store
            .execution_input(&keys[1])
            .await?
            .expect("an input")
            .get(),
        "1"
    );
    let failure = Failure::new(FailureCode::Cancelled, FailurePhase::Spawn, "c");
    assert!(
        store
            .cancel_queued_execution(&keys[1], &failure, Timestamp(9))
            .await?
    );
    assert_eq!(look(store, &keys[2]).await?.status, Status::Queued);
    Ok(())
}
