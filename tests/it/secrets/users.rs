//! Each role's user of Postgres may what its role does, and nothing else; the bus and gRPC know the roles apart too.

use phalanx_tests::{
    Cluster, Options, Shape,
    apart::{self, ROLES},
    backing::psql,
    program,
};
use std::process::Command;

/// What a role must not, in SQL.
const FORBIDDEN: [(&str, &str); 26] = [
    ("monitor", "SELECT secrets FROM versions"),
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

/// `phalanx migrate` makes the users too; the server is never told a password, and a new one counts at once.
#[tokio::test(flavor = "multi_thread")]
async fn users_are_made_with_their_passwords() {
    let cluster = Cluster::many(Shape::SMALL, Options::default()).await;
    let backing = cluster.backing.as_ref().expect("a cluster");
    let (owner, name) = (
        backing.owner_url(),
        format!("made_{}", &apart::random()[..12]),
    );
    let file = cluster.base().join("made");
    let password = apart::random();
    for password in [apart::random(), password.clone()] {
        std::fs::write(&file, apart::as_user(&owner, &name, &password)).expect("a file");
        let made = Command::new(program::phalanx())
            .args(["migrate", "--user", &format!("monitor={}", file.display())])
            .env("PHALANX__STORE__URL", &owner)
            .output()
            .expect("the program starts");
        let words = String::from_utf8_lossy(&made.stdout);
        assert!(words.contains(&format!("{name} has its rights")), "{words}");
    }
    // What the server keeps is what the password gives, as RFC 5802 has it: counted anew by Python.
    let kept = psql(
        &owner,
        &format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{name}'"),
    )
    .stdout;
    let kept = String::from_utf8(kept).expect("words");
    let check = "import base64, hashlib, hmac, sys\n\
        password, kept = sys.argv[1].encode(), sys.argv[2]\n\
        kind, middle, keys = kept.split('$')\n\
        rounds, salt = middle.split(':')\n\
        stored, server = (base64.b64decode(key) for key in keys.split(':'))\n\
        salted = hashlib.pbkdf2_hmac('sha256', password, base64.b64decode(salt), int(rounds))\n\
        client = hmac.digest(salted, b'Client Key', 'sha256')\n\
        assert kind == 'SCRAM-SHA-256' and int(rounds) >= 4096, kind\n\
        assert hashlib.sha256(client).digest() == stored\n\
        assert hmac.digest(salted, b'Server Key', 'sha256') == server\n";
    let checked = Command::new("python3")
        .args(["-c", check, &password, kept.trim()])
        .output();
    let checked = checked.expect("there is python3");
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stderr)
    );
    let url = apart::as_user(&owner, &name, &password);
    assert!(psql(&url, "SELECT COUNT(*) FROM alerts").status.success());
    assert!(!psql(&url, "SELECT secrets FROM versions").status.success());
    let gone = format!("DROP OWNED BY {name}; DROP ROLE {name}");
    assert!(psql(&owner, &gone).status.success());
}
