//! A nats-server of one's own on a free port, the certificates and credentials that it asks for.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa};
use serde_json::{Value, json};

use crate::world::soon;

/// A folder that goes when this does.
pub struct Directory(PathBuf);

pub fn directory() -> Directory {
    let name = format!("phalanx-bus-{}", uuid::Uuid::new_v4().simple());
    let path = std::env::temp_dir().join(name);
    fs::create_dir_all(&path).expect("a folder");
    Directory(path)
}

impl Directory {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub struct Server {
    pub dir: PathBuf,
    address: String,
    child: Child,
    _directory: Directory,
}

impl Server {
    /// With JetStream, and with what the test adds to its configuration.
    pub async fn start(settings: impl FnOnce(&Path) -> String) -> Self {
        let directory = directory();
        let dir = directory.path().to_owned();
        let settings = settings(&dir);
        let config = format!(
            "listen: \"127.0.0.1:-1\"\nports_file_dir: {dir:?}\njetstream {{ store_dir: {:?} }}\n{settings}\n",
            dir.join("jetstream")
        );
        let file = dir.join("nats.conf");
        fs::write(&file, config).expect("a file");
        let log = dir.join("nats.log");
        let mut child = Command::new("nats-server")
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a log"))
            .spawn()
            .expect("nats-server is on the path: tests/run puts it there");
        let ports = dir.join(format!("nats-server_{}.ports", child.id()));
        let address = soon("the server's address", async {
            loop {
                let told = fs::read(&ports).unwrap_or_default();
                if let Ok(ports) = serde_json::from_slice::<Value>(&told) {
                    break ports["nats"][0].as_str().expect("an address").to_owned();
                }
                if let Some(status) = child.try_wait().expect("its state") {
                    panic!(
                        "nats-server {status}: {}",
                        fs::read_to_string(&log).expect("a log")
                    );
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        let (_, address) = address.split_once("://").expect("a URL");
        Self {
            address: address.to_owned(),
            dir,
            child,
            _directory: directory,
        }
    }

    /// `login` ends in `@`, or is empty.
    pub fn url(&self, scheme: &str, login: &str) -> String {
        format!("{scheme}://{login}{}", self.address)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.join(name);
        fs::write(&path, text).expect("a file");
        path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A certificate authority and what it signs, for 127.0.0.1.
pub struct Authority(CertifiedIssuer<'static, rcgen::KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("signed"))
    }

    /// Its own certificate, for those who trust it.
    pub fn write(&self, dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, self.0.pem()).expect("a file");
        path
    }

    /// A new certificate and its key.
    pub fn certificate(&self, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
        let signed = params.signed_by(&key, &self.0).expect("signed");
        let (certificate, secret) = (
            dir.join(format!("{name}.pem")),
            dir.join(format!("{name}.key")),
        );
        fs::write(&certificate, signed.pem()).expect("a file");
        fs::write(&secret, key.serialize_pem()).expect("a file");
        (certificate, secret)
    }
}

/// An operator's account and one user of it.
pub struct Credentials {
    /// What the server is told.
    pub server: String,
    /// What the user has.
    pub file: String,
    pub seed: String,
}

pub fn credentials() -> Credentials {
    let (operator, system) = (KeyPair::new_operator(), KeyPair::new_account());
    let (account, user) = (KeyPair::new_account(), KeyPair::new_user());
    let unlimited = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
    });
    let mut stored = unlimited.clone();
    for kind in ["mem_storage", "disk_storage", "streams", "consumer"] {
        stored[kind] = json!(-1);
    }
    let operators = signed(&operator, &operator, &json!({"type": "operator"}));
    let systems = signed(
        &operator,
        &system,
        &json!({"type": "account", "limits": unlimited}),
    );
    let accounts = signed(
        &operator,
        &account,
        &json!({"type": "account", "limits": stored}),
    );
    let users = signed(
        &account,
        &user,
        &json!({"type": "user", "subs": -1, "data": -1, "payload": -1}),
    );
    let seed = user.seed().expect("a seed");
    Credentials {
        server: format!(
            "operator: {operators}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {systems}, {}: {accounts} }}",
            system.public_key(),
            system.public_key(),
            account.public_key(),
        ),
        file: format!(
            "-----BEGIN NATS USER JWT-----\n{users}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        ),
        seed,
    }
}

fn signed(by: &KeyPair, of: &KeyPair, claims: &Value) -> String {
    let mut claims = claims.clone();
    claims["version"] = json!(2);
    let body = json!({
        "jti": of.public_key(), "iat": 1, "iss": by.public_key(), "sub": of.public_key(), "name": "test", "nats": claims,
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!(
        "{}.{}",
        part(&json!({"typ": "JWT", "alg": "ed25519-nkey"})),
        part(&body)
    );
    let signature = by.sign(text.as_bytes()).expect("a key that can sign");
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}
