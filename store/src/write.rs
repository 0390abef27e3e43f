//! Group commit for what every execution writes: one task takes what has queued and commits it together.
//!
//! Nobody sleeps to fill a batch: while one commits, the next collects. Within a batch, inserts come before starts, starts
//! before ends, ends before withdrawals, these before log lines; a caller that needs an order between batches waits for its answer. A batch that the
//! database refuses is written again one by one, so that nobody fails for what another one wrote.

use crate::{
    db::{Db, failed},
    executions::{End, Key, New, Progress, Start, Withdraw, statements},
    logs::Entry,
    meter::Counts,
};
use domain::{Error, Kind, Result};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

/// Writes that may wait; over that, callers wait to hand theirs in.
const QUEUE: usize = 16_384;
/// Writes in one commit.
const BATCH: usize = 512;
/// Rows in one statement: 500 rows of 30 columns stay below what both engines can bind (32,766).
const ROWS: usize = 500;

pub(crate) type Answer = oneshot::Sender<Result<bool>>;

pub(crate) enum Op {
    Insert(Box<New>, Answer),
    Start(Box<Start>, Answer),
    End(Box<End>, Answer),
    Withdraw(Box<Withdraw>, Answer),
    Progress(Progress),
    Logs(Vec<Entry>),
    Flush(oneshot::Sender<()>),
}

#[derive(Clone)]
pub(crate) struct Writer {
    ops: mpsc::Sender<Op>,
    pub counts: Counts,
    _task: Arc<JoinSet<()>>,
}

impl Writer {
    pub fn start(db: Db) -> Self {
        let (ops, receiver) = mpsc::channel(QUEUE);
        let mut task = JoinSet::new();
        let counts = Counts::default();
        task.spawn(run(db, receiver, counts.clone()));
        Self {
            ops,
            counts,
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
        let begun = Instant::now();
        let (answer, answered) = oneshot::channel();
        self.send(op(answer)).await?;
        let answer = answered
            .await
            .map_err(|_| Error::unavailable("the database is closed"))?;
        self.counts.waited(begun.elapsed());
        answer
    }

    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.send(Op::Flush(done)).await.is_ok() {
            // An error means that the writer is gone, and with it everything that could be flushed.
            flushed.await.ok();
        }
    }
}

/// An execution that began and ended within one batch: one row is written once.
struct Whole {
    new: Box<New>,
    inserted: Answer,
    end: Box<End>,
    ended: Answer,
}

#[derive(Default)]
struct Batch {
    wholes: Vec<Whole>,
    inserts: Vec<(Box<New>, Answer)>,
    starts: Vec<(Box<Start>, Answer)>,
    ends: Vec<(Box<End>, Answer)>,
    withdrawals: Vec<(Box<Withdraw>, Answer)>,
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
            Op::Withdraw(withdraw, answer) => self.withdrawals.push((withdraw, answer)),
            Op::Progress(progress) => self.progress.push(progress),
            Op::Logs(entries) => self.logs.extend(entries),
            Op::Flush(done) => self.flushes.push(done),
        }
    }

    /// Brings inserts and ends of the same row together. A row whose id its caller chose may be there already, and one that is
    /// started in this batch has a state in between: both take the long way.
    fn join(&mut self) {
        if self.inserts.is_empty() || self.ends.is_empty() {
            return;
        }
        let started: HashSet<Key> = self
            .starts
            .iter()
            .map(|(start, _)| start.key.clone())
            .collect();
        let joins = |new: &New| new.body_digest.is_none() && !started.contains(&new.key);
        let mut fresh: HashMap<Key, (Box<New>, Answer)> = HashMap::new();
        for (new, answer) in std::mem::take(&mut self.inserts) {
            if joins(&new) && !fresh.contains_key(&new.key) {
                fresh.insert(new.key.clone(), (new, answer));
            } else {
                self.inserts.push((new, answer));
            }
        }
        for (end, ended) in std::mem::take(&mut self.ends) {
            match fresh.remove(&end.key).filter(|_| end.status.is_terminal()) {
                Some((new, inserted)) => self.wholes.push(Whole {
                    new,
                    inserted,
                    end,
                    ended,
                }),
                None => self.ends.push((end, ended)),
            }
        }
        self.inserts.extend(fresh.into_values());
    }

    fn len(&self) -> usize {
        self.wholes.len()
            + self.inserts.len()
            + self.starts.len()
            + self.ends.len()
            + self.withdrawals.len()
            + self.progress.len()
            + self.logs.len()
    }

    /// The same writes in the same order, each alone.
    fn apart(self) -> impl Iterator<Item = Self> {
        let wholes = self.wholes.into_iter().map(|one| Self {
            wholes: vec![one],
            ..Self::default()
        });
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
        let withdrawals = self.withdrawals.into_iter().map(|one| Self {
            withdrawals: vec![one],
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
        wholes
            .chain(inserts)
            .chain(starts)
            .chain(ends)
            .chain(withdrawals)
            .chain(progress)
            .chain(logs)
            .chain(flushes)
    }
}

async fn run(db: Db, mut ops: mpsc::Receiver<Op>, counts: Counts) {
    let mut waiting = Vec::with_capacity(BATCH);
    while ops.recv_many(&mut waiting, BATCH).await > 0 {
        let mut batch = Batch::default();
        for op in waiting.drain(..) {
            batch.add(op);
        }
        batch.join();
        let begun = Instant::now();
        let committed = commit(&db, &batch).await;
        let error = committed.as_ref().err().map(|error| error.kind);
        counts.committed(batch.len(), begun.elapsed(), error);
        match committed {
            // Refused as a whole: one row is bad, or two processes locked the same rows. A database that is gone is not asked
            // again: every caller decides for itself.
            Err(error) if error.kind == Kind::Internal && batch.len() > 1 => {
                tracing::warn!(error = ?error, writes = batch.len(), "a batch of writes was refused and is written one by one");
                for one in batch.apart() {
                    let changed = commit(&db, &one).await;
                    finish(one, &changed);
                }
            }
            changed => finish(batch, &changed),
        }
    }
}

fn finish(batch: Batch, changed: &Result<Changed>) {
    if let Err(error) = changed {
        if error.kind == Kind::Unavailable {
            tracing::warn!(error = ?error, writes = batch.len(), "a batch of writes was not committed");
        } else {
            tracing::error!(error = ?error, writes = batch.len(), "a batch of writes was not committed");
        }
    }
    answer(batch, changed);
}

/// Which of a batch's rows were changed, by their place in it.
#[derive(Default)]
struct Changed {
    wholes: HashSet<usize>,
    inserts: HashSet<usize>,
    starts: HashSet<usize>,
    ends: HashSet<usize>,
    withdrawals: HashSet<usize>,
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
    let (inserted, ended) = batch
        .wholes
        .into_iter()
        .map(|whole| (whole.inserted, whole.ended))
        .unzip();
    say(inserted, |changed| &changed.wholes);
    say(ended, |changed| &changed.wholes);
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
    say(
        batch
            .withdrawals
            .into_iter()
            .map(|(_, answer)| answer)
            .collect(),
        |changed| &changed.withdrawals,
    );
    for done in batch.flushes {
        done.send(()).ok();
    }
}

/// Runs one kind of a batch's keyed writes: statements of at most [`ROWS`] rows, no key twice in one of them.
macro_rules! keyed {
    ($connection:expr, $writes:expr, $statement:path, $one:ident => $key:expr, $row:expr, $changed:expr) => {
        for round in rounds($writes.iter().map(|$one| $key.words())) {
            for places in round.chunks(ROWS) {
                let mut query = $statement(places.iter().map(|at| &$writes[*at]).map(|$one| $row));
                let rows = query
                    .build_query_as::<(String, String, String)>()
                    .persistent(places.len() == 1)
                    .fetch_all(&mut *$connection)
                    .await?;
                let rows: HashSet<(String, String, String)> = rows.into_iter().collect();
                $changed.extend(places.iter().filter(|at| {
                    let $one = &$writes[**at];
                    let key = $key.words();
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
        keyed!($connection, $batch.wholes, statements::whole, one => one.new.key, (one.new.as_ref(), one.end.as_ref()), changed.wholes);
        keyed!($connection, $batch.inserts, New::statement, one => one.0.key, one.0.as_ref(), changed.inserts);
        keyed!($connection, $batch.starts, Start::statement, one => one.0.key, one.0.as_ref(), changed.starts);
        keyed!($connection, $batch.ends, End::statement, one => one.0.key, one.0.as_ref(), changed.ends);
        keyed!($connection, $batch.withdrawals, Withdraw::statement, one => one.0.key, one.0.as_ref(), changed.withdrawals);
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
