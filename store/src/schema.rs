//! The schema of Postgres: brought up to date by whoever may, and looked at by whoever may not.

use crate::{
    db::{failed, migrated, migrator},
    rights,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use chacha20poly1305::aead::Generate;
use domain::{Error, Result};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// How a role logs in: its user's name, and the password that the user is given; none: the user is there already.
#[derive(Clone)]
pub struct User {
    pub role: &'static str,
    pub name: String,
    pub password: Option<Zeroizing<String>>,
}

impl User {
    /// As a URL has it, for a role's own process.
    pub fn of_url(role: &'static str, url: &str) -> Result<Self> {
        let bad = || {
            let words =
                "has no user and password; allowed is postgres://user:password@host/database";
            Error::fault(&format!("the URL of {role}"), words)
        };
        let options: PgConnectOptions = url.parse().map_err(|_| bad())?;
        let said = url
            .split_once("://")
            .map(|(_, rest)| rest)
            .ok_or_else(bad)?;
        let (who, _) = said.rsplit_once('@').ok_or_else(bad)?;
        let (_, password) = who.split_once(':').ok_or_else(bad)?;
        // What is kept is what the server is shown: letters that mean nothing in a URL.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if password.len() < 16 || !password.bytes().all(plain) {
            return Err(Error::fault(
                &format!("the password of {role}"),
                "is not one that can be given; allowed are 16 or more letters and digits",
            ));
        }
        Ok(Self {
            role,
            name: options.get_username().to_owned(),
            password: Some(Zeroizing::new(password.to_owned())),
        })
    }
}

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

/// Brings the schema up to date as its owner, makes the users that have a password, and gives each what its role may; with `only_say`
/// none of it.
pub async fn migrate(url: &str, users: &[User], only_say: bool) -> Result<Given> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(crate::db::WAIT)
        .connect(url)
        .await
        .map_err(|error| crate::db::unreachable(url, error))?;
    let given = async {
        if !only_say {
            migrator().run(&pool).await.map_err(migrated)?;
            for user in users {
                make(&pool, user).await?;
            }
        }
        give(&pool, users, only_say).await
    }
    .await;
    pool.close().await;
    given
}

/// The user and its password, which the server is told as it keeps it and not as it is.
async fn make(pool: &PgPool, user: &User) -> Result<()> {
    let Some(password) = &user.password else {
        return Ok(());
    };
    let word = if exists(pool, &user.name).await? {
        "ALTER"
    } else {
        "CREATE"
    };
    let sql = format!(
        "{word} ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD '{}'",
        rights::quoted(&user.name),
        verifier(password)
    );
    sqlx::query(sqlx::AssertSqlSafe(sql))
        .execute(pool)
        .await
        .map_err(refused)?;
    Ok(())
}

async fn exists(pool: &PgPool, name: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = $1)";
    let row: Result<(bool,), _> = sqlx::query_as(sql).bind(name).fetch_one(pool).await;
    Ok(row.map_err(failed)?.0)
}

async fn give(pool: &PgPool, users: &[User], only_say: bool) -> Result<Given> {
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
    for User { role, name, .. } in users {
        if exists(pool, name).await? {
            let said = rights::statements(role, name, &schema, &columns);
            given.statements.extend(said);
            given.users.push(name.clone());
        } else {
            given.absent.push(name.clone());
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

/// A password as Postgres keeps it (RFC 5803): SCRAM-SHA-256, which servers from 10 on take instead of the password itself.
fn verifier(password: &str) -> String {
    const ROUNDS: u32 = 4096;
    let mac = |key: &[u8], text: &[u8]| -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        mac.update(text);
        mac.finalize().into_bytes().into()
    };
    let salt = <[u8; 16]>::generate();
    // Hi() of RFC 5802, which is PBKDF2 for one block.
    let mut last = mac(
        password.as_bytes(),
        &[&salt[..], &1u32.to_be_bytes()].concat(),
    );
    let mut salted = Zeroizing::new(last);
    for _ in 1..ROUNDS {
        last = mac(password.as_bytes(), &last);
        for (sum, byte) in salted.iter_mut().zip(last) {
            *sum ^= byte;
        }
    }
    let stored = Sha256::digest(mac(&salted[..], b"Client Key"));
    let server = mac(&salted[..], b"Server Key");
    let text = |bytes: &[u8]| STANDARD.encode(bytes);
    format!(
        "SCRAM-SHA-256${ROUNDS}:{}${}:{}",
        text(&salt),
        text(&stored),
        text(&server)
    )
}

fn refused(error: sqlx::Error) -> Error {
    Error::unavailable(
        "the rights of the roles cannot be given; log in as the owner of the database",
    )
    .because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_tells_who_logs_in() {
        let user = User::of_url(
            "monitor",
            "postgres://phx_m:0123456789abcdef@h:5432/d?sslmode=disable",
        );
        let user = user.expect("a user");
        assert_eq!(user.name, "phx_m");
        assert_eq!(
            user.password.expect("its password").as_str(),
            "0123456789abcdef"
        );
        for bad in [
            "postgres://h/d",
            "postgres://phx_m@h/d",
            "postgres://phx_m:short@h/d",
            "postgres://phx_m:0123456789abcdef%20@h/d",
            "what",
        ] {
            assert!(User::of_url("monitor", bad).is_err(), "{bad}");
        }
    }
}
