//! What a worker sees: nothing of ours.
#![expect(
    clippy::disallowed_methods,
    reason = "what a test spawns here, it awaits"
)]

use std::os::unix::fs::PermissionsExt;

use executor::confine::egress::{Bounds, Policy, Proxy, Resolver};
use executor::confine::{Output, Spec, spawn};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use crate::world::{Scratch, ended, level, python, run, said, status, tree};

#[tokio::test]
async fn files() {
    let level = level("files").await;
    let scratch = Scratch::new("files");
    let code = scratch.0.join("code");
    std::fs::create_dir(&code).unwrap();
    std::fs::write(code.join("module.py"), "answer = 42").unwrap();
    // The way to it is closed to other users; what is shown is open.
    std::fs::set_permissions(&scratch.0, std::fs::Permissions::from_mode(0o700)).unwrap();
    let spec = python(
        "sys.path.insert(0, '/agent/code')\nimport module, pwd, socket, tempfile, ssl\nfrom multiprocessing import Lock\nLock()\n\
         say({'root': sorted(os.listdir('/')), 'dev': sorted(os.listdir('/dev')), 'answer': module.answer, 'user': pwd.getpwuid(os.getuid()).pw_name,\
         'host': socket.gethostname(), 'agent': os.listdir('/agent'), 'passwd': len(open('/etc/passwd').readlines()), 'up': os.path.exists('/..' + os.getcwd()),\
         'localhost': socket.gethostbyname('localhost'), 'zero': open('/dev/zero','rb').read(2).hex(), 'tmp': os.listdir('/tmp'), 'cwd': os.getcwd(),\
         'hidden': [p for p in ('/root', '/home', '/work', '/var/lib', '/sys', '/run', '/etc/shadow', '/etc/hostname') if os.path.exists(p)]})",
    )
    .show(&code, "/agent/code");
    let (seen, exit) = run(&spec, &level).await;

    assert_eq!(
        (exit.code, exit.signal, exit.oom_killed),
        (Some(0), None, false)
    );
    let root = seen["root"].as_array().unwrap();
    let known = [
        "agent", "bin", "dev", "etc", "lib", "lib32", "lib64", "proc", "sbin", "tmp", "usr", "var",
    ];
    assert!(
        root.iter()
            .all(|name| known.contains(&name.as_str().unwrap())),
        "{root:?}"
    );
    assert_eq!(
        seen["dev"],
        json!([
            "fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"
        ])
    );
    for (what, expected) in [
        ("answer", json!(42)),
        ("user", json!("agent")),
        ("host", json!("agent")),
        ("agent", json!(["code"])),
        ("passwd", json!(1)),
        ("localhost", json!("127.0.0.1")),
        ("zero", json!("0000")),
        ("tmp", json!([])),
        ("cwd", json!("/tmp")),
        ("hidden", json!([])),
        ("up", json!(true)),
    ] {
        assert_eq!(seen[what], expected, "{what}");
    }
}

#[tokio::test]
async fn processes() {
    let level = level("processes").await;
    let spec = python(
        "pids = [p for p in os.listdir('/proc') if p.isdigit()]\n\
         masked = {n: os.listdir('/proc/' + n) for n in ('sys', 'fs', 'bus') if os.path.exists('/proc/' + n)}\n\
         masked.update({n: open('/proc/' + n).read() for n in ('cmdline', 'kallsyms', 'keys') if os.path.exists('/proc/' + n)})\n\
         def readable(path):\n\
         \x20   try: return len(open(path, 'rb').read(1)) >= 0\n\
         \x20   except OSError: return False\n\
         os.kill(1, 9)\n\
         import subprocess\n\
         again = subprocess.run(['/usr/bin/unshare', '--user', 'true'], capture_output=True).returncode\n\
         say({'again': again, 'pids': sorted(pids), 'pid': os.getpid(), 'parent': os.getppid(), 'masked': masked, 'group': os.getpgrp(),\
         'first': [readable('/proc/1/' + n) for n in ('environ', 'mem', 'maps')] if pids else []})",
    );
    let (seen, exit) = run(&spec, &level).await;
    // SIGKILL from inside its namespace does not touch process 1: we got as far as saying so.
    assert_eq!(exit.code, Some(0));
    assert_eq!(
        (&seen["pid"], &seen["parent"], &seen["group"]),
        (&json!(2), &json!(1), &json!(2))
    );
    assert_ne!(seen["again"], json!(0), "no namespaces of its own");
    if level.proc {
        assert_eq!(seen["pids"], json!(["1", "2"]));
        assert_eq!(seen["first"], json!([false, false, false]));
        let masked = seen["masked"].as_object().unwrap();
        assert!(
            masked.contains_key("sys")
                && masked.values().all(|v| v == &json!([]) || v == &json!("")),
            "{masked:?}"
        );
    } else {
        assert_eq!(seen["pids"], json!([]));
    }
}

#[tokio::test]
async fn identity() {
    let level = level("identity").await;
    let mut worker = spawn(
        &python("say(os.getresuid() + os.getresgid() + tuple(os.getgroups()))\ntime.sleep(60)"),
        &level,
    )
    .await
    .unwrap();
    let inside = said(&mut worker).await;
    assert_eq!(inside.as_array().unwrap()[..6], vec![json!(1000); 6]);

    let pids = tree(worker.pid());
    assert_eq!(pids.len(), 2, "process 1 and the worker");
    let own = rustix::process::geteuid().as_raw();
    for pid in pids {
        let uids = status(pid, "Uid");
        let uid: u32 = uids[0].parse().unwrap();
        assert!(uids.iter().all(|u| *u == uids[0]), "{uids:?}");
        if level.root {
            assert!(uid >= 65_534, "{uid}");
            assert!(status(pid, "Groups").is_empty());
            assert!(status(pid, "Gid").iter().all(|gid| *gid != "0"));
        } else {
            assert_eq!(uid, own);
        }
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status(pid, set), ["0000000000000000"], "{set} of {pid}");
        }
        assert_eq!(status(pid, "NoNewPrivs"), ["1"]);
    }
    worker.kill().await.unwrap();
}

#[tokio::test]
async fn inheritance() {
    let level = level("inheritance").await;
    // An open descriptor that is not closed by exec, as a careless library would leave one.
    let _careless = rustix::io::dup(std::fs::File::open("/dev/zero").unwrap()).unwrap();
    let mut spec = python(
        "fds = []\n\
         for fd in range(0, 256):\n\
         \x20   try: os.fstat(fd); fds.append(fd)\n\
         \x20   except OSError: pass\n\
         import resource, signal\n\
         say({'fds': fds, 'env': dict(os.environ), 'core': resource.getrlimit(resource.RLIMIT_CORE), 'files': resource.getrlimit(resource.RLIMIT_NOFILE),\
         'blocked': len(signal.pthread_sigmask(signal.SIG_BLOCK, [])), 'stdin': os.read(0, 1).hex(), 'mask': os.umask(0), 'tty': os.isatty(1), 'sid': os.getsid(0)})",
    );
    spec.environment = [
        ("MINE", "1"),
        ("HTTPS_PROXY", "http://elsewhere"),
        ("LANG", "de_DE.UTF-8"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .to_vec();
    let (seen, _) = run(&spec, &level).await;

    assert_eq!(seen["fds"], json!([0, 1, 2, 3]));
    assert_eq!(
        (&seen["core"], &seen["files"]),
        (&json!([1, 1]), &json!([1024, 1024]))
    );
    assert_eq!(
        (
            &seen["blocked"],
            &seen["stdin"],
            &seen["mask"],
            &seen["tty"],
            &seen["sid"]
        ),
        (
            &json!(0),
            &json!(""),
            &json!(0o022),
            &json!(false),
            &json!(2)
        )
    );
    let mut names: Vec<_> = seen["env"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    names.retain(|name| !matches!(*name, "SSL_CERT_FILE" | "LC_CTYPE"));
    let mut expected = vec![
        "ALL_PROXY",
        "HOME",
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "LANG",
        "MINE",
        "NO_PROXY",
        "OPENBLAS_NUM_THREADS",
        "PATH",
    ];
    expected.extend(["all_proxy", "http_proxy", "https_proxy", "no_proxy"]);
    assert_eq!(names, expected);
    assert_eq!(
        (&seen["env"]["HTTPS_PROXY"], &seen["env"]["LANG"]),
        (&json!("http://127.0.0.1:3128"), &json!("de_DE.UTF-8"))
    );
}

#[tokio::test]
async fn output() {
    let level = level("output").await;
    let mut spec = python("print('out'); print('err', file=sys.stderr)");
    spec.output = Output::Piped;
    let mut worker = spawn(&spec, &level).await.unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    worker
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut out)
        .await
        .unwrap();
    worker
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut err)
        .await
        .unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("out\n", "err\n"));
    assert_eq!(ended(&worker).await.code, Some(0));
    worker.kill().await.unwrap();
}

#[tokio::test]
async fn network() {
    let level = level("network").await;
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let code = format!(
        "import socket, errno, urllib.request, urllib.error\n\
         def reach(address):\n\
         \x20   try: socket.create_connection(address, 3).close(); return 'connected'\n\
         \x20   except OSError as e: return errno.errorcode.get(e.errno, str(e))\n\
         def fetch(url):\n\
         \x20   try: return urllib.request.urlopen(url, timeout=5).status\n\
         \x20   except urllib.error.HTTPError as e: return [e.code, e.read().decode()]\n\
         \x20   except Exception as e: return str(e)\n\
         def links():\n\
         \x20   try: return [n for _, n in socket.if_nameindex()]\n\
         \x20   except OSError as e: return errno.errorcode[e.errno]\n\
         say({{'host': reach(('127.0.0.1', {port})), 'out': reach(('1.1.1.1', 80)), 'metadata': reach(('169.254.169.254', 80)),\
         'links': links(), 'via': fetch('http://169.254.169.254/latest'),\
         'tls': fetch('https://10.0.0.1/')}})"
    );
    let mut worker = spawn(&python(&code), &level).await.unwrap();
    let (refusals, mut heard) = tokio::sync::mpsc::channel(8);
    let proxy = Proxy {
        policy: Policy::default(),
        bounds: Bounds::default(),
        resolver: Resolver::default(),
        refusals,
    };
    let stop = CancellationToken::new();
    let serving = tokio::spawn(proxy.serve(worker.egress.take().unwrap(), stop.clone()));
    let seen = said(&mut worker).await;

    assert_eq!(
        (&seen["host"], &seen["out"], &seen["metadata"]),
        (
            &json!("ECONNREFUSED"),
            &json!("ENETUNREACH"),
            &json!("ENETUNREACH")
        )
    );
    // Links are asked for by netlink.
    assert_eq!(seen["links"], json!("EPERM"));
    assert_eq!(seen["via"][0], json!(403));
    assert!(
        seen["via"][1]
            .as_str()
            .unwrap()
            .contains("169.254.169.254 is not a public address")
    );
    assert!(seen["tls"].as_str().unwrap().contains("403"), "{seen}");
    assert_eq!(heard.recv().await.unwrap().host, "169.254.169.254");
    assert_eq!(heard.recv().await.unwrap().host, "10.0.0.1");
    worker.kill().await.unwrap();
    stop.cancel();
    serving.await.unwrap();
}

/// Read-only but for scratch, no set-uid, no devices but the five; and signals as a fresh program expects them.
#[tokio::test]
async fn mounts_and_signals() {
    let level = level("mounts").await;
    if !level.proc {
        // Such a sandbox cannot tell.
        let (seen, _) = run(&python("say(os.listdir('/proc'))"), &level).await;
        assert_eq!(seen, json!([]));
        return;
    }
    let (seen, _) = run(
        &python("say([line.split()[4:6] for line in open('/proc/self/mountinfo')])"),
        &level,
    )
    .await;
    let mounts: Vec<(String, String)> = serde_json::from_value(seen).unwrap();
    assert!(mounts.len() > 10);
    for (at, options) in mounts {
        let has = |option: &str| options.split(',').any(|o| o == option);
        assert!(has("nosuid"), "{at}: {options}");
        assert_eq!(
            !has("ro"),
            ["/tmp", "/dev/shm"].contains(&at.as_str()),
            "{at}: {options}"
        );
        // What masks a file of /proc is /dev/null.
        let device = at.starts_with("/dev/") && at != "/dev/shm"
            || at.starts_with("/proc/") && has("noexec");
        assert!(has("nodev") || device, "{at}: {options}");
    }

    let script = "while read -r name set; do [ $name = SigIgn: ] && echo \\\"$set\\\" >&3; done < /proc/self/status; true";
    let shell = Spec::new("sh", ["/bin/sh", "-c", script].map(str::to_owned).to_vec());
    assert_eq!(run(&shell, &level).await.0, json!("0000000000000000"));
}

/// The second wall: a directory of the host that were left open in there leads to nothing.
#[tokio::test]
async fn outside_its_root() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::mem::MaybeUninit;
    use std::os::fd::AsFd;

    let level = level("outside").await;
    let scratch = Scratch::new("outside");
    let mode = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(&scratch.0, mode).unwrap();
    std::fs::write(scratch.0.join("secret"), "x").unwrap();
    let spec = python(
        "import array, errno, socket\n\
         s = socket.socket(fileno=3)\n\
         _, passed, _, _ = s.recvmsg(1, socket.CMSG_SPACE(4))\n\
         fd = array.array('i', passed[0][2])[0]\n\
         def attempt(what):\n\
         \x20   try: what(); return 'done'\n\
         \x20   except OSError as e: return errno.errorcode[e.errno]\n\
         say([attempt(lambda: os.open('secret', os.O_RDONLY, dir_fd=fd)), attempt(lambda: os.open('new', os.O_WRONLY | os.O_CREAT, dir_fd=fd)),\
         attempt(lambda: os.mkdir('dir', dir_fd=fd)), attempt(lambda: os.unlink('secret', dir_fd=fd))])",
    );
    let mut worker = spawn(&spec, &level).await.unwrap();
    let outside = std::fs::File::open(&scratch.0).unwrap();
    let fds = [outside.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    let socket = worker.socket.as_ref().unwrap();
    let byte = [std::io::IoSlice::new(b"x")];
    sendmsg(socket, &byte, &mut ancillary, SendFlags::empty()).unwrap();
    let seen = said(&mut worker).await;
    if level.landlock > 0 {
        assert_eq!(seen, json!(["EACCES", "EACCES", "EACCES", "EACCES"]));
    }
    worker.kill().await.unwrap();
}
