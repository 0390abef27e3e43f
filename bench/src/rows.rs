//! The rows behind each side, for what cannot be asked by the front door: a million stored executions, and figures of all of them.

use anyhow::{Context, Result, bail};
use std::{path::PathBuf, process::Command};

/// Stored executions ended within so many milliseconds, so that none is too old to be kept.
const SPAN_MS: u64 = 20 * 24 * 3600 * 1000;
/// Everything of a row but its id and its times.
const ALIKE: &str = "account, agent_id, version_id, mode, priority, status, body_digest, session_id, caller, options, input, attempt, losses, \
     attempts, node_id, boot_id, instance_id, progress, output, error, duration_ms, queue_ms, cpu_ms, memory_peak_mb, tokens, metrics, logs_dropped";
/// Everything that is stored is to be counted anew: said when it is there, or a roller counts nothing and moves on.
const UNROLL: &str = "UPDATE rollup_position SET at = 0, rev = rev + 1";
const NO_CELLS: &str = "DELETE FROM rollups";
/// Both as one transaction of psql.
const UNCOUNT: &str = "UPDATE rollup_position SET at = 0, rev = rev + 1; DELETE FROM rollups";
const SQLITE: &str = "\
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.execute('PRAGMA cache_size = -262144')
rows = []
for statement in sys.argv[2:]:
    rows = connection.execute(statement).fetchall()
for row in rows:
    print('|'.join('' if value is None else str(value) for value in row))
";

pub enum Rows {
    /// A file, by that interpreter's own SQLite.
    Lite {
        python: PathBuf,
        path: PathBuf,
    },
    Pg {
        url: String,
    },
}

/// Of the executions of one agent.
pub struct Summary {
    pub ended: u64,
    /// From acceptance to the start.
    pub queue_ms_mean: f64,
    pub queue_ms_p99: f64,
    /// From the first acceptance to the last end.
    pub lasted_ms: f64,
}

/// The id of the stored execution of that place.
pub fn stored_id(place: usize) -> String {
    format!("exec_{place:032x}")
}

impl Rows {
    /// Nothing is stored but so many copies of one ended execution of `agent`. On SQLite nobody else may have the file open.
    pub fn fill(&self, agent: &str, count: usize) -> Result<()> {
        let step = SPAN_MS / count.max(1) as u64;
        let (series, id) = match self {
            Self::Lite { .. } => (
                format!("SELECT 1 UNION ALL SELECT i + 1 FROM series WHERE i < {count}"),
                "printf('exec_%032x', i)",
            ),
            Self::Pg { .. } => (
                format!("SELECT CAST(generate_series(1, {count}) AS BIGINT)"),
                "'exec_' || lpad(to_hex(i), 32, '0')",
            ),
        };
        let copy = format!(
            "CREATE TEMP TABLE one AS SELECT * FROM executions WHERE agent_id = '{agent}' AND status = 'completed' LIMIT 1"
        );
        let at = format!("accepted_at - ({count} - i) * {step}");
        let insert = format!(
            "WITH RECURSIVE series(i) AS ({series}) INSERT INTO executions (id, accepted_at, due_at, started_at, completed_at, {ALIKE}) \
             SELECT {id}, {at}, {at}, {at}, {at}, {ALIKE} FROM series, one"
        );
        // What either engine would tidy up in its own time is done before anything is measured.
        let (clear, tidy): (&[&str], &[&str]) = match self {
            Self::Lite { .. } => (
                &["DELETE FROM logs", "DELETE FROM executions"],
                &[UNROLL, NO_CELLS, "PRAGMA wal_checkpoint(TRUNCATE)"],
            ),
            Self::Pg { .. } => (
                &["TRUNCATE executions, logs"],
                &["VACUUM (ANALYZE) executions", "CHECKPOINT", UNCOUNT],
            ),
        };
        let mut statements = vec![copy.as_str()];
        statements.extend(clear);
        statements.push(&insert);
        statements.extend(tidy);
        statements.push("SELECT COUNT(*) FROM executions");
        let found = self.ask(&statements)?;
        if found.trim() != count.to_string() {
            bail!("{} executions are stored, not {count}", found.trim());
        }
        Ok(())
    }

    /// Executions that wait or run.
    pub fn open(&self) -> Result<u64> {
        let sql = "SELECT COUNT(*) FROM executions WHERE status IN ('queued', 'running')";
        Ok(self.ask(&[sql])?.trim().parse()?)
    }

    pub fn summary(&self, agent: &str) -> Result<Summary> {
        let ended = format!("FROM executions WHERE agent_id = '{agent}' AND status = 'completed'");
        let sql = format!(
            "SELECT COUNT(*), AVG(queue_ms), MAX(completed_at) - MIN(accepted_at), (SELECT queue_ms {ended} ORDER BY queue_ms DESC \
             LIMIT 1 OFFSET (SELECT COUNT(*) / 100 {ended})) {ended}"
        );
        let found = self.ask(&[&sql])?;
        let figures: Vec<f64> = found
            .trim()
            .split('|')
            .map(|figure| figure.parse().unwrap_or(f64::NAN))
            .collect();
        let [count, queue_ms_mean, lasted_ms, queue_ms_p99] = figures[..] else {
            bail!("no figures: {found}");
        };
        Ok(Summary {
            ended: count as u64,
            queue_ms_mean,
            queue_ms_p99,
            lasted_ms,
        })
    }

    /// Runs statements one after the other, and gives the rows of the last one, columns parted by `|`.
    fn ask(&self, statements: &[&str]) -> Result<String> {
        let mut command = match self {
            Self::Lite { python, path } => {
                let mut command = Command::new(python);
                command.args(["-c", SQLITE]).arg(path).args(statements);
                command
            }
            Self::Pg { url } => {
                let mut command = Command::new("psql");
                command.args([url, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]);
                for statement in statements {
                    command.args(["-c", statement]);
                }
                command
            }
        };
        let output = command.output().context("the rows cannot be asked")?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}
