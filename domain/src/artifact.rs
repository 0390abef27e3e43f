//! What may be deployed as code: one Python file, or a zip of modules and data files.
//!
//! In: the decoded bytes. Out: a [`Artifact`] or every reason why not. The zip's own words about sizes are not trusted:
//! [`unpack`] counts what really comes out.

use crate::agent::{Entrypoint, MAX_REQUIREMENTS, Requirement};
use sha2::{Digest, Sha256};
use std::io::{Cursor, Read};

/// What one artifact may unpack to.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub unpacked_bytes: u64,
    pub entries: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unpacked_bytes: 250 * 1024 * 1024,
            entries: 20_000,
        }
    }
}

/// Faults of one artifact that are told one by one.
const MOST_FAULTS: usize = 20;
/// Bytes of a file that names requirements.
const MOST_LISTED: u64 = 256 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    pub kind: ArtifactKind,
    /// SHA-256 of the bytes, in hex.
    pub digest: String,
    /// From `requirements.txt`, else from `pyproject.toml`, at the zip's root.
    pub requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArtifactKind {
    File,
    Zip,
}

/// One file that came out of an artifact. `path` is relative, `/`-separated, without `.` and `..`.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    pub path: String,
    pub bytes: Vec<u8>,
    pub executable: bool,
}

/// Where the file of an artifact that is not a zip lies: where its entrypoint looks for it.
pub fn single_file(entrypoint: &Entrypoint) -> String {
    let text = entrypoint.as_str();
    let module = text.split_once(':').map(|(module, _)| module);
    match module.unwrap_or(text) {
        file if file.ends_with(".py") => file.to_owned(),
        module if text.contains(':') => format!("{}.py", module.replace('.', "/")),
        _ => "agent.py".to_owned(),
    }
}

pub fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

pub fn inspect(bytes: &[u8], limits: Limits) -> Result<Artifact, Vec<String>> {
    let digest = digest(bytes);
    if !is_zip(bytes) {
        one_file(bytes).map_err(|fault| vec![fault])?;
        return Ok(Artifact {
            kind: ArtifactKind::File,
            digest,
            requirements: Vec::new(),
        });
    }
    let mut named = Vec::new();
    let mut has_python = false;
    walk(bytes, limits, |path, read| {
        has_python |= path.ends_with(".py");
        if matches!(path, "requirements.txt" | "pyproject.toml") {
            let mut text = Vec::new();
            read.take(MOST_LISTED + 1)
                .read_to_end(&mut text)
                .map_err(|error| format!("zip entry {path:?} cannot be read: {error}"))?;
            // A list that is cut off would name other packages.
            if text.len() as u64 > MOST_LISTED {
                return Err(format!(
                    "{path} in the zip has over {MOST_LISTED} bytes; allowed are at most those"
                ));
            }
            named.push((path.to_owned(), text));
        }
        Ok(())
    })?;
    if !has_python {
        return Err(vec![
            "the zip holds no .py file; allowed is a zip with at least one Python module"
                .to_owned(),
        ]);
    }
    named.sort_by_key(|(path, _)| path != "requirements.txt");
    let requirements = match named.first() {
        None => Vec::new(),
        Some((path, text)) => {
            let text = std::str::from_utf8(text)
                .map_err(|_| vec![format!("{path} in the zip is not UTF-8")])?;
            let found = if path == "requirements.txt" {
                requirements_txt(text)
            } else {
                pyproject_toml(text)
            };
            found.map_err(|faults| {
                faults
                    .into_iter()
                    .map(|fault| format!("{path} in the zip: {fault}"))
                    .collect::<Vec<_>>()
            })?
        }
    };
    Ok(Artifact {
        kind: ArtifactKind::Zip,
        digest,
        requirements,
    })
}

/// Every file of an artifact, in order, `single` being the name of one that is no zip; never more bytes than the limit: a bomb ends with an error, not with a full disk.
pub fn unpack(
    bytes: &[u8],
    single: &str,
    limits: Limits,
    mut file: impl FnMut(Entry) -> Result<(), String>,
) -> Result<(), Vec<String>> {
    if !is_zip(bytes) {
        return file(Entry {
            path: single.to_owned(),
            bytes: bytes.to_vec(),
            executable: false,
        })
        .map_err(|fault| vec![fault]);
    }
    let mut left = limits.unpacked_bytes;
    walk(bytes, limits, |path, read| {
        let mut out = Vec::new();
        let took = read
            .take(left + 1)
            .read_to_end(&mut out)
            .map_err(|error| format!("zip entry {path:?} cannot be read: {error}"))?;
        left = left
            .checked_sub(took as u64)
            .ok_or_else(|| too_large(limits))?;
        file(Entry {
            path: path.to_owned(),
            bytes: out,
            executable: false,
        })
    })
}

fn is_zip(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06")
}

fn one_file(bytes: &[u8]) -> Result<(), String> {
    let allowed = "allowed is the base64 of one Python file or of a zip";
    if bytes.is_empty() {
        return Err(format!("is empty; {allowed}"));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if text.contains('\0') => {
            Err(format!("holds a NUL byte and is no zip; {allowed}"))
        }
        Ok(text) if text.trim().is_empty() => Err(format!("holds only white space; {allowed}")),
        Ok(_) => Ok(()),
        Err(_) => Err(format!("is neither UTF-8 text nor a zip; {allowed}")),
    }
}

fn too_large(limits: Limits) -> String {
    format!(
        "the zip unpacks to more than {} bytes, the most that is allowed",
        limits.unpacked_bytes
    )
}

/// Calls `visit` for every regular file, in the zip's order; directories are passed over, everything else is a fault.
fn walk(
    bytes: &[u8],
    limits: Limits,
    mut visit: impl FnMut(&str, &mut dyn Read) -> Result<(), String>,
) -> Result<(), Vec<String>> {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes))
        .map_err(|error| vec![format!("is not a readable zip: {error}")])?;
    if archive.len() > limits.entries {
        return Err(vec![format!(
            "the zip has {} entries; allowed are at most {}",
            archive.len(),
            limits.entries
        )]);
    }
    let mut faults = Vec::new();
    let mut declared = 0u64;
    for index in 0..archive.len() {
        if faults.len() >= MOST_FAULTS {
            break;
        }
        let mut entry = match archive.by_index(index) {
            Ok(entry) => entry,
            Err(error) => {
                faults.push(format!("zip entry {index} cannot be read: {error}"));
                continue;
            }
        };
        let name = if let Ok(name) = entry.name() {
            name.into_owned()
        } else {
            faults.push(format!("zip entry {index} has a name that is not text"));
            continue;
        };
        declared = declared.saturating_add(entry.size());
        if declared > limits.unpacked_bytes {
            return Err(vec![too_large(limits)]);
        }
        if entry.is_symlink() {
            faults.push(format!(
                "zip entry {} is a symbolic link; allowed are files and folders",
                crate::text::quote(&name)
            ));
            continue;
        }
        if let Err(fault) = safe_path(&name) {
            faults.push(fault);
            continue;
        }
        if entry.is_dir() {
            continue;
        }
        if let Err(fault) = visit(&name, &mut entry) {
            faults.push(fault);
        }
    }
    if faults.is_empty() {
        Ok(())
    } else {
        Err(faults)
    }
}

/// Relative, no `..`, no `.`, no drive, no backslash, no control characters, of a bounded depth and length.
fn safe_path(name: &str) -> Result<(), String> {
    let path = name.strip_suffix('/').unwrap_or(name);
    let parts: Vec<&str> = path.split('/').collect();
    let good = parts
        .iter()
        .all(|part| !matches!(*part, "" | "." | "..") && part.len() <= 255)
        && parts.len() <= 40
        && !name
            .chars()
            .any(|c| c.is_control() || c == '\\' || c == ':');
    if good {
        return Ok(());
    }
    Err(format!(
        "zip entry {} has a path that leaves the archive or cannot be kept; allowed are plain relative paths",
        crate::text::quote(name)
    ))
}

fn requirements_txt(text: &str) -> Result<Vec<Requirement>, Vec<String>> {
    let joined = text.replace("\\\r\n", " ").replace("\\\n", " ");
    let lines = joined.lines().enumerate().filter_map(|(at, line)| {
        let line = line.trim();
        let bare = if line.starts_with('#') {
            ""
        } else {
            line.split(" #").next().unwrap_or("").trim()
        };
        // Hashes pin files; the lock made here has its own.
        let bare = bare.split(" --hash").next().unwrap_or("").trim();
        (!bare.is_empty()).then(|| {
            bare.parse::<Requirement>()
                .map_err(|fault| format!("line {}: {fault}", at + 1))
        })
    });
    sort_out(lines)
}

fn pyproject_toml(text: &str) -> Result<Vec<Requirement>, Vec<String>> {
    let document: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| vec![error.message().to_owned()])?;
    let Some(listed) = document
        .get("project")
        .and_then(|project| project.get("dependencies"))
    else {
        return Ok(Vec::new());
    };
    let Some(listed) = listed.as_array() else {
        return Err(vec!["project.dependencies is not a list".to_owned()]);
    };
    sort_out(listed.iter().enumerate().map(|(at, value)| {
        let text = value
            .as_str()
            .ok_or_else(|| format!("project.dependencies[{at}] is not text"))?;
        text.parse::<Requirement>()
            .map_err(|fault| format!("project.dependencies[{at}]: {fault}"))
    }))
}

fn sort_out(
    results: impl Iterator<Item = Result<Requirement, String>>,
) -> Result<Vec<Requirement>, Vec<String>> {
    let (mut good, mut faults) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(_) if good.len() == MAX_REQUIREMENTS => {
                faults.push(format!(
                    "names over {MAX_REQUIREMENTS} requirements; allowed are at most those"
                ));
                break;
            }
            Ok(requirement) => good.push(requirement),
            Err(fault) => faults.push(fault),
        }
        if faults.len() == MOST_FAULTS {
            break;
        }
    }
    if faults.is_empty() {
        Ok(good)
    } else {
        Err(faults)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use zip::write::{SimpleFileOptions, ZipWriter};

    fn zipped(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in files {
            writer
                .start_file(*name, SimpleFileOptions::default())
                .expect("a name");
            writer.write_all(bytes).expect("memory");
        }
        writer.finish().expect("memory").into_inner()
    }

    #[test]
    fn a_single_file_lies_where_its_entrypoint_looks() {
        for (entrypoint, path) in [
            ("handler", "agent.py"),
            ("my_app.py", "my_app.py"),
            ("my_app.py:run", "my_app.py"),
            ("my_app:run", "my_app.py"),
            ("pkg.mod:obj.method", "pkg/mod.py"),
        ] {
            assert_eq!(
                single_file(&entrypoint.parse().expect("an entrypoint")),
                path
            );
        }
    }

    #[test]
    fn files_and_what_is_none() {
        let artifact =
            inspect(b"def handler(input): return input\n", Limits::default()).expect("Python");
        assert_eq!(artifact.kind, ArtifactKind::File);
        for bad in [&b""[..], b"  \n", b"\xff\xfe", b"a\0b"] {
            assert!(inspect(bad, Limits::default()).is_err());
        }
    }

    #[test]
    fn requirements_come_from_the_zip() {
        let both = zipped(&[
            ("a.py", b"x"),
            ("pyproject.toml", b"[project]\ndependencies=['b']"),
            ("requirements.txt", b"# c\na>=1 # why\n\nc \\\n ==2\n"),
        ]);
        let found: Vec<String> = inspect(&both, Limits::default())
            .expect("zip")
            .requirements
            .into_iter()
            .map(String::from)
            .collect();
        assert_eq!(found, ["a>=1", "c   ==2"]);
        let toml = zipped(&[
            ("a.py", b"x"),
            ("pyproject.toml", b"[project]\ndependencies=['b>1']"),
        ]);
        assert_eq!(
            inspect(&toml, Limits::default())
                .expect("zip")
                .requirements
                .len(),
            1
        );
        let bad = zipped(&[
            ("a.py", b"x"),
            ("requirements.txt", b"-r /etc/passwd\nx @ file:///y\n"),
        ]);
        assert_eq!(
            inspect(&bad, Limits::default()).expect_err("options").len(),
            2
        );
    }

    #[test]
    fn lists_of_requirements_are_bounded_and_never_cut_off() {
        let listed = |text: &str| {
            let zip = zipped(&[("a.py", b"x"), ("requirements.txt", text.as_bytes())]);
            inspect(&zip, Limits::default()).map(|artifact| artifact.requirements.len())
        };
        assert_eq!(listed(&"a\n".repeat(500)), Ok(500));
        let many = listed(&"a\n".repeat(501)).expect_err("too many");
        assert!(many.len() == 1 && many[0].contains("at most"), "{many:?}");
        let bad = listed(&"-r x\n".repeat(1000)).expect_err("options");
        assert_eq!(bad.len(), MOST_FAULTS);
        let long = format!("{}requests", "#\n".repeat(MOST_LISTED as usize / 2 - 2));
        let long = listed(&long).expect_err("too long");
        assert!(long[0].contains("262144 bytes"), "{long:?}");
    }

    #[test]
    fn paths_that_leave() {
        for bad in [
            "../x.py",
            "/etc/x.py",
            "a/../../x.py",
            "a\\..\\x.py",
            "c:x.py",
            "./x.py",
        ] {
            assert!(safe_path(bad).is_err(), "{bad}");
        }
        let slip = zipped(&[("ok.py", b"x"), ("../evil.py", b"x")]);
        assert!(inspect(&slip, Limits::default()).is_err());
    }

    #[test]
    fn links_are_refused() {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        writer
            .start_file("ok.py", SimpleFileOptions::default())
            .expect("a name");
        writer
            .add_symlink("link", "/etc/passwd", SimpleFileOptions::default())
            .expect("a link");
        let bytes = writer.finish().expect("memory").into_inner();
        let faults = inspect(&bytes, Limits::default()).expect_err("a link");
        assert!(faults[0].contains("symbolic link"), "{faults:?}");
    }

    #[test]
    fn bombs_end_at_the_limit() {
        let limits = Limits {
            unpacked_bytes: 1000,
            entries: 10,
        };
        let bomb = zipped(&[("a.py", b"x"), ("big.bin", &vec![0; 100_000])]);
        assert!(inspect(&bomb, limits).is_err());
        // A header that lies about its size: both places that hold it say 1 byte.
        let mut liar = bomb;
        let size = 100_000u32.to_le_bytes();
        while let Some(at) = liar.windows(4).position(|window| window == size) {
            liar[at..at + 4].copy_from_slice(&1u32.to_le_bytes());
        }
        let mut most = 0;
        let end = unpack(&liar, "agent.py", limits, |entry| {
            most = most.max(entry.bytes.len());
            Ok(())
        });
        assert!(most <= 1000, "{most} bytes came out");
        assert!(end.is_err(), "a lying header was believed");
    }
}
