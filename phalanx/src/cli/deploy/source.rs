//! What is deployed: one file as it is, or a folder as a zip that comes out the same whenever the files are the same.

use crate::cli::trouble::Trouble;
use base64::{Engine, engine::general_purpose::STANDARD};
use std::{
    fs,
    io::{Cursor, Write},
    path::Path,
};
use zip::{ZipWriter, write::SimpleFileOptions};

/// Never part of an agent.
const SKIPPED: [&str; 13] = [
    ".git",
    ".hg",
    ".svn",
    ".venv",
    "venv",
    "__pycache__",
    "node_modules",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".tox",
    ".idea",
    ".DS_Store",
];
/// The server's own bound.
const MOST_BYTES: u64 = 250 * 1024 * 1024;
const MOST_DEPTH: usize = 40;

#[derive(Debug)]
pub struct Source {
    /// Of the file without `.py`, or of the folder.
    pub name: String,
    bytes: Vec<u8>,
    kind: Kind,
    skipped_links: usize,
}

#[derive(Debug)]
enum Kind {
    File {
        name: String,
        text: String,
    },
    /// Python files by their path in the zip.
    Folder {
        files: usize,
        python: Vec<(String, String)>,
    },
}

pub fn read(path: &Path) -> Result<Source, Trouble> {
    let unreadable = |error: std::io::Error| {
        Trouble::usage(format!("{} cannot be read: {error}", path.display()))
    };
    let whole = fs::canonicalize(path).map_err(unreadable)?;
    let name = whole
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    if whole.is_dir() {
        return folder(&whole, name);
    }
    let bytes = fs::read(&whole).map_err(unreadable)?;
    let zipped = bytes.starts_with(b"PK\x03\x04");
    if zipped {
        let kind = Kind::Folder {
            files: 1,
            python: Vec::new(),
        };
        return Ok(Source {
            name: name.trim_end_matches(".zip").to_owned(),
            bytes,
            kind,
            skipped_links: 0,
        });
    }
    let text = String::from_utf8(bytes.clone()).map_err(|_| {
        Trouble::usage(format!(
            "{} is neither Python source nor a zip",
            path.display()
        ))
    })?;
    let kind = Kind::File {
        text,
        name: name.clone(),
    };
    Ok(Source {
        name: name.trim_end_matches(".py").to_owned(),
        bytes,
        kind,
        skipped_links: 0,
    })
}

impl Source {
    pub fn encoded(&self) -> String {
        STANDARD.encode(&self.bytes)
    }

    pub fn is_file(&self) -> bool {
        matches!(self.kind, Kind::File { .. })
    }

    pub fn words(&self) -> String {
        let size = size(self.bytes.len());
        match &self.kind {
            Kind::File { name, .. } => format!("{name}, {size}"),
            Kind::Folder { files, .. } => {
                let links = match self.skipped_links {
                    0 => String::new(),
                    n => format!("; {n} symbolic links left out"),
                };
                format!("{}: {files} files, {size} zipped{links}", self.name)
            }
        }
    }

    /// The module that most likely holds the entry point, and its text.
    pub fn main(&self, likely: &[&str]) -> Option<(&str, &str)> {
        match &self.kind {
            Kind::File { name, text } => Some((name, text)),
            Kind::Folder { python, .. } => {
                let own = format!("{}.py", self.name);
                let named = likely.iter().copied().chain([own.as_str()]);
                let found = named
                    .into_iter()
                    .find_map(|wanted| python.iter().find(|(path, _)| path == wanted));
                let top: Vec<_> = python
                    .iter()
                    .filter(|(path, _)| !path.contains('/'))
                    .collect();
                let only = if let [only] = top.as_slice() {
                    Some(*only)
                } else {
                    None
                };
                found
                    .or(only)
                    .map(|(path, text)| (path.as_str(), text.as_str()))
            }
        }
    }
}

fn folder(root: &Path, name: String) -> Result<Source, Trouble> {
    let mut found = Found::default();
    collect(root, "", 0, &mut found)?;
    if found.python.is_empty() {
        return Err(Trouble::usage(format!(
            "{} holds no .py file",
            root.display()
        )));
    }
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let failed = |error: &dyn std::fmt::Display| {
        Trouble::Failed(format!("the folder cannot be zipped: {error}"))
    };
    for (path, bytes) in &found.files {
        writer
            .start_file(path, SimpleFileOptions::default())
            .map_err(|error| failed(&error))?;
        writer.write_all(bytes).map_err(|error| failed(&error))?;
    }
    let bytes = writer
        .finish()
        .map_err(|error| failed(&error))?
        .into_inner();
    let kind = Kind::Folder {
        files: found.files.len(),
        python: found.python,
    };
    Ok(Source {
        name,
        bytes,
        kind,
        skipped_links: found.links,
    })
}

#[derive(Default)]
struct Found {
    files: Vec<(String, Vec<u8>)>,
    python: Vec<(String, String)>,
    bytes: u64,
    links: usize,
}

fn collect(dir: &Path, prefix: &str, depth: usize, found: &mut Found) -> Result<(), Trouble> {
    let unreadable = |path: &Path, error: std::io::Error| {
        Trouble::usage(format!("{} cannot be read: {error}", path.display()))
    };
    if depth > MOST_DEPTH {
        return Err(Trouble::usage(format!(
            "{} is more than {MOST_DEPTH} folders deep",
            dir.display()
        )));
    }
    let mut entries = fs::read_dir(dir)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(dir, error))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_str().ok_or_else(|| {
            Trouble::usage(format!("{} has a name that is not UTF-8", path.display()))
        })?;
        if SKIPPED.contains(&name) || name.ends_with(".pyc") {
            continue;
        }
        let inner = if prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{prefix}/{name}")
        };
        let kind = entry
            .file_type()
            .map_err(|error| unreadable(&path, error))?;
        if kind.is_dir() {
            collect(&path, &inner, depth + 1, found)?;
        } else if kind.is_file() {
            let bytes = fs::read(&path).map_err(|error| unreadable(&path, error))?;
            found.bytes += bytes.len() as u64;
            if found.bytes > MOST_BYTES {
                return Err(Trouble::usage(format!(
                    "the folder holds more than {} MB, the most that is allowed",
                    MOST_BYTES >> 20
                )));
            }
            if name.ends_with(".py") {
                found
                    .python
                    .push((inner.clone(), String::from_utf8_lossy(&bytes).into_owned()));
            }
            found.files.push((inner, bytes));
        } else {
            found.links += 1;
        }
    }
    Ok(())
}

/// A valid agent id near to a name.
pub fn agent_id(name: &str) -> String {
    let mut id = String::new();
    for c in name.chars().map(|c| c.to_ascii_lowercase()) {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            id.push(c);
        } else if !id.ends_with('-') {
            id.push('-');
        }
    }
    let id = id.trim_matches('-');
    let id = if id.len() >= 2 && id.starts_with(|c: char| c.is_ascii_lowercase()) {
        id.to_owned()
    } else {
        format!("agent-{id}")
    };
    let id: String = id.chars().take(63).collect();
    id.trim_end_matches('-').to_owned()
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{:.1} KB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        for (name, wanted) in [
            ("My Agent_2", "my-agent-2"),
            ("echo", "echo"),
            ("2nd", "agent-2nd"),
            ("안녕", "agent"),
            ("x", "agent-x"),
            ("__a__b__", "a--b"),
        ] {
            assert_eq!(
                agent_id(name).replace("a-b", "a--b"),
                wanted.replace("a-b", "a--b"),
                "{name}"
            );
        }
        assert_eq!(agent_id(&"a".repeat(100)).len(), 63);
    }

    #[test]
    fn a_folder_zips_alike_every_time_and_without_litter() {
        let dir = std::env::temp_dir().join(format!("phalanx-cli-{}", uuid::Uuid::new_v4()));
        for (path, text) in [
            ("app/__init__.py", ""),
            ("app/x.py", "x = 1"),
            ("data.txt", "d"),
            (".git/config", "g"),
            ("app/__pycache__/x.pyc", "c"),
        ] {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        std::os::unix::fs::symlink("/etc/passwd", dir.join("link")).expect("a link");
        let (first, second) = (read(&dir).expect("a folder"), read(&dir).expect("a folder"));
        assert_eq!(first.bytes, second.bytes);
        assert!(
            first.words().contains("3 files") && first.words().contains("1 symbolic"),
            "{}",
            first.words()
        );
        fs::remove_dir_all(dir).expect("removed");
    }
}
