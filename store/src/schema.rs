//! The schema of Postgres: brought up to date by whoever may, and looked at by whoever may not.

use crate::{
    db::{failed, migrated, migrator},
    rights::{self, ROLES},
};
use domain::{Error, Result};
use sqlx::{PgPool, postgres::PgPoolOptions};
use std::collections::BTreeMap;

/// What was done for the roles of a cluster.
#[derive(Debug, Clone, Default)]
pub struct Given {
    pub statements: Vec<String>,
    /// Users that are there.
    pub users: Vec<String>,
    /// Users that are not, and got nothing.
    pub absent: Vec<String>,
}

/// Up to date, or an error that says what to do. A user who may not change the schema does not try.
pub(crate) async fn bring_up(pool: &PgPool) -> Result<()> {
    let missing = missing(pool).await?;
    if missing.is_empty() {
        return Ok(());
    }
    let sql = "SELECT COALESCE(has_schema_privilege(current_schema(), 'CREATE'), FALSE)";
    let (may,): (bool,) = sqlx::query_as(sql).fetch_one(pool).await.map_err(failed)?;
    if may {
        return migrator().run(pool).await.map_err(migrated);
    }
    let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
    Err(Error::unavailable(format!(
        "the database's schema is older than this release (without {}), and this user may not change it: run `phalanx migrate` as the owner of the database first",
        missing.join(", ")
    )))
}

/// Of our migrations, those that were not applied, or not as they are.
async fn missing(pool: &PgPool) -> Result<Vec<i64>> {
    let there = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL";
    let (there,): (bool,) = sqlx::query_as(there)
        .fetch_one(pool)
        .await
        .map_err(failed)?;
    let mut applied = BTreeMap::new();
    if there {
        let sql = "SELECT version, checksum FROM _sqlx_migrations WHERE success";
        let rows: Vec<(i64, Vec<u8>)> = match sqlx::query_as(sql).fetch_all(pool).await {
            Ok(rows) => rows,
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42501") => {
                return Err(Error::unavailable(
                    "this user of the database has no rights: run `phalanx migrate` as the owner of the database, which gives them",
                ));
            }
            Err(error) => return Err(failed(error)),
        };
        applied.extend(rows);
    }
    let ours = migrator();
    let missing = ours.iter().filter(|one| {
        applied
            .get(&one.version)
            .is_none_or(|checksum| checksum[..] != one.checksum[..])
    });
    Ok(missing.map(|one| one.version).collect())
}

/// Brings the schema up to date as its owner, and gives each role, whose user is called `prefix` and the role, what it may; with
/// `only_say` neither.
pub async fn migrate(url: &str, prefix: &str, only_say: bool) -> Result<Given> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(crate::db::WAIT)
        .connect(url)
        .await
        .map_err(|error| crate::db::unreachable(url, error))?;
    let given = async {
        if !only_say {
            migrator().run(&pool).await.map_err(migrated)?;
        }
        give(&pool, prefix, only_say).await
    }
    .await;
    pool.close().await;
    given
}

async fn give(pool: &PgPool, prefix: &str, only_say: bool) -> Result<Given> {
    let sql = "SELECT COALESCE(current_schema(), 'public')";
    let (schema,): (String,) = sqlx::query_as(sql).fetch_one(pool).await.map_err(failed)?;
    let sql = "SELECT table_name::text, column_name::text FROM information_schema.columns WHERE table_schema = $1 ORDER BY ordinal_position";
    let rows: Vec<(String, String)> = sqlx::query_as(sql)
        .bind(&schema)
        .fetch_all(pool)
        .await
        .map_err(failed)?;
    let columns = |table: &str| {
        let of_it = rows.iter().filter(|(of, _)| of == table);
        of_it.map(|(_, column)| column.clone()).collect()
    };
    let mut given = Given::default();
    for role in ROLES {
        let user = format!("{prefix}{role}");
        let sql = "SELECT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = $1)";
        let (there,): (bool,) = sqlx::query_as(sql)
            .bind(&user)
            .fetch_one(pool)
            .await
            .map_err(failed)?;
        if there {
            let said = rights::statements(role, &user, &schema, &columns);
            given.statements.extend(said);
            given.users.push(user);
        } else {
            given.absent.push(user);
        }
    }
    if !only_say {
        // All at once: whoever runs meanwhile has what it had until then.
        let mut transaction = pool.begin().await.map_err(failed)?;
        for statement in &given.statements {
            let statement = sqlx::AssertSqlSafe(statement.clone());
            sqlx::query(statement)
                .execute(&mut *transaction)
                .await
                .map_err(refused)?;
        }
        transaction.commit().await.map_err(failed)?;
    }
    Ok(given)
}

fn refused(error: sqlx::Error) -> Error {
    Error::unavailable(
        "the rights of the roles cannot be given; log in as the owner of the database",
    )
    .because(error)
}
