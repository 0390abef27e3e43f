//! Which deliveries are due: a look costs the same however many are. A row that cannot be sent holds up no other one.

use super::{Due, Unreadable};
use crate::db::{Store, corrupt, failed, read, write};
use domain::{Result, Timestamp, webhook::Status};
use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};

/// What a look found.
#[derive(Debug, Default)]
pub struct Looked {
    pub due: Vec<Due>,
    pub unreadable: Vec<Unreadable>,
}

/// The receiver that a look by turns ended at, and the next one goes on after.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Turn {
    pub account: String,
    pub host: String,
}

/// How many of one look by turns belong to one receiver, how many receivers of an account it sees, and how many rows in all.
#[derive(Debug, Clone, Copy)]
pub struct Shares {
    pub of_host: u32,
    pub hosts: u32,
    pub all: u32,
}

/// A row that was looked at.
struct Seen {
    turn: Turn,
    due_at: i64,
    found: Result<Due, Unreadable>,
}

impl<'r, R: Row> FromRow<'r, R> for Seen
where
    for<'c> &'c str: ColumnIndex<R>,
    String: Decode<'r, R::Database> + Type<R::Database>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
{
    /// Fails only where nothing names the row.
    fn from_row(row: &'r R) -> sqlx::Result<Self> {
        let id: String = row.try_get("id")?;
        let turn = Turn {
            account: row.try_get("account").unwrap_or_default(),
            host: row.try_get("host").unwrap_or_default(),
        };
        let count = |name: &str| {
            let count: i64 = row.try_get(name).map_err(|_| corrupt(name))?;
            u32::try_from(count).map_err(|_| corrupt(name))
        };
        let read = || -> Result<Due> {
            let status: String = row.try_get("status").map_err(|_| corrupt("status"))?;
            if status != Status::Pending.as_str() {
                return Err(corrupt("status"));
            }
            Ok(Due {
                id: id.parse().map_err(|_| corrupt("delivery id"))?,
                account: turn.account.parse().map_err(|_| corrupt("account"))?,
                host: row.try_get("host").map_err(|_| corrupt("host"))?,
                attempts: count("attempts")?,
                tried_before: count("tried_before")?,
                bytes: count("bytes")?,
            })
        };
        let found = read().map_err(|error| Unreadable {
            id: id.clone(),
            why: error.message,
        });
        Ok(Self {
            due_at: row.try_get("due_at").unwrap_or_default(),
            turn,
            found,
        })
    }
}

fn looked(rows: impl IntoIterator<Item = Seen>, now: Timestamp) -> Looked {
    let mut looked = Looked::default();
    for row in rows {
        match row.found {
            _ if row.due_at > now.0 => {}
            Ok(due) => looked.due.push(due),
            Err(unreadable) => looked.unreadable.push(unreadable),
        }
    }
    looked
}

impl Store {
    /// The first that became due. Fewer than `limit`: there are no others.
    pub async fn due_deliveries(&self, now: Timestamp, limit: u32) -> Result<Looked> {
        let sql = "SELECT id, account, host, due_at, status, attempts, tried_before, CAST(OCTET_LENGTH(body) AS BIGINT) AS bytes FROM deliveries \
             WHERE due_at IS NOT NULL AND due_at <= $1 ORDER BY due_at LIMIT $2";
        let rows: Vec<Seen> = read!(self, pool => sqlx::query_as(sql).bind(now.0).bind(i64::from(limit)).fetch_all(pool).await)
            .map_err(failed)?;
        Ok(looked(rows, now))
    }

    /// Some of each receiver in turn, from after `after` on, and where to go on. `next_account`: of that one no other receiver.
    pub async fn due_in_turn(
        &self,
        now: Timestamp,
        (after, next_account): (&Turn, bool),
        shares: Shares,
    ) -> Result<(Looked, Turn)> {
        // From row to row: the next one of the same receiver, else of the account's next receiver, else of the next account; each is one
        // step in an index. A receiver of which nothing is due yet costs one.
        let sql = "WITH RECURSIVE seen (step, of_host, hosts, id, account, host, due_at, status, attempts, tried_before, bytes) AS (\
             SELECT CAST(0 AS BIGINT), CAST($4 AS BIGINT), CAST($5 AS BIGINT), '', CAST($2 AS TEXT), CAST($3 AS TEXT), CAST(0 AS BIGINT), '', \
               CAST(0 AS BIGINT), CAST(0 AS BIGINT), CAST(0 AS BIGINT) \
             UNION ALL \
             SELECT s.step + 1, \
               CASE WHEN d.account = s.account AND d.host = s.host THEN s.of_host + 1 ELSE 1 END, \
               CASE WHEN d.account <> s.account THEN 1 WHEN d.host <> s.host THEN s.hosts + 1 ELSE s.hosts END, \
               d.id, d.account, d.host, d.due_at, d.status, d.attempts, d.tried_before, CAST(OCTET_LENGTH(d.body) AS BIGINT) \
             FROM seen s JOIN deliveries d ON d.id = COALESCE(\
               (SELECT id FROM deliveries WHERE s.of_host < $4 AND account = s.account AND host = s.host AND due_at IS NOT NULL AND due_at <= $1 \
                AND (due_at, id) > (s.due_at, s.id) ORDER BY due_at, id LIMIT 1), \
               (SELECT id FROM deliveries WHERE s.hosts < $6 AND account = s.account AND host > s.host AND due_at IS NOT NULL \
                ORDER BY host, due_at, id LIMIT 1), \
               (SELECT id FROM deliveries WHERE account > s.account AND due_at IS NOT NULL ORDER BY account, host, due_at, id LIMIT 1)) \
             WHERE s.step < $7) \
             SELECT id, account, host, due_at, status, attempts, tried_before, bytes FROM seen WHERE step > 0 ORDER BY step";
        let hosts = if next_account { shares.hosts } else { 0 };
        let rows: Vec<Seen> = read!(self, pool => sqlx::query_as(sql).bind(now.0).bind(&after.account).bind(&after.host)
            .bind(i64::from(shares.of_host)).bind(i64::from(hosts)).bind(i64::from(shares.hosts)).bind(i64::from(shares.all))
            .fetch_all(pool).await)
        .map_err(failed)?;
        let ended_at = rows
            .last()
            .filter(|_| rows.len() >= shares.all as usize)
            .map_or_else(Turn::default, |row| row.turn.clone());
        Ok((looked(rows, now), ended_at))
    }

    /// One that can never be sent is over, and says why. `false`: it is over already.
    pub async fn refuse_delivery(&self, id: &str, why: &str, now: Timestamp) -> Result<bool> {
        let over = "UPDATE deliveries SET status = CASE WHEN status IN ('delivered', 'disabled') THEN status ELSE 'failed' END, due_at = NULL, \
             attempts = 1 + CASE WHEN attempts > made.most THEN attempts ELSE made.most END \
             FROM (SELECT COALESCE(MAX(attempt), 0) AS most FROM delivery_attempts WHERE delivery_id = $1) AS made WHERE id = $1 AND due_at IS NOT NULL";
        let record = "INSERT INTO delivery_attempts (delivery_id, account, attempt, at, duration_ms, status, error) \
             SELECT id, account, attempts, CAST($2 AS BIGINT), CAST(0 AS BIGINT), CAST(NULL AS BIGINT), CAST($3 AS TEXT) FROM deliveries WHERE id = $1 ON CONFLICT DO NOTHING";
        let refused: Result<bool, sqlx::Error> = write!(self, pool => async {
            let mut transaction = pool.begin().await?;
            let rows = sqlx::query(over).bind(id).execute(&mut *transaction).await?.rows_affected();
            if rows == 1 {
                sqlx::query(record).bind(id).bind(now.0).bind(why).execute(&mut *transaction).await?;
            }
            transaction.commit().await?;
            Ok(rows == 1)
        }.await);
        refused.map_err(failed)
    }
}
