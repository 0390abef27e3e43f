//! An agent that attacks: each attack tries one thing and says what came of it. The table says how each must fail; `--nocapture` prints what
//! each got.

use crate::{lists_what_is_known, still_serves};
use phalanx_tests::{Cluster, Value, fixtures, json};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::{collections::BTreeSet, net::TcpListener, path::Path};

/// Each attack of `attacks/`, and every word by which it may fail. One outcome that is not among them is a hole.
pub const ATTACKS: &[(&str, &[&str])] = &[
    // files
    ("host_files", &["ENOENT", "EACCES"]),
    ("host_files_through_proc", &["ENOENT", "EACCES"]),
    ("host_folders", &["ENOENT", "EACCES"]),
    ("above_the_root", &["same"]),
    ("code_of_another", &["ENOENT"]),
    ("anything_with_the_secret", &["nothing"]),
    ("own_code_is_changed", &["EROFS", "EACCES"]),
    ("the_worker_is_changed", &["EROFS", "EACCES"]),
    ("the_system_is_changed", &["EROFS", "EACCES", "ENOENT"]),
    ("kernel_settings", &["EROFS", "EACCES", "ENOENT"]),
    ("kernel_words", &["empty", "ENOENT"]),
    ("own_limits_of_proc", &["EROFS", "EACCES", "ENOENT"]),
    (
        "memory_of_the_first_process",
        &["EACCES", "EPERM", "ENOENT"],
    ),
    ("descriptors_of_the_first_process", &["EACCES", "EPERM"]),
    ("devices_of_the_host", &["ENOENT"]),
    ("devices_are_made", &["EPERM"]),
    ("groups_are_escaped", &["ENOENT"]),
    (
        "set_uid_programs",
        &["ourselves", "failed", "EPERM", "EINVAL"],
    ),
    ("capabilities_of_files", &["EPERM"]),
    ("files_by_handle", &["EPERM"]),
    (
        "links_to_the_host",
        &["ENOENT", "EXDEV", "EROFS", "EPERM", "EACCES"],
    ),
    ("scratch_of_another", &["nothing"]),
    // calls
    ("mounts", &["EPERM"]),
    ("mounts_by_the_new_calls", &["EPERM"]),
    ("another_root", &["EPERM"]),
    ("namespaces_are_left", &["EPERM"]),
    ("namespaces_by_clone", &["EPERM"]),
    ("namespaces_by_clone3", &["ENOSYS"]),
    ("namespaces_by_programs", &["failed"]),
    ("tracing", &["EPERM"]),
    ("memory_of_others", &["EPERM"]),
    ("descriptors_of_others", &["EPERM"]),
    ("keyrings", &["EPERM"]),
    ("rings", &["EPERM"]),
    ("programs_in_the_kernel", &["EPERM"]),
    ("events_of_the_kernel", &["EPERM", "ENOSYS"]),
    ("page_faults", &["EPERM"]),
    ("kernels_and_modules", &["EPERM"]),
    ("clocks_and_names", &["EPERM"]),
    ("the_host_at_large", &["EPERM"]),
    ("ports_of_the_processor", &["EPERM", "ENOSYS"]),
    ("secret_memory", &["EPERM"]),
    ("memory_that_nobody_counts", &["EPERM"]),
    ("filters_of_its_own", &["EPERM"]),
    ("layout_of_memory", &["EPERM"]),
    ("capabilities", &["EPERM", "EINVAL", "none"]),
    ("identities", &["EPERM", "EINVAL", "ourselves"]),
    ("limits", &["EPERM"]),
    ("places_in_the_queue", &["EPERM", "EACCES"]),
    ("locked_memory", &["ENOMEM", "EPERM", "EAGAIN"]),
    ("terminals", &["EPERM", "ENOENT"]),
    ("watching_everybody", &["EPERM"]),
    ("calls_that_are_new", &["ENOSYS"]),
    ("moving_pages", &["EPERM"]),
    // network
    ("raw_sockets", &["EPERM"]),
    ("packet_sockets", &["EPERM"]),
    ("netlink_sockets", &["EPERM"]),
    ("sockets_to_the_hypervisor", &["EPERM"]),
    ("sockets_of_other_families", &["EPERM"]),
    ("protocols_above_tcp", &["EPERM"]),
    ("loopback_of_the_host", &["ECONNREFUSED"]),
    (
        "loopback_of_the_host_by_six",
        &["ECONNREFUSED", "EADDRNOTAVAIL", "ENETUNREACH"],
    ),
    (
        "addresses_of_the_host",
        &["ENETUNREACH", "ECONNREFUSED", "EADDRNOTAVAIL"],
    ),
    ("metadata", &["ENETUNREACH"]),
    ("the_world_directly", &["ENETUNREACH"]),
    ("names_without_the_proxy", &["unknown", "ENETUNREACH"]),
    ("everybody_by_broadcast", &["ENETUNREACH"]),
    ("abstract_sockets", &["ECONNREFUSED"]),
    ("sockets_in_files", &["ENOENT"]),
    ("loopback_through_the_proxy", &["403 Forbidden"]),
    (
        "addresses_of_the_host_through_the_proxy",
        &["403 Forbidden"],
    ),
    ("metadata_through_the_proxy", &["403 Forbidden"]),
    ("private_networks_through_the_proxy", &["403 Forbidden"]),
    (
        "requests_that_two_readers_read_differently",
        &["400 Bad Request"],
    ),
    ("the_proxy_by_its_variables", &["403"]),
    ("the_place_of_the_proxy", &["EADDRINUSE"]),
    ("interfaces", &["lo"]),
    // others
    ("processes_are_seen", &["own"]),
    ("processes_of_the_host_are_signalled", &["ESRCH"]),
    (
        "processes_of_the_host_are_opened",
        &["ESRCH", "ENOENT", "EINVAL"],
    ),
    ("processes_of_the_host_are_renamed", &["ESRCH"]),
    ("the_first_process_is_killed", &["lives"]),
    ("environment_of_others", &["nothing"]),
    ("variables_of_the_installation", &["nothing"]),
    ("descriptors_that_were_left_open", &["own"]),
    ("peers_of_the_socket", &["nobody"]),
    ("everything_of_its_own_user", &["own", "EPERM", "EACCES"]),
];

fn attacker() -> Vec<u8> {
    fixtures::zipped(&[
        ("main.py", include_bytes!("attacks/main.py")),
        ("tried.py", include_bytes!("attacks/tried.py")),
        ("files.py", include_bytes!("attacks/files.py")),
        ("calls.py", include_bytes!("attacks/calls.py")),
        ("network.py", include_bytes!("attacks/network.py")),
        ("others.py", include_bytes!("attacks/others.py")),
    ])
}

#[tokio::test]
async fn every_attack_fails() {
    let cluster = Cluster::start().await;
    let secret = format!("secret-{}", uuid::Uuid::new_v4().simple());
    // Somebody who has something to lose: in its code, its variables, its scratch.
    let victim = format!(
        "# {secret}\nopen('/tmp/victim', 'w').write('{secret}')\ndef handler(input):\n    return input\n"
    );
    let variables =
        json!({"deployment_config": {"security": {"environment_variables": {"TOKEN": secret}}}});
    cluster
        .client
        .deploy_source("victim", &victim, variables)
        .await;
    let changes = json!({
        "agent_code": {"configuration": {"memory_limit": 512, "timeout": 60}},
        "deployment_config": {"auto_scaling": {"max_instances": 1}},
    });
    let deploy = fixtures::with(fixtures::agent_of("attacker", &attacker()), changes);
    cluster.client.deployed(&deploy).await;
    let names = ATTACKS.iter().map(|(name, _)| *name);
    let known = lists_what_is_known(&cluster.client, "attacker", names).await;
    assert!(known >= 60);

    let given = Given::new(&cluster, &secret);
    let words = given.words();
    let mut holes = Vec::new();
    for (name, fails) in ATTACKS {
        let told = cluster
            .client
            .output("attacker", json!({"attack": name, "given": words}))
            .await;
        let told: Vec<&str> = told
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| one.as_str().unwrap_or("no words"))
            .collect();
        let counted: BTreeSet<&str> = told.iter().copied().collect();
        println!(
            "| {name} | {} | {} |",
            told.len(),
            counted.iter().copied().collect::<Vec<_>>().join(", ")
        );
        if told.is_empty() || !counted.iter().all(|one| fails.contains(one)) {
            holes.push(format!("{name}: {told:?}, allowed is {fails:?}"));
        }
    }
    assert!(holes.is_empty(), "{holes:#?}");
    assert_eq!(
        cluster.client.output("victim", json!({"a": 1})).await,
        json!({"a": 1})
    );
    still_serves(&cluster).await;
}

/// What the attacker is told of the host: more than it could find out by itself. The listeners live as long as this.
struct Given {
    words: Value,
    _listening: (TcpListener, UnixListener, UnixListener),
    _folder: tempdir::Folder,
}

impl Given {
    fn new(cluster: &Cluster, secret: &str) -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").expect("a port");
        let name = format!("phalanx-hostile-{}", uuid::Uuid::new_v4().simple());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let hidden = UnixListener::bind_addr(&address).expect("an abstract socket");
        let folder = tempdir::Folder::new(&name);
        let path = folder.0.join("socket");
        let open = UnixListener::bind(&path).expect("a socket");

        let gateway = cluster.client.base.rsplit(':').next().expect("a port");
        let mut ports: Vec<u16> = vec![gateway.parse().expect("a port")];
        ports.push(listener.local_addr().expect("its address").port());
        for url in ["PHALANX_TEST_POSTGRES_URL", "PHALANX_TEST_NATS_URL"] {
            let url = std::env::var(url).unwrap_or_default();
            let port = url.rsplit(':').next().unwrap_or_default().split('/').next();
            ports.extend(port.and_then(|port| port.parse::<u16>().ok()));
        }
        let mut dirs = cluster.executor_dirs();
        dirs.push(cluster.data_dir());
        let mut files: Vec<String> = [
            "/etc/shadow",
            "/root/.bashrc",
            "/etc/hostname",
            "/proc/1/environ",
        ]
        .map(str::to_owned)
        .into();
        for pid in pids(cluster) {
            files.push(format!("/proc/{pid}/environ"));
        }
        let mut others = Vec::new();
        for dir in &dirs {
            for name in ["admin.key", "master.key", "phalanx.db", "node.id"] {
                files.push(dir.join(name).display().to_string());
            }
            holding(dir, secret.as_bytes(), &mut others);
        }
        assert!(
            !others.is_empty(),
            "the victim's code lies somewhere in {dirs:?}"
        );
        let folders: Vec<String> = dirs
            .iter()
            .map(|dir| dir.display().to_string())
            .chain(["/home", "/sys", "/run", "/var/lib", "/boot", "/mnt"].map(str::to_owned))
            .collect();
        let words = json!({
            "secret": secret, "host_files": files, "host_folders": folders, "other_files": others, "ports": ports, "addresses": addresses(),
            "pids": pids(cluster), "abstract": name, "unix_sockets": [path],
        });
        Self {
            words,
            _listening: (listener, hidden, open),
            _folder: folder,
        }
    }

    fn words(&self) -> &Value {
        &self.words
    }
}

fn pids(cluster: &Cluster) -> Vec<u32> {
    let mut pids = vec![cluster.pid(), std::process::id()];
    pids.extend(cluster.agent_processes().iter().map(|one| one.pid));
    pids
}

/// Files below a folder that hold these bytes.
fn holding(dir: &Path, bytes: &[u8], found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            holding(&path, bytes, found);
        } else if kind.is_file() && path.extension().is_some_and(|e| e == "py") {
            let text = std::fs::read(&path).unwrap_or_default();
            if text.windows(bytes.len()).any(|window| window == bytes) {
                found.push(path.display().to_string());
            }
        }
    }
}

/// This host's own, besides loopback: what a packet to the world would come from. Nothing is sent.
fn addresses() -> Vec<String> {
    let own = |any: &str, there: &str| -> Option<String> {
        let udp = std::net::UdpSocket::bind((any, 0)).ok()?;
        udp.connect((there, 9)).ok()?;
        Some(udp.local_addr().ok()?.ip().to_string())
    };
    let mut found: Vec<String> = [own("0.0.0.0", "1.1.1.1"), own("::", "2606:4700::1111")]
        .into_iter()
        .flatten()
        .collect();
    if found.is_empty() {
        found.push("127.0.0.2".to_owned());
    }
    found
}

mod tempdir {
    pub struct Folder(pub std::path::PathBuf);

    impl Folder {
        pub fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir(&path).expect("a folder");
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).expect("removed");
        }
    }
}
