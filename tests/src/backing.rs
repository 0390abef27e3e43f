//! What a cluster stands on: a NATS server of its own, and a database of its own in the Postgres that `tests/run` started.

use crate::wait;
use std::{
    fs::OpenOptions,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

const STARTS_WITHIN: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Backing {
    dir: PathBuf,
    nats_port: u16,
    nats: Option<Child>,
    postgres: String,
    database: String,
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

impl Backing {
    pub fn start(dir: &Path) -> Self {
        let postgres = std::env::var("PHALANX_TEST_POSTGRES_URL").unwrap_or_else(|_| {
            panic!("PHALANX_TEST_POSTGRES_URL is not set: run the tests with tests/run, which starts Postgres")
        });
        let database = format!("phx_{}", uuid::Uuid::new_v4().simple());
        let mut backing = Self {
            dir: dir.to_owned(),
            nats_port: free_port(),
            nats: None,
            postgres,
            database,
        };
        backing.psql(&format!("CREATE DATABASE {}", backing.database));
        backing.start_nats();
        backing
    }

    pub fn postgres_url(&self) -> String {
        let (server, _) = self.postgres.rsplit_once('/').expect("a database's URL");
        format!("{server}/{}", self.database)
    }

    pub fn nats_url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.nats_port)
    }

    pub fn start_nats(&mut self) {
        assert!(self.nats.is_none(), "NATS runs already");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join("nats.log"))
            .expect("a log");
        let port = self.nats_port.to_string();
        let mut command = Command::new("nats-server");
        command.args(["-a", "127.0.0.1", "-p", &port, "-js", "-sd"]);
        command
            .arg(self.dir.join("nats"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log);
        let child = command.spawn();
        self.nats = Some(child.unwrap_or_else(|error| {
            panic!("nats-server: {error}; run the tests with tests/run, which installs it")
        }));
        let up = wait::blocking(STARTS_WITHIN, || {
            TcpStream::connect(("127.0.0.1", self.nats_port)).ok()
        });
        assert!(up.is_some(), "NATS does not answer");
    }

    /// Ends NATS as a power cut would.
    pub fn kill_nats(&mut self) {
        if let Some(mut nats) = self.nats.take() {
            let _ = nats.kill();
            let _ = nats.wait();
        }
    }

    /// Rows of one statement, as text, columns parted by `|`.
    pub fn rows(&self, sql: &str) -> Vec<String> {
        let output = Self::run(&self.postgres_url(), sql);
        output.lines().map(str::to_owned).collect()
    }

    fn psql(&self, sql: &str) {
        Self::run(&self.postgres, sql);
    }

    fn run(url: &str, sql: &str) -> String {
        let output = Command::new("psql")
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
            .expect("psql is there: tests/run installs it with Postgres");
        assert!(
            output.status.success(),
            "{sql}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        self.kill_nats();
        if !std::thread::panicking() {
            self.psql(&format!(
                "DROP DATABASE IF EXISTS {} WITH (FORCE)",
                self.database
            ));
        }
    }
}
