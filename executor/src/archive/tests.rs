//! What goes in comes out, and what is hostile does not come in.

use super::*;
use crate::mutate::{cases, changed};
use proptest::prelude::*;

struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("phalanx-archive-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&dir).expect("a folder");
        Self(dir)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// An archive as nobody of us packs it: names and targets are written as they are.
fn hostile(dir: &Dir, entries: &[(EntryType, &str, &str)]) -> PathBuf {
    let file = dir.at("hostile");
    let out = fs::File::create(&file).expect("a file");
    let mut tar = Builder::new(GzEncoder::new(out, Compression::fast()));
    for (kind, name, content) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o4777);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        let bytes = if *kind == EntryType::Regular {
            content.as_bytes()
        } else {
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
            b""
        };
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        tar.append(&header, bytes).expect("appended");
    }
    tar.into_inner().expect("ended").finish().expect("written");
    file
}

fn refused(entries: &[(EntryType, &str, &str)]) -> String {
    let dir = Dir::new();
    let file = hostile(&dir, entries);
    fs::create_dir(dir.at("into")).expect("a folder");
    let limits = Limits {
        bytes: 100_000,
        entries: 10,
        foreign_links: false,
    };
    let error = unpack(&file, &dir.at("into"), limits).expect_err("refused");
    let mut left: Vec<_> = fs::read_dir(&dir.0)
        .expect("read")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["hostile", "into"], "nothing is written beside");
    error.to_string()
}

#[test]
fn nothing_gets_out() {
    use EntryType as T;
    for path in [
        "../out",
        "/tmp/phalanx-out",
        "a/../../out",
        "..",
        "./../out",
    ] {
        for kind in [T::Regular, T::Directory, T::Symlink] {
            let words = refused(&[(kind, path, "x")]);
            assert!(words.contains("does not stay inside"), "{path}: {words}");
        }
    }
    for target in [
        "/etc",
        "..",
        "../out",
        "a/../../out",
        "a/..",
        "b/../../../out",
    ] {
        let words = refused(&[(T::Symlink, "link", target)]);
        assert!(words.contains("not inside"), "{target}: {words}");
    }
    let chain = [
        (T::Symlink, "a/b/up", "../.."),
        (T::Symlink, "out", "a/b/up/../.."),
    ];
    assert!(refused(&chain).contains("not inside"));
    for kind in [T::Link, T::Fifo, T::Char, T::Block] {
        assert!(refused(&[(kind, "odd", "/etc/passwd")]).contains("odd is neither"));
    }
    // Neither through a link, nor over a file.
    refused(&[(T::Symlink, "a", "b"), (T::Regular, "a/file", "x")]);
    refused(&[(T::Regular, "a", "x"), (T::Regular, "a", "y")]);
    refused(&[(T::Regular, "a", "x"), (T::Symlink, "a", "b")]);
}

#[test]
fn links_of_a_layer_lead_anywhere_and_nothing_lies_behind_one() {
    use EntryType as T;
    let limits = Limits {
        foreign_links: true,
        ..Limits::default()
    };
    let unpacked = |entries: &[(T, &str, &str)]| {
        let dir = Dir::new();
        let file = hostile(&dir, entries);
        fs::create_dir(dir.at("into")).expect("a folder");
        let done = unpack(&file, &dir.at("into"), limits);
        (done.map(|()| fs::read_link(dir.at("into/a"))), dir)
    };
    let (done, _dir) = unpacked(&[(T::Symlink, "a", "/etc/alternatives/x")]);
    let target = done.expect("unpacked").expect("a link");
    assert_eq!(target, Path::new("/etc/alternatives/x"));
    let aside = Dir::new();
    let out = aside.0.to_str().expect("a name").to_owned();
    for inner in ["a/b", "a/b/c"] {
        for order in [[0, 1], [1, 0]] {
            let both = [(T::Symlink, "a", out.as_str()), (T::Symlink, inner, "/x")];
            let (done, _dir) = unpacked(&order.map(|n| both[n]));
            let error = done.expect_err("behind a link").to_string();
            assert!(error.contains("lies behind a link"), "{error}");
        }
    }
    assert_eq!(fs::read_dir(&aside.0).expect("there").count(), 0);
}

#[test]
fn sizes_are_bounded() {
    use EntryType as T;
    let bomb = "0".repeat(1_000_000);
    assert!(refused(&[(T::Regular, "bomb", &bomb)]).contains("more than it may"));
    let many = [(T::Directory, "same", ""); 11];
    assert!(refused(&many).contains("more than 10 entries"));
}

#[test]
fn a_folder_comes_back_as_it_was_and_packs_to_the_same_bytes() {
    let dir = Dir::new();
    let deep = dir.at("there").join("d".repeat(80)).join("e".repeat(80));
    fs::create_dir_all(&deep).expect("folders");
    fs::create_dir(dir.at("there").join("empty")).expect("a folder");
    fs::write(deep.join("module.py"), "x = 1").expect("written");
    fs::write(dir.at("there/tool"), "#!/bin/sh").expect("written");
    fs::set_permissions(dir.at("there/tool"), fs::Permissions::from_mode(0o6750))
        .expect("executable");
    let old = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let file = fs::File::options().write(true).open(deep.join("module.py"));
    file.expect("a file").set_modified(old).expect("a time");
    symlink("../../tool", deep.join("link")).expect("a link");

    let packed = pack(&dir.at("there"), &dir.at("one")).expect("packed");
    let bytes = fs::read(dir.at("one")).expect("read");
    assert_eq!(packed.size, bytes.len() as u64);
    assert_eq!(packed.digest, domain::artifact::digest(&bytes));

    fs::create_dir(dir.at("back")).expect("a folder");
    unpack(&dir.at("one"), &dir.at("back"), Limits::default()).expect("unpacked");
    let back = dir.at("back").join("d".repeat(80)).join("e".repeat(80));
    let module = fs::metadata(back.join("module.py")).expect("there");
    assert_eq!(module.modified().expect("a time"), old);
    assert!(dir.at("back/empty").is_dir());
    let tool = fs::metadata(dir.at("back/tool")).expect("there");
    assert_eq!(tool.permissions().mode() & 0o7777, 0o755);
    assert_eq!(
        fs::read_link(back.join("link")).expect("a link"),
        Path::new("../../tool")
    );
    let again = pack(&dir.at("back"), &dir.at("two")).expect("packed");
    assert_eq!(again, packed);
}

/// Archives of ours and of others, uncompressed.
fn tars() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        "[a-c](/[a-c]){0,2}",
        "(\\.\\./|/|\\./|a/\\.\\./)[a-c]{1,2}",
        Just("d".repeat(90) + "/" + &"e".repeat(90)),
    ];
    let kind = prop::sample::select(vec![
        EntryType::Regular,
        EntryType::Directory,
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Fifo,
        EntryType::GNULongName,
        EntryType::GNULongLink,
        EntryType::XHeader,
    ]);
    let target = "(\\.\\./){0,3}[a-c]?(/\\.\\.)?(/[a-c])?";
    prop::collection::vec((kind, name, target, 0u64..3000), 0..6).prop_map(|entries| {
        let mut tar = Builder::new(Vec::new());
        for (kind, name, target, size) in entries {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o6755);
            header.set_size(0);
            let mut bytes = Vec::new();
            match kind {
                EntryType::Symlink | EntryType::Link => {
                    header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
                }
                EntryType::XHeader => {
                    bytes = format!("{:03} path={name}\n", name.len() + 10).into_bytes();
                }
                EntryType::Regular => bytes = vec![b'x'; size as usize],
                EntryType::GNULongName | EntryType::GNULongLink => {
                    bytes = [name.as_bytes(), b"\0"].concat();
                }
                _ => {}
            }
            header.set_size(bytes.len() as u64);
            let name = &name.as_bytes()[..name.len().min(100)];
            header.as_old_mut().name[..name.len()].copy_from_slice(name);
            header.set_cksum();
            tar.append(&header, &bytes[..]).expect("appended");
        }
        tar.into_inner().expect("ended")
    })
}

/// Bytes of what lies there; nothing but folders, plain files without set-uid, and links that lead inside.
fn sound(root: &Path, inside: &Path) -> Result<u64, TestCaseError> {
    let mut bytes = 0;
    for entry in fs::read_dir(root.join(inside)).expect("read") {
        let inside = inside.join(entry.expect("an entry").file_name());
        let meta = fs::symlink_metadata(root.join(&inside)).expect("there");
        if meta.is_dir() {
            bytes += sound(root, &inside)?;
        } else if meta.is_symlink() {
            let target = fs::read_link(root.join(&inside)).expect("a link");
            let mut at: Vec<Component<'_>> = inside.components().collect();
            at.pop();
            for part in target.components() {
                match part {
                    Component::ParentDir => {
                        prop_assert!(at.pop().is_some(), "{} leads out", target.display());
                    }
                    Component::Normal(_) => at.push(part),
                    Component::CurDir => {}
                    _ => prop_assert!(false, "{} leads elsewhere", target.display()),
                }
            }
        } else {
            prop_assert!(
                meta.is_file() && meta.permissions().mode() & 0o7022 == 0,
                "{}",
                inside.display()
            );
            bytes += meta.len();
        }
    }
    Ok(bytes)
}

proptest! {
    #![proptest_config(cases())]

    /// Whatever is unpacked, or half unpacked, lies inside and within its limits.
    #[test]
    fn nearly_good_archives(tar in changed(tars())) {
        let dir = Dir::new();
        let mut file = GzEncoder::new(fs::File::create(dir.at("file")).expect("a file"), Compression::fast());
        file.write_all(&tar).expect("written");
        file.finish().expect("written");
        fs::create_dir(dir.at("into")).expect("a folder");
        let limits = Limits { bytes: 10_000, entries: 5, foreign_links: false };
        let done = unpack(&dir.at("file"), &dir.at("into"), limits);
        prop_assert!(sound(&dir.at("into"), Path::new(""))? <= limits.bytes);
        prop_assert_eq!(fs::read_dir(&dir.0).expect("read").count(), 2, "something lies beside");
        if done.is_ok() {
            // What is accepted can be passed on.
            prop_assert!(pack(&dir.at("into"), &dir.at("again")).is_ok());
        }
    }
}
