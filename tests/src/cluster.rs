//! The program under test in a world of its own: a directory, free ports, logs. One process that does everything, or, where
//! `PHALANX_TEST_SHAPE=cluster` says so, one process a role over NATS and Postgres: two gateways, a deployer, two executors, a
//! monitor. Tests by the front door need not know which.

use crate::{
    Client, apart,
    backing::{Backing, free_port},
    part::Part,
    remains, wait,
};
use nix::sys::signal::Signal;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

const READY_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Default, Clone)]
pub struct Options {
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    /// The data directory is a file system of its own with so much room.
    pub room_mb: Option<u32>,
}

impl Options {
    /// One setting, as `PHALANX__EXECUTOR__IDLE_S` names it.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// How many processes of each role.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub gateways: usize,
    pub deployers: usize,
    pub executors: usize,
    pub monitors: usize,
}

impl Shape {
    pub const SMALL: Self = Self {
        gateways: 2,
        deployers: 1,
        executors: 2,
        monitors: 1,
    };
}

#[derive(Debug)]
pub struct Cluster {
    base: PathBuf,
    /// Its data directory is a file system of its own.
    mounted: bool,
    pub parts: Vec<Part>,
    /// `None` for the one process that does everything.
    pub backing: Option<Backing>,
    pub client: Client,
}

impl Cluster {
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// As `PHALANX_TEST_SHAPE` says.
    pub async fn start_with(options: Options) -> Self {
        match std::env::var("PHALANX_TEST_SHAPE").as_deref() {
            Ok("cluster") => Self::many(Shape::SMALL, options).await,
            Ok("embedded") | Err(_) => Self::embedded(options).await,
            Ok(other) => panic!("PHALANX_TEST_SHAPE is {other}; allowed are embedded, cluster"),
        }
    }

    /// One process.
    pub async fn embedded(options: Options) -> Self {
        let base = new_base();
        let dir = base.join("data");
        if let Some(room) = options.room_mb {
            mount(&dir, room);
        }
        let mut arguments = words(["up", "--listen", "127.0.0.1:0", "--data-dir"]);
        arguments.push(dir.display().to_string());
        arguments.extend(options.arguments);
        let part = Part {
            name: "phalanx".to_owned(),
            arguments,
            environment: options.environment,
            data_dir: Some(dir),
            ready_url: None,
            clock_apart_s: None,
            log: base.join("log"),
            child: None,
        };
        let mut cluster = Self {
            base,
            mounted: options.room_mb.is_some(),
            parts: vec![part],
            backing: None,
            client: Client::nowhere(),
        };
        cluster.restart().await;
        cluster
    }

    /// A process a role.
    pub async fn many(shape: Shape, options: Options) -> Self {
        let base = new_base();
        let backing = Backing::start(&base);
        Self::upon(base, backing, shape, options).await
    }

    /// A process a role, whose NATS and Postgres may have bad days.
    pub async fn with_bad_days(shape: Shape, options: Options) -> Self {
        let base = new_base();
        let backing = Backing::of_its_own(&base).await;
        Self::upon(base, backing, shape, options).await
    }

    async fn upon(base: PathBuf, backing: Backing, shape: Shape, options: Options) -> Self {
        assert!(options.room_mb.is_none(), "there is no one data directory");
        let mut cluster = Self {
            client: Client::nowhere(),
            mounted: false,
            parts: Vec::new(),
            backing: Some(backing),
            base,
        };
        cluster.lay_out(shape, &options);
        for part in &mut cluster.parts {
            part.spawn();
        }
        cluster.all_ready().await;
        cluster
    }

    fn lay_out(&mut self, shape: Shape, options: &Options) {
        let backing = self
            .backing
            .as_ref()
            .expect("a cluster stands on something");
        let file = |name: &str, text: String| {
            let path = self.base.join(name);
            fs::write(&path, text).expect("a secret's file");
            path.display().to_string()
        };
        let random = apart::random;
        let key = format!("akc_{}{}", random(), random());
        let certificates = apart::Certificates::new(&self.base);
        let master_key = file("master.key", random() + &random());
        let gateways: Vec<u16> = (0..shape.gateways).map(|_| free_port()).collect();
        let monitors: Vec<u16> = (0..shape.monitors).map(|_| free_port()).collect();
        let at = |port: &u16| format!("127.0.0.1:{port}");
        let named: Vec<String> = monitors.iter().map(at).collect();
        let mut common = vec![
            setting("STORE__CONNECTIONS", "8"),
            setting("GATEWAY__ADMIN_KEY_FILE", &file("admin.key", key.clone())),
            setting("GATEWAY__MONITORS", &named.join(",")),
            setting("DEPLOYER__MONITORS", &named.join(",")),
            setting("PUBLIC_URL", &format!("http://{}", at(&gateways[0]))),
        ];
        common.extend(options.environment.iter().cloned());
        let mut parts = Vec::new();
        for (count, role) in [
            (shape.gateways, "gateway"),
            (shape.deployers, "deployer"),
            (shape.executors, "executor"),
            (shape.monitors, "monitor"),
        ] {
            let mut of_role = certificates.settings(role);
            for (name, url) in [
                ("STORE", backing.postgres_url(role)),
                ("BUS", backing.nats_url(role)),
            ] {
                let path = file(&format!("{role}.{}", name.to_lowercase()), url);
                of_role.push(setting(&format!("{name}__URL_FILE"), &path));
            }
            // A deployer neither seals nor opens.
            if role != "deployer" {
                of_role.push(setting("MASTER_KEY_FILE", &master_key));
            }
            for place in 0..count {
                let name = format!("{role}-{}", place + 1);
                let dir = self.base.join("data").join(&name);
                let mut arguments = words([role, "--data-dir"]);
                arguments.push(dir.display().to_string());
                let mut environment = of_role.clone();
                environment.extend(common.iter().cloned());
                let probed = if role == "gateway" {
                    arguments.extend(words(["--listen", &at(&gateways[place])]));
                    gateways[place]
                } else {
                    let port = free_port();
                    environment.push(setting("OPS__LISTEN", &at(&port)));
                    port
                };
                if role == "monitor" {
                    environment.push(setting("GRPC__LISTEN", &at(&monitors[place])));
                }
                arguments.extend(options.arguments.iter().cloned());
                parts.push(Part {
                    log: self.base.join(format!("{name}.log")),
                    name,
                    arguments,
                    environment,
                    data_dir: Some(dir),
                    ready_url: Some(format!("http://{}/readyz", at(&probed))),
                    clock_apart_s: None,
                    child: None,
                });
            }
        }
        self.parts = parts;
        let bases: Vec<String> = gateways
            .iter()
            .map(|port| format!("http://{}", at(port)))
            .collect();
        self.client = Client::of_many(&bases, &key);
    }

    pub fn part(&mut self, name: &str) -> &mut Part {
        let found = self.parts.iter_mut().find(|part| part.name == name);
        found.unwrap_or_else(|| panic!("no {name}"))
    }

    /// Where everything of this world is: logs, keys, what it stands on.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// Where the program's files are: of the one process, or the folders of all.
    pub fn data_dir(&self) -> PathBuf {
        self.base.join("data")
    }

    /// The folders of the processes that run agents.
    pub fn executor_dirs(&self) -> Vec<PathBuf> {
        let dirs = self.parts.iter().filter(|part| runs_agents(part));
        dirs.filter_map(|part| part.data_dir.clone()).collect()
    }

    pub fn pid(&self) -> u32 {
        let part = self.parts.iter().find(|part| runs_agents(part));
        part.expect("one runs agents").pid()
    }

    pub fn nodes(&self) -> Vec<String> {
        self.parts.iter().filter_map(Part::node).collect()
    }

    pub fn log(&self) -> String {
        self.parts.iter().map(Part::words).collect()
    }

    /// Starts the program, again on the same directory when there was one, and waits until it serves.
    pub async fn restart(&mut self) {
        self.spawn();
        self.ready().await;
    }

    /// Starts it and waits for nothing.
    pub fn spawn(&mut self) {
        self.only().spawn();
    }

    /// The one process of an embedded world.
    fn only(&mut self) -> &mut Part {
        assert!(
            self.backing.is_none(),
            "this is for the one process that does everything"
        );
        &mut self.parts[0]
    }

    /// Waits until it serves.
    pub async fn ready(&mut self) {
        let dir = self.data_dir();
        let part = self.only();
        let client = wait::until("the program serves", READY_WITHIN, || {
            if let Some(status) = part.has_ended() {
                panic!("the program ended with {status}:\n{}", part.tail());
            }
            let read =
                |name: &str| fs::read_to_string(dir.join(name)).map(|text| text.trim().to_owned());
            let found = read("address").and_then(|address| Ok((address, read("admin.key")?)));
            async move {
                let (address, key) = found.map_err(|error| format!("no address: {error}"))?;
                let client = Client::new(&address, &key);
                answers(&client, "/readyz").await.map(|()| client)
            }
        })
        .await;
        self.client = client;
    }

    /// Waits until every process of a cluster that runs is ready.
    pub async fn all_ready(&mut self) {
        let client = self.client.clone();
        for part in &mut self.parts {
            let Some(url) = part.ready_url.clone().filter(|_| part.child.is_some()) else {
                continue;
            };
            let name = part.name.clone();
            wait::until(&format!("{name} serves"), READY_WITHIN, || {
                if let Some(status) = part.has_ended() {
                    panic!("{name} ended with {status}:\n{}", part.tail());
                }
                let (client, url) = (&client, url.clone());
                async move { answers(client, &url).await }
            })
            .await;
        }
    }

    pub fn kill9(&mut self) {
        self.only().kill9();
    }

    /// Asks it to leave and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        self.only().terminate()
    }

    pub fn signal(&mut self, signal: Signal) {
        self.only().signal(signal);
    }

    /// Waits until it has ended, which something else made it do.
    pub fn ended(&mut self) -> ExitStatus {
        self.only().ended()
    }

    /// Processes of agents that are alive now.
    pub fn agent_processes(&self) -> Vec<remains::Process> {
        let marks = self.marks();
        let marks: Vec<&str> = marks.iter().map(String::as_str).collect();
        let own: Vec<u32> = self
            .parts
            .iter()
            .filter_map(|part| part.child.as_ref().map(std::process::Child::id))
            .collect();
        remains::processes(&marks)
            .into_iter()
            .filter(|process| !own.contains(&process.pid) && !process.words.contains("nats-server"))
            .collect()
    }

    /// What a process of this world carries in its control group, its command line or its environment.
    fn marks(&self) -> Vec<String> {
        let mut marks = self.nodes();
        marks.push(self.data_dir().display().to_string());
        marks
    }

    fn homes(&self) -> Vec<PathBuf> {
        let nodes = self.nodes();
        nodes.iter().flat_map(|node| remains::homes(node)).collect()
    }

    /// What should not be there when the program is not: waits for it to be gone.
    fn leftovers(&self) -> Option<String> {
        let gone = wait::blocking(Duration::from_secs(10), || {
            (self.agent_processes().is_empty() && self.homes().is_empty()).then_some(())
        });
        match gone {
            Some(()) => None,
            None => Some(format!(
                "left over: {:?}, {:?}",
                self.agent_processes(),
                self.homes()
            )),
        }
    }

    fn clear(&self) {
        let marks = self.marks();
        let marks: Vec<&str> = marks.iter().map(String::as_str).collect();
        for node in self.nodes() {
            remains::clear(&node, &marks);
        }
        if self.mounted {
            let _ = Command::new("umount").arg(self.data_dir()).status();
        }
        let _ = fs::remove_dir_all(&self.base);
    }

    fn tails(&self) -> String {
        let tails: Vec<String> = self.parts.iter().map(Part::tail).collect();
        tails.join("\n")
    }
}

fn mount(at: &Path, room_mb: u32) {
    fs::create_dir(at).expect("a new directory");
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", &format!("size={room_mb}m"), "none"]);
    let status = mount.arg(at).status().expect("there is mount");
    assert!(
        status.success(),
        "a file system of {room_mb} MB cannot be mounted: run this test as root, where mounting is allowed"
    );
}

fn new_base() -> PathBuf {
    let name = uuid::Uuid::new_v4().simple().to_string();
    let base = std::env::temp_dir().join(format!("phx-{}", &name[..12]));
    fs::create_dir_all(&base).expect("a temporary directory");
    base
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

fn setting(name: &str, value: &str) -> (String, String) {
    (format!("PHALANX__{name}"), value.to_owned())
}

fn runs_agents(part: &Part) -> bool {
    part.name == "phalanx" || part.name.starts_with("executor")
}

async fn answers(client: &Client, url: &str) -> Result<(), String> {
    match client.try_get(url).await {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(format!("{url}: {} {}", answer.status, answer.text)),
        Err(error) => Err(format!("{url}: {error}")),
    }
}

impl Drop for Cluster {
    #[expect(
        clippy::print_stderr,
        reason = "the log is shown with the test that failed"
    )]
    fn drop(&mut self) {
        if std::thread::panicking() {
            for part in &mut self.parts {
                part.end_at_once();
            }
            eprintln!("--- the program's logs\n{}\n---", self.tails());
            self.clear();
            return;
        }
        // As an operator would: gateways first, so that nothing new comes.
        let mut failed = Vec::new();
        for part in &mut self.parts {
            if part.child.is_some() {
                let status = part.terminate();
                if !status.success() {
                    failed.push(format!("{} left with {status}", part.name));
                }
            }
        }
        let left = self.leftovers();
        let tails = self.tails();
        self.clear();
        assert!(failed.is_empty(), "{failed:?}:\n{tails}");
        assert_eq!(left, None, "\n{tails}");
    }
}
