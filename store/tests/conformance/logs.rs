//! Lines that agents wrote.

use crate::world::{account, agent, key, mine};
use domain::{
    Result, Timestamp,
    log::{Level, Line},
};
use store::{Store, executions::Key, logs::Entry};

fn entry(key: &Key, seq: i64, at: i64, message: &str) -> Entry {
    Entry {
        account: key.account.clone(),
        agent_id: key.agent_id.clone(),
        execution_id: Some(key.id.clone()),
        seq,
        line: Line {
            timestamp: Timestamp(at),
            level: Level::Warn,
            message: message.to_owned(),
            context: None,
        },
    }
}

pub async fn lines_in_order_from_where_one_stopped(store: &Store) -> Result<()> {
    store.append_logs(Vec::new()).await?;
    let mine = mine("e1");
    // More than one statement of them, out of order.
    let lines = (0..1200)
        .rev()
        .map(|n| entry(&mine, n, 50 - n / 100, &format!("line {n}")));
    store.append_logs(lines.collect()).await?;
    let mut odd = entry(&mine, 1200, 60, "a\0b '\"$1 🦀");
    odd.line.context = Some(serde_json::json!({"k": "x\0y", "n": 1}));
    store.append_logs(vec![odd]).await?;
    store.flush().await;
    let first = store.execution_logs(&mine, -1, 500).await?;
    assert_eq!(first.len(), 500);
    let rest = store.execution_logs(&mine, first[499].seq, 5000).await?;
    let seqs: Vec<i64> = first.iter().chain(&rest).map(|kept| kept.seq).collect();
    assert_eq!(seqs, (0..=1200).collect::<Vec<_>>());
    assert_eq!(first[7].line.message, "line 7");
    let odd = &rest[rest.len() - 1].line;
    assert_eq!(odd.message, "a\u{FFFD}b '\"$1 🦀");
    assert_eq!(
        odd.context,
        Some(serde_json::json!({"k": "x\u{FFFD}y", "n": 1}))
    );
    assert_eq!((odd.level, odd.timestamp), (Level::Warn, Timestamp(60)));
    Ok(())
}

pub async fn an_agents_newest_lines(store: &Store) -> Result<()> {
    let (one, two) = (mine("e1"), mine("e2"));
    let mut outside = entry(&one, 0, 25, "outside");
    outside.execution_id = None;
    store
        .append_logs(vec![
            entry(&one, 0, 10, "a"),
            entry(&two, 0, 20, "b"),
            outside,
            entry(&one, 1, 30, "c"),
        ])
        .await?;
    store.flush().await;
    let lines = store
        .agent_logs(&account("a"), &agent("echo"), Timestamp(20), 2)
        .await?;
    let seen: Vec<_> = lines
        .iter()
        .map(|kept| (kept.line.message.as_str(), kept.execution_id.is_some()))
        .collect();
    assert_eq!(
        seen,
        [("outside", false), ("c", true)],
        "the newest two, oldest first"
    );
    assert_eq!(
        store
            .agent_logs(&account("a"), &agent("echo"), Timestamp(20), 9)
            .await?
            .len(),
        3
    );
    assert_eq!(store.count_logs(Timestamp(10), Timestamp(30)).await?, 3);
    Ok(())
}

pub async fn purged_by_age_in_slices(store: &Store) -> Result<()> {
    let mine = mine("e1");
    let lines = (0..100).map(|n| entry(&mine, n, n / 2, "x"));
    store.append_logs(lines.collect()).await?;
    store.flush().await;
    let gone = store.purge_logs(Timestamp(40), 20).await?;
    assert!((20..=22).contains(&gone), "{gone}");
    let mut rest = 0;
    loop {
        let more = store.purge_logs(Timestamp(40), 20).await?;
        rest += more;
        if more == 0 {
            break;
        }
    }
    assert_eq!(gone + rest, 80);
    assert_eq!(store.execution_logs(&mine, -1, 500).await?.len(), 20);
    Ok(())
}

pub async fn lines_of_other_accounts_stay_there(store: &Store) -> Result<()> {
    let (ours, theirs) = (key("a", "echo", "e1"), key("b", "echo", "e1"));
    store
        .append_logs(vec![
            entry(&ours, 0, 1, "ours"),
            entry(&theirs, 0, 1, "theirs"),
        ])
        .await?;
    store.flush().await;
    let lines = store.execution_logs(&ours, -1, 9).await?;
    assert_eq!((lines.len(), lines[0].line.message.as_str()), (1, "ours"));
    assert_eq!(
        store
            .agent_logs(&account("b"), &agent("echo"), Timestamp(0), 9)
            .await?
            .len(),
        1
    );
    Ok(())
}
