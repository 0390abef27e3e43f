//! Secrets that are planted, in every spelling that they may be found in again, and where to look.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// By a word that tells which it is.
#[derive(Debug, Default)]
pub struct Planted {
    secrets: BTreeMap<String, String>,
    /// Files that hold secrets because that is what they are for.
    pub kept_in: Vec<PathBuf>,
}

impl Planted {
    /// Letters and digits only, so that escaping for JSON, URLs or a shell leaves it as it is.
    pub fn plant(&mut self, what: &str, secret: &str) {
        let core = secret.rsplit('_').next().expect("a last part");
        assert!(
            core.len() >= 16
                && core
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"+/=-".contains(&byte)),
            "{what}: {secret}"
        );
        self.secrets.insert(what.to_owned(), core.to_owned());
    }

    /// Which secrets are in it.
    pub fn found_in(&self, text: &[u8]) -> Vec<String> {
        let text = String::from_utf8_lossy(text);
        let secrets = self.secrets.iter();
        secrets
            .filter(|(_, secret)| spellings(secret).iter().any(|one| text.contains(one)))
            .map(|(what, _)| what.clone())
            .collect()
    }

    /// Files below a folder that hold one, with the secret's name.
    pub fn found_below(&self, folder: &Path) -> Vec<String> {
        let patterns = folder.with_extension("patterns");
        let mut found = Vec::new();
        for (what, secret) in &self.secrets {
            let lines: Vec<String> = spellings(secret).into_iter().collect();
            fs::write(&patterns, lines.join("\n")).expect("a file beside the folder");
            let output = Command::new("grep")
                .args(["-r", "-a", "-l", "-F", "-f"])
                .arg(&patterns)
                .arg(folder)
                .env("LC_ALL", "C")
                .output()
                .expect("there is grep");
            let files = String::from_utf8_lossy(&output.stdout);
            for file in files.lines().map(Path::new) {
                if !self.kept_in.iter().any(|kept| kept == file) {
                    found.push(format!("{what} in {}", file.display()));
                }
            }
        }
        fs::remove_file(patterns).expect("it was written");
        found
    }
}

/// Plain, in hex, and in base64 wherever in a longer text it may begin.
fn spellings(secret: &str) -> BTreeSet<String> {
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut found = BTreeSet::from([secret.to_owned(), hex.to_uppercase(), hex]);
    // As JSON and URLs have + and /.
    found.insert(secret.replace('/', "\\/"));
    found.insert(
        secret
            .replace('+', "%2B")
            .replace('/', "%2F")
            .replace('=', "%3D"),
    );
    for before in 0..3 {
        let padded = [&vec![b'x'; before][..], secret.as_bytes()].concat();
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let text = engine.encode(&padded);
            // What depends on its neighbours is left out.
            let from = (before * 8).div_ceil(6);
            let to = padded.len() * 8 / 6;
            found.insert(text[from..to].to_owned());
        }
    }
    found
}

/// A process and all that it started, as /proc shows them: command lines and environments.
pub fn shown_by_processes(roots: &[u32]) -> Vec<(u32, String, Vec<u8>)> {
    let mut parents: BTreeMap<u32, u32> = BTreeMap::new();
    for entry in fs::read_dir("/proc").expect("processes").flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        parents.insert(pid, parent.unwrap_or(0));
    }
    let ours = |pid: u32| {
        let mut at = pid;
        for _ in 0..parents.len() {
            if roots.contains(&at) {
                return true;
            }
            at = parents.get(&at).copied().unwrap_or(0);
        }
        false
    };
    let mut shown = Vec::new();
    for pid in parents.keys().copied().filter(|pid| ours(*pid)) {
        for name in ["cmdline", "environ", "comm"] {
            let text = fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            shown.push((pid, name.to_owned(), text));
        }
    }
    shown
}

#[test]
fn is_found_in_every_spelling() {
    let mut planted = Planted::default();
    let secret = "s3cr3tS3cr3t0123456789";
    planted.plant("it", secret);
    let hex: String = secret.bytes().map(|byte| format!("{byte:02X}")).collect();
    for text in [
        format!("postgres://user:{secret}@host"),
        serde_json::to_string(&format!("\"{secret}\"")).expect("JSON"),
        hex,
        STANDARD_NO_PAD.encode(format!("a{secret}b")),
        URL_SAFE_NO_PAD.encode(format!("ab{secret}")),
        STANDARD_NO_PAD.encode(format!("{{\"TOKEN\":\"{secret}\"}}")),
    ] {
        assert_eq!(planted.found_in(text.as_bytes()), ["it"], "{text}");
    }
    assert!(planted.found_in(b"s3cr3tS3cr3t").is_empty());
}
