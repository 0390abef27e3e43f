//! Each role's user of Postgres may what its role does, and nothing else; the bus and gRPC know the roles apart too.

use phalanx_tests::{
    Cluster, Options, Shape,
    apart::{self, ROLES},
    program,
};
use std::process::{Command, Output};

fn psql(url: &str, sql: &str) -> Output {
    Command::new("psql")
        .args([
            url,
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            sql,
        ])
        .output()
        .expect("psql is on the path: tests/run puts it there")
}

/// What a role must not, in SQL.
const FORBIDDEN: [(&str, &str); 28] = [
    ("monitor", "SELECT secrets FROM versions"),
    ("monitor", "SELECT webhook_secret FROM agents"),
    ("monitor", "SELECT hash FROM keys"),
    ("monitor", "SELECT sealed FROM peppers"),
    ("monitor", "SELECT input FROM executions"),
    ("monitor", "UPDATE executions SET status = 'completed'"),
    ("monitor", "INSERT INTO audit SELECT * FROM audit"),
    ("monitor", "UPDATE traffic SET routes = ''"),
    ("monitor", "UPDATE deliveries SET secret = '', url = ''"),
    ("deployer", "SELECT secrets FROM versions"),
    ("deployer", "SELECT webhook_secret FROM agents"),
    ("deployer", "SELECT hash FROM keys"),
    ("deployer", "UPDATE keys SET permissions = '[]'"),
    ("deployer", "SELECT sealed FROM peppers"),
    ("deployer", "SELECT output FROM executions"),
    ("deployer", "UPDATE executions SET status = 'completed'"),
    ("deployer", "UPDATE agents SET environment = 'prod'"),
    ("executor", "SELECT hash FROM keys"),
    ("executor", "SELECT sealed FROM peppers"),
    ("executor", "SELECT webhook_secret FROM agents"),
    ("executor", "SELECT secret FROM alert_policies"),
    ("executor", "UPDATE versions SET secrets = ''"),
    ("executor", "UPDATE envelopes SET state = 'active'"),
    ("executor", "DELETE FROM audit"),
    ("gateway", "UPDATE versions SET secrets = ''"),
    ("gateway", "SELECT webhook_secret FROM agents"),
    ("gateway", "UPDATE audit SET outcome = 'ok'"),
    ("gateway", "UPDATE traffic SET routes = ''"),
];

#[tokio::test(flavor = "multi_thread")]
async fn no_user_of_the_database_may_more_than_its_role() {
    let cluster = Cluster::many(Shape::SMALL, Options::default()).await;
    let backing = cluster.backing.as_ref().expect("a cluster");
    for (role, sql) in FORBIDDEN {
        let done = psql(&backing.postgres_url(role), sql);
        let words = String::from_utf8_lossy(&done.stderr);
        assert!(
            words.contains("permission denied"),
            "{role}: {sql}: {words}"
        );
    }
    for role in ROLES {
        let url = backing.postgres_url(role);
        for sql in [
            "CREATE TABLE mine (id TEXT)",
            "DROP TABLE logs",
            "ALTER TABLE logs ADD COLUMN more TEXT",
            "TRUNCATE audit",
            "DELETE FROM _sqlx_migrations",
            "CREATE ROLE another",
        ] {
            let done = psql(&url, sql);
            assert!(!done.status.success(), "{role} may {sql}");
        }
        let done = psql(&url, "SELECT COUNT(*) FROM _sqlx_migrations");
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
}

/// A role that may not change the schema says who may, and begins to work once that was done.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_migrate_says_who_may() {
    let mut cluster = Cluster::many(Shape::SMALL, Options::default()).await;
    let owner = cluster.backing.as_ref().expect("a cluster").owner_url();
    let monitor = cluster.part("monitor-1");
    assert!(monitor.terminate().success());
    let forgets = "CREATE TABLE kept AS SELECT * FROM _sqlx_migrations WHERE version = 10; DELETE FROM _sqlx_migrations WHERE version = 10";
    assert!(psql(&owner, forgets).status.success());
    let monitor = cluster.part("monitor-1");
    monitor.spawn();
    assert!(!monitor.ended().success());
    let words = monitor.words();
    assert!(
        words.contains("without 10") && words.contains("phalanx migrate"),
        "{words}"
    );
    let again = "INSERT INTO _sqlx_migrations SELECT * FROM kept; DROP TABLE kept";
    assert!(psql(&owner, again).status.success());
    apart::migrate(&owner);
    cluster.part("monitor-1").spawn();
    cluster.all_ready().await;
}

/// What would be done can be read before, and rights that were given by hand are taken.
#[tokio::test(flavor = "multi_thread")]
async fn rights_are_what_the_table_says_after_every_migration() {
    let cluster = Cluster::many(Shape::SMALL, Options::default()).await;
    let backing = cluster.backing.as_ref().expect("a cluster");
    let (owner, monitor) = (backing.owner_url(), backing.postgres_url("monitor"));
    let secret = "SELECT secrets FROM versions";
    let said = Command::new(program::phalanx())
        .args(["migrate", "--say"])
        .env("PHALANX__STORE__URL", &owner)
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&said.stdout);
    assert!(said.contains("TO \"phalanx_monitor\";"), "{said}");
    assert!(
        psql(&owner, "GRANT SELECT ON versions TO phalanx_monitor")
            .status
            .success()
    );
    assert!(psql(&monitor, secret).status.success());
    apart::migrate(&owner);
    assert!(!psql(&monitor, secret).status.success());
}
