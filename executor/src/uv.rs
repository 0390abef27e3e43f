//! The resolver and installer: found on the PATH, or installed from the package index into the data directory, pinned.

use crate::python::Python;
use domain::{Error, Result};
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{io::AsyncWriteExt, process::Command, sync::OnceCell};

/// What is installed when the host has none; what this release was tested with.
const PINNED: &str = "uv==0.13.9";
const WITHIN: Duration = Duration::from_secs(600);
/// What of our own environment an installer may need: where things are and how to reach the index. Nothing else is passed on.
const PASSED_ON: [&str; 8] = [
    "PATH",
    "HOME",
    "LANG",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTPS_PROXY",
    "NO_PROXY",
];

pub struct Uv {
    named: Option<PathBuf>,
    dir: PathBuf,
    cache: PathBuf,
    program: OnceCell<PathBuf>,
}

/// How a run of it ended; `words` are for the reader of the deployment's log.
pub struct Ran {
    pub success: bool,
    pub output: String,
    pub words: String,
}

impl Uv {
    pub fn new(data_dir: &Path, named: Option<PathBuf>, cache: Option<PathBuf>) -> Self {
        let cache = cache.unwrap_or_else(|| data_dir.join("cache").join("uv"));
        Self {
            named,
            dir: data_dir.join("tools").join(PINNED.replace("==", "-")),
            cache,
            program: OnceCell::new(),
        }
    }

    pub async fn run(
        &self,
        python: &Python,
        arguments: &[&str],
        input: Option<&str>,
    ) -> Result<Ran> {
        let program = self.program.get_or_try_init(|| self.find(python)).await?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .args(["--python", &python.executable, "--cache-dir"])
            .arg(&self.cache);
        let environment = std::env::vars_os().filter(|(name, _)| {
            let name = name.to_string_lossy();
            name.starts_with("UV_") || PASSED_ON.contains(&name.as_ref())
        });
        command
            .env_clear()
            .envs(environment)
            .env("UV_NO_PROGRESS", "1")
            .env("NO_COLOR", "1")
            .current_dir("/");
        if std::env::var_os("UV_HTTP_TIMEOUT").is_none() {
            command.env("UV_HTTP_TIMEOUT", "30");
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let failed = |error: std::io::Error| {
            Error::unavailable(format!("{} cannot be run: {error}", program.display()))
                .because(error)
        };
        let mut child = command.spawn().map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A run that fails before it has read everything says so itself.
            stdin
                .write_all(input.unwrap_or_default().as_bytes())
                .await
                .ok();
        }
        let output = tokio::time::timeout(WITHIN, child.wait_with_output())
            .await
            .map_err(|_| {
                Error::unavailable(format!(
                    "packages were not installed within {} s",
                    WITHIN.as_secs()
                ))
            })?
            .map_err(failed)?;
        Ok(Ran {
            success: output.status.success(),
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
            words: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    async fn find(&self, python: &Python) -> Result<PathBuf> {
        if let Some(named) = &self.named {
            return Ok(named.clone());
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path)
            .map(|dir| dir.join("uv"))
            .find(|file| file.is_file());
        if let Some(found) = found {
            return Ok(found);
        }
        self.install(python).await
    }

    /// By the host's pip, into a folder of our own.
    async fn install(&self, python: &Python) -> Result<PathBuf> {
        let program = self.dir.join("bin").join("uv");
        if program.is_file() {
            return Ok(program);
        }
        tracing::info!("installing {PINNED} into {}", self.dir.display());
        let mut command = Command::new(&python.executable);
        crate::python::without_ours(&mut command)
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--only-binary",
                ":all:",
                "--upgrade",
                "--target",
            ])
            .arg(&self.dir)
            .arg(PINNED);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let advice =
            "install uv (https://docs.astral.sh/uv) or pip (Debian: apt install python3-pip)";
        let output = tokio::time::timeout(WITHIN, command.output())
            .await
            .map_err(|_| {
                Error::unavailable(format!(
                    "pip did not end while installing {PINNED}; {advice}"
                ))
            })?
            .map_err(|error| Error::unavailable(format!("pip cannot be run: {error}; {advice}")))?;
        if !output.status.success() || !program.is_file() {
            let words = String::from_utf8_lossy(&output.stderr);
            let last = words
                .lines()
                .rev()
                .find(|line| line.contains("rror") || line.contains("No module"))
                .unwrap_or("no reason given");
            return Err(Error::unavailable(format!(
                "{PINNED} could not be installed ({}); {advice}",
                last.trim()
            )));
        }
        Ok(program)
    }
}
