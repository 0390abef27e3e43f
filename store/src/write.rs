//! Group commit for what every execution writes: one task takes what has queued and commits it together.
//!
//! Nobody sleeps to fill a batch: while one commits, the next collects. Within a batch, inserts come before starts, starts
//! before ends, ends before log lines; a caller that needs an order between batches waits for its answer.

use crate::{
    db::{Db, failed},
    executions::{End, New, Progress, Start},
    logs::Entry,
};
use domain::{Error, Result};
use std::{collections::HashSet, sync::Arc};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

/// Writes that may wait; over that, callers wait to hand theirs in.
const QUEUE: usize = 16_384;
/// Writes in one commit.
const BATCH: usize = 512;
/// Rows in one statement: 500 rows of 22 columns stay below what both engines can bind (32,766).
const ROWS: usize = 500;

pub(crate) type Answer = oneshot::Sender<Result<bool>>;

pub(crate) enum Op {
    Insert(Box<New>, Answer),
    Start(Box<Start>, Answer),
    End(Box<End>, Answer),
    Progress(Progress),
    Logs(Vec<Entry>),
    Flush(oneshot::Sender<()>),
}

#[derive(Clone)]
pub(crate) struct Writer {
    ops: mpsc::Sender<Op>,
    _task: Arc<JoinSet<()>>,
}

impl Writer {
    pub fn start(db: Db) -> Self {
        let (ops, receiver) = mpsc::channel(QUEUE);
        let mut task = JoinSet::new();
        task.spawn(run(db, receiver));
        Self {
            ops,
            _task: Arc::new(task),
        }
    }

    pub async fn send(&self, op: Op) -> Result<()> {
        self.ops
            .send(op)
            .await
            .map_err(|_| Error::unavailable("the database is closed"))
    }

    /// Hands `op` in and waits until it is committed: whether it changed a row.
    pub async fn write(&self, op: impl FnOnce(Answer) -> Op) -> Result<bool> {
        let (answer, answered) = oneshot::channel();
        self.send(op(answer)).await?;
        answered
            .await
            .map_err(|_| Error::unavailable("the database is closed"))?
    }

    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.send(Op::Flush(done)).await.is_ok() {
            // An error means that the writer is gone, and with it everything that could be flushed.
            flushed.await.ok();
        }
    }
}

#[derive(Default)]
struct Batch {
    inserts: Vec<(Box<New>, Answer)>,
    starts: Vec<(Box<Start>, Answer)>,
    ends: Vec<(Box<End>, Answer)>,
    progress: Vec<Progress>,
    logs: Vec<Entry>,
    flushes: Vec<oneshot::Sender<()>>,
}

impl Batch {
    fn add(&mut self, op: Op) {
        match op {
            Op::Insert(new, answer) => self.inserts.push((new, answer)),
            Op::Start(start, answer) => self.starts.push((start, answer)),
            Op::End(end, answer) => self.ends.push((end, answer)),
            Op::Progress(progress) => self.progress.push(progress),
            Op::Logs(entries) => self.logs.extend(entries),
            Op::Flush(done) => self.flushes.push(done),
        }
    }

    fn statements(&self) -> usize {
        let some = |n: usize| n.div_ceil(ROWS);
        some(self.inserts.len())
            + some(self.starts.len())
            + some(self.ends.len())
            + some(self.logs.len())
            + self.progress.len()
    }
}

async fn run(db: Db, mut ops: mpsc::Receiver<Op>) {
    let mut waiting = Vec::with_capacity(BATCH);
    while ops.recv_many(&mut waiting, BATCH).await > 0 {
        let mut batch = Batch::default();
        for op in waiting.drain(..) {
            batch.add(op);
        }
        let changed = commit(&db, &batch).await;
        if let Err(error) = &changed {
            tracing::error!(error = ?error, rows = batch.inserts.len() + batch.ends.len(), "a batch of writes was not committed");
        }
        answer(batch, changed);
    }
}

/// Which of a batch's rows were changed, by their place in it.
#[derive(Default)]
struct Changed {
    inserts: HashSet<usize>,
    starts: HashSet<usize>,
    ends: HashSet<usize>,
}

fn answer(batch: Batch, changed: Result<Changed>) {
    let say = |answers: Vec<Answer>, of: fn(&Changed) -> &HashSet<usize>| {
        for (at, answer) in answers.into_iter().enumerate() {
            // A caller that is gone needs no answer.
            answer
                .send(
                    changed
                        .as_ref()
                        .map(|changed| of(changed).contains(&at))
                        .map_err(Clone::clone),
                )
                .ok();
        }
    };
    say(
        batch
            .inserts
            .into_iter()
            .map(|(_, answer)| answer)
            .collect(),
        |changed| &changed.inserts,
    );
    say(
        batch.starts.into_iter().map(|(_, answer)| answer).collect(),
        |changed| &changed.starts,
    );
    say(
        batch.ends.into_iter().map(|(_, answer)| answer).collect(),
        |changed| &changed.ends,
    );
    for done in batch.flushes {
        done.send(()).ok();
    }
}

/// The statements of a batch on one connection.
macro_rules! apply {
    ($connection:expr, $batch:expr) => {{
        let mut changed = Changed::default();
        for (index, chunk) in $batch.inserts.chunks(ROWS).enumerate() {
            let mut query = New::statement(chunk.iter().map(|(new, _)| new.as_ref()));
            let rows = query
                .build_query_as::<(String, String, String)>()
                .persistent(chunk.len() == 1)
                .fetch_all(&mut *$connection)
                .await?;
            note(
                &mut changed.inserts,
                index,
                rows,
                chunk.iter().map(|(new, _)| new.key.words()),
            );
        }
        for (index, chunk) in $batch.starts.chunks(ROWS).enumerate() {
            let mut query = Start::statement(chunk.iter().map(|(start, _)| start.as_ref()));
            let rows = query
                .build_query_as::<(String, String, String)>()
                .persistent(chunk.len() == 1)
                .fetch_all(&mut *$connection)
                .await?;
            note(
                &mut changed.starts,
                index,
                rows,
                chunk.iter().map(|(start, _)| start.key.words()),
            );
        }
        for (index, chunk) in $batch.ends.chunks(ROWS).enumerate() {
            let mut query = End::statement(chunk.iter().map(|(end, _)| end.as_ref()));
            let rows = query
                .build_query_as::<(String, String, String)>()
                .persistent(chunk.len() == 1)
                .fetch_all(&mut *$connection)
                .await?;
            note(
                &mut changed.ends,
                index,
                rows,
                chunk.iter().map(|(end, _)| end.key.words()),
            );
        }
        for progress in &$batch.progress {
            progress
                .statement()
                .build()
                .execute(&mut *$connection)
                .await?;
        }
        for chunk in $batch.logs.chunks(ROWS) {
            Entry::statement(chunk)
                .build()
                .persistent(false)
                .execute(&mut *$connection)
                .await?;
        }
        changed
    }};
}

async fn commit(db: &Db, batch: &Batch) -> Result<Changed> {
    match db {
        Db::Lite { write, .. } => commit_lite(write, batch).await,
        Db::Pg(pool) => commit_pg(pool, batch).await,
    }
    .map_err(failed)
}

async fn commit_lite(pool: &sqlx::SqlitePool, batch: &Batch) -> Result<Changed, sqlx::Error> {
    // One statement is a transaction of its own: two calls less on the path of a lone execution.
    if batch.statements() <= 1 {
        let mut connection = pool.acquire().await?;
        return Ok(apply!(connection, batch));
    }
    let mut transaction = pool.begin().await?;
    let changed = apply!(transaction, batch);
    transaction.commit().await?;
    Ok(changed)
}

async fn commit_pg(pool: &sqlx::PgPool, batch: &Batch) -> Result<Changed, sqlx::Error> {
    if batch.statements() <= 1 {
        let mut connection = pool.acquire().await?;
        return Ok(apply!(connection, batch));
    }
    let mut transaction = pool.begin().await?;
    let changed = apply!(transaction, batch);
    transaction.commit().await?;
    Ok(changed)
}

/// Marks the first place in the batch of every key that came back. A key that stands twice in one batch counts once: the
/// second writer of the same row lost.
fn note<'a>(
    into: &mut HashSet<usize>,
    chunk: usize,
    rows: Vec<(String, String, String)>,
    keys: impl Iterator<Item = (&'a str, &'a str, &'a str)>,
) {
    let mut rows: HashSet<(String, String, String)> = rows.into_iter().collect();
    for (at, key) in keys.enumerate() {
        if rows.is_empty() {
            break;
        }
        let key = (key.0.to_owned(), key.1.to_owned(), key.2.to_owned());
        if rows.remove(&key) {
            into.insert(chunk * ROWS + at);
        }
    }
}
