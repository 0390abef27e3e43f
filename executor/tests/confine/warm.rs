//! What is forked from a template, wherever this host gives control groups for it; else that it is said why not. And sandboxes that
//! were made ahead.

use std::sync::Arc;

use executor::confine::{Config, Spare, Template, probe, spawn};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{Scratch, WITHIN, config, ended, gone, groups, level, python, said};

/// Forks twice on whatever comes with a descriptor; what is forked goes to its root and then does as it is told, a line each.
const FORKS: &str = r"
import ctypes, socket
wire = socket.socket(fileno=3)
while True:
    data, fds, _, _ = socket.recv_fds(wire, 64, 1)
    if not data:
        os._exit(0)
    middle = os.fork()
    if middle:
        os.waitpid(middle, 0)
        os.close(fds[0])
        continue
    if os.fork():
        os._exit(0)
    wire.close()
    while os.getppid() != 1:
        time.sleep(0.001)
    own = socket.socket(fileno=fds[0])
    own.send(b'!')
    lines = own.makefile('rw')
    os.chroot(lines.readline().strip())
    os.chdir('/')
    for line in lines:
        try:
            answer = eval(line)
        except BaseException as error:
            answer = repr(error)
        lines.write(json.dumps(answer) + '\n')
        lines.flush()
    os._exit(7)
";

struct Instance(Spare);

impl Instance {
    async fn of(template: &Arc<Template>) -> Self {
        let mut spare = template.fork(b"fork".to_vec()).await.expect("it forks");
        let root = format!("{}\n", spare.root);
        spare.socket.write_all(root.as_bytes()).await.unwrap();
        Self(spare)
    }

    async fn asked(&mut self, expression: &str) -> Value {
        let socket = &mut self.0.socket;
        socket
            .write_all(format!("{expression}\n").as_bytes())
            .await
            .unwrap();
        let mut line = Vec::new();
        let reading = async {
            while !line.ends_with(b"\n") {
                line.push(socket.read_u8().await.expect("an answer"));
            }
        };
        tokio::time::timeout(WITHIN, reading)
            .await
            .expect("in time");
        serde_json::from_slice(&line).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forked() {
    let level = level("forked").await;
    let has = |controller: &str| level.controllers.iter().any(|c| c == controller);
    if let Some(why) = level.cannot_fork() {
        assert!(
            !level.proc || !has("memory") || !has("pids"),
            "{level} has all that forks need"
        );
        assert!(
            level
                .to_string()
                .ends_with(&format!("; no warm starts: {why})")),
            "{level}"
        );
        return;
    }
    assert!(level.to_string().ends_with("; warm starts)"), "{level}");
    let mut spec = python(FORKS);
    spec.slots = 3;
    let (template, _socket) = Template::spawn(&spec, &level).await.expect("it starts");
    let template = Arc::new(template);
    let attending = Arc::clone(&template);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { attending.attend().await });
    let (mut one, mut two) = (Instance::of(&template).await, Instance::of(&template).await);
    assert_eq!(template.forks(), 2);

    // Scratch is each one's own, and all the rest is there and read-only.
    assert_eq!(
        one.asked("open('/tmp/mine', 'w').write('x')").await,
        json!(1)
    );
    assert_eq!(two.asked("os.listdir('/tmp')").await, json!([]));
    assert_eq!(one.asked("os.listdir('/tmp')").await, json!(["mine"]));
    let refused = one.asked("open('/usr/mine', 'w')").await;
    assert!(
        refused.as_str().unwrap().contains("Read-only file system"),
        "{refused}"
    );
    let refused = one.asked("os.sched_setaffinity(0, [0]) or os.mount").await;
    assert!(
        refused.as_str().unwrap().contains("AttributeError"),
        "{refused}"
    );
    let status = "[l.split()[1] for l in open('/proc/self/status') if l.startswith(('Seccomp:', 'NoNewPrivs:', 'CapBnd:'))]";
    let seen = one.asked(status).await;
    assert_eq!((&seen[1], &seen[2]), (&json!("1"), &json!("2")), "{seen}");

    // Each is counted, bounded and ended alone.
    assert_eq!(one.asked("len([bytearray(20 << 20)])").await, json!(1));
    assert!(one.0.forked.memory().peak >= 20 << 20);
    assert!(
        two.0.forked.memory().peak < 20 << 20,
        "{:?}",
        two.0.forked.memory()
    );
    assert_eq!((one.0.forked.processes(), two.0.forked.processes()), (1, 1));
    let children = "len([os.posix_spawn('/bin/sleep', ['sleep', '600'], {}) for _ in range(3)])";
    assert_eq!(one.asked(children).await, json!(3));
    assert_eq!((one.0.forked.processes(), two.0.forked.processes()), (4, 1));
    let pid = one.0.forked.pid();
    one.0.forked.kill().await.expect("nothing is left");
    gone(&[pid]).await;
    assert_eq!(two.asked("1 + 1").await, json!(2));
    two.0
        .socket
        .write_all(b"bytearray(1 << 30)\n")
        .await
        .unwrap();
    let exit = tokio::time::timeout(WITHIN, two.0.forked.wait())
        .await
        .expect("in time");
    assert!(exit.oom_killed, "{exit:?}");
    two.0.forked.kill().await.expect("nothing is left");

    // A slot that was used is empty, and the template is none the worse.
    let mut three = Instance::of(&template).await;
    assert_eq!(three.asked("os.listdir('/tmp')").await, json!([]));
    three.0.socket.shutdown().await.unwrap();
    let exit = tokio::time::timeout(WITHIN, three.0.forked.wait())
        .await
        .expect("in time");
    assert_eq!((exit.code, exit.oom_killed), (Some(7), false));
    three.0.forked.kill().await.expect("nothing is left");
    template.kill().await.expect("nothing is left");
    tasks.join_next().await.unwrap().unwrap().unwrap();
}

/// What waited looks like what is made anew, and is used where there is any.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stood_ready() {
    let own = Scratch::new("own");
    std::fs::write(own.0.join("file"), "mine").unwrap();
    for path in ["", "file"] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(own.0.join(path), mode).unwrap();
    }
    let node = config("ready");
    let name = node.node.clone();
    let level = probe(Config { standby: 2, ..node }).await;
    assert!(level.is_confined(), "{level}");
    let code = "say([open('/own/file').read(), sorted(os.listdir('/')), os.getuid(), os.getpid(), socket.gethostname(),
        sorted(line.split()[3:6] for line in open('/proc/self/mountinfo')) if os.path.exists('/proc/self') else 0])";
    let spec = python(&format!("import socket\n{code}")).show(&own.0, "/own");
    let mut before = None;
    for _ in 0..4 {
        let stood = level.standing();
        let mut worker = spawn(&spec, &level).await.expect("it starts");
        let seen = said(&mut worker).await;
        assert_eq!(seen[0], "mine");
        assert_eq!(
            *before.get_or_insert_with(|| seen.clone()),
            seen,
            "{stood} stood ready"
        );
        assert_eq!(ended(&worker).await.code, Some(0));
        worker.kill().await.expect("nothing is left");
        // The next one finds some, where this host lets them be made.
        let can_stand = rustix::process::geteuid().is_root() && level.root;
        let deadline = std::time::Instant::now() + WITHIN;
        while can_stand && level.standing() < 2 {
            assert!(std::time::Instant::now() < deadline, "nobody stands ready");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
    drop(level);
    // They go with the executor's last handle; a task that fills may still hold one.
    let deadline = std::time::Instant::now() + WITHIN;
    while !groups(&name).is_empty() {
        assert!(
            std::time::Instant::now() < deadline,
            "{:?} are left",
            groups(&name)
        );
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
