//! The host's Python, and the worker made ready for it.

use domain::{Error, Result};
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::Command;

const WORKER: &str = include_str!("runner/worker.py");
/// The oldest that the worker is tested with.
const OLDEST: (u32, u32) = (3, 10);
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
pub struct Python {
    pub executable: String,
    pub version: String,
    /// Folders outside of /usr that it needs.
    pub prefixes: Vec<PathBuf>,
    /// Of all that makes compiled packages fit or not.
    pub tag: String,
    /// The C library and its version: what compiled packages were chosen for.
    pub libc: String,
}

#[derive(Deserialize)]
struct Asked {
    executable: String,
    version: Vec<u32>,
    paths: Vec<String>,
    tag: String,
    libc: String,
}

const ASK: &str = "import sys,sysconfig,json,os,platform\n\
p=[sys.base_prefix,sys.base_exec_prefix,sysconfig.get_path('stdlib'),sysconfig.get_path('platstdlib'),os.path.dirname(os.path.realpath(sys.executable))]\n\
print(json.dumps({'executable':os.path.realpath(sys.executable),'version':list(sys.version_info[:3]),'paths':p,'libc':'-'.join(platform.libc_ver()),\
'tag':sys.implementation.cache_tag+'-'+sysconfig.get_platform()+'-'+(getattr(sys,'abiflags','') or '')}))";

/// What we are told by the environment is ours alone.
pub fn without_ours(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        if ["PHALANX_", "AWS_", "OTEL_"]
            .iter()
            .any(|ours| name.to_string_lossy().starts_with(ours))
        {
            command.env_remove(name);
        }
    }
    command
}

impl Python {
    /// Asks the interpreter `name` (a path, or a name on the PATH) what it is.
    pub async fn find(name: &str) -> Result<Self> {
        let advice = "install Python 3.10 or newer (Debian: apt install python3), or name one in executor.python (PHALANX__EXECUTOR__PYTHON=PATH)";
        let mut command = Command::new(name);
        without_ours(&mut command)
            .args(["-I", "-c", ASK])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(ANSWERS_WITHIN, command.output())
            .await
            .map_err(|_| Error::unavailable(format!("{name} does not answer; {advice}")))?
            .map_err(|error| {
                Error::unavailable(format!("{name} cannot be run ({error}); {advice}"))
            })?;
        let asked: Asked = serde_json::from_slice(&output.stdout).map_err(|error| {
            let words = String::from_utf8_lossy(&output.stderr);
            let words = words.lines().last().unwrap_or("no answer");
            Error::unavailable(format!("{name} is not a usable Python ({words}); {advice}"))
                .because(error)
        })?;
        let (major, minor) = (
            asked.version.first().copied().unwrap_or(0),
            asked.version.get(1).copied().unwrap_or(0),
        );
        let version = asked
            .version
            .iter()
            .map(u32::to_string)
            .collect::<Vec<_>>()
            .join(".");
        if (major, minor) < OLDEST {
            return Err(Error::unavailable(format!(
                "{} is Python {version}, which is too old; {advice}",
                asked.executable
            )));
        }
        Ok(Self {
            executable: asked.executable,
            version,
            prefixes: outermost(&asked.paths),
            tag: asked.tag,
            libc: asked.libc,
        })
    }

    /// Writes the worker and compiles it, so that an instance does not. Gives the folder.
    pub async fn prepare_worker(&self, data_dir: &Path) -> Result<PathBuf> {
        let digest =
            domain::artifact::digest(format!("{WORKER}{}{}", self.tag, self.version).as_bytes());
        let dir = data_dir.join("runner").join(&digest[..16]);
        let compiled = dir.join("worker.pyc");
        if compiled.exists() {
            return Ok(dir);
        }
        let failed = |error: std::io::Error| {
            Error::unavailable(format!("{} cannot be written: {error}", dir.display()))
        };
        crate::files::make_dir(&dir).await.map_err(failed)?;
        tokio::fs::write(dir.join("worker.py"), WORKER)
            .await
            .map_err(failed)?;
        let compile = "import py_compile,sys; py_compile.compile(sys.argv[1]+'/worker.py', cfile=sys.argv[1]+'/.worker.pyc', dfile='worker.py', doraise=True, \
             invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)";
        let mut command = Command::new(&self.executable);
        let output = without_ours(&mut command)
            .args(["-I", "-c", compile])
            .arg(&dir)
            .kill_on_drop(true)
            .output()
            .await
            .map_err(failed)?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(
                Error::internal(format!("{} cannot compile the worker", self.executable))
                    .because(words),
            );
        }
        tokio::fs::rename(dir.join(".worker.pyc"), compiled)
            .await
            .map_err(failed)?;
        Ok(dir)
    }
}

/// Without those inside another one, and without what the sandbox shows anyway.
fn outermost(paths: &[String]) -> Vec<PathBuf> {
    let shown = ["/usr", "/bin", "/lib", "/lib64", "/sbin"];
    let mut kept: Vec<PathBuf> = Vec::new();
    let mut sorted: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
    sorted.sort();
    for path in sorted {
        let inside = shown.iter().any(|dir| path.starts_with(dir))
            || kept.iter().any(|dir| path.starts_with(dir));
        if !inside && path.is_absolute() && path.is_dir() {
            kept.push(path);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn finds_the_hosts_python_and_compiles_the_worker() {
        let python = Python::find("python3").await.expect("a host with Python");
        assert!(python.version.starts_with("3."));
        let dir = std::env::temp_dir().join(format!("phalanx-runner-{}", uuid::Uuid::new_v4()));
        let made = python.prepare_worker(&dir).await.expect("compiles");
        assert!(made.join("worker.pyc").exists());
        assert_eq!(python.prepare_worker(&dir).await.expect("again"), made);
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[tokio::test]
    async fn says_what_to_do_when_there_is_none() {
        for name in ["/nowhere/python3", "true"] {
            let error = Python::find(name).await.expect_err("no Python");
            assert!(error.message.contains("install Python 3.10"), "{error}");
        }
    }

    #[test]
    fn prefixes_are_few() {
        assert_eq!(
            outermost(&["/usr/lib/python3.11".into(), "/tmp".into(), "/tmp/x".into()]),
            [PathBuf::from("/tmp")]
        );
    }
}
