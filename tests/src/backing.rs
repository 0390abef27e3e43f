//! What a cluster stands on: a NATS server of its own, and a database in the Postgres that `tests/run` started; or, where a test
//! is about their bad days, a Postgres of its own too, both reached by wires that can be cut.

use crate::{apart, proxy::Proxy, wait};
use std::{
    fs::{self, OpenOptions},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

/// The first port that tests take, and how many there are.
const PORTS: (u16, u16) = (12_000, 18_000);
const STARTS_WITHIN: Duration = Duration::from_secs(30);
/// Postgres refuses to run as root; Debian's package makes this user.
const POSTGRES_USER: &str = "postgres";

#[derive(Debug)]
pub struct Backing {
    dir: PathBuf,
    nats: Server,
    /// `None`: it belongs to all tests.
    postgres: Option<Server>,
    postgres_url: String,
    database: String,
    wires: Option<Wires>,
    /// Of each role, and of a user who may everything on the bus.
    pub passwords: Vec<(String, String)>,
}

/// How the program under test reaches its servers, where that can be cut.
#[derive(Debug)]
pub struct Wires {
    pub nats: Proxy,
    pub postgres: Proxy,
}

/// A server of our own: killed and started again on the same files and port.
#[derive(Debug)]
struct Server {
    port: u16,
    child: Option<Child>,
}

/// A port for a server that starts later and may be started again: below those that connections are given, and of this test
/// alone, by a lock that ends with its process.
pub fn free_port() -> u16 {
    let locks = std::env::temp_dir().join("phalanx-test-ports");
    fs::create_dir_all(&locks).expect("a directory for locks");
    let first = std::process::id().wrapping_mul(7919) % u32::from(PORTS.1);
    (0..PORTS.1)
        .map(|n| {
            PORTS.0 + u16::try_from((first + u32::from(n)) % u32::from(PORTS.1)).expect("small")
        })
        .find(|port| is_free(*port, &locks.join(port.to_string())))
        .expect("a free port")
}

fn is_free(port: u16, lock: &Path) -> bool {
    let Ok(lock) = fs::File::create(lock) else {
        return false;
    };
    let free = lock.try_lock().is_ok() && TcpListener::bind(at(port)).is_ok();
    if free {
        // Held until the process ends.
        std::mem::forget(lock);
    }
    free
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

impl Server {
    fn on_free_port() -> Self {
        Self {
            port: free_port(),
            child: None,
        }
    }

    fn started(&mut self, mut command: Command, log: &Path) {
        assert!(self.child.is_none(), "it runs already");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .expect("a log");
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log);
        let child = command.spawn();
        self.child = Some(child.unwrap_or_else(|error| {
            panic!("{command:?}: {error}; run the tests with tests/run, which installs it")
        }));
    }

    /// Ends it as a power cut would.
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Backing {
    /// On the Postgres of all tests.
    pub fn start(dir: &Path) -> Self {
        let postgres_url = std::env::var("PHALANX_TEST_POSTGRES_URL").unwrap_or_else(|_| {
            panic!("PHALANX_TEST_POSTGRES_URL is not set: run the tests with tests/run, which starts Postgres")
        });
        let mut backing = Self {
            dir: dir.to_owned(),
            nats: Server::on_free_port(),
            postgres: None,
            postgres_url,
            database: format!("phx_{}", uuid::Uuid::new_v4().simple()),
            wires: None,
            passwords: passwords(),
        };
        backing.psql(&format!("CREATE DATABASE {}", backing.database));
        backing.lay_schema();
        backing.start_nats();
        backing
    }

    /// On a Postgres of its own, behind wires that can be cut.
    pub async fn of_its_own(dir: &Path) -> Self {
        let postgres = Server::on_free_port();
        let mut backing = Self {
            dir: dir.to_owned(),
            nats: Server::on_free_port(),
            postgres_url: format!("postgres://postgres@127.0.0.1:{}/postgres", postgres.port),
            postgres: Some(postgres),
            database: "postgres".to_owned(),
            wires: None,
            passwords: passwords(),
        };
        let home = dir.join("postgres");
        fs::create_dir_all(&home).expect("a folder");
        if nix::unistd::geteuid().is_root() {
            let user = nix::unistd::User::from_name(POSTGRES_USER).expect("the users");
            let user = user.expect("the user that Debian's package makes");
            nix::unistd::chown(&home, Some(user.uid), Some(user.gid)).expect("our own folder");
            // It has to come through here.
            let through = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o711);
            fs::set_permissions(dir, through).expect("our own folder");
        }
        let mut made = as_postgres("initdb");
        made.arg("-D").arg(home.join("data"));
        made.args(["-U", "postgres", "-A", "trust", "--no-sync"]);
        let made = made
            .output()
            .expect("initdb is on the path: tests/run puts it there");
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        backing.start_postgres();
        backing.lay_schema();
        backing.start_nats();
        let port = backing.postgres.as_ref().expect("our own").port;
        backing.wires = Some(Wires {
            nats: Proxy::start(at(backing.nats.port)).await,
            postgres: Proxy::start(at(port)).await,
        });
        backing
    }

    /// The schema, and what each role may.
    fn lay_schema(&self) {
        self.psql(&apart::users_sql());
        apart::migrate(&self.owner_url());
    }

    /// As a role reaches it.
    pub fn postgres_url(&self, role: &str) -> String {
        let url = match &self.wires {
            Some(wires) => format!(
                "postgres://127.0.0.1:{}/{}",
                wires.postgres.port(),
                self.database
            ),
            None => self.owner_url(),
        };
        apart::as_user(&url, &apart::user_of(role), self.password(role))
    }

    pub fn password(&self, role: &str) -> &str {
        let found = self.passwords.iter().find(|(user, _)| user == role);
        &found.unwrap_or_else(|| panic!("no {role}")).1
    }

    /// As its owner, and the test itself, reaches it.
    pub fn owner_url(&self) -> String {
        let (server, _) = self
            .postgres_url
            .rsplit_once('/')
            .expect("a database's URL");
        format!("{server}/{}", self.database)
    }

    /// As a role reaches it.
    pub fn nats_url(&self, role: &str) -> String {
        format!("nats://{role}:{}@{}", self.password(role), self.nats())
    }

    pub fn nats(&self) -> SocketAddr {
        at(match &self.wires {
            Some(wires) => wires.nats.port(),
            None => self.nats.port,
        })
    }

    pub fn wires(&self) -> &Wires {
        self.wires.as_ref().expect("a backing of its own has wires")
    }

    pub fn start_nats(&mut self) {
        let conf = self.dir.join("nats.conf");
        let text = apart::nats_conf(self.nats.port, &self.dir.join("nats"), &self.passwords);
        fs::write(&conf, text).expect("a file");
        let mut command = Command::new("nats-server");
        command.arg("-c").arg(conf);
        self.nats.started(command, &self.dir.join("nats.log"));
        let up = wait::blocking(STARTS_WITHIN, || {
            TcpStream::connect(at(self.nats.port)).ok()
        });
        assert!(up.is_some(), "NATS does not answer");
    }

    /// Ends NATS as a power cut would.
    pub fn kill_nats(&mut self) {
        self.nats.kill();
    }

    pub fn start_postgres(&mut self) {
        let server = self.postgres.as_mut().expect("a Postgres of our own");
        let home = self.dir.join("postgres");
        // What was killed leaves its children a moment to notice.
        let mut command = as_postgres("postgres");
        command.arg("-D").arg(home.join("data"));
        command.args(["-p", &server.port.to_string(), "-k"]);
        command.arg(&home).args([
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "max_connections=300",
        ]);
        let log = self.dir.join("postgres.log");
        let probe = self.postgres_url.clone();
        let up = wait::blocking(STARTS_WITHIN, || {
            if let Some(child) = server.child.as_mut()
                && child.try_wait().expect("its state").is_some()
            {
                server.child = None;
            }
            if server.child.is_none() {
                let mut again = as_postgres("postgres");
                again.args(command.get_args());
                server.started(again, &log);
            }
            let asked = Command::new("psql")
                .args([&probe, "-X", "-q", "-t", "-c", "SELECT 1"])
                .output();
            asked
                .is_ok_and(|asked| asked.status.success())
                .then_some(())
        });
        assert!(up.is_some(), "Postgres does not answer");
    }

    /// Ends Postgres as a power cut would; what was committed is there again.
    pub fn kill_postgres(&mut self) {
        self.postgres
            .as_mut()
            .expect("a Postgres of our own")
            .kill();
    }

    /// Nobody reaches the database any more, and whoever did is cut off.
    pub fn cut_database(&self) {
        let name = &self.database;
        self.psql(&format!(
            "ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false"
        ));
        self.psql(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        ));
    }

    pub fn mend_database(&self) {
        let name = &self.database;
        self.psql(&format!(
            "ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true"
        ));
    }

    /// Rows of one statement, as text, columns parted by `|`.
    pub fn rows(&self, sql: &str) -> Vec<String> {
        let output = run(&self.owner_url(), sql);
        output.lines().map(str::to_owned).collect()
    }

    fn psql(&self, sql: &str) {
        run(&self.postgres_url, sql);
    }
}

fn passwords() -> Vec<(String, String)> {
    let users = apart::ROLES.into_iter().chain([apart::ANYBODY]);
    users
        .map(|user| (user.to_owned(), apart::random()))
        .collect()
}

fn as_postgres(program: &str) -> Command {
    let mut command = Command::new(program);
    if nix::unistd::geteuid().is_root() {
        let user = nix::unistd::User::from_name(POSTGRES_USER).expect("the users");
        let user = user.expect("the user that Debian's package makes");
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        command.current_dir("/");
    }
    command
}

/// What psql says to one statement, by whoever the URL names.
pub fn psql(url: &str, sql: &str) -> Output {
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

fn run(url: &str, sql: &str) -> String {
    let output = psql(url, sql);
    assert!(
        output.status.success(),
        "{sql}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Drop for Backing {
    fn drop(&mut self) {
        self.kill_nats();
        if let Some(postgres) = &mut self.postgres {
            postgres.kill();
        } else if !std::thread::panicking() {
            self.psql(&format!(
                "DROP DATABASE IF EXISTS {} WITH (FORCE)",
                self.database
            ));
        }
    }
}
