//! Keys: found by their keyed hash; the secret itself is never kept.

use crate::{
    db::{Store, document, failed, json, parsed, read, write},
    seal::Hash,
};
use domain::{
    Result, Timestamp,
    id::{AccountId, AgentId, KeyId},
    key::{Key, Permission},
};
use std::collections::BTreeSet;

pub(crate) const INSERT: &str = "INSERT INTO keys (id, account, hash, name, permissions, agents, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";

#[derive(Debug, Clone)]
pub struct New {
    pub id: KeyId,
    pub account: AccountId,
    pub hash: Hash,
    pub name: String,
    pub permissions: BTreeSet<Permission>,
    pub agents: Option<BTreeSet<AgentId>>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
}

impl New {
    pub(crate) fn permission_words(&self) -> String {
        json(&self.permissions).unwrap_or_default()
    }

    pub(crate) fn agent_words(&self) -> Option<String> {
        self.agents.as_ref().and_then(|agents| json(agents).ok())
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
            sqlx::query(INSERT).bind(key.id.as_str()).bind(key.account.as_str()).bind(&key.hash.0[..]).bind(&key.name).bind(key.permission_words())
                .bind(key.agent_words()).bind(key.created_at.0).bind(key.expires_at.map(|at| at.0)).execute(&mut *transaction).await.map_err(failed)?;
            transaction.commit().await.map_err(failed)?;
            Ok(true)
        })
    }

    pub async fn insert_key(&self, key: &New) -> Result<()> {
        write!(self, pool => sqlx::query(INSERT).bind(key.id.as_str()).bind(key.account.as_str()).bind(&key.hash.0[..]).bind(&key.name)
            .bind(key.permission_words()).bind(key.agent_words()).bind(key.created_at.0).bind(key.expires_at.map(|at| at.0)).execute(pool).await.map(|_| ()))
        .map_err(failed)
    }

    /// The living key of this hash.
    pub async fn key(&self, hash: &Hash) -> Result<Option<Key>> {
        let sql = "SELECT id, account, permissions, agents, expires_at FROM keys WHERE hash = $1 AND revoked_at IS NULL";
        let row: Option<(String, String, String, Option<String>, Option<i64>)> =
            read!(self, pool => sqlx::query_as(sql).bind(&hash.0[..]).fetch_optional(pool).await)
                .map_err(failed)?;
        row.map(|(id, account, permissions, agents, expires_at)| {
            Ok(Key {
                id: parsed(&id, "key id")?,
                account: parsed(&account, "account")?,
                permissions: document(&permissions, "permissions")?,
                agents: agents
                    .map(|agents| document(&agents, "agents"))
                    .transpose()?,
                expires_at: expires_at.map(Timestamp),
            })
        })
        .transpose()
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
