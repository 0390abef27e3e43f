//! The program under test in a world of its own: a directory, a free port, a log.

use crate::{Client, program, remains, wait};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::{self, OpenOptions},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

const READY_WITHIN: Duration = Duration::from_secs(60);
const LEAVES_WITHIN: Duration = Duration::from_secs(45);
const LOG_TAIL: usize = 80;

#[derive(Debug, Default, Clone)]
pub struct Options {
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
}

impl Options {
    /// One setting, as `PHALANX__EXECUTOR__IDLE_S` names it.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }
}

#[derive(Debug)]
pub struct Cluster {
    base: PathBuf,
    options: Options,
    child: Option<Child>,
    pub client: Client,
}

impl Cluster {
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    pub async fn start_with(options: Options) -> Self {
        let base = std::env::temp_dir().join(format!(
            "phx-{}",
            &uuid::Uuid::new_v4().simple().to_string()[..12]
        ));
        fs::create_dir_all(&base).expect("a temporary directory");
        let mut cluster = Self {
            base,
            options,
            child: None,
            client: Client::nowhere(),
        };
        cluster.restart().await;
        cluster
    }

    pub fn data_dir(&self) -> PathBuf {
        self.base.join("data")
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    pub fn node(&self) -> String {
        let text = fs::read_to_string(self.data_dir().join("node.id")).unwrap_or_default();
        // Nothing carries an empty mark.
        if text.trim().is_empty() {
            "no-node-yet".to_owned()
        } else {
            text.trim().to_owned()
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.base.join("log")).unwrap_or_default()
    }

    /// Starts the program, again on the same directory when there was one, and waits until it serves.
    pub async fn restart(&mut self) {
        self.spawn();
        self.ready().await;
    }

    /// Starts it and waits for nothing.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        // The address of the run before would be read for this one's.
        let _ = fs::remove_file(self.data_dir().join("address"));
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.base.join("log"))
            .expect("a log");
        let mut command = Command::new(program::phalanx());
        command
            .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(self.data_dir());
        command.args(&self.options.arguments);
        command
            .env("PHALANX__EXECUTOR__UV_CACHE", program::uv_cache())
            .env("NO_COLOR", "1");
        command.envs(
            self.options
                .environment
                .iter()
                .map(|(name, value)| (name, value)),
        );
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log);
        self.child = Some(command.spawn().expect("the program starts"));
    }

    /// Waits until it serves.
    pub async fn ready(&mut self) {
        let dir = self.data_dir();
        let (child, base) = (&mut self.child, &self.base);
        let client = wait::until("the program serves", READY_WITHIN, || {
            let ended = child
                .as_mut()
                .and_then(|child| child.try_wait().expect("its state"));
            let read =
                |name: &str| fs::read_to_string(dir.join(name)).map(|text| text.trim().to_owned());
            let found = read("address").and_then(|address| Ok((address, read("admin.key")?)));
            async move {
                if let Some(status) = ended {
                    panic!("the program ended with {status}:\n{}", tail(base));
                }
                let (address, key) = found.map_err(|error| format!("no address: {error}"))?;
                let client = Client::new(&address, &key);
                match client.try_get("/readyz").await {
                    Ok(answer) if answer.status == 200 => Ok(client),
                    Ok(answer) => Err(format!("/readyz: {} {}", answer.status, answer.text)),
                    Err(error) => Err(format!("/readyz: {error}")),
                }
            }
        })
        .await;
        self.client = client;
    }

    /// Ends it as a power cut would.
    pub fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        let status = self.ended();
        assert_eq!(
            status.signal(),
            Some(9),
            "it ended by itself: {status}\n{}",
            tail(&self.base)
        );
    }

    /// Asks it to leave and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("our own child");
    }

    /// Waits until it has ended, which something else made it do.
    pub fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let ended = wait::blocking(LEAVES_WITHIN, || child.try_wait().expect("its state"));
        let Some(status) = ended else {
            let _ = child.kill();
            let _ = child.wait();
            panic!(
                "it has not left within {LEAVES_WITHIN:?}:\n{}",
                tail(&self.base)
            );
        };
        status
    }

    /// Processes of agents that are alive now.
    pub fn agent_processes(&self) -> Vec<remains::Process> {
        let (node, dir) = (self.node(), self.data_dir().display().to_string());
        let own = self.child.as_ref().map(Child::id);
        remains::processes(&[&node, &dir])
            .into_iter()
            .filter(|process| Some(process.pid) != own)
            .collect()
    }

    /// What should not be there when the program is not: waits for it to be gone.
    fn leftovers(&self) -> Option<String> {
        let gone = wait::blocking(Duration::from_secs(10), || {
            (self.agent_processes().is_empty() && remains::homes(&self.node()).is_empty())
                .then_some(())
        });
        match gone {
            Some(()) => None,
            None => Some(format!(
                "left over: {:?}, {:?}",
                self.agent_processes(),
                remains::homes(&self.node())
            )),
        }
    }

    fn clear(&self) {
        let (node, dir) = (self.node(), self.data_dir().display().to_string());
        remains::clear(&node, &[&node, &dir]);
        let _ = fs::remove_dir_all(&self.base);
    }
}

fn tail(base: &Path) -> String {
    let log = fs::read_to_string(base.join("log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
}

impl Drop for Cluster {
    #[expect(
        clippy::print_stderr,
        reason = "the log is shown with the test that failed"
    )]
    fn drop(&mut self) {
        if std::thread::panicking() {
            if let Some(mut child) = self.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
            eprintln!("--- the program's log\n{}\n---", tail(&self.base));
            self.clear();
            return;
        }
        let status = self.child.is_some().then(|| self.terminate());
        let left = self.leftovers();
        let log = tail(&self.base);
        self.clear();
        if let Some(status) = status {
            assert!(status.success(), "it left with {status}:\n{log}");
        }
        assert_eq!(left, None, "\n{log}");
    }
}
