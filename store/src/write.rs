//! Group commit for what every execution writes: one task takes what has queued and commits it together.
//!
//! Nobody sleeps to fill a batch: while one commits, the next collects. Within a batch, inserts come before starts, starts
//! before ends, ends before log lines; a caller that needs an order between batches waits for its answer. A batch that the
//! database refuses is written again one by one, so that nobody fails for what another one wrote.

use crate::{
    db::{Db, failed},
    executions::{End, New, Progress, Start},
    logs::Entry,
};
use domain::{Error, Kind, Result};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
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

    fn len(&self) -> usize {
        self.inserts.len()
            + self.starts.len()
            + self.ends.len()
            + self.progress.len()
            + self.logs.len()
    }

    /// The same writes in the same order, each alone.
    fn apart(self) -> impl Iterator<Item = Self> {
        let inserts = self.inserts.into_iter().map(|one| Self {
            inserts: vec![one],
            ..Self::default()
        });
        let starts = self.starts.into_iter().map(|one| Self {
            starts: vec![one],
            ..Self::default()
        });
        let ends = self.ends.into_iter().map(|one| Self {
            ends: vec![one],
            ..Self::default()
        });
        let progress = self.progress.into_iter().map(|one| Self {
            progress: vec![one],
            ..Self::default()
        });
        let logs = self.logs.into_iter().map(|one| Self {
            logs: vec![one],
            ..Self::default()
        });
        let flushes = std::iter::once(Self {
            flushes: self.flushes,
            ..Self::default()
        });
        inserts
            .chain(starts)
            .chain(ends)
            .chain(progress)
            .chain(logs)
            .chain(flushes)
    }
}

async fn run(db: Db, mut ops: mpsc::Receiver<Op>) {
    let mut waiting = Vec::with_capacity(BATCH);
    while ops.recv_many(&mut waiting, BATCH).await > 0 {
        let mut batch = Batch::default();
        for op in waiting.drain(..) {
            batch.add(op);
        }
        match commit(&db, &batch).await {
            // Refused as a whole: one row is bad, or two processes locked the same rows. A database that is gone is not asked
            // again: every caller decides for itself.
            Err(error) if error.kind == Kind::Internal && batch.len() > 1 => {
                tracing::warn!(error = ?error, writes = batch.len(), "a batch of writes was refused and is written one by one");
                for one in batch.apart() {
                    let changed = commit(&db, &one).await;
                    finish(one, changed);
                }
            }
            changed => finish(batch, changed),
        }
    }
}

fn finish(batch: Batch, changed: Result<Changed>) {
    if let Err(error) = &changed {
        tracing::error!(error = ?error, writes = batch.len(), "a batch of writes was not committed");
    }
    answer(batch, &changed);
}

/// Which of a batch's rows were changed, by their place in it.
#[derive(Default)]
struct Changed {
    inserts: HashSet<usize>,
    starts: HashSet<usize>,
    ends: HashSet<usize>,
}

fn answer(batch: Batch, changed: &Result<Changed>) {
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

/// Runs one kind of a batch's keyed writes: statements of at most [`ROWS`] rows, no key twice in one of them.
macro_rules! keyed {
    ($connection:expr, $writes:expr, $kind:ident, $changed:expr) => {
        for round in rounds($writes.iter().map(|(write, _)| write.key.words())) {
            for places in round.chunks(ROWS) {
                let mut query = $kind::statement(places.iter().map(|at| $writes[*at].0.as_ref()));
                let rows = query
                    .build_query_as::<(String, String, String)>()
                    .persistent(places.len() == 1)
                    .fetch_all(&mut *$connection)
                    .await?;
                let rows: HashSet<(String, String, String)> = rows.into_iter().collect();
                $changed.extend(places.iter().filter(|at| {
                    let key = $writes[**at].0.key.words();
                    rows.contains(&(key.0.to_owned(), key.1.to_owned(), key.2.to_owned()))
                }));
            }
        }
    };
}

/// The statements of a batch on one connection.
macro_rules! apply {
    ($connection:expr, $batch:expr) => {{
        let mut changed = Changed::default();
        keyed!($connection, $batch.inserts, New, changed.inserts);
        keyed!($connection, $batch.starts, Start, changed.starts);
        keyed!($connection, $batch.ends, End, changed.ends);
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
    // One write is a transaction of its own: two calls less on the path of a lone execution.
    if batch.len() <= 1 {
        let mut connection = pool.acquire().await?;
        return Ok(apply!(connection, batch));
    }
    let mut transaction = pool.begin().await?;
    let changed = apply!(transaction, batch);
    transaction.commit().await?;
    Ok(changed)
}

async fn commit_pg(pool: &sqlx::PgPool, batch: &Batch) -> Result<Changed, sqlx::Error> {
    if batch.len() <= 1 {
        let mut connection = pool.acquire().await?;
        return Ok(apply!(connection, batch));
    }
    let mut transaction = pool.begin().await?;
    let changed = apply!(transaction, batch);
    transaction.commit().await?;
    Ok(changed)
}

/// The places of a batch in rounds, no key twice in one round: a statement cannot write one row twice, and which of two
/// writers wins is for their order to say.
fn rounds<'a>(keys: impl Iterator<Item = (&'a str, &'a str, &'a str)>) -> Vec<Vec<usize>> {
    let mut seen: HashMap<(&str, &str, &str), usize> = HashMap::new();
    let mut rounds: Vec<Vec<usize>> = Vec::new();
    for (at, key) in keys.enumerate() {
        let times = seen.entry(key).or_default();
        if rounds.len() == *times {
            rounds.push(Vec::new());
        }
        rounds[*times].push(at);
        *times += 1;
    }
    rounds
}
