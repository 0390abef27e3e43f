//! Python packages of a version: requirements become a lock with hashes, a lock becomes one folder of packages.
//!
//! Resolved and built by uv, from wheels only: building a package runs its code, which is the agent's world and not ours.
//! A folder is built once per (lock, interpreter), bytecode compiled, shared and shown read-only. Where nodes share an object
//! store, one builds and the others fetch.

use crate::{files, folders::Folders, python::Python, shelf::Shelf, uv::Uv};
use domain::{Error, Kind, Result, agent::Requirement, artifact};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// A registry that does not answer is asked so often in all; uv itself repeats single requests.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(2);

pub struct Environments {
    dir: PathBuf,
    uv: Uv,
    python: Python,
    /// One builder per digest: whoever wants the same waits for it.
    folders: Folders,
}

/// A lock and the folder built from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    pub lock: String,
    pub digest: String,
    pub origin: Origin,
}

/// Where a folder comes from. One without packages, which needs no folder, is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    There,
    Fetched,
    Built,
}

/// Takes the lines that belong into a deployment's log.
pub type Say<'a> = &'a (dyn Fn(String) + Sync);

impl Environments {
    pub fn new(data_dir: &Path, uv: Uv, python: Python) -> Self {
        Self {
            dir: data_dir.join("environments"),
            uv,
            python,
            folders: Folders::new("environment"),
        }
    }

    /// With a place where nodes share what they have built.
    pub fn shared(mut self, shelf: Option<Shelf>) -> Self {
        self.folders.share(shelf);
        self
    }

    /// The lock's digest; a version without packages has none and needs no folder.
    pub fn digest(&self, lock: &str) -> String {
        if lock.is_empty() {
            String::new()
        } else {
            artifact::digest(
                format!("{}\n{}\n{lock}", self.python.tag, self.python.version).as_bytes(),
            )
        }
    }

    /// The folder of a lock that has been built here, `None` where it has no packages.
    pub fn folder(&self, lock: &str) -> Option<PathBuf> {
        (!lock.is_empty()).then(|| self.dir.join(self.digest(lock)))
    }

    /// Resolves (unless `lock` is known) and builds (unless it is built).
    pub async fn package(
        &self,
        requirements: &[Requirement],
        lock: Option<String>,
        say: Say<'_>,
    ) -> Result<Built> {
        let lock = match lock {
            Some(lock) => lock,
            None if requirements.is_empty() => String::new(),
            None => self.resolve(requirements, say).await?,
        };
        let digest = self.digest(&lock);
        let Some(folder) = self.folder(&lock) else {
            say("no Python packages are needed".to_owned());
            return Ok(Built {
                lock,
                digest,
                origin: Origin::There,
            });
        };
        let build = self.build(&lock, &folder, say);
        let origin = self.folders.have(&digest, &folder, say, build).await?;
        Ok(Built {
            lock,
            digest,
            origin,
        })
    }

    async fn resolve(&self, requirements: &[Requirement], say: Say<'_>) -> Result<String> {
        let mut wanted: Vec<&str> = requirements.iter().map(Requirement::as_str).collect();
        wanted.sort_unstable();
        wanted.dedup();
        say(format!("resolving {}", wanted.join(", ")));
        let text = wanted.join("\n") + "\n";
        let arguments = [
            "pip",
            "compile",
            "--quiet",
            "--no-header",
            "--no-annotate",
            "--generate-hashes",
            "--no-build",
            "-",
        ];
        let lock = self
            .patiently(
                &arguments,
                Some(&text),
                "agent_code.dependencies.python",
                say,
            )
            .await?;
        let count = lock.lines().filter(|line| line.contains("==")).count();
        say(format!("resolved to {count} packages"));
        Ok(lock)
    }

    async fn build(&self, lock: &str, folder: &Path, say: Say<'_>) -> Result<()> {
        let temporary = self.dir.join(format!(".{}", uuid::Uuid::new_v4().simple()));
        files::make_dir(&temporary)
            .await
            .map_err(|error| self.unwritable(&error))?;
        let target = temporary.to_string_lossy().into_owned();
        // Copied, not linked: a folder that agents see must not share its files with the cache.
        let arguments = [
            "pip",
            "install",
            "--no-deps",
            "--require-hashes",
            "--no-build",
            "--link-mode",
            "copy",
            "--compile-bytecode",
            "--target",
            &target,
            "-r",
            "-",
        ];
        let built = self
            .patiently(
                &arguments,
                Some(lock),
                "agent_code.dependencies.python",
                say,
            )
            .await;
        let placed = match built {
            Ok(_) => match tokio::fs::rename(&temporary, folder).await {
                Err(error) if !folder.exists() => Err(self.unwritable(&error)),
                _ => Ok(()),
            },
            Err(error) => Err(error),
        };
        if temporary.exists() {
            tokio::fs::remove_dir_all(&temporary).await.ok();
        }
        placed
    }

    fn unwritable(&self, error: &std::io::Error) -> Error {
        Error::unavailable(format!("{} cannot be written: {error}", self.dir.display()))
    }

    /// Runs uv, again where the registry did not answer. Its own words go to the log.
    async fn patiently(
        &self,
        arguments: &[&str],
        input: Option<&str>,
        field: &str,
        say: Say<'_>,
    ) -> Result<String> {
        for attempt in 1.. {
            let ran = self.uv.run(&self.python, arguments, input).await?;
            for line in ran
                .words
                .lines()
                .map(str::trim_end)
                .filter(|line| !line.is_empty())
            {
                say(line.to_owned());
            }
            if ran.success {
                return Ok(ran.output);
            }
            let last = ran
                .words
                .lines()
                .rev()
                .find(|line| !line.trim().is_empty())
                .unwrap_or("no reason given")
                .trim()
                .to_owned();
            if !is_network(&ran.words) {
                return Err(Error::fault(field, first_words(&ran.words)));
            }
            if attempt >= TRIES {
                let message =
                    format!("the package registry does not answer ({last}); tried {TRIES} times");
                return Err(Error::new(Kind::Unavailable, message));
            }
            say(format!(
                "the package registry does not answer; trying again in {} s",
                PAUSE.as_secs()
            ));
            tokio::time::sleep(PAUSE * attempt).await;
        }
        Err(Error::internal("the package registry was not asked"))
    }
}

/// What uv says when it could not reach the registry, as opposed to when the registry said no.
fn is_network(words: &str) -> bool {
    [
        "error sending request",
        "Failed to fetch",
        "timed out",
        "dns error",
        "Connection refused",
        "connection closed",
        "503 Service Unavailable",
        "502 Bad Gateway",
    ]
    .iter()
    .any(|sign| words.contains(sign))
}

/// The tool's own reason in one line, bounded.
fn first_words(words: &str) -> String {
    let line: Vec<&str> = words
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let mut text = line.join(" ");
    if text.chars().count() > 600 {
        text = text.chars().take(600).collect::<String>() + "…";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn tells_silence_from_refusal() {
        assert!(is_network(
            "error: Failed to fetch: `x`\n cause: Connection refused (os error 111)"
        ));
        assert!(!is_network(
            "error: No solution found when resolving dependencies"
        ));
    }

    async fn environments(dir: &Path) -> Environments {
        let python = Python::find("python3").await.expect("a host with Python");
        Environments::new(dir, Uv::new(dir, None, None), python)
    }

    #[tokio::test]
    async fn two_who_want_the_same_build_it_once() {
        let dir = std::env::temp_dir().join(format!("phalanx-env-{}", uuid::Uuid::new_v4()));
        let environments = environments(&dir).await;
        let wanted = ["six==1.16.0".parse().expect("a requirement")];
        let one = environments.package(&wanted, None, &|_| {});
        let other = environments.package(&wanted, None, &|_| {});
        let (one, other) = tokio::join!(one, other);
        let (one, other) = (one.expect("built"), other.expect("built"));
        assert_eq!((&one.lock, &one.digest), (&other.lock, &other.digest));
        assert!(
            (one.origin == Origin::Built) != (other.origin == Origin::Built),
            "one of the two builds, the other one waits"
        );
        let folder = environments.folder(&one.lock).expect("packages");
        assert!(folder.join("six.py").exists());
        assert!(one.lock.contains("--hash=sha256:"));
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[tokio::test]
    async fn a_refusal_is_in_the_tools_own_words() {
        let dir = std::env::temp_dir().join(format!("phalanx-env-{}", uuid::Uuid::new_v4()));
        let said = Mutex::new(Vec::new());
        let wanted = ["six>=99999".parse().expect("a requirement")];
        let error = environments(&dir)
            .await
            .package(&wanted, None, &|line| said.lock().expect("lock").push(line))
            .await
            .expect_err("no such version");
        assert_eq!(error.kind, Kind::Invalid);
        assert!(
            said.lock()
                .expect("lock")
                .iter()
                .any(|line| line.contains("six")),
            "{said:?}"
        );
        std::fs::remove_dir_all(dir).expect("removed");
    }
}
