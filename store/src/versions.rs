//! Versions and the code they run: immutable once accepted. Environment variables are sealed.

use crate::{
    db::{Store, corrupt, document, failed, parsed, read, write},
    seal::Place,
};
use domain::{
    Result, Timestamp,
    agent::Spec,
    id::{AccountId, VersionId},
};
use std::{collections::BTreeMap, sync::Arc};
use zeroize::Zeroizing;

#[derive(Debug, Clone)]
pub struct New {
    pub id: VersionId,
    pub account: AccountId,
    pub incarnation: String,
    pub spec: Spec,
    /// Digest of the artifact.
    pub artifact: String,
    /// From [`Store::seal_environment`].
    pub sealed: Vec<u8>,
    /// Of everything the caller sent: the same version with another digest is a conflict.
    pub digest: String,
    pub created_at: Timestamp,
}

#[derive(Debug, Clone)]
pub struct Artifact {
    pub account: AccountId,
    pub digest: String,
    pub bytes: Arc<[u8]>,
    pub created_at: Timestamp,
}

#[derive(Debug, Clone)]
pub struct Version {
    pub id: VersionId,
    pub account: AccountId,
    pub incarnation: String,
    pub spec: Spec,
    pub artifact: String,
    pub digest: String,
    pub created_at: Timestamp,
}

/// What any version of a living agent needs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needed {
    /// Digests of artifacts.
    pub code: std::collections::HashSet<String>,
    pub locks: std::collections::BTreeSet<String>,
    /// Locks of packages of the system.
    pub systems: std::collections::BTreeSet<String>,
}

/// The lock that a version runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    pub lock: String,
    pub digest: String,
    /// Of its packages of the system; empty where it has none.
    pub system: String,
}

type Row = (String, String, String, String, String, String, i64);

const COLUMNS: &str =
    "SELECT id, account, incarnation, spec, artifact, digest, created_at FROM versions";

fn version((id, account, incarnation, spec, artifact, digest, created_at): Row) -> Result<Version> {
    Ok(Version {
        id: parsed(&id, "version id")?,
        account: parsed(&account, "account")?,
        incarnation,
        spec: document(&spec, "spec")?,
        artifact,
        digest,
        created_at: Timestamp(created_at),
    })
}

fn variables_of(account: &AccountId, version: &VersionId) -> Place {
    Place::new("versions.secrets", account.as_str(), version.as_str())
}

impl Store {
    /// Variables as they are kept: readable only with the master key, and only as this version's.
    pub fn seal_environment(
        &self,
        account: &AccountId,
        version: &VersionId,
        variables: &BTreeMap<String, String>,
    ) -> Result<Vec<u8>> {
        let plain = Zeroizing::new(crate::db::json(variables)?);
        self.secrets
            .seal(&variables_of(account, version), plain.as_bytes())
    }

    pub async fn environment(
        &self,
        account: &AccountId,
        version: &VersionId,
    ) -> Result<BTreeMap<String, String>> {
        let sql = "SELECT secrets FROM versions WHERE account = $1 AND id = $2";
        let row: Option<(Vec<u8>,)> =
            read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(version.as_str()).fetch_optional(pool).await).map_err(failed)?;
        let (sealed,) =
            row.ok_or_else(|| domain::Error::not_found(format!("version {version}")))?;
        let plain = self
            .secrets
            .open(&variables_of(account, version), &sealed)?;
        serde_json::from_slice(&plain).map_err(|_| corrupt("environment"))
    }

    pub async fn version(&self, account: &AccountId, id: &VersionId) -> Result<Option<Version>> {
        let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE account = $1 AND id = $2"));
        let row: Option<Row> = read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(id.as_str()).fetch_optional(pool).await).map_err(failed)?;
        row.map(version).transpose()
    }

    /// By the agent's own word for it.
    pub async fn version_named(
        &self,
        incarnation: &str,
        name: &semver::Version,
    ) -> Result<Option<Version>> {
        let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE incarnation = $1 AND version = $2"));
        let row: Option<Row> = read!(self, pool => sqlx::query_as(sql).bind(incarnation).bind(name.to_string()).fetch_optional(pool).await).map_err(failed)?;
        row.map(version).transpose()
    }

    /// One page, newest first, and how many there are in all.
    pub async fn versions(
        &self,
        incarnation: &str,
        offset: u32,
        limit: u32,
    ) -> Result<(Vec<Version>, u64)> {
        let sql = sqlx::AssertSqlSafe(format!(
            "{COLUMNS} WHERE incarnation = $1 ORDER BY created_at DESC, id DESC LIMIT $2 OFFSET $3"
        ));
        let count = "SELECT COUNT(*) FROM versions WHERE incarnation = $1";
        let (rows, total): (Vec<Row>, (i64,)) = read!(self, pool => {
            let rows = sqlx::query_as(sql).bind(incarnation).bind(i64::from(limit)).bind(i64::from(offset)).fetch_all(pool).await.map_err(failed)?;
            (rows, sqlx::query_as(count).bind(incarnation).fetch_one(pool).await.map_err(failed)?)
        });
        Ok((
            rows.into_iter().map(version).collect::<Result<_>>()?,
            u64::try_from(total.0).unwrap_or(0),
        ))
    }

    pub async fn lock(&self, account: &AccountId, version: &VersionId) -> Result<Option<Lock>> {
        let sql = "SELECT lock, digest, system FROM locks WHERE account = $1 AND version_id = $2";
        let row: Option<(String, String, String)> =
            read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(version.as_str()).fetch_optional(pool).await).map_err(failed)?;
        Ok(row.map(|(lock, digest, system)| Lock {
            lock,
            digest,
            system,
        }))
    }

    /// Of all accounts: what executors keep on their disks.
    pub async fn needed(&self) -> Result<Needed> {
        let living = "JOIN agents ON agents.incarnation = versions.incarnation WHERE agents.deleted_at IS NULL";
        let code = sqlx::AssertSqlSafe(format!("SELECT DISTINCT artifact FROM versions {living}"));
        let packages = |column: &str| {
            let locks = "FROM locks JOIN versions ON versions.id = locks.version_id";
            sqlx::AssertSqlSafe(format!(
                "SELECT DISTINCT locks.{column} {locks} {living} AND locks.{column} <> ''"
            ))
        };
        let (code, locks, systems) = read!(self, pool => {
            let code: Vec<(String,)> = sqlx::query_as(code).fetch_all(pool).await.map_err(failed)?;
            let locks: Vec<(String,)> = sqlx::query_as(packages("lock")).fetch_all(pool).await.map_err(failed)?;
            let systems: Vec<(String,)> = sqlx::query_as(packages("system")).fetch_all(pool).await.map_err(failed)?;
            (code, locks, systems)
        });
        Ok(Needed {
            code: code.into_iter().map(|row| row.0).collect(),
            locks: locks.into_iter().map(|row| row.0).collect(),
            systems: systems.into_iter().map(|row| row.0).collect(),
        })
    }

    /// The first one stays.
    pub async fn keep_lock(
        &self,
        account: &AccountId,
        version: &VersionId,
        lock: &Lock,
    ) -> Result<()> {
        let sql = "INSERT INTO locks (version_id, account, lock, digest, system) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
        write!(self, pool => sqlx::query(sql).bind(version.as_str()).bind(account.as_str()).bind(&lock.lock).bind(&lock.digest).bind(&lock.system).execute(pool).await.map(|_| ()))
            .map_err(failed)
    }
}
