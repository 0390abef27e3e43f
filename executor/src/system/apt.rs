//! The host's own apt, asked with folders of ours: it reads the host's sources, keys and preferences, and writes nothing of the host's.
//! In: names, or a lock. Out: what they resolve to, or the packages' files. Never here: what is done with them.

use super::{
    base::{self, Base},
    lock::{Lock, Package, Step, is_sha256},
};
use crate::{environment::Say, files};
use domain::{Error, Kind, Result, artifact};
use std::{
    collections::HashMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{process::Command, time::Instant};

const FIELD: &str = "agent_code.dependencies.system";
/// What is known of the archive is asked for anew after so long.
const FRESH: Duration = Duration::from_secs(24 * 3600);
/// Not asked again about what it did not know a moment ago.
const JUST_NOW: Duration = Duration::from_secs(120);
/// A downloaded package that nobody wanted for so long is removed.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// An archive that does not answer is asked so often in all; apt itself repeats single requests.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(2);
const WITHIN: Duration = Duration::from_secs(300);
/// Executors that share the folder wait for each other.
const TURN_WITHIN: Duration = Duration::from_secs(600);
const MOST_PACKAGES: usize = 1000;
const MOST_DOWNLOADED: u64 = 1 << 30;
pub const MOST_INSTALLED: u64 = 4 << 30;
/// Of our own environment: where things are, and how to reach the archive.
const PASSED_ON: [&str; 7] = [
    "PATH",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
];

pub struct Apt {
    dir: PathBuf,
}

/// How a run of it ended.
struct Ran {
    success: bool,
    output: String,
    words: String,
}

impl Ran {
    /// Apt's own reason in one line, bounded.
    fn reason(&self) -> String {
        let lines = self
            .words
            .lines()
            .filter_map(|line| line.strip_prefix("E: "));
        let mut text = lines.collect::<Vec<_>>().join("; ");
        if text.is_empty() {
            text = self
                .words
                .lines()
                .last()
                .unwrap_or("no reason given")
                .to_owned();
        }
        text.chars().take(600).collect()
    }

    /// It could not be reached, as opposed to: it said no.
    fn is_network(&self) -> bool {
        [
            "Could not connect",
            "Could not resolve",
            "Unable to connect",
            "Connection failed",
            "Connection timed out",
            "Connection reset",
            "Temporary failure",
            "Error reading from server",
            "Bad header line",
            "502 ",
            "503 ",
            "504 ",
        ]
        .iter()
        .any(|sign| self.words.contains(sign))
    }
}

impl Apt {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Where downloaded packages lie, each under its digest.
    pub fn archives(&self) -> PathBuf {
        self.dir.join("archives")
    }

    pub fn file(&self, package: &Package) -> PathBuf {
        self.archives().join(format!("{}.deb", package.sha256))
    }

    /// Names become exact versions.
    pub async fn resolve(&self, wanted: &[String], base: &Base, say: Say<'_>) -> Result<Lock> {
        let _turn = self.turn().await?;
        self.write(base)?;
        self.refresh(FRESH, say).await?;
        say(format!("resolving {}", wanted.join(", ")));
        let mut arguments = vec!["-s", "--no-remove", "install", "--"];
        arguments.extend(wanted.iter().map(String::as_str));
        let mut ran = self.run("apt-get", &arguments, &self.dir).await?;
        if !ran.success && self.refresh(JUST_NOW, say).await? {
            ran = self.run("apt-get", &arguments, &self.dir).await?;
        }
        tell(&ran, say);
        if !ran.success {
            return Err(Error::fault(FIELD, ran.reason()));
        }
        let (mut steps, mut found) = (Vec::new(), Vec::new());
        for line in ran.output.lines() {
            if let Some(chosen) = line.strip_prefix("Inst ") {
                let package = chosen_package(chosen)
                    .ok_or_else(|| Error::internal("apt has said something new").because(line))?;
                found.push(format!("{}={}", package.name, package.version));
                steps.push(Step::Package(package));
            } else if line.starts_with("Conf ") && !matches!(steps.last(), None | Some(Step::SetUp))
            {
                steps.push(Step::SetUp);
            }
        }
        if steps.last() == Some(&Step::SetUp) {
            steps.pop();
        }
        let names = wanted
            .iter()
            .map(|name| name.split('=').next().unwrap_or(name));
        for name in names {
            // `name+` would be an order of apt's own.
            let known = base.packages.contains_key(name)
                || found.iter().any(|one| one.split('=').next() == Some(name));
            if !known {
                return Err(Error::fault(
                    FIELD,
                    format!("unable to locate package {name}"),
                ));
            }
        }
        self.describe(&mut steps, &found).await?;
        let lock = Lock {
            base: base.name.clone(),
            steps,
        };
        let bytes: u64 = lock.packages().map(|one| one.size).sum();
        say(format!(
            "resolved to {} packages, {} MB to download",
            found.len(),
            bytes.div_ceil(1 << 20)
        ));
        Ok(lock)
    }

    /// Digests and sizes, of the signed index; and the bounds.
    async fn describe(&self, steps: &mut [Step], found: &[String]) -> Result<()> {
        if found.is_empty() {
            return Ok(());
        }
        let over = |what: &str, is: u64, most: u64| {
            Error::fault(
                FIELD,
                format!("needs {is} {what}; allowed are at most {most}"),
            )
        };
        if found.len() > MOST_PACKAGES {
            return Err(over("packages", found.len() as u64, MOST_PACKAGES as u64));
        }
        let mut arguments = vec!["show"];
        arguments.extend(found.iter().map(String::as_str));
        let ran = self.run("apt-cache", &arguments, &self.dir).await?;
        let mut known = HashMap::new();
        for stanza in ran.output.split("\n\n") {
            let field = |name| base::of(stanza, name);
            if let (Some(name), Some(version)) = (field("Package"), field("Version")) {
                known.entry((name, version)).or_insert(stanza);
            }
        }
        let (mut downloaded, mut installed) = (0u64, 0u64);
        for step in steps {
            let Step::Package(package) = step else {
                continue;
            };
            let stanza = known.get(&(package.name.as_str(), package.version.as_str()));
            let field = |name| stanza.and_then(|stanza| base::of(stanza, name));
            let number = |name| field(name).and_then(|value| value.parse::<u64>().ok());
            let sha256 = field("SHA256").filter(|digest| is_sha256(digest));
            let (Some(sha256), Some(size)) = (sha256, number("Size")) else {
                return Err(Error::conflict(format!(
                    "the archive gives no SHA-256 of {}={}",
                    package.name, package.version
                )));
            };
            (package.sha256, package.size) = (sha256.to_owned(), size);
            downloaded = size.saturating_add(downloaded);
            let on_disk = number("Installed-Size").unwrap_or(0).saturating_mul(1024);
            installed = on_disk.saturating_add(installed);
        }
        if downloaded > MOST_DOWNLOADED {
            return Err(over("bytes of packages", downloaded, MOST_DOWNLOADED));
        }
        if installed > MOST_INSTALLED {
            return Err(over("bytes on disk", installed, MOST_INSTALLED));
        }
        Ok(())
    }

    /// Sees to it that each package of the lock lies in `archives`, whole.
    pub async fn fetch(&self, lock: &Lock, base: &Base, say: Say<'_>) -> Result<()> {
        let _turn = self.turn().await?;
        let missing: Vec<&Package> = lock
            .packages()
            .filter(|package| !self.is_whole(package))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.write(base)?;
        self.refresh(FRESH, say).await?;
        let partial = self.dir.join("partial");
        for attempt in 1.. {
            files::remove_tree(&partial).map_err(|error| self.unwritable(&error))?;
            files::open_dir(&partial).map_err(|error| self.unwritable(&error))?;
            let names: Vec<String> = missing
                .iter()
                .map(|one| format!("{}={}", one.name, one.version))
                .collect();
            let mut arguments = vec!["download"];
            arguments.extend(names.iter().map(String::as_str));
            say(format!("downloading {} packages", names.len()));
            let ran = self.run("apt-get", &arguments, &partial).await?;
            if ran.success {
                break;
            }
            tell(&ran, say);
            if ran.is_network() && attempt < TRIES {
                say(format!(
                    "the archive does not answer; trying again in {} s",
                    PAUSE.as_secs()
                ));
                tokio::time::sleep(PAUSE * attempt).await;
            } else if ran.is_network() {
                let message = format!(
                    "the archive of system packages does not answer ({}); tried {TRIES} times",
                    ran.reason()
                );
                return Err(Error::new(Kind::Unavailable, message));
            } else if attempt >= TRIES || !self.refresh(JUST_NOW, say).await? {
                return Err(Error::conflict(format!(
                    "system packages of this version cannot be had any more ({}); deploy it as a new version",
                    ran.reason()
                )));
            }
        }
        let moves: Vec<(Package, PathBuf)> = missing
            .into_iter()
            .map(|package| (package.clone(), self.file(package)))
            .collect();
        let kept = tokio::task::spawn_blocking(move || keep(&partial, &moves)).await;
        kept.map_err(|panic| Error::internal("keeping packages was interrupted").because(panic))?
    }

    /// It was compared when it came; a cut-off disk may have left it short.
    fn is_whole(&self, package: &Package) -> bool {
        fs::metadata(self.file(package)).is_ok_and(|meta| meta.len() == package.size)
    }

    /// Has the index renewed if it is older. `false`: it is not.
    async fn refresh(&self, age: Duration, say: Say<'_>) -> Result<bool> {
        let stamp = self.dir.join("updated");
        let since = fs::metadata(&stamp).and_then(|meta| meta.modified());
        if since.is_ok_and(|since| since.elapsed().is_ok_and(|past| past < age)) {
            return Ok(false);
        }
        for attempt in 1.. {
            say("asking the archive what it has".to_owned());
            let arguments = ["-o", "APT::Update::Error-Mode=any", "update"];
            let ran = self.run("apt-get", &arguments, &self.dir).await?;
            if ran.success {
                break;
            }
            tell(&ran, say);
            if self.has_index() {
                say("a source does not answer; going on with what is known".to_owned());
                break;
            }
            if attempt >= TRIES {
                let message = format!(
                    "the archive of system packages does not answer ({}); tried {TRIES} times",
                    ran.reason()
                );
                return Err(Error::new(Kind::Unavailable, message));
            }
            tokio::time::sleep(PAUSE * attempt).await;
        }
        if !self.has_index() {
            return Err(Error::conflict(
                "this host names no source of system packages (/etc/apt/sources.list)",
            ));
        }
        fs::write(&stamp, "").map_err(|error| self.unwritable(&error))?;
        self.tidy();
        Ok(true)
    }

    fn has_index(&self) -> bool {
        let lists = fs::read_dir(self.dir.join("lists"));
        lists.is_ok_and(|lists| {
            lists
                .flatten()
                .any(|file| file.file_name().to_string_lossy().contains("_Packages"))
        })
    }

    fn tidy(&self) {
        let Ok(files) = fs::read_dir(self.archives()) else {
            return;
        };
        for file in files.flatten() {
            let used = file.metadata().and_then(|meta| meta.modified());
            if used.is_ok_and(|used| used.elapsed().is_ok_and(|past| past > KEPT)) {
                fs::remove_file(file.path()).ok();
            }
        }
    }

    /// Apt's folders and what it is told. Hooks of the host's configuration would run on the host.
    fn write(&self, base: &Base) -> Result<()> {
        let dir = self.dir.to_string_lossy();
        if dir.contains(['"', '\n', '\\']) {
            return Err(Error::conflict(format!(
                "{dir} is no name that apt can be told"
            )));
        }
        let told = format!(
            "#clear APT::Update;\n#clear DPkg;\n#clear AptCli;\n#clear APT::NeverAutoRemove;\n\
             Dir::State \"{dir}\";\nDir::State::lists \"{dir}/lists\";\nDir::State::status \"{dir}/status\";\n\
             Dir::State::extended_states \"{dir}/extended_states\";\nDir::Cache \"{dir}/cache\";\nDir::Log \"{dir}/log\";\n\
             Acquire::GzipIndexes \"true\";\nAcquire::Languages \"none\";\nAcquire::Retries \"2\";\n\
             Acquire::http::Timeout \"20\";\nAcquire::https::Timeout \"20\";\nAPT::Sandbox::User \"root\";\n\
             APT::Cmd::Pattern-Only \"true\";\nAPT::Install-Recommends \"false\";\nAPT::Install-Suggests \"false\";\n\
             APT::Get::Assume-Yes \"true\";\nAPT::Get::Show-User-Simulation-Note \"false\";\nAPT::Color \"0\";\nquiet \"2\";\n"
        );
        let write = || {
            for folder in ["lists/partial", "cache/archives/partial", "log", "archives"] {
                files::open_dir(&self.dir.join(folder))?;
            }
            fs::write(self.dir.join("apt.conf"), told)?;
            fs::write(self.dir.join("status"), base.status())
        };
        write().map_err(|error| self.unwritable(&error))
    }

    async fn run(&self, program: &str, arguments: &[&str], at: &Path) -> Result<Ran> {
        let environment = std::env::vars_os()
            .filter(|(name, _)| PASSED_ON.contains(&name.to_string_lossy().as_ref()));
        let mut command = Command::new(program);
        command
            .arg("-c")
            .arg(self.dir.join("apt.conf"))
            .args(arguments)
            .env_clear()
            .envs(environment)
            .env("LANG", "C.UTF-8")
            .env("TMPDIR", &self.dir)
            .current_dir(at)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(WITHIN, command.output()).await;
        let output = output
            .map_err(|_| {
                Error::unavailable(format!(
                    "{program} did not end within {} s",
                    WITHIN.as_secs()
                ))
            })?
            .map_err(|error| Error::conflict(format!("{program} cannot be run: {error}")))?;
        Ok(Ran {
            success: output.status.success(),
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
            words: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Among all executors that share the folder. Held by an open file, so that no death leaves it taken.
    async fn turn(&self) -> Result<fs::File> {
        files::make_dir(&self.dir)
            .await
            .map_err(|error| self.unwritable(&error))?;
        let file =
            fs::File::create(self.dir.join("turn")).map_err(|error| self.unwritable(&error))?;
        let deadline = Instant::now() + TURN_WITHIN;
        while file.try_lock().is_err() {
            if Instant::now() > deadline {
                return Err(Error::unavailable(format!(
                    "another executor holds {} for over {} s",
                    self.dir.display(),
                    TURN_WITHIN.as_secs()
                )));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(file)
    }

    fn unwritable(&self, error: &std::io::Error) -> Error {
        Error::unavailable(format!("{} cannot be written: {error}", self.dir.display()))
    }
}

/// Compares what was downloaded with the lock, and moves it to where it is looked for.
fn keep(partial: &Path, moves: &[(Package, PathBuf)]) -> Result<()> {
    for (package, place) in moves {
        let escaped = package.version.replace(':', "%3a");
        let name = format!("{}_{escaped}_{}.deb", package.name, package.arch);
        let file = partial.join(&name);
        let failed = |error: std::io::Error| {
            Error::unavailable(format!("{} cannot be kept: {error}", file.display()))
        };
        let bytes = fs::read(&file).map_err(failed)?;
        if artifact::digest(&bytes) != package.sha256 {
            return Err(Error::conflict(format!(
                "{name} of the archive is not what its index said"
            )));
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(files::FILE_MODE)).map_err(failed)?;
        fs::rename(&file, place).map_err(failed)?;
    }
    Ok(())
}

fn tell(ran: &Ran, say: Say<'_>) {
    for line in ran
        .words
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
    {
        say(line.to_owned());
    }
}

/// `graphviz [1.0] (2.42.2-7 Debian:12.13/stable [amd64])`, as `apt-get -s` says what it would install.
fn chosen_package(line: &str) -> Option<Package> {
    let name = line.split(' ').next()?.split(':').next()?;
    let (_, about) = line.split_once('(')?;
    let version = about.split(' ').next()?;
    let (_, arch) = about.split_once('[')?;
    let arch = arch.split(']').next()?;
    let sound = |text: &str| {
        let fine = |b: u8| b.is_ascii_alphanumeric() || b"+-.~:".contains(&b);
        !text.is_empty() && text.bytes().all(fine)
    };
    [name, version, arch]
        .into_iter()
        .all(sound)
        .then(|| Package {
            name: name.to_owned(),
            version: version.to_owned(),
            arch: arch.to_owned(),
            size: 0,
            sha256: String::new(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_apt_would_do() {
        let lines = [
            "graphviz (2.42.2-7+deb12u1 Debian:12.13/oldstable [amd64])",
            "graphviz [2.1] (2.42.2-7+deb12u1 Debian:12.13/oldstable, Security:12 [amd64]) [libgd3:amd64 ]",
        ];
        for line in lines {
            let package = chosen_package(line).expect(line);
            let said = (&*package.name, &*package.version, &*package.arch);
            assert_eq!(said, ("graphviz", "2.42.2-7+deb12u1", "amd64"));
        }
        for line in [
            "",
            "graphviz",
            "a/b (1 x [all])",
            "a (1/../2 x [all])",
            "a (1 x)",
        ] {
            assert_eq!(chosen_package(line), None, "{line}");
        }
    }

    #[test]
    fn tells_silence_from_refusal() {
        let ran = |words: &str| Ran {
            success: false,
            output: String::new(),
            words: words.to_owned(),
        };
        let silent = "W: x\nE: Failed to fetch http://a/b  Could not connect to a:80 (127.0.0.1). - connect (111: Connection refused)";
        assert!(ran(silent).is_network());
        let no = ran("E: Unable to locate package nosuch\n");
        assert!(!no.is_network());
        assert_eq!(no.reason(), "Unable to locate package nosuch");
    }
}
