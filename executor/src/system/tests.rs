mod shared;

use super::*;
use crate::confine::{self, Confined, Spec, probe};
use std::{
    collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, sync::Mutex, time::Instant,
};
use tokio::io::AsyncReadExt as _;

/// A node with a data directory of its own; what apt knows is shared, as everything would wait for it.
struct Place {
    dir: PathBuf,
    level: Level,
}

impl Place {
    async fn new(name: &str) -> Self {
        let own = std::env::current_exe().expect("a running test has a path");
        let target = own
            .parent()
            .and_then(Path::parent)
            .expect("target/PROFILE/deps");
        let config = confine::Config {
            helper: target.join("examples/confine"),
            node: format!("system-{name}-{}", std::process::id()),
            standby: 0,
            ..confine::Config::default()
        };
        let level = probe(config).await;
        assert!(level.is_confined(), "{level}");
        let dir = std::env::temp_dir().join(format!("phalanx-system-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&dir).expect("a folder");
        // As a data directory is: nobody else gets in.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("set");
        Self { dir, level }
    }

    async fn system(&self) -> System {
        // Each user who runs these has a folder of its own.
        let user = rustix::process::geteuid().as_raw();
        let cache = std::env::temp_dir().join(format!("phalanx-tests-apt-{user}"));
        let system = System::find(&self.dir, Some(cache), &self.level).await;
        assert_eq!(system.refusal(), None);
        system
    }

    /// What a shell in a sandbox that sees the layer says.
    async fn shell(&self, layer: Option<PathBuf>, script: &str) -> (String, confine::Exit) {
        let program = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let mut spec = Spec::new("shell", program);
        spec.layer = layer.map(confine::Layer::Shown);
        spec.output = confine::Output::Piped;
        let mut confined: Confined = confine::spawn(&spec, &self.level).await.expect("runs");
        let (mut out, mut err) = (confined.stdout.take(), confined.stderr.take());
        let mut text = (String::new(), String::new());
        let (out, err) = (out.as_mut().expect("piped"), err.as_mut().expect("piped"));
        let (a, b) = tokio::join!(
            out.read_to_string(&mut text.0),
            err.read_to_string(&mut text.1)
        );
        a.and(b).expect("text");
        let exit = confined.wait().await;
        confined.kill().await.expect("ends");
        (text.0 + &text.1, exit)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        files::remove_tree(&self.dir).ok();
    }
}

async fn package(system: &System, names: &[&str], lock: Option<String>) -> (Result<Laid>, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let said = Mutex::new(Vec::new());
    let laid = system
        .package(&names, lock, &|line| said.lock().expect("lock").push(line))
        .await;
    let said = said.into_inner().expect("lock").join("\n");
    (laid, said)
}

/// Every file that a package could have touched: its size, mode and time.
fn host() -> BTreeMap<PathBuf, (u64, u32, i64)> {
    fn walk(dir: &Path, into: &mut BTreeMap<PathBuf, (u64, u32, i64)>) {
        use std::os::unix::fs::MetadataExt as _;
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(meta) = fs::symlink_metadata(&path) else {
                continue;
            };
            into.insert(path.clone(), (meta.size(), meta.mode(), meta.mtime()));
            if meta.is_dir() {
                walk(&path, into);
            }
        }
    }
    let mut all = BTreeMap::new();
    for dir in [
        "/etc/alternatives",
        "/etc/fonts",
        "/usr/bin",
        "/usr/sbin",
        "/usr/lib/x86_64-linux-gnu",
        "/var/lib/dpkg",
        "/var/lib/apt",
        "/var/cache/apt",
    ] {
        walk(Path::new(dir), &mut all);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_and_its_libraries() {
    let place = Place::new("graphviz").await;
    let system = place.system().await;
    let before = host();
    let start = Instant::now();
    let (laid, said) = package(&system, &["graphviz"], None).await;
    let laid = laid.unwrap_or_else(|error| panic!("{error}\n{said}"));
    println!("made in {:?}", start.elapsed());
    assert_eq!(laid.origin, Origin::Built, "{said}");
    let layer = system.folder(&laid.lock).expect("a lock");
    let script = "dot -V; echo 'digraph { a -> b }' | dot -Tsvg; touch /usr/x; touch /etc/x; find / -xdev -perm /6000 | head -3";
    let (text, exit) = place.shell(layer.clone(), script).await;
    assert_eq!(exit.code, Some(0), "{text}");
    assert!(
        text.contains("graphviz version") && text.contains("</svg>"),
        "{text}"
    );
    assert_eq!(text.matches("Read-only file system").count(), 2, "{text}");
    assert_eq!(before, host(), "nothing of the host has changed");
    let (text, _) = place.shell(None, "command -v dot; echo $?").await;
    if !Path::new("/usr/bin/dot").exists() {
        assert_eq!(text, "127\n", "only who asked for it has it");
    }

    let (again, said) = package(&system, &["graphviz"], Some(laid.lock.clone())).await;
    assert_eq!(again.expect("there").origin, Origin::There, "{said}");
    let left = fs::read_dir(place.dir.join("layers")).expect("layers");
    assert_eq!(left.count(), 1, "nothing is left beside it");
    println!("{}", start_costs(&place, &layer.expect("packages")).await);
}

/// Medians of a shell's start, without a layer and with it, in turns.
async fn start_costs(place: &Place, layer: &Path) -> String {
    let mut all = [Vec::new(), Vec::new()];
    for _ in 0..15 {
        for (n, layer) in [None, Some(layer.to_owned())].into_iter().enumerate() {
            let mut spec = Spec::new("shell", ["/bin/sh", "-c", ":"].map(str::to_owned).to_vec());
            spec.layer = layer.map(confine::Layer::Shown);
            let begun = Instant::now();
            let confined = confine::spawn(&spec, &place.level).await.expect("runs");
            all[n].push(begun.elapsed());
            confined.kill().await.expect("ends");
        }
    }
    let [plain, layered] = all.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    });
    format!("a start without a layer {plain:?}, with it {layered:?}")
}

/// An ar(5) archive of a package: no tool would make some of these.
fn deb(postinst: &str, files: &[(&str, tar::EntryType, u32, &str)]) -> Vec<u8> {
    let mut control = tar::Builder::new(Vec::new());
    let mut data = tar::Builder::new(Vec::new());
    let header = |kind, mode, size: usize| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size as u64);
        header
    };
    let about = "Package: hostile\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: hostile\n";
    for (name, mode, text) in [("./control", 0o644, about), ("./postinst", 0o755, postinst)] {
        let mut header = header(tar::EntryType::Regular, mode, text.len());
        control
            .append_data(&mut header, name, text.as_bytes())
            .expect("memory");
    }
    for (name, kind, mode, text) in files {
        let is_file = *kind == tar::EntryType::Regular;
        let mut header = header(*kind, *mode, if is_file { text.len() } else { 0 });
        if *kind == tar::EntryType::Symlink {
            data.append_link(&mut header, name, text).expect("memory");
        } else {
            if !is_file {
                header.set_device_major(1).expect("a device");
                header.set_device_minor(8).expect("a device");
            }
            let bytes = if is_file { text.as_bytes() } else { &[] };
            data.append_data(&mut header, name, bytes).expect("memory");
        }
    }
    let parts = [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar", control.into_inner().expect("memory")),
        ("data.tar", data.into_inner().expect("memory")),
    ];
    let mut ar = b"!<arch>\n".to_vec();
    for (name, bytes) in parts {
        ar.extend(
            format!(
                "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
                0,
                0,
                0,
                "100644",
                bytes.len()
            )
            .bytes(),
        );
        ar.extend(&bytes);
        if bytes.len() % 2 == 1 {
            ar.push(b'\n');
        }
    }
    ar
}

/// Has a package made into a layer, as if it came from the archive.
async fn laid(system: &System, package: &[u8]) -> (Result<PathBuf>, String) {
    let base = Base::of_host().expect("Debian");
    let sha256 = domain::artifact::digest(package);
    let line = format!("hostile=1 all {} sha256:{sha256}", package.len());
    let lock = Lock::parse(&format!("{}\n{line}\n", base.name)).expect("a lock");
    files::open_dir(&system.apt.archives()).expect("a folder");
    fs::write(system.apt.archives().join(format!("{sha256}.deb")), package).expect("written");
    let (laid, said) = self::package(system, &["hostile"], Some(lock.text())).await;
    let folder = laid.map(|laid| system.folder(&laid.lock).expect("a lock").expect("a layer"));
    (folder, said)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_package_harms_nobody() {
    use tar::EntryType::{Char, Regular, Symlink};
    let place = Place::new("hostile").await;
    let system = place.system().await;
    fs::write(place.dir.join("secret"), "planted").expect("written");
    let before = host();
    let outside = place.dir.join("secret");
    let postinst = format!(
        "#!/bin/sh\n\
         cat {0} && echo GOT the data directory\n\
         cat /etc/ssh/ssh_host_* /etc/sudoers 2>/dev/null && echo GOT a file of the host\n\
         ls -A /home /root | grep -v : | grep . && echo GOT a folder of the host\n\
         bash -c 'echo > /dev/tcp/127.0.0.1/22' 2>/dev/null && echo GOT the network\n\
         ls -d /sys/class /boot /srv/* 2>/dev/null && echo GOT the host\n\
         mount -t tmpfs x /mnt && echo GOT a mount\n\
         mknod /usr/bin/disk b 8 0 && echo GOT a device\n\
         unshare -U true && echo GOT a user namespace\n\
         chroot / true && echo GOT chroot\n\
         cp /bin/sh /usr/bin/rootsh; chmod 6755 /usr/bin/rootsh; chown nobody /usr/bin/rootsh\n\
         ln -s {1} /etc/way-out; ln -s / /usr/share/way-out; mkfifo /opt/pipe\n\
         rm -rf /var/cache; ln -s {1} /opt/out\n\
         exit 0\n",
        outside.display(),
        place.dir.display(),
    );
    let bytes = deb(
        &postinst,
        &[
            ("./usr/bin/sneaky", Regular, 0o6755, "#!/bin/sh\nid -u\n"),
            ("./etc/passwd.d", Symlink, 0o777, "/etc/shadow"),
        ],
    );
    let (layer, said) = laid(&system, &bytes).await;
    let layer = layer.unwrap_or_else(|error| panic!("{error}\n{said}"));
    assert!(!said.contains("GOT") && !said.contains("planted"), "{said}");
    for name in ["sneaky", "rootsh"] {
        let mode = fs::symlink_metadata(layer.join("usr/bin").join(name))
            .expect(name)
            .permissions()
            .mode();
        assert_eq!(mode & 0o7000, 0, "{name}");
    }
    let script =
        "cat /etc/way-out/secret /opt/out/secret; sneaky; ls /opt; ls -d /usr/share/way-out/root/*";
    let (text, _) = place.shell(Some(layer), script).await;
    assert!(
        !text.contains("planted") && text.contains("1000\n") && !text.contains("pipe"),
        "{text}"
    );

    let device = deb("#!/bin/sh\n", &[("./usr/bin/disk", Char, 0o666, "")]);
    let (refused, said) = laid(&system, &device).await;
    let error = refused.expect_err("a device").message;
    assert!(error.contains("Cannot mknod"), "{error}\n{said}");
    let roots = deb(
        "#!/bin/sh\nmv /opt /opt.old || rm -rf /opt/* ; ln -s / /opt/x\n",
        &[],
    );
    let (layer, said) = laid(&system, &roots).await;
    layer.unwrap_or_else(|error| panic!("{error}\n{said}"));
    let fails = deb("#!/bin/sh\necho it is broken\nexit 3\n", &[]);
    let (failed, said) = laid(&system, &fails).await;
    let error = failed.expect_err("it fails").message;
    assert!(
        said.contains("it is broken") && error.contains("cannot be installed"),
        "{error}\n{said}"
    );
    assert_eq!(before, host(), "nothing of the host has changed");
    assert_eq!(fs::read_to_string(&outside).expect("there"), "planted");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_make_one_and_names_are_aptss() {
    let place = Place::new("names").await;
    let system = place.system().await;
    let one = package(&system, &["libsodium23"], None);
    let other = package(&system, &["libsodium23"], None);
    let ((one, said), (other, too)) = tokio::join!(one, other);
    let (one, other) = (one.expect(&said), other.expect(&too));
    assert_eq!((&one.lock, &one.digest), (&other.lock, &other.digest));
    assert!(
        (one.origin == Origin::Built) != (other.origin == Origin::Built),
        "{said}\n{too}"
    );
    for (name, words) in [
        ("no-such-package-of-debian", "Unable to locate package"),
        ("awk", "has no installation candidate"),
        ("libsodium23=0.1-2", "was not found"),
        ("libsodiu.+", "locate package"),
        ("libsodium23+", "unable to locate package libsodium23+"),
    ] {
        let (refused, said) = package(&system, &[name], None).await;
        let error = refused.expect_err(name);
        assert_eq!(error.kind, domain::Kind::Invalid, "{error}");
        assert!(error.to_string().contains(words), "{error}\n{said}");
    }
    let (nothing, said) = package(&system, &["coreutils"], None).await;
    assert_eq!(nothing.expect("there").digest, "", "{said}");
    let elsewhere = one.lock.replacen("debian-", "other-", 1);
    let (refused, _) = package(&system, &["libsodium23"], Some(elsewhere)).await;
    assert!(
        refused
            .expect_err("another base")
            .message
            .contains("resolved for other-")
    );
}

/// As an ordinary user, as root of a user namespace (a rootless container), and where parts of /proc are covered (Docker, Kubernetes).
#[test]
fn a_hostile_package_harms_nobody_elsewhere() {
    if !rustix::process::geteuid().is_root() {
        return; // then all of it is run by an ordinary user already
    }
    let dir = std::env::temp_dir().join(format!("phalanx-system-{}", uuid::Uuid::new_v4()));
    let own = std::env::current_exe().expect("a running test has a path");
    let target = own
        .parent()
        .and_then(Path::parent)
        .expect("target/PROFILE/deps");
    for (from, to) in [
        (own.clone(), "deps/test"),
        (target.join("examples/confine"), "examples/confine"),
    ] {
        fs::create_dir_all(dir.join(to).parent().expect("a folder")).expect("a folder");
        fs::copy(from, dir.join(to)).expect("copied");
    }
    for path in ["", "deps", "deps/test", "examples", "examples/confine"] {
        fs::set_permissions(dir.join(path), fs::Permissions::from_mode(0o755)).expect("set");
    }
    let user = "setpriv --reuid=1000 --regid=1000 --clear-groups --";
    for (n, place) in [
        user.to_owned(),
        format!("{user} unshare --user --map-root-user --"),
        format!("unshare --mount sh -c 'mount -t tmpfs none /proc/bus && exec {user} \"$@\"' sh"),
    ]
    .into_iter()
    .enumerate()
    {
        let temporary = dir.join(format!("tmp-{n}"));
        fs::create_dir(&temporary).expect("a folder");
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o1777)).expect("set");
        let script = format!(
            "exec {place} {}/deps/test --exact system::tests::a_hostile_package_harms_nobody",
            dir.display()
        );
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .env("TMPDIR", &temporary)
            .current_dir("/")
            .output()
            .expect("runs");
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            output.status.success() && out.contains("1 passed"),
            "{script}\n{out}\n{err}"
        );
    }
    fs::remove_dir_all(dir).expect("removed");
}
