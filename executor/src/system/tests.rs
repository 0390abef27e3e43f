use super::*;
use crate::confine::{self, Confined, Spec, probe};
use std::{
    collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, sync::Mutex, time::Instant,
};
use tokio::io::AsyncReadExt as _;

/// A node with a data directory of its own; what apt knows is shared, as everything would wait for it.
struct Place {
    dir: PathBuf,
    level: Level,
}

impl Place {
    async fn new(name: &str) -> Self {
        let own = std::env::current_exe().expect("a running test has a path");
        let target = own
            .parent()
            .and_then(Path::parent)
            .expect("target/PROFILE/deps");
        let config = confine::Config {
            helper: target.join("examples/confine"),
            node: format!("system-{name}-{}", std::process::id()),
            standby: 0,
            ..confine::Config::default()
        };
        let level = probe(config).await;
        assert!(level.is_confined(), "{level}");
        let dir = std::env::temp_dir().join(format!("phalanx-system-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&dir).expect("a folder");
        // As a data directory is: nobody else gets in.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("set");
        Self { dir, level }
    }

    async fn system(&self) -> System {
        let cache = std::env::temp_dir().join("phalanx-tests-apt");
        let system = System::find(&self.dir, Some(cache), &self.level).await;
        assert_eq!(system.refusal(), None);
        system
    }

    /// What a shell in a sandbox that sees the layer says.
    async fn shell(&self, layer: Option<PathBuf>, script: &str) -> (String, confine::Exit) {
        let program = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let mut spec = Spec::new("shell", program);
        spec.layer = layer.map(confine::Layer::Shown);
        spec.output = confine::Output::Piped;
        let mut confined: Confined = confine::spawn(&spec, &self.level).await.expect("runs");
        let (mut out, mut err) = (confined.stdout.take(), confined.stderr.take());
        let mut text = (String::new(), String::new());
        let (out, err) = (out.as_mut().expect("piped"), err.as_mut().expect("piped"));
        let (a, b) = tokio::join!(
            out.read_to_string(&mut text.0),
            err.read_to_string(&mut text.1)
        );
        a.and(b).expect("text");
        let exit = confined.wait().await;
        confined.kill().await.expect("ends");
        (text.0 + &text.1, exit)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        files::remove_tree(&self.dir).ok();
    }
}

async fn package(system: &System, names: &[&str], lock: Option<String>) -> (Result<Laid>, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let said = Mutex::new(Vec::new());
    let laid = system
        .package(&names, lock, &|line| said.lock().expect("lock").push(line))
        .await;
    let said = said.into_inner().expect("lock").join("\n");
    (laid, said)
}

/// Every file that a package could have touched: its size, mode and time.
fn host() -> BTreeMap<PathBuf, (u64, u32, i64)> {
    fn walk(dir: &Path, into: &mut BTreeMap<PathBuf, (u64, u32, i64)>) {
        use std::os::unix::fs::MetadataExt as _;
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(meta) = fs::symlink_metadata(&path) else {
                continue;
            };
            into.insert(path.clone(), (meta.size(), meta.mode(), meta.mtime()));
            if meta.is_dir() {
                walk(&path, into);
            }
        }
    }
    let mut all = BTreeMap::new();
    for dir in [
        "/etc/alternatives",
        "/etc/fonts",
        "/usr/bin",
        "/usr/sbin",
        "/usr/lib/x86_64-linux-gnu",
        "/var/lib/dpkg",
        "/var/lib/apt",
        "/var/cache/apt",
    ] {
        walk(Path::new(dir), &mut all);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_and_its_libraries() {
    let place = Place::new("graphviz").await;
    let system = place.system().await;
    let before = host();
    let start = Instant::now();
    let (laid, said) = package(&system, &["graphviz"], None).await;
    let laid = laid.unwrap_or_else(|error| panic!("{error}\n{said}"));
    println!("{said}\n{:?}", start.elapsed());
    assert_eq!(laid.origin, Origin::Built, "{said}");
    let layer = system.folder(&laid.lock).expect("a lock");
    let script = "dot -V; echo 'digraph { a -> b }' | dot -Tsvg; ls -ld /usr/bin/dot; touch /usr/x; touch /etc/x; find / -xdev -perm /6000 | head -3";
    let (text, exit) = place.shell(layer.clone(), script).await;
    assert_eq!(exit.code, Some(0), "{text}");
    assert!(
        text.contains("graphviz version") && text.contains("</svg>"),
        "{text}"
    );
    assert_eq!(before, host(), "nothing of the host has changed");
}
