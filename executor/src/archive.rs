//! An environment as one file: the same folder gives the same bytes. What comes back is believed in nothing: every path stays
//! inside, every link points inside, sizes are bounded, and there is nothing but folders, plain files and links.

use crate::files::{DIR_MODE, FILE_MODE, open_dir};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use sha2::{Digest, Sha256};
use std::{
    collections::HashSet,
    fs,
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink},
    path::{Component, Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};
use tar::{Archive, Builder, EntryType, Header};

/// What one archive may unpack to.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Everything that comes out of the compression.
    pub bytes: u64,
    pub entries: usize,
    /// Links may lead anywhere, because whoever shows the folder follows none.
    pub foreign_links: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 16 << 30,
            entries: 500_000,
            foreign_links: false,
        }
    }
}

/// What was packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    pub digest: String,
    pub size: u64,
}

/// Writes `folder` to a new file.
pub fn pack(folder: &Path, file: &Path) -> io::Result<Packed> {
    let out = Hashed {
        inner: fs::File::create_new(file)?,
        digest: Sha256::new(),
        size: 0,
    };
    // Wheels are compressed already, in their way; time counts for more here than the last tenth.
    let mut tar = Builder::new(GzEncoder::new(out, Compression::fast()));
    add_all(&mut tar, folder, Path::new(""))?;
    let out = tar.into_inner()?.finish()?;
    Ok(Packed {
        digest: hex::encode(out.digest.finalize()),
        size: out.size,
    })
}

fn add_all(tar: &mut Builder<impl Write>, root: &Path, inside: &Path) -> io::Result<()> {
    let mut names = fs::read_dir(root.join(inside))?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    for name in names {
        let (path, inside) = (root.join(inside).join(&name), inside.join(&name));
        let meta = fs::symlink_metadata(&path)?;
        let mut header = Header::new_gnu();
        // Bytecode names its source's time: another time would have it compiled at every start.
        let modified = meta.modified()?.duration_since(UNIX_EPOCH);
        header.set_mtime(modified.unwrap_or_default().as_secs());
        header.set_size(0);
        if meta.is_dir() {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(DIR_MODE);
            tar.append_data(&mut header, &inside, io::empty())?;
            add_all(tar, root, &inside)?;
        } else if meta.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            tar.append_link(&mut header, &inside, fs::read_link(&path)?)?;
        } else if meta.is_file() {
            let executable = meta.permissions().mode() & 0o100 != 0;
            header.set_mode(if executable { DIR_MODE } else { FILE_MODE });
            header.set_size(meta.len());
            let bytes = fs::File::open(&path)?.take(meta.len());
            tar.append_data(&mut header, &inside, bytes)?;
        } else {
            return Err(odd(&inside, "is neither a folder nor a file nor a link"));
        }
    }
    Ok(())
}

struct Hashed {
    inner: fs::File,
    digest: Sha256,
    size: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.digest.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Unpacks into an empty folder; after an error the folder is not to be used.
pub fn unpack(file: &Path, folder: &Path, limits: Limits) -> io::Result<()> {
    let bytes = GzDecoder::new(io::BufReader::new(fs::File::open(file)?));
    let mut tar = Archive::new(Bounded {
        inner: bytes,
        left: limits.bytes,
    });
    // Made last: nothing is ever written through one.
    let mut links = Vec::new();
    for (n, entry) in tar.entries()?.enumerate() {
        let mut entry = entry?;
        if n >= limits.entries {
            return Err(io::Error::other(format!(
                "it has more than {} entries",
                limits.entries
            )));
        }
        let path = inside(&entry.path()?)?;
        let header = entry.header();
        let modified = UNIX_EPOCH + Duration::from_secs(u64::from(header.mtime()? as u32));
        match header.entry_type() {
            EntryType::Directory => open_dir(&folder.join(path))?,
            EntryType::Regular => {
                let mode = if header.mode()? & 0o100 != 0 {
                    DIR_MODE
                } else {
                    FILE_MODE
                };
                let path = folder.join(path);
                if let Some(parent) = path.parent() {
                    open_dir(parent)?;
                }
                let mut options = fs::OpenOptions::new();
                let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
                io::copy(&mut entry, &mut file)?;
                file.set_modified(modified)?;
            }
            EntryType::Symlink => {
                let target = entry.link_name()?.unwrap_or_default().into_owned();
                if !limits.foreign_links {
                    stays_inside(&path, &target)?;
                }
                links.push((target, path));
            }
            _ => return Err(odd(&path, "is neither a folder nor a file nor a link")),
        }
    }
    let paths: HashSet<&Path> = links.iter().map(|(_, path)| path.as_path()).collect();
    for (target, path) in &links {
        if path.ancestors().skip(1).any(|above| paths.contains(above)) {
            return Err(odd(path, "lies behind a link"));
        }
        let link = folder.join(path);
        if let Some(parent) = link.parent() {
            open_dir(parent)?;
        }
        symlink(target, link)?;
    }
    Ok(())
}

fn odd(path: &Path, what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{} {what}", path.display()),
    )
}

/// A path of names only.
fn inside(path: &Path) -> io::Result<PathBuf> {
    let names = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if !names || path.as_os_str().is_empty() {
        return Err(odd(path, "does not stay inside"));
    }
    Ok(path.components().collect())
}

/// A target may go up first, at most to the top, and then down: with `..` only at its beginning and real folders above the
/// link, no chain of links gets out.
fn stays_inside(link: &Path, target: &Path) -> io::Result<()> {
    let mut up = link.components().count() - 1;
    let (mut down, mut fine) = (false, !target.as_os_str().is_empty());
    for part in target.components() {
        match part {
            Component::ParentDir if !down && up > 0 => up -= 1,
            Component::Normal(_) => down = true,
            Component::CurDir => {}
            _ => fine = false,
        }
    }
    if fine {
        Ok(())
    } else {
        Err(odd(
            link,
            &format!("points to {}, which is not inside", target.display()),
        ))
    }
}

/// Ends with an error, not with a full disk.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| io::Error::other("it unpacks to more than it may"))?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
