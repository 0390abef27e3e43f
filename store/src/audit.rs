//! Every change that was asked for, and how it ended.

use crate::db::{Store, failed, read, write};
use domain::{Result, Timestamp, id::AccountId};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub id: String,
    pub account: AccountId,
    pub at: Timestamp,
    pub key_id: Option<String>,
    /// The permission-like name of what was asked for.
    pub action: String,
    /// What it was asked of.
    pub subject: String,
    pub remote: Option<String>,
    pub request_id: String,
    /// `ok`, or the error's code.
    pub outcome: String,
}

impl Store {
    pub async fn note_audit(&self, record: &Record) -> Result<()> {
        let sql = "INSERT INTO audit (id, account, at, key_id, action, subject, remote, request_id, outcome) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        write!(self, pool => sqlx::query(sql).bind(&record.id).bind(record.account.as_str()).bind(record.at.0).bind(&record.key_id).bind(&record.action)
            .bind(&record.subject).bind(&record.remote).bind(&record.request_id).bind(&record.outcome).execute(pool).await.map(|_| ()))
        .map_err(failed)
    }

    /// The newest records, newest first.
    pub async fn audit(&self, account: &AccountId, limit: u32) -> Result<Vec<Record>> {
        type Row = (
            String,
            i64,
            Option<String>,
            String,
            String,
            Option<String>,
            String,
            String,
        );
        let sql = "SELECT id, at, key_id, action, subject, remote, request_id, outcome FROM audit WHERE account = $1 ORDER BY at DESC, id DESC LIMIT $2";
        let rows: Vec<Row> = read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(i64::from(limit)).fetch_all(pool).await).map_err(failed)?;
        Ok(rows
            .into_iter()
            .map(
                |(id, at, key_id, action, subject, remote, request_id, outcome)| Record {
                    id,
                    account: account.clone(),
                    at: Timestamp(at),
                    key_id,
                    action,
                    subject,
                    remote,
                    request_id,
                    outcome,
                },
            )
            .collect())
    }
}
