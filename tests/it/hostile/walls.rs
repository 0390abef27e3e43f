//! What an agent sees of the host: nothing that is not its own.

use phalanx_tests::{Cluster, fixtures, json};
use std::net::TcpListener;

/// Asks for many things; gives what it got.
const CURIOUS: &str = "
import os, pathlib, socket

def reads(path):
    try:
        with open(path, 'rb') as file:
            return len(file.read(16)) > 0
    except OSError:
        return False

def writes(path):
    try:
        with open(path, 'w') as file:
            file.write('x')
        return True
    except OSError:
        return False

def connects(host, port):
    try:
        socket.create_connection((host, port), 1).close()
        return True
    except OSError:
        return False

def handler(input):
    here = pathlib.Path(__file__).parent
    return {
        'secrets': [p for p in input['secrets'] if reads(p)],
        'writes': [p for p in ['/usr/x', '/etc/x', '/x', str(here / 'x.py'), '/proc/sys/kernel/hostname', '/sys/x', '/dev/x'] if writes(p)],
        'connects': [str(t) for t in input['targets'] if connects(*t)],
        'processes': [int(p) for p in os.listdir('/proc') if p.isdigit()],
        'environment': sorted(os.environ),
        'uid': os.getuid(),
        'hostname': socket.gethostname(),
        'interfaces': [line.split(':')[0].strip() for line in open('/proc/net/dev') if ':' in line],
        'capabilities': [line.split()[1] for line in open('/proc/self/status') if line.startswith(('CapEff', 'CapPrm', 'CapInh'))],
        'no_new_privs': [line.split()[1] for line in open('/proc/self/status') if line.startswith('NoNewPrivs')],
        'descriptors': len(os.listdir('/proc/self/fd')),
    }
";

#[tokio::test]
async fn nothing_of_the_host_is_seen() {
    let cluster = Cluster::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let own = cluster
        .client
        .base
        .rsplit(':')
        .next()
        .expect("a port")
        .parse::<u16>()
        .expect("a port");
    let dir = cluster.data_dir();
    let secrets: Vec<String> = ["admin.key", "master.key", "phalanx.db", "node.id"]
        .iter()
        .map(|name| dir.join(name).display().to_string())
        .collect();
    let secrets = [
        secrets,
        vec![
            "/etc/shadow".to_owned(),
            "/root/.bashrc".to_owned(),
            "/proc/1/environ".to_owned() + "x",
        ],
    ]
    .concat();
    cluster
        .client
        .deploy_source("curious", CURIOUS, json!({}))
        .await;
    let input = json!({"secrets": secrets, "targets": [["127.0.0.1", port], ["127.0.0.1", own], ["169.254.169.254", 80], ["10.0.0.1", 80], ["::1", port]]});
    let seen = cluster.client.output("curious", input).await;
    assert_eq!(
        (&seen["secrets"], &seen["writes"], &seen["connects"]),
        (&json!([]), &json!([]), &json!([])),
        "{seen:#}"
    );
    let processes = seen["processes"].as_array().expect("a list");
    assert!(
        processes.len() <= 3
            && processes
                .iter()
                .all(|pid| pid.as_u64().is_some_and(|pid| pid < 100)),
        "{seen:#}"
    );
    assert_eq!(
        seen["capabilities"],
        json!(["0000000000000000", "0000000000000000", "0000000000000000"]),
        "{seen:#}"
    );
    assert_eq!(
        (&seen["no_new_privs"], &seen["interfaces"]),
        (&json!(["1"]), &json!(["lo"])),
        "{seen:#}"
    );
    assert_ne!(seen["uid"], 0, "{seen:#}");
    let names = seen["environment"].to_string();
    assert!(
        !names.contains("PHALANX__") && !names.contains("CARGO") && !names.contains("NEXTEST"),
        "{names}"
    );
}

#[tokio::test]
async fn agents_do_not_see_each_other() {
    let cluster = Cluster::start().await;
    let source = "
import os
def handler(input):
    path = '/tmp/mine'
    if input.get('write'):
        open(path, 'w').write('secret')
        return 'written'
    return os.path.exists(path)
";
    let one = json!({"deployment_config": {"auto_scaling": {"max_instances": 1}}});
    cluster
        .client
        .deploy_source("first", source, one.clone())
        .await;
    cluster.client.deploy_source("second", source, one).await;
    assert_eq!(
        cluster.client.output("first", json!({"write": true})).await,
        "written"
    );
    assert_eq!(cluster.client.output("first", json!({})).await, true);
    assert_eq!(cluster.client.output("second", json!({})).await, false);
    assert_eq!(
        cluster
            .client
            .execute_with("second", &fixtures::call(json!({})))
            .await
            .ok()["status"],
        "completed"
    );
}
