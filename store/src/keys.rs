//! Keys: found by their keyed hash; the secret itself is never kept.

use crate::{
    db::{Store, document, failed, json, parsed, read, write},
    seal::Hash,
};
use domain::{
    Result, Timestamp,
    agent::Environment,
    id::{AccountId, AgentId, KeyId},
    key::{Grant, Key, Permission},
    limit::Limits,
};
use std::collections::BTreeSet;

pub(crate) const INSERT: &str = "INSERT INTO keys (id, account, hash, name, permissions, agents, created_at, expires_at, rotate_at, auto_rotation, environments, limits) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";

#[derive(Debug, Clone)]
pub struct New {
    pub id: KeyId,
    pub account: AccountId,
    pub hash: Hash,
    pub name: String,
    pub permissions: BTreeSet<Permission>,
    pub agents: Option<BTreeSet<AgentId>>,
    pub environments: Option<BTreeSet<Environment>>,
    pub limits: Limits,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub rotate_at: Option<Timestamp>,
    pub auto_rotation: bool,
}

/// What is set anew of a key; `None`: it stays.
#[derive(Debug, Clone, Default)]
pub struct Change {
    pub name: Option<String>,
    pub limits: Option<Limits>,
    pub rotation: Option<Rotation>,
}

#[derive(Debug, Clone, Copy)]
pub struct Rotation {
    pub auto: bool,
    pub rotate_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
}

/// A key as it is shown: everything but the secret, which nobody keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub id: KeyId,
    pub name: String,
    pub permissions: BTreeSet<Permission>,
    pub agents: Option<BTreeSet<AgentId>>,
    pub environments: Option<BTreeSet<Environment>>,
    pub limits: Limits,
    pub created_at: Timestamp,
    pub auto_rotation: bool,
    pub rotate_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
    pub replaced_by: Option<KeyId>,
    pub revoked_at: Option<Timestamp>,
}

const AUTO: &str = "COALESCE(auto_rotation, rotate_at IS NOT NULL)";
const LIVING: &str = " AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)";

fn columns() -> String {
    format!(
        "id, name, permissions, agents, environments, limits, created_at, {AUTO}, rotate_at, expires_at, last_used_at, replaced_by, revoked_at"
    )
}

type KeptRow = (
    String,
    String,
    String,
    Option<String>,
    Option<String>,
    Option<String>,
    i64,
    bool,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<String>,
    Option<i64>,
);

fn maybe<T: serde::de::DeserializeOwned>(text: Option<String>, what: &str) -> Result<Option<T>> {
    text.map(|text| document(&text, what)).transpose()
}

fn kept(row: KeptRow) -> Result<Kept> {
    let (
        id,
        name,
        permissions,
        agents,
        environments,
        limits,
        created_at,
        auto_rotation,
        rotate_at,
        expires_at,
        used,
        by,
        revoked,
    ) = row;
    Ok(Kept {
        id: parsed(&id, "key id")?,
        name,
        permissions: document(&permissions, "permissions")?,
        agents: maybe(agents, "agents")?,
        environments: maybe(environments, "environments")?,
        limits: maybe(limits, "limits")?.unwrap_or_default(),
        created_at: Timestamp(created_at),
        auto_rotation,
        rotate_at: rotate_at.map(Timestamp),
        expires_at: expires_at.map(Timestamp),
        last_used_at: used.map(Timestamp),
        replaced_by: by.map(|id| parsed(&id, "key id")).transpose()?,
        revoked_at: revoked.map(Timestamp),
    })
}

/// The row of a new key.
macro_rules! insert {
    ($key:expr, $executor:expr) => {
        sqlx::query($crate::keys::INSERT)
            .bind($key.id.as_str())
            .bind($key.account.as_str())
            .bind(&$key.hash.0[..])
            .bind(&$key.name)
            .bind($crate::db::json(&$key.permissions).unwrap_or_default())
            .bind(
                $key.agents
                    .as_ref()
                    .and_then(|agents| $crate::db::json(agents).ok()),
            )
            .bind($key.created_at.0)
            .bind($key.expires_at.map(|at| at.0))
            .bind($key.rotate_at.map(|at| at.0))
            .bind($key.auto_rotation)
            .bind(
                $key.environments
                    .as_ref()
                    .and_then(|all| $crate::db::json(all).ok()),
            )
            .bind(
                (!$key.limits.is_empty())
                    .then(|| $crate::db::json(&$key.limits).unwrap_or_default()),
            )
            .execute($executor)
            .await
    };
}
pub(crate) use insert;

impl New {
    /// A key without an end, for the whole account, without limits.
    pub fn lasting(
        (id, account): (KeyId, AccountId),
        hash: Hash,
        name: String,
        permissions: BTreeSet<Permission>,
        created_at: Timestamp,
    ) -> Self {
        Self {
            id,
            account,
            hash,
            name,
            permissions,
            agents: None,
            environments: None,
            limits: Limits::default(),
            created_at,
            expires_at: None,
            rotate_at: None,
            auto_rotation: false,
        }
    }
}

impl Kept {
    pub fn grant(&self) -> Grant<'_> {
        Grant {
            permissions: &self.permissions,
            agents: self.agents.as_ref(),
            environments: self.environments.as_ref(),
            limits: &self.limits,
        }
    }
}

impl Store {
    pub fn hash_key(&self, secret: &str) -> Hash {
        self.secrets.hash(secret)
    }

    /// Makes the first account and its key in an empty store. `false`: the store is not empty.
    pub async fn begin(&self, key: &New) -> Result<bool> {
        let account = "INSERT INTO accounts (account, name, created_at) VALUES ($1, $1, $2) ON CONFLICT DO NOTHING";
        write!(self, pool => {
            let mut transaction = pool.begin().await.map_err(failed)?;
            let made = sqlx::query(account).bind(key.account.as_str()).bind(key.created_at.0).execute(&mut *transaction).await.map_err(failed)?.rows_affected();
            if made == 0 {
                return Ok(false);
            }
            insert!(key, &mut *transaction).map_err(failed)?;
            transaction.commit().await.map_err(failed)?;
            Ok(true)
        })
    }

    pub async fn insert_key(&self, key: &New) -> Result<()> {
        write!(self, pool => insert!(key, pool).map(|_| ())).map_err(failed)
    }

    /// The living key of this hash.
    pub async fn key(&self, hash: &Hash) -> Result<Option<Key>> {
        type Row = (
            String,
            String,
            String,
            Option<String>,
            Option<String>,
            Option<String>,
            Option<i64>,
            Option<i64>,
            bool,
            bool,
        );
        let sql = format!(
            "SELECT id, account, permissions, agents, environments, limits, expires_at, rotate_at, {AUTO}, replaced_by IS NOT NULL \
             FROM keys WHERE hash = $1 AND revoked_at IS NULL"
        );
        let row: Option<Row> =
            read!(self, pool => sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(&hash.0[..]).fetch_optional(pool).await)
                .map_err(failed)?;
        let Some((
            id,
            account,
            permissions,
            agents,
            environments,
            limits,
            ends,
            due,
            auto,
            replaced,
        )) = row
        else {
            return Ok(None);
        };
        Ok(Some(Key {
            id: parsed(&id, "key id")?,
            account: parsed(&account, "account")?,
            permissions: document(&permissions, "permissions")?,
            agents: maybe(agents, "agents")?,
            environments: maybe(environments, "environments")?,
            limits: maybe(limits, "limits")?.unwrap_or_default(),
            expires_at: ends.map(Timestamp),
            rotate_at: due.map(Timestamp),
            auto_rotation: auto,
            replaced,
        }))
    }

    /// The old key is deprecated from now on, and ends at `old_until` at the latest. `false`: it is gone, or was replaced already.
    pub async fn rotate_key(&self, old: &KeyId, old_until: Timestamp, new: &New) -> Result<bool> {
        let sql = "UPDATE keys SET replaced_by = $3, expires_at = CASE WHEN expires_at < $4 THEN expires_at ELSE $4 END, \
             auto_rotation = COALESCE(auto_rotation, rotate_at IS NOT NULL), rotate_at = CASE WHEN rotate_at < $5 THEN rotate_at ELSE $5 END \
             WHERE account = $1 AND id = $2 AND revoked_at IS NULL AND replaced_by IS NULL";
        write!(self, pool => async {
            let mut transaction = pool.begin().await?;
            let ends = sqlx::query(sql).bind(new.account.as_str()).bind(old.as_str()).bind(new.id.as_str()).bind(old_until.0).bind(new.created_at.0);
            if ends.execute(&mut *transaction).await?.rows_affected() == 0 {
                return Ok(false);
            }
            insert!(new, &mut *transaction)?;
            transaction.commit().await?;
            Ok::<_, sqlx::Error>(true)
        }.await)
        .map_err(failed)
    }

    /// `false`: it is gone, or was replaced, and is not changed any more.
    pub async fn change_key(
        &self,
        account: &AccountId,
        id: &KeyId,
        change: &Change,
    ) -> Result<bool> {
        let sql = "UPDATE keys SET name = COALESCE($3, name), limits = COALESCE($4, limits), auto_rotation = COALESCE($5, auto_rotation), \
             rotate_at = CASE WHEN $5 IS NULL THEN rotate_at ELSE $6 END, expires_at = CASE WHEN $5 IS NULL THEN expires_at ELSE $7 END \
             WHERE account = $1 AND id = $2 AND revoked_at IS NULL AND replaced_by IS NULL";
        let limits = change.limits.as_ref().map(json).transpose()?;
        let rotation = change.rotation;
        let (due, ends) = (
            rotation.and_then(|one| one.rotate_at),
            rotation.and_then(|one| one.expires_at),
        );
        let rows = write!(self, pool => sqlx::query(sql).bind(account.as_str()).bind(id.as_str()).bind(change.name.as_deref()).bind(limits)
            .bind(rotation.map(|one| one.auto)).bind(due.map(|at| at.0)).bind(ends.map(|at| at.0)).execute(pool).await.map(|done| done.rows_affected()))
            .map_err(failed)?;
        Ok(rows == 1)
    }

    /// `false`: there is no such living key.
    pub async fn revoke_key(&self, account: &AccountId, id: &KeyId, at: Timestamp) -> Result<bool> {
        let sql =
            "UPDATE keys SET revoked_at = $3 WHERE account = $1 AND id = $2 AND revoked_at IS NULL";
        let rows = write!(self, pool => sqlx::query(sql).bind(account.as_str()).bind(id.as_str()).bind(at.0).execute(pool).await.map(|done| done.rows_affected()))
            .map_err(failed)?;
        Ok(rows == 1)
    }

    /// Newest first, and how many there are; `all`: those that are revoked or over too.
    pub async fn keys(
        &self,
        account: &AccountId,
        all: bool,
        now: Timestamp,
        (offset, limit): (u32, u32),
    ) -> Result<(Vec<Kept>, u64)> {
        let living = if all { "" } else { LIVING };
        let page = format!(
            "SELECT {} FROM keys WHERE account = $1 AND created_at <= $2{living} ORDER BY created_at DESC, id DESC LIMIT $3 OFFSET $4",
            columns()
        );
        let count =
            format!("SELECT COUNT(*) FROM keys WHERE account = $1 AND created_at <= $2{living}");
        read!(self, pool => {
            let rows: Vec<KeptRow> = sqlx::query_as(sqlx::AssertSqlSafe(page)).bind(account.as_str()).bind(now.0).bind(i64::from(limit))
                .bind(i64::from(offset)).fetch_all(pool).await.map_err(failed)?;
            let (total,): (i64,) = sqlx::query_as(sqlx::AssertSqlSafe(count)).bind(account.as_str()).bind(now.0).fetch_one(pool).await.map_err(failed)?;
            let kept = rows.into_iter().map(kept).collect::<Result<Vec<_>>>()?;
            Ok((kept, u64::try_from(total).unwrap_or(0)))
        })
    }

    pub async fn key_named(&self, account: &AccountId, id: &KeyId) -> Result<Option<Kept>> {
        let sql = format!(
            "SELECT {} FROM keys WHERE account = $1 AND id = $2",
            columns()
        );
        let row: Option<KeptRow> = read!(self, pool => sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(account.as_str()).bind(id.as_str())
            .fetch_optional(pool).await)
        .map_err(failed)?;
        row.map(kept).transpose()
    }

    /// Keys were used at these times.
    pub async fn note_used_keys(&self, used: &[(KeyId, Timestamp)]) -> Result<()> {
        let sql = "UPDATE keys SET last_used_at = $2 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)";
        write!(self, pool => async {
            let mut transaction = pool.begin().await?;
            for (id, at) in used {
                sqlx::query(sql).bind(id.as_str()).bind(at.0).execute(&mut *transaction).await?;
            }
            transaction.commit().await
        }.await)
        .map_err(failed)
    }

    /// Revokes the keys that are limited to just this agent.
    pub async fn revoke_agent_keys(
        &self,
        account: &AccountId,
        agent: &AgentId,
        at: Timestamp,
    ) -> Result<()> {
        let sql = "UPDATE keys SET revoked_at = $3 WHERE account = $1 AND agents = $2 AND revoked_at IS NULL";
        let only = json(&[agent])?;
        write!(self, pool => sqlx::query(sql).bind(account.as_str()).bind(only).bind(at.0).execute(pool).await.map(|_| ())).map_err(failed)
    }
}
