//! Group commit for what every execution writes: one task takes what has queued and commits it together.
//!
//! Nobody sleeps to fill a batch: while one commits, the next collects. Within a batch, inserts come before starts, starts
//! before ends, ends and records before withdrawals, these before log lines; a caller that needs an order between batches waits
//! for its answer. A batch that the database refuses is written again one by one, so that nobody fails for what another one
//! wrote. One commit is in hand at a time: by bench/run on two cores, three beside one another on Postgres made smaller batches
//! and a quarter less of executions a second.

mod connection;

use crate::{
    db::Db,
    executions::{End, New, Progress, Start, Withdraw},
    logs::Entry,
    meter::Counts,
};
#[cfg(test)]
pub(crate) use connection::BY_KEY;
use connection::Connection;
use domain::{Error, Kind, Result};
use std::{collections::HashSet, sync::Arc, time::Instant};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

/// Writes that may wait; over that, callers wait to hand theirs in.
const QUEUE: usize = 16_384;
/// Writes in one commit.
const BATCH: usize = 512;

pub(crate) type Answer = oneshot::Sender<Result<bool>>;

pub(crate) enum Op {
    Insert(Box<New>, Answer),
    Start(Box<Start>, Answer),
    End(Box<End>, Answer),
    Record(Box<(New, End)>, Answer),
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
        task.spawn(run(Connection::new(db), receiver, counts.clone()));
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

#[derive(Default)]
struct Batch {
    inserts: Vec<(Box<New>, Answer)>,
    starts: Vec<(Box<Start>, Answer)>,
    ends: Vec<(Box<End>, Answer)>,
    records: Vec<(Box<(New, End)>, Answer)>,
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
            Op::Record(record, answer) => self.records.push((record, answer)),
            Op::Withdraw(withdraw, answer) => self.withdrawals.push((withdraw, answer)),
            Op::Progress(progress) => self.progress.push(progress),
            Op::Logs(entries) => self.logs.extend(entries),
            Op::Flush(done) => self.flushes.push(done),
        }
    }

    fn len(&self) -> usize {
        self.inserts.len()
            + self.starts.len()
            + self.ends.len()
            + self.records.len()
            + self.withdrawals.len()
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
        let records = self.records.into_iter().map(|one| Self {
            records: vec![one],
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
        inserts
            .chain(starts)
            .chain(ends)
            .chain(records)
            .chain(withdrawals)
            .chain(progress)
            .chain(logs)
            .chain(flushes)
    }
}

async fn run(mut connection: Connection, mut ops: mpsc::Receiver<Op>, counts: Counts) {
    let mut waiting = Vec::with_capacity(BATCH);
    while ops.recv_many(&mut waiting, BATCH).await > 0 {
        let mut batch = Batch::default();
        for op in waiting.drain(..) {
            batch.add(op);
        }
        let begun = Instant::now();
        let committed = connection.commit(&batch).await;
        let error = committed.as_ref().err().map(|error| error.kind);
        counts.committed(batch.len(), begun.elapsed(), error);
        match committed {
            // Refused as a whole: one row is bad, or two processes locked the same rows. A database that is gone is not asked
            // again: every caller decides for itself.
            Err(error) if error.kind == Kind::Internal && batch.len() > 1 => {
                tracing::warn!(error = ?error, writes = batch.len(), "a batch of writes was refused and is written one by one");
                for one in batch.apart() {
                    let changed = connection.commit(&one).await;
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
    inserts: HashSet<usize>,
    starts: HashSet<usize>,
    ends: HashSet<usize>,
    records: HashSet<usize>,
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
            .records
            .into_iter()
            .map(|(_, answer)| answer)
            .collect(),
        |changed| &changed.records,
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
