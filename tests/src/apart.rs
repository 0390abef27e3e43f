//! What keeps the processes of a cluster apart, as deploy/ has it: a user of Postgres and of NATS for each role, and mutual TLS
//! between them. Every test by the front door runs so.

use crate::program;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

pub const ROLES: [&str; 4] = ["gateway", "deployer", "executor", "monitor"];
/// The test's own user of NATS, who may everything.
pub const ANYBODY: &str = "anybody";

pub fn random() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// `postgres://user@host:port/database` with somebody else in it. The tests' Postgres believes every password.
pub fn as_user(url: &str, user: &str, password: &str) -> String {
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let server = rest.rsplit_once('@').map_or(rest, |(_, server)| server);
    format!("{scheme}://{user}:{password}@{server}")
}

pub fn user_of(role: &str) -> String {
    format!("phalanx_{role}")
}

/// Makes the users, of which a server has one set for all databases: whoever comes second finds them. (`phalanx migrate` would
/// make them too, and tests that run side by side would give each other's users their passwords.)
pub fn users_sql() -> String {
    let made = ROLES.map(|role| {
        let user = user_of(role);
        format!(
            "DO $$ BEGIN CREATE ROLE {user} LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;"
        )
    });
    made.concat()
}

/// `phalanx migrate`, as the owner.
pub fn migrate(owner_url: &str) {
    let output = Command::new(program::phalanx())
        .arg("migrate")
        .env("PHALANX__STORE__URL", owner_url)
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.matches("has its rights").count() == ROLES.len(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// deploy/nats/nats.conf with this test's port, folder and passwords, and one user more.
pub fn nats_conf(port: u16, folder: &Path, passwords: &[(String, String)]) -> String {
    let path = program::repository().join("deploy/nats/nats.conf");
    let mut text = fs::read_to_string(&path).expect("the bus of a deployed cluster");
    let given: String = passwords
        .iter()
        .map(|(user, password)| format!("{}_PASSWORD: \"{password}\"\n", user.to_uppercase()))
        .collect();
    for (line, instead) in [
        ("include ../../run/secrets/nats_users", given),
        ("listen: 0.0.0.0:4222", format!("listen: 127.0.0.1:{port}")),
        ("http: 127.0.0.1:8222", String::new()),
        (
            "store_dir: /data",
            format!("store_dir: \"{}\"", folder.display()),
        ),
        (
            "  users = [",
            format!("  users = [\n    {{ user: {ANYBODY}, password: $ANYBODY_PASSWORD }}"),
        ),
    ] {
        assert!(text.contains(line), "{} has no {line:?}", path.display());
        text = text.replacen(line, &instead, 1);
    }
    text
}

/// An authority, and what each role shows of it: the settings that name their files.
pub struct Certificates {
    authority: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
}

const NAME: &str = "phalanx";

impl Certificates {
    pub fn new(dir: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(params, key).expect("an authority");
        fs::write(dir.join("ca.crt"), authority.pem()).expect("a file");
        Self {
            authority,
            dir: dir.to_owned(),
        }
    }

    pub fn settings(&self, role: &str) -> Vec<(String, String)> {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![NAME.to_owned()]).expect("a name");
        let signed = params.signed_by(&key, &self.authority).expect("signed");
        let file = |name: String, text: String| {
            let path = self.dir.join(name);
            fs::write(&path, text).expect("a file");
            path.display().to_string()
        };
        let set = |name: &str, value: String| (format!("PHALANX__GRPC__{name}"), value);
        vec![
            set("CA", self.dir.join("ca.crt").display().to_string()),
            set("CERTIFICATE", file(format!("{role}.crt"), signed.pem())),
            set("KEY", file(format!("{role}.key"), key.serialize_pem())),
            set("SERVER_NAME", NAME.to_owned()),
        ]
    }
}
