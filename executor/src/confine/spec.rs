//! What one instance may see and use, and the plan that gives it that.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::layer::{self, Layer};
use super::level::{Isolation, Level};
use super::plan::{Bind, Entry, Ground, INSIDE_ID, Limits, Mode, Plan};

/// One instance to be. Paths in `program`, `cwd` and `environment` are the sandbox's.
#[derive(Debug, Clone)]
pub struct Spec {
    /// For messages; nothing is named after it.
    pub id: String,
    /// The program and its arguments. Its descriptor 3 is the worker's socket.
    pub program: Vec<String>,
    pub cwd: String,
    /// Shown read-only, besides the host's /usr. What lies there must be readable by others; the way to it need not be.
    pub binds: Vec<Shown>,
    /// Packages of the system.
    pub layer: Option<Layer>,
    /// Beside the minimal environment, which it may override, except for the proxy.
    pub environment: Vec<(String, String)>,
    pub memory_mb: u64,
    /// Threads count as processes, as everywhere in Linux.
    pub processes: u64,
    pub open_files: u64,
    pub tmp_mb: u64,
    pub shm_mb: u64,
    pub output: Output,
    /// How many may be forked from it at a time; 0: it is no template.
    pub slots: u32,
}

#[derive(Debug, Clone)]
pub struct Shown {
    pub host: PathBuf,
    pub inside: String,
}

/// What the worker's stdout and stderr are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Null,
    /// Two pipes, which the executor must read.
    Piped,
}

impl Spec {
    pub fn new(id: impl Into<String>, program: Vec<String>) -> Self {
        Spec {
            id: id.into(),
            program,
            cwd: "/tmp".to_owned(),
            binds: Vec::new(),
            layer: None,
            environment: Vec::new(),
            memory_mb: 128,
            processes: 256,
            open_files: 1024,
            tmp_mb: 64,
            shm_mb: 64,
            output: Output::Null,
            slots: 0,
        }
    }

    #[must_use]
    pub fn show(mut self, host: impl Into<PathBuf>, inside: impl Into<String>) -> Self {
        self.binds.push(Shown {
            host: host.into(),
            inside: inside.into(),
        });
        self
    }

    /// Where the file at a sandbox path is on the host: for `isolation = none`, which has no other file system.
    fn outside(&self, path: &str) -> String {
        let bind = self
            .binds
            .iter()
            .filter(|b| Path::new(path).starts_with(&b.inside))
            .max_by_key(|b| b.inside.len());
        let host =
            bind.and_then(|b| Some(b.host.join(Path::new(path).strip_prefix(&b.inside).ok()?)));
        host.map_or_else(
            || path.to_owned(),
            |p| p.to_string_lossy().trim_end_matches('/').to_owned(),
        )
    }
}

/// What is under the sandbox of an instance: for all that have no layer of their own it is the same.
pub(super) fn ground(spec: &Spec, level: &Level, (uid, gid): (u32, u32)) -> Result<Ground, Error> {
    let confined = level.isolation == Isolation::Namespaces;
    if !confined && spec.layer.is_some() {
        return Err(Error::Spec(
            "system packages need a file system of their own, which isolation = \"none\" does not give".to_owned(),
        ));
    }
    let installs = matches!(spec.layer, Some(Layer::Filled(_) | Layer::Made(_)));
    let mut entries = match &spec.layer {
        _ if !confined => Vec::new(),
        None => system(),
        Some(Layer::Shown(dir)) => layer::shown(dir, system())?,
        Some(Layer::Filled(dir)) => layer::filled(dir, system())?,
        Some(Layer::Made(dir)) => layer::made(dir, system())?,
    };
    if confined && !level.host.hands_trees {
        entries.append(&mut own(spec)?);
    }
    Ok(Ground {
        mode: match (confined, installs) {
            (true, false) => Mode::Confine,
            (true, true) => Mode::Install,
            (false, _) => Mode::Plain,
        },
        inside_id: if installs { 0 } else { INSIDE_ID },
        uid,
        gid,
        hostname: "agent".to_owned(),
        entries,
        proc: level.proc,
    })
}

/// `egress_port`: of the proxy on loopback, which without a network namespace is the host's.
pub(super) fn plan(spec: &Spec, level: &Level, egress_port: u16) -> Result<Plan, Error> {
    let confined = level.isolation == Isolation::Namespaces;
    let (mut argv, mut cwd) = (spec.program.clone(), spec.cwd.clone());
    if !confined {
        argv = argv.iter().map(|arg| spec.outside(arg)).collect();
        cwd = spec.outside(&cwd);
    }
    Ok(Plan {
        entries: if confined && level.host.hands_trees {
            own(spec)?
        } else {
            Vec::new()
        },
        tmp_mb: spec.tmp_mb,
        shm_mb: spec.shm_mb,
        argv,
        env: environment(spec, egress_port),
        cwd,
        limits: Limits {
            open_files: spec.open_files,
            data_bytes: level.watches_memory().then_some(spec.memory_mb << 20),
            processes: level.limits_processes_itself().then_some(spec.processes),
        },
        slots: spec.slots,
    })
}

fn own(spec: &Spec) -> Result<Vec<Entry>, Error> {
    let shown = spec.binds.iter();
    shown
        .map(|shown| tree(&shown.host, &shown.inside))
        .collect()
}

fn tree(host: &Path, inside: &str) -> Result<Entry, Error> {
    let bad = |what: &str| {
        Error::Spec(format!(
            "cannot show {} as {inside}: {what}",
            host.display()
        ))
    };
    if !inside.starts_with('/') || inside.split('/').any(|part| part == "..") {
        return Err(bad("not an absolute path without .."));
    }
    let host = host.to_str().ok_or_else(|| bad("its name is not UTF-8"))?;
    Ok(Entry::Bind {
        host: host.to_owned(),
        inside: inside.to_owned(),
        kind: Bind::Tree,
    })
}

fn environment(spec: &Spec, egress_port: u16) -> Vec<String> {
    let proxy = format!("http://127.0.0.1:{egress_port}");
    let mut env: Vec<(String, String)> = [
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("HOME", "/tmp"),
        ("LANG", "C.UTF-8"),
        // As many BLAS threads as host cores would need more address space than a small agent may have.
        ("OPENBLAS_NUM_THREADS", "1"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into();
    if let Some(bundle) = certificates() {
        env.push(("SSL_CERT_FILE".to_owned(), bundle.to_owned()));
    }
    env.extend(spec.environment.iter().cloned());
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        env.push((name.to_owned(), proxy.clone()));
        env.push((name.to_lowercase(), proxy.clone()));
    }
    for name in ["NO_PROXY", "no_proxy"] {
        env.push((name.to_owned(), "localhost,127.0.0.1".to_owned()));
    }
    let mut last = std::collections::BTreeMap::new();
    last.extend(env);
    last.into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

fn certificates() -> Option<&'static str> {
    // Debian and Alpine; Fedora and RHEL; SUSE.
    [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
    ]
    .into_iter()
    .find(|path| Path::new(path).exists())
}

/// What every Python needs of a host, and nothing that is this host's own.
pub(super) fn system() -> Vec<Entry> {
    let mut entries = Vec::new();
    for path in ["/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin"] {
        entries.extend(as_on_host(path));
    }
    for name in ["null", "zero", "full", "random", "urandom"] {
        let path = format!("/dev/{name}");
        entries.push(Entry::Bind {
            host: path.clone(),
            inside: path,
            kind: Bind::Device,
        });
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        entries.push(Entry::Symlink {
            inside: format!("/dev/{name}"),
            target: target.to_owned(),
        });
    }
    let file = |inside: &str, text: String| Entry::File {
        inside: inside.to_owned(),
        text,
    };
    entries.push(file(
        "/etc/passwd",
        format!("agent:x:{INSIDE_ID}:{INSIDE_ID}:agent:/tmp:/usr/sbin/nologin\n"),
    ));
    entries.push(file("/etc/group", format!("agent:x:{INSIDE_ID}:\n")));
    entries.push(file(
        "/etc/hosts",
        "127.0.0.1 localhost agent\n::1 localhost\n".to_owned(),
    ));
    entries.push(file(
        "/etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files\n".to_owned(),
    ));
    entries.push(file("/etc/resolv.conf", String::new())); // names are resolved by the egress proxy
    for path in [
        "/etc/localtime",
        "/etc/ld.so.cache",
        "/etc/alternatives",
        "/etc/ssl/certs",
        "/etc/pki/tls/certs",
        "/etc/pki/ca-trust/extracted",
    ] {
        entries.extend(as_on_host(path));
    }
    entries
}

/// A symbolic link stays one (`/lib` → `usr/lib`); what is not there is left out.
fn as_on_host(path: &str) -> Option<Entry> {
    if let Ok(target) = fs::read_link(path) {
        return Some(Entry::Symlink {
            inside: path.to_owned(),
            target: target.to_str()?.to_owned(),
        });
    }
    Path::new(path).exists().then(|| Entry::Bind {
        host: path.to_owned(),
        inside: path.to_owned(),
        kind: Bind::Tree,
    })
}

/// Of a probe: everything but the worker.
pub(super) fn probe((uid, gid): (u32, u32), hands_trees: bool) -> (Ground, Plan) {
    let ground = Ground {
        mode: Mode::Probe,
        inside_id: INSIDE_ID,
        uid,
        gid,
        hostname: "agent".to_owned(),
        entries: system(),
        proc: true,
    };
    let own = Entry::Bind {
        host: "/usr".to_owned(),
        inside: "/own".to_owned(),
        kind: Bind::Tree,
    };
    let plan = Plan {
        entries: if hands_trees { vec![own] } else { Vec::new() },
        tmp_mb: 1,
        shm_mb: 1,
        argv: Vec::new(),
        env: Vec::new(),
        cwd: "/".to_owned(),
        limits: Limits::default(),
        slots: 0,
    };
    (ground, plan)
}
