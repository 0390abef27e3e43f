//! Getting in to Postgres: TLS that is checked, passwords, certificates; on a server of its own that takes nothing else. What is
//! refused is said in one line without a secret.

mod server;

use crate::world::secrets;
use domain::Result;
use server::{Authority, Server};
use sqlx::Connection;
use std::path::Path;
use store::{Config, Store};

const PASSWORD: &str = "s3cr3t@/:%!";
/// The same as a URL has it.
const ESCAPED: &str = "s3cr3t%40%2F%3A%25%21";

async fn open(url: &str) -> Result<Store> {
    let config = Config::Postgres {
        url: url.into(),
        connections: 2,
    };
    Store::open(&config, secrets()).await
}

/// A store that answers, by a connection that is what it should be.
async fn works(url: &str) -> Result<()> {
    let store = open(url).await?;
    assert_eq!(store.unfinished_deployments(1).await?.len(), 0);
    store.close().await;
    let mut connection = sqlx::PgConnection::connect(url).await.expect("once more");
    let encrypted: bool =
        sqlx::query_scalar("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
            .fetch_one(&mut connection)
            .await
            .expect("a row");
    assert!(encrypted);
    connection.close().await.expect("closes");
    Ok(())
}

async fn refused(url: &str) -> String {
    let error = open(url).await.err().expect("this must not be let in");
    let words = error.to_string();
    assert!(!words.contains('\n') && words.len() < 300, "{words}");
    for secret in [PASSWORD, ESCAPED, "wr0ng"] {
        let all = format!("{words} {error:?}");
        assert!(!all.contains(secret), "{all}");
    }
    words
}

fn shown(path: &Path) -> &str {
    path.to_str().expect("a path in plain letters")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_that_is_checked() -> Result<()> {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = Server::start(&ours).await;
    server
        .statement(&format!(
            "CREATE ROLE phalanx LOGIN SUPERUSER PASSWORD '{PASSWORD}'"
        ))
        .await;
    server
        .statement("CREATE ROLE certified LOGIN SUPERUSER")
        .await;
    let ca = ours.write(&server.dir, "trusted.pem");
    let login = format!("phalanx:{ESCAPED}");
    let checked = format!("sslmode=verify-full&sslrootcert={}", shown(&ca));
    works(&server.url(&login, &checked)).await?;

    let other_ca = theirs.write(&server.dir, "other.pem");
    let by_other = format!("sslmode=verify-full&sslrootcert={}", shown(&other_ca));
    let why = refused(&server.url(&login, &by_other)).await;
    assert!(why.contains("invalid peer certificate"), "{why}");
    let why = refused(&server.url(&login, "sslmode=verify-full")).await;
    assert!(why.contains("UnknownIssuer"), "{why}");
    // The certificate is of 127.0.0.1 alone.
    let renamed = server
        .url(&login, &checked)
        .replace("127.0.0.1", "localhost");
    let why = refused(&renamed).await;
    assert!(why.contains("not valid for name"), "{why}");
    let why = refused(&server.url(&login, "sslmode=disable")).await;
    assert!(why.contains("no encryption"), "{why}");
    let why = refused(&server.url("phalanx:wr0ng", &checked)).await;
    assert!(why.contains("password authentication failed"), "{why}");
    let nowhere = format!("{checked}.gone");
    let why = refused(&server.url(&login, &nowhere)).await;
    assert!(why.contains("sslrootcert, sslcert or sslkey"), "{why}");
    for query in ["sslmode=whatever", &format!("{checked}&port=none")] {
        refused(&server.url(&login, query)).await;
    }
    refused(&format!("postgres://{login}@127.0.0.1:99999/postgres")).await;

    let (certificate, key) = ours.client(&server.dir, "certified");
    let with = |certificate: &Path, key: &Path| {
        format!(
            "{checked}&sslcert={}&sslkey={}",
            shown(certificate),
            shown(key)
        )
    };
    works(&server.url("certified", &with(&certificate, &key))).await?;
    let why = refused(&server.url("certified", &checked)).await;
    assert!(why.contains("certificate"), "{why}");
    let (stranger, strangers) = theirs.client(&server.dir, "stranger");
    refused(&server.url("certified", &with(&stranger, &strangers))).await;
    // Of ours, but of somebody else.
    let (other, others) = ours.client(&server.dir, "somebody");
    let why = refused(&server.url("certified", &with(&other, &others))).await;
    assert!(why.contains("authentication failed"), "{why}");
    Ok(())
}
