//! Clients that hold on: heads that never end, bodies that drip, answers that nobody reads; and what the port says of itself.

use crate::still_serves;
use phalanx_tests::{Client, Cluster, Options, fixtures, json};
use reqwest::Method;
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Far more than the deadlines that these tests set, on any machine.
const SURELY: Duration = Duration::from_secs(60);

async fn dial(cluster: &Cluster) -> TcpStream {
    let address = cluster.client.base.trim_start_matches("http://");
    TcpStream::connect(address).await.expect("a connection")
}

/// All that is said until the connection is closed; it must be.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    let read = tokio::time::timeout(SURELY, stream.read_to_end(&mut said)).await;
    // A reset is an end too.
    read.expect("the connection is closed").ok();
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn a_head_has_an_end() {
    let cluster =
        Cluster::start_with(Options::default().set("PHALANX__GATEWAY__HEAD_S", "1")).await;
    for begun in [
        "",
        "G",
        "PRI * HTTP/2.0\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nhost: phalanx\r\nx-one: 1\r\n",
    ] {
        let mut stream = dial(&cluster).await;
        stream.write_all(begun.as_bytes()).await.expect("written");
        let said = until_closed(&mut stream).await;
        assert!(!said.contains("200"), "{begun:?}: {said}");
    }
    // A header now and then is no more patience.
    let mut stream = dial(&cluster).await;
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: phalanx\r\n")
        .await
        .expect("written");
    let begun = Instant::now();
    while stream.write_all(b"x-a: b\r\n").await.is_ok() {
        assert!(begun.elapsed() < SURELY, "the head is still taken in");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    still_serves(&cluster).await;
}

#[tokio::test]
async fn a_head_has_a_size() {
    let cluster =
        Cluster::start_with(Options::default().set("PHALANX__GATEWAY__HEAD_BYTES", "8192")).await;
    let mut stream = dial(&cluster).await;
    let head = format!(
        "GET /healthz HTTP/1.1\r\nhost: phalanx\r\nx-long: {}\r\n\r\n",
        "x".repeat(20_000)
    );
    stream.write_all(head.as_bytes()).await.ok();
    let said = until_closed(&mut stream).await;
    assert!(
        said.is_empty() || said.starts_with("HTTP/1.1 431"),
        "{said}"
    );
    still_serves(&cluster).await;
}

/// As many as there may be hold on; the next one is served when the first of them is given up.
#[tokio::test]
async fn connections_have_a_bound_and_come_free() {
    let options = Options::default()
        .set("PHALANX__GATEWAY__HEAD_S", "2")
        .set("PHALANX__GATEWAY__CONNECTIONS", "4");
    let cluster = Cluster::embedded(options).await;
    let mut holders = Vec::new();
    for _ in 0..8 {
        let mut stream = dial(&cluster).await;
        stream.write_all(b"GET /").await.expect("written");
        holders.push(stream);
    }
    let mut stream = dial(&cluster).await;
    let begun = Instant::now();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: phalanx\r\nconnection: close\r\n\r\n")
        .await
        .expect("written");
    let said = until_closed(&mut stream).await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    assert!(
        begun.elapsed() > Duration::from_secs(1),
        "eight before it held four places, but it was served at once"
    );
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_given_up() {
    let options = Options::default().set("PHALANX__GATEWAY__SEND_S", "1");
    let cluster = Cluster::start_with(options).await;
    let mut stream = dial(&cluster).await;
    let ask = b"GET /openapi.json HTTP/1.1\r\nhost: phalanx\r\n\r\n";
    // More answers than both ends' buffers hold, and none is read.
    let begun = Instant::now();
    loop {
        let asked = tokio::time::timeout(SURELY, stream.write_all(&ask.repeat(200))).await;
        if asked.expect("taken in, or refused").is_err() {
            break;
        }
        assert!(begun.elapsed() < SURELY, "requests are still taken in");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    still_serves(&cluster).await;
}

#[tokio::test]
async fn the_port_says_what_is_safe_and_nothing_of_itself() {
    let cluster = Cluster::start().await;
    for (path, status) in [
        ("/healthz", 200),
        ("/openapi.json", 200),
        ("/docs/", 200),
        ("/api/v1/agents", 200),
        ("/api/v1/agents/none", 404),
        ("/nowhere", 404),
    ] {
        let answer = cluster.client.get(path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
        assert_eq!(answer.header("server"), None, "{path}");
        assert_eq!(answer.header("x-powered-by"), None, "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), None, "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("x-frame-options"), Some("DENY"), "{path}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
        let policy = answer.header("content-security-policy").expect(path);
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
    }
}

#[tokio::test]
async fn only_pages_that_are_named_may_read() {
    let options = Options::default().set(
        "PHALANX__GATEWAY__CORS_ORIGINS",
        "https://console.example.org",
    );
    let cluster = Cluster::start_with(options).await;
    let ask = async |method: Method, origin: &str| {
        let request = cluster
            .client
            .request(method, "/api/v1/agents/deploy")
            .header("origin", origin)
            .header("access-control-request-method", "POST");
        cluster.client.send(request).await.expect("an answer")
    };
    let good = ask(Method::OPTIONS, "https://console.example.org").await;
    assert_eq!(good.status, 204, "{}", good.text);
    let allowed = |name: &str| good.header(name).map(str::to_owned);
    assert_eq!(
        allowed("access-control-allow-origin").as_deref(),
        Some("https://console.example.org")
    );
    assert_eq!(
        allowed("access-control-allow-methods").as_deref(),
        Some("POST")
    );
    assert_eq!(allowed("access-control-allow-credentials"), None);
    // A refusal can be read too, else a page could not say why.
    let refused = ask(Method::POST, "https://console.example.org").await;
    refused.refused(415, "UNSUPPORTED_MEDIA_TYPE");
    assert!(refused.header("access-control-allow-origin").is_some());
    for bad in [
        "https://evil.example.org",
        "null",
        "https://console.example.org.evil",
    ] {
        let answer = ask(Method::OPTIONS, bad).await;
        assert_eq!(answer.header("access-control-allow-origin"), None, "{bad}");
        assert_eq!(answer.status, 405, "{bad}");
    }
}

#[tokio::test]
async fn bad_settings_are_refused_by_their_name() {
    for (name, value, words) in [
        ("HEAD_BYTES", "100", "gateway.head_bytes"),
        ("CONNECTIONS", "0", "gateway.connections"),
        ("REQUEST_S", "0", "gateway.request_s"),
        ("CORS_ORIGINS", "https://a.org/path", "gateway.cors_origins"),
        ("TLS_KEY", "/nowhere", "gateway.tls_certificate"),
    ] {
        let dir = std::env::temp_dir().join(format!("edge-{}", uuid::Uuid::new_v4()));
        let ended = tokio::process::Command::new(phalanx_tests::program::phalanx())
            .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&dir)
            .env(format!("PHALANX__GATEWAY__{name}"), value)
            .kill_on_drop(true)
            .output();
        let ended = tokio::time::timeout(SURELY, ended).await;
        let output = ended.expect("it ends by itself").expect("it starts");
        std::fs::remove_dir_all(&dir).ok();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains(words),
            "{name}: {said}"
        );
    }
}

/// A certificate for this host, in two files; the certificate comes back.
fn certify(certificate: &Path, key: &Path) -> String {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    std::fs::write(certificate, made.cert.pem()).expect("written");
    std::fs::write(key, made.signing_key.serialize_pem()).expect("written");
    made.cert.pem()
}

fn trusting(pem: &str) -> reqwest::Client {
    let root = reqwest::Certificate::from_pem(pem.as_bytes()).expect("a certificate");
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([root])
        .timeout(SURELY)
        .build()
        .expect("a client")
}

struct Files(PathBuf);

impl Drop for Files {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

#[tokio::test]
async fn a_new_certificate_is_shown_and_old_connections_go_on() {
    let files = Files(std::env::temp_dir().join(format!("edge-{}", uuid::Uuid::new_v4())));
    std::fs::create_dir(&files.0).expect("a directory");
    let (certificate, key) = (files.0.join("certificate.pem"), files.0.join("key.pem"));
    let first = certify(&certificate, &key);
    let port = phalanx_tests::backing::free_port();
    let mut phalanx = tokio::process::Command::new(phalanx_tests::program::phalanx())
        .args(["up", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
        .arg(files.0.join("data"))
        .env("PHALANX__GATEWAY__TLS_CERTIFICATE", &certificate)
        .env("PHALANX__GATEWAY__TLS_KEY", &key)
        // Idle connections are kept for longer than this test can take.
        .env("PHALANX__GATEWAY__HEAD_S", "600")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let url = format!("https://localhost:{port}/readyz");
    let old = trusting(&first);
    let answers = async |client: &reqwest::Client| {
        let answer = client.get(&url).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    };
    let soon = async |client: &reqwest::Client, what: &str| {
        let begun = Instant::now();
        while !answers(client).await {
            assert!(begun.elapsed() < SURELY, "{what}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    soon(&old, "the first certificate is not shown").await;

    let second = certify(&certificate, &key);
    let new = trusting(&second);
    soon(&new, "the second certificate is not shown").await;
    // A new handshake would fail for who trusts the first one only.
    assert!(answers(&old).await, "a connection was dropped");
    assert!(
        !answers(&trusting(&first)).await,
        "the first one is still shown"
    );

    // Plain HTTP is no way in, and rubbish in the files changes nothing.
    std::fs::write(&certificate, "rubbish").expect("written");
    let plain = trusting(&second)
        .get(format!("http://127.0.0.1:{port}/readyz"))
        .send()
        .await;
    assert!(plain.is_err(), "{plain:?}");
    soon(&trusting(&second), "the second certificate is gone").await;
    phalanx.kill().await.expect("killed");
}

/// Bodies are bounded in time by how much of them comes.
#[tokio::test]
async fn a_body_that_drips_is_given_up() {
    let cluster = Cluster::start().await;
    cluster
        .client
        .deploy_source("echo", fixtures::ECHO, json!({}))
        .await;
    let Client { key, .. } = &cluster.client;
    let mut stream = dial(&cluster).await;
    let head = format!(
        "POST /api/v1/agents/echo/execute HTTP/1.1\r\nhost: phalanx\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ncontent-length: 1000000\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    let begun = Instant::now();
    let (mut read, mut write) = stream.into_split();
    let mut said = [0; 1024];
    let first = loop {
        tokio::select! {
            got = read.read(&mut said) => break got.expect("an answer"),
            () = tokio::time::sleep(Duration::from_millis(500)) => drop(write.write_all(b" ").await),
        }
        assert!(begun.elapsed() < 2 * SURELY, "the body is still taken in");
    };
    let said = String::from_utf8_lossy(&said[..first]);
    assert!(said.starts_with("HTTP/1.1 504"), "{said}");
}
