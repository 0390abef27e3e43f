//! A Postgres of one's own that is spoken to by TLS only, and the certificates for it.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use sqlx::Connection;
use std::{
    fs::{self, File, Permissions},
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// Postgres refuses to run as root; Debian's package makes this user.
const USER: &str = "postgres";
const WHO_MAY: &str = "hostssl all postgres  127.0.0.1/32 trust\n\
                       hostssl all phalanx   127.0.0.1/32 scram-sha-256\n\
                       hostssl all certified 127.0.0.1/32 cert\n";

pub struct Server {
    pub dir: PathBuf,
    port: u16,
    child: Child,
}

impl Server {
    pub async fn start(authority: &Authority) -> Self {
        let dir =
            std::env::temp_dir().join(format!("phalanx-pg-{}", uuid::Uuid::now_v7().simple()));
        fs::create_dir_all(&dir).expect("a folder");
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).expect("our own folder");
        let home = dir.join("home");
        fs::create_dir_all(&home).expect("a folder");
        let ca = authority.write(&home, "ca.pem");
        let (certificate, key) = authority.server(&home);
        let hba = home.join("pg_hba.conf");
        fs::write(&hba, WHO_MAY).expect("a file");
        fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("our own file");
        for path in [&home, &ca, &certificate, &key, &hba] {
            give_to_postgres(path);
        }
        let mut made = as_postgres("initdb");
        made.arg("-D").arg(home.join("data"));
        let made = made
            .args(["-U", "postgres", "-A", "reject", "--no-sync"])
            .output();
        let made = made.expect("initdb can be run");
        let words = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "{words}");
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let mut command = as_postgres("postgres");
        command
            .arg("-D")
            .arg(home.join("data"))
            .arg("-k")
            .arg(&home);
        command.args(["-p", &port.to_string()]);
        for (name, value) in [
            ("hba_file", hba.display().to_string()),
            ("ssl_ca_file", ca.display().to_string()),
            ("ssl_cert_file", certificate.display().to_string()),
            ("ssl_key_file", key.display().to_string()),
            ("ssl", "on".to_owned()),
            ("fsync", "off".to_owned()),
            ("listen_addresses", "127.0.0.1".to_owned()),
        ] {
            command.args(["-c", &format!("{name}={value}")]);
        }
        let log = File::create(dir.join("postgres.log")).expect("a log");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = child.spawn().expect("postgres can be run");
        let mut server = Self { dir, port, child };
        server.until_ready().await;
        server
    }

    async fn until_ready(&mut self) {
        let end = Instant::now() + STARTS_WITHIN;
        let url = self.url("postgres", "sslmode=require");
        while let Err(error) = sqlx::PgConnection::connect(&url).await {
            let gone = self.child.try_wait().expect("its state");
            let log = fs::read_to_string(self.dir.join("postgres.log")).unwrap_or_default();
            assert!(gone.is_none() && Instant::now() < end, "{error}: {log}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn url(&self, login: &str, query: &str) -> String {
        format!(
            "postgres://{login}@127.0.0.1:{}/postgres?{query}",
            self.port
        )
    }

    pub async fn statement(&self, sql: &str) {
        let url = self.url("postgres", "sslmode=require");
        let mut connection = sqlx::PgConnection::connect(&url).await.expect("it is up");
        sqlx::query(sqlx::AssertSqlSafe(sql.to_owned()))
            .execute(&mut connection)
            .await
            .expect("a statement");
        connection.close().await.expect("closes");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// From the path, or from where Debian puts the newest.
fn as_postgres(program: &str) -> Command {
    let on_path = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    });
    let debians = || {
        let versions = fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .flatten();
        let found = versions.map(|version| version.path().join("bin").join(program));
        found.filter(|path| path.is_file()).max()
    };
    let found = if on_path { None } else { debians() };
    let mut command = Command::new(found.unwrap_or_else(|| PathBuf::from(program)));
    if let Some(user) = other_user() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        command.current_dir("/");
    }
    command
}

fn give_to_postgres(path: &Path) {
    if let Some(user) = other_user() {
        nix::unistd::chown(path, Some(user.uid), Some(user.gid)).expect("our own file");
    }
}

fn other_user() -> Option<nix::unistd::User> {
    nix::unistd::geteuid().is_root().then(|| {
        let user = nix::unistd::User::from_name(USER).expect("the users");
        user.expect("the user that Debian's package makes")
    })
}

/// A certificate authority and what it signs.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("signed"))
    }

    /// Its own certificate, for those who trust it.
    pub fn write(&self, dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, self.0.pem()).expect("a file");
        path
    }

    /// For 127.0.0.1.
    fn server(&self, dir: &Path) -> (PathBuf, PathBuf) {
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
        self.sign(&params, dir, "server")
    }

    /// For the role of this name.
    pub fn client(&self, dir: &Path, role: &str) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, role);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params, dir, role)
    }

    fn sign(&self, params: &CertificateParams, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().expect("a key");
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
