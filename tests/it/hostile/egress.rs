//! The way out, by each agent's own policy: plain requests and tunnels, TLS within them, names, ports, and what is refused in its log.

use phalanx_tests::{Cluster, Options, Value, fixtures, json, wait};
use rustls::{
    ServerConfig, ServerConnection, Stream,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

const CLIENT: &str = r#"
import os, socket, ssl, urllib.error, urllib.request

# What listens on this very host is asked for by the proxy, too.
for name in ("no_proxy", "NO_PROXY"):
    os.environ.pop(name, None)

def plain(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode().strip()}"
    except OSError as error:
        return str(error)

def tunnel(target, authority=None):
    with socket.create_connection(("127.0.0.1", 3128), 10) as stream:
        stream.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        said = b""
        while not said.endswith(b"\r\n\r\n"):
            more = stream.recv(1)
            if not more:
                break
            said += more
        if b" 200 " not in said.split(b"\r\n")[0]:
            return said.split(b"\r\n")[0].decode().removeprefix("HTTP/1.1 ")
        if authority:
            stream = ssl.create_default_context(cadata=authority).wrap_socket(stream, server_hostname=target.rsplit(":", 1)[0])
        stream.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        said = b""
        while more := stream.recv(4096):
            said += more
        return said.split(b"\r\n\r\n")[-1].decode()

def secure(url, authority):
    try:
        with urllib.request.urlopen(url, timeout=10, context=ssl.create_default_context(cadata=authority)) as answer:
            return answer.read().decode()
    except OSError as error:
        return str(error)

def handler(input):
    port, tls = input["port"], input["tls"]
    return {
        "plain": plain(f"http://127.0.0.1:{port}/"),
        "tunnel": tunnel(f"127.0.0.1:{port}"),
        "name": tunnel(f"localhost:{port}"),
        "secure": secure(f"https://127.0.0.1:{tls}/", input["authority"]),
        "secure_name": tunnel(f"localhost:{tls}", input["authority"]),
        "other_port": tunnel(f"127.0.0.1:{input['other']}"),
        "metadata": plain("http://169.254.169.254/latest/meta-data/"),
    }
"#;

fn serve(mut stream: impl Read + Write) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        head.push(byte[0]);
    }
    // Who has gone needs no answer.
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        .ok();
}

/// Answers whoever comes, as long as the test runs.
fn server(tls: Option<Arc<ServerConfig>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            stream
                .set_read_timeout(Some(Duration::from_secs(10)))
                .expect("a timeout");
            answer(stream, tls.as_ref());
        }
    });
    port
}

fn answer(mut stream: TcpStream, tls: Option<&Arc<ServerConfig>>) {
    match tls {
        None => serve(&stream),
        Some(config) => {
            let mut connection = ServerConnection::new(Arc::clone(config)).expect("a connection");
            serve(Stream::new(&mut connection, &mut stream));
            connection.send_close_notify();
            connection.write_tls(&mut stream).ok();
        }
    }
    stream.shutdown(Shutdown::Write).ok();
}

fn certificate() -> (Arc<ServerConfig>, String) {
    let names = ["127.0.0.1", "localhost"].map(str::to_owned).to_vec();
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a configuration");
    (Arc::new(config), made.cert.pem())
}

#[tokio::test]
async fn each_agent_keeps_to_its_policy() {
    let (config, authority) = certificate();
    let (port, tls, other) = (server(None), server(Some(config)), server(None));
    let allowed = format!("127.0.0.0/8:{port}, 127.0.0.0/8:{tls}");
    let cluster =
        Cluster::start_with(Options::default().set("PHALANX__EXECUTOR__EGRESS_PRIVATE", &allowed))
            .await;
    let client = &cluster.client;
    for (id, egress) in [
        ("open", json!({})),
        (
            "listed",
            json!({"policy": "allowlist", "allow": [format!("localhost:{tls}"), format!("127.0.0.1:{port}")]}),
        ),
        ("closed", json!({"policy": "none"})),
    ] {
        client
            .deploy_source(
                id,
                CLIENT,
                json!({"deployment_config": {"security": {"egress": egress}}}),
            )
            .await;
    }
    let input = json!({"port": port, "tls": tls, "other": other, "authority": authority});
    let seen = |id: &'static str| {
        let input = input.clone();
        async move { client.output(id, input).await }
    };

    let open = seen("open").await;
    for what in ["plain", "tunnel", "name", "secure", "secure_name"] {
        assert_eq!(open[what], "hello", "{open:#}");
    }
    // The operator has opened two ports of this host, and nothing else.
    assert_eq!(open["other_port"], "403 Forbidden", "{open:#}");
    assert!(
        said(&open["metadata"]).contains("169.254.169.254 is not a public address"),
        "{open:#}"
    );

    let listed = seen("listed").await;
    for (what, expected) in [
        ("plain", "hello"),
        ("tunnel", "hello"),
        ("secure_name", "hello"),
        ("name", "403 Forbidden"),
        ("other_port", "403 Forbidden"),
    ] {
        assert_eq!(listed[what], expected, "{what} {listed:#}");
    }
    assert!(said(&listed["secure"]).contains("403"), "{listed:#}");
    assert!(
        said(&listed["metadata"]).contains("not on the agent's allow-list"),
        "{listed:#}"
    );

    let closed = seen("closed").await;
    for what in ["tunnel", "name", "secure_name", "other_port"] {
        assert_eq!(closed[what], "403 Forbidden", "{closed:#}");
    }
    assert!(
        said(&closed["plain"]).contains("the agent's egress policy is none"),
        "{closed:#}"
    );
    assert!(
        said(&closed["metadata"]).contains("the agent's egress policy is none"),
        "{closed:#}"
    );

    // What was refused is in the agent's own log, and in nobody else's.
    for (id, words) in [
        ("listed", "connection to 169.254.169.254:80 refused"),
        ("closed", "the agent's egress policy is none"),
    ] {
        wait::until(
            &format!("{id}'s log tells"),
            Duration::from_secs(20),
            || async {
                let logs = client.get(&format!("/api/v1/agents/{id}/logs")).await;
                if logs.text.contains(words) {
                    Ok(())
                } else {
                    Err(logs.text)
                }
            },
        )
        .await;
    }
    let logs = client.get("/api/v1/agents/open/logs").await;
    assert!(
        !logs.text.contains("allow-list") && !logs.text.contains("policy is none"),
        "{}",
        logs.text
    );
}

#[tokio::test]
async fn a_policy_that_is_none_is_a_fault() {
    let cluster = Cluster::start().await;
    let egress =
        json!({"policy": "allowlist", "allow": ["ok.example", "http://bad/", "*.*"], "deny": []});
    let body = fixtures::with(
        fixtures::agent("faulty", fixtures::ECHO),
        json!({"deployment_config": {"security": {"egress": egress}}}),
    );
    let faults = cluster.client.deploy(&body).await.faults();
    for path in ["allow[1]: ", "allow[2]: ", "deny: "] {
        let path = format!("deployment_config.security.egress.{path}");
        assert!(
            faults.iter().any(|fault| fault.starts_with(&path)),
            "{path} in {faults:#?}"
        );
    }
    assert_eq!(faults.len(), 3, "{faults:#?}");
}

fn said(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}
