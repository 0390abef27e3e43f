//! Makes a layer: unpacks the packages, then has dpkg install them in a sandbox that sees the host's /usr read-only beneath the layer's.
//!
//! What packages bring along is code of others (their scripts run as root of a usual host), so it runs as an agent does: namespaces of its
//! own, no network, no capability, the same list of system calls, bounded memory and time. It believes to be root; one identity is all
//! there is. Device nodes and set-uid files of a package come to nothing.

use super::{
    apt::{Apt, MOST_INSTALLED},
    base::Base,
    lock::{Lock, Step},
    seal,
};
use crate::{
    confine::{self, Confined, Layer, Level, Output, Spec},
    environment::Say,
    files,
};
use domain::{Error, Result};
use std::{fs, io, os::unix::fs::symlink, path::Path, sync::Mutex, time::Duration};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    time::Instant,
};

const WITHIN: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_secs(1);
const MEMORY_MB: u64 = 2048;
/// Lines of the packages' scripts that are told.
const TOLD: usize = 400;
const LONGEST: usize = 500;
/// Nobody reads them in a sandbox, and they are a third of what there is.
const LEFT_OUT: [&str; 5] = ["doc", "info", "lintian", "man", "doc-base"];
/// Of the host's /etc, what packages' scripts look at. Plain files that say nothing of this host.
const ETC: [&str; 8] = [
    "adduser.conf",
    "debconf.conf",
    "debian_version",
    "deluser.conf",
    "host.conf",
    "ld.so.conf",
    "login.defs",
    "shells",
];
/// Programs ask it whether they may start a service: never (invoke-rc.d(8)).
const POLICY: &str = "usr/sbin/policy-rc.d";
/// Said by dpkg of every package.
const USUAL: [&str; 6] = [
    "Selecting previously",
    "(Reading database",
    "Preparing to unpack",
    "Unpacking ",
    "Processing triggers",
    "dpkg: warning: ignoring pre-dependency",
];

/// Leaves the finished layer in `dir`, which is a new folder.
pub async fn build(
    dir: &Path,
    lock: &Lock,
    base: &Base,
    apt: &Apt,
    level: &Level,
    say: Say<'_>,
) -> Result<()> {
    let (at, of) = (dir.to_owned(), base.clone());
    blocking(move || skeleton(&at, &of)).await?;
    let left_out = LEFT_OUT.map(|name| format!("usr/share/{name}/*"));

    // Ahead of dpkg: what is the layer's own file can be replaced and renamed, what is only the host's cannot.
    let excluded: String = Layer::ROOTS
        .iter()
        .map(|root| (*root).to_owned())
        .chain(left_out.iter().cloned())
        .map(|path| format!(" --exclude='./{path}'"))
        .collect();
    let names: Vec<String> = lock
        .packages()
        .map(|one| format!("/packages/{}.deb", one.sha256))
        .collect();
    let script = format!(
        "set -e\nfor package in {}; do\ndpkg-deb --fsys-tarfile $package | tar -x -C /layer --keep-directory-symlink --no-same-owner --anchored{excluded}\ndone\n",
        names.join(" ")
    );
    // A failing dpkg-deb shows in the next step, which reads the same files.
    let mut unpack = sandbox(script, apt);
    unpack.layer = Some(Layer::Filled(dir.to_owned()));
    run(&unpack, level, dir, say).await?;

    let options: String = left_out
        .iter()
        .map(|path| format!(" --path-exclude='/{path}'"))
        .collect();
    let dpkg = format!("dpkg --force-unsafe-io --log=/dev/null{options}");
    let mut script = "set -e\n".to_owned();
    for group in lock.steps.split(|step| *step == Step::SetUp) {
        let files: Vec<String> = group
            .iter()
            .filter_map(|step| match step {
                Step::Package(one) => Some(format!("/packages/{}.deb", one.sha256)),
                Step::SetUp => None,
            })
            .collect();
        if !files.is_empty() {
            // What it depends on is in this group or came before, and is set up with it.
            script += &format!(
                "{dpkg} --force-depends --unpack {}\n{dpkg} --configure -a\n",
                files.join(" ")
            );
        }
    }
    script += "ldconfig\n";
    let mut install = sandbox(script, apt);
    install.layer = Some(Layer::Made(dir.to_owned()));
    run(&install, level, dir, say).await?;

    let at = dir.to_owned();
    blocking(move || seal::seal(&at)).await
}

/// Whether this host can make and show a layer, tried for real.
pub async fn probe(dir: &Path, level: &Level) -> Result<()> {
    let at = dir.to_owned();
    let base = Base::of_host()?;
    blocking(move || {
        bare(&at, &base)?;
        fs::create_dir_all(at.join("usr/share"))
    })
    .await?;
    let script = "command -v dpkg apt-get >&2\n: > /usr/share/phalanx && : > /etc/phalanx && rm /usr/share/phalanx";
    let mut spec = plain(script.to_owned());
    spec.layer = Some(Layer::Made(dir.to_owned()));
    run(&spec, level, dir, &|_| {}).await
}

async fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<()> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|panic| Error::internal("making a layer was interrupted").because(panic))?
        .map_err(|error| {
            Error::unavailable(format!(
                "a layer of system packages cannot be written: {error}"
            ))
            .because(error)
        })
}

/// Empty folders for everything that a layer is made of.
fn bare(dir: &Path, base: &Base) -> io::Result<()> {
    for root in Layer::ROOTS.into_iter().chain(["usr", "work"]) {
        files::open_dir(&dir.join(root))?;
    }
    let dpkg = dir.join("var/lib/dpkg");
    for folder in ["alternatives", "info", "parts", "triggers", "updates"] {
        files::open_dir(&dpkg.join(folder))?;
    }
    fs::write(dpkg.join("status"), base.status())
}

/// A host that has the base and nothing else, as far as dpkg and packages' scripts look.
fn skeleton(dir: &Path, base: &Base) -> io::Result<()> {
    bare(dir, base)?;
    let (from, dpkg) = (Path::new("/var/lib/dpkg"), dir.join("var/lib/dpkg"));
    let is_base = |name: &str| {
        let name = name.split([':', '/']).next().unwrap_or_default();
        base.packages.contains_key(name)
    };
    for file in fs::read_dir(from.join("info"))?.flatten() {
        let name = file.file_name();
        let of = name.to_string_lossy();
        let package = of.rsplit_once('.').map_or(&*of, |(package, _)| package);
        if is_base(package) || of == "format" {
            fs::copy(file.path(), dpkg.join("info").join(&name))?;
        }
    }
    for file in fs::read_dir(from.join("triggers"))?.flatten() {
        if file.file_name() == "Lock" || file.file_name() == "Unincorp" {
            continue;
        }
        // `path package/noawait`, or `package/noawait`.
        let lines = fs::read_to_string(file.path())?;
        let lines = lines
            .lines()
            .filter(|line| line.split(' ').next_back().is_some_and(is_base))
            .map(|line| format!("{line}\n"));
        fs::write(
            dpkg.join("triggers").join(file.file_name()),
            lines.collect::<String>(),
        )?;
    }
    for name in ["diversions", "statoverride"] {
        fs::write(dpkg.join(name), "")?;
    }
    for (folder, to) in [
        (from.join("alternatives"), dpkg.join("alternatives")),
        ("/etc/alternatives".into(), dir.join("etc/alternatives")),
        ("/etc/ld.so.conf.d".into(), dir.join("etc/ld.so.conf.d")),
    ] {
        copy_flat(&folder, &to)?;
    }
    let etc = dir.join("etc");
    for name in ETC {
        copy_if_there(&Path::new("/etc").join(name), &etc.join(name))?;
    }
    for name in ["passwd", "group"] {
        let master = Path::new("/usr/share/base-passwd").join(format!("{name}.master"));
        copy_if_there(&master, &etc.join(name))?;
        fs::write(
            etc.join(if name == "passwd" {
                "shadow"
            } else {
                "gshadow"
            }),
            "",
        )?;
    }
    fs::write(
        etc.join("nsswitch.conf"),
        "passwd: files\ngroup: files\nhosts: files\n",
    )?;
    fs::write(etc.join("hosts"), "127.0.0.1 localhost\n")?;
    symlink("../usr/lib/os-release", etc.join("os-release"))?;
    for folder in [
        "cache/debconf",
        "cache/ldconfig",
        "lib/misc",
        "lib/pam",
        "log",
        "backups",
        "spool",
        "mail",
    ] {
        files::open_dir(&dir.join("var").join(folder))?;
    }
    for (target, link) in [
        ("/run", "var/run"),
        ("/run/lock", "var/lock"),
        ("/tmp", "var/tmp"),
    ] {
        symlink(target, dir.join(link))?;
    }
    files::open_dir(&dir.join("run/lock"))?;
    // In a folder of the host's that is not the layer's too, nothing could be written.
    folders(Path::new("/usr"), &dir.join("usr"), 2)?;
    fs::write(dir.join(POLICY), "#!/bin/sh\nexit 101\n")?;
    fs::set_permissions(
        dir.join(POLICY),
        std::os::unix::fs::PermissionsExt::from_mode(files::DIR_MODE),
    )?;
    // Packages may still name what has become a part of /usr.
    for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
        if dir.join("usr").join(name).is_dir() {
            symlink(format!("usr/{name}"), dir.join(name))?;
        }
    }
    Ok(())
}

/// So deep as folders are of no one package: what a package shares with the host is there when it is unpacked.
fn folders(from: &Path, to: &Path, depth: u32) -> io::Result<()> {
    files::open_dir(to)?;
    if depth == 0 {
        return Ok(());
    }
    // What we may not look into no package's script may either.
    let entries = fs::read_dir(from).into_iter().flatten();
    for entry in entries.flatten() {
        if entry.file_type()?.is_dir() && entry.file_name() != "local" {
            folders(&entry.path(), &to.join(entry.file_name()), depth - 1)?;
        }
    }
    Ok(())
}

fn copy_flat(from: &Path, to: &Path) -> io::Result<()> {
    files::open_dir(to)?;
    let Ok(entries) = fs::read_dir(from) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_symlink() {
            symlink(fs::read_link(entry.path())?, to)?;
        } else if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

fn copy_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::copy(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map(|_| ()),
    }
}

fn sandbox(script: String, apt: &Apt) -> Spec {
    plain(script).show(apt.archives(), "/packages")
}

fn plain(script: String) -> Spec {
    let program = ["/bin/sh".to_owned(), "-c".to_owned(), script];
    let mut spec = Spec::new("system packages", program.to_vec());
    "/".clone_into(&mut spec.cwd);
    spec.memory_mb = MEMORY_MB;
    spec.tmp_mb = 512;
    spec.processes = 512;
    spec.output = Output::Piped;
    let environment = [
        (
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ),
        ("HOME", "/root"),
        ("DEBIAN_FRONTEND", "noninteractive"),
        ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
        ("DEBCONF_NOWARNINGS", "yes"),
        ("LC_ALL", "C.UTF-8"),
    ];
    spec.environment = environment
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    spec
}

/// To the end, within time and size; what it says goes to the log.
async fn run(spec: &Spec, level: &Level, dir: &Path, say: Say<'_>) -> Result<()> {
    let mut confined = confine::spawn(spec, level).await.map_err(|error| {
        Error::conflict(format!("system packages cannot be installed here: {error}"))
    })?;
    // Nobody answers there.
    drop(confined.egress.take());
    let (out, err) = (confined.stdout.take(), confined.stderr.take());
    let told = Told {
        say,
        lines: Mutex::default(),
    };
    let reading = async { tokio::join!(told.read(out), told.read(err)) };
    let ended = tokio::join!(reading, until_the_end(&confined, dir)).1;
    confined
        .kill()
        .await
        .map_err(|error| Error::unavailable(format!("system packages: {error}")))?;
    let (count, last) = told.lines.into_inner().unwrap_or_default();
    if count > TOLD {
        say(format!("{} lines more", count - TOLD));
    }
    match ended? {
        exit if exit.code == Some(0) => Ok(()),
        exit if exit.oom_killed => Err(Error::conflict(format!(
            "installing the system packages needs over {MEMORY_MB} MB of memory"
        ))),
        exit => {
            let how = exit.code.map_or_else(
                || format!("signal {}", exit.signal.unwrap_or(0)),
                |code| format!("exit code {code}"),
            );
            Err(Error::conflict(format!(
                "the system packages cannot be installed ({how}): {}",
                last.join("; ")
            )))
        }
    }
}

async fn until_the_end(confined: &Confined, dir: &Path) -> Result<confine::Exit> {
    let deadline = Instant::now() + WITHIN;
    let why = loop {
        if let Ok(exit) = tokio::time::timeout(LOOK_EVERY, confined.wait()).await {
            return Ok(exit);
        }
        if Instant::now() > deadline {
            break format!("was not done within {} s", WITHIN.as_secs());
        }
        let dir = dir.to_owned();
        let size = tokio::task::spawn_blocking(move || seal::size(&dir)).await;
        if size.is_ok_and(|size| size > MOST_INSTALLED) {
            break format!("took over {MOST_INSTALLED} bytes of disk");
        }
    };
    confined.kill().await.ok();
    Err(Error::conflict(format!(
        "installing the system packages {why}"
    )))
}

struct Told<'a> {
    say: Say<'a>,
    /// How many, and the last ones.
    lines: Mutex<(usize, Vec<String>)>,
}

impl Told<'_> {
    async fn read(&self, from: Option<impl AsyncRead + Unpin>) {
        let Some(from) = from else { return };
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        loop {
            line.clear();
            // A line without an end is cut, as often as it takes.
            let mut bounded = tokio::io::AsyncReadExt::take(&mut from, 64 << 10);
            match bounded.read_until(b'\n', &mut line).await {
                Ok(1..) => self.tell(&String::from_utf8_lossy(&line)),
                Ok(0) | Err(_) => return,
            }
        }
    }

    fn tell(&self, line: &str) {
        let plain = line.chars().filter(|c| !c.is_control()).take(LONGEST);
        let line: String = plain.collect();
        let line = line.trim();
        if line.is_empty() || USUAL.iter().any(|usual| line.starts_with(usual)) {
            return;
        }
        let Ok(mut lines) = self.lines.lock() else {
            return;
        };
        lines.0 += 1;
        if lines.1.len() == 5 {
            lines.1.remove(0);
        }
        lines.1.push(line.to_owned());
        if lines.0 <= TOLD {
            (self.say)(line.to_owned());
        }
    }
}
