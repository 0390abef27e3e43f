//! The edge of the real program: bodies that drip, settings that cannot work, a certificate that is replaced. Its parts are proven in
//! `gateway/src/tests/edge.rs`.

use phalanx_tests::{Client, Cluster, fixtures, json};
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

#[tokio::test]
async fn bad_settings_are_refused_by_their_name() {
    for (name, value, words) in [
        ("CONNECTIONS", "0", "gateway.connections"),
        (
            "CONNECTIONS_PER_ADDRESS",
            "0",
            "gateway.connections_per_address",
        ),
        ("REQUEST_TIMEOUT_S", "0", "gateway.request_timeout_s"),
        ("IDLE_S", "0", "gateway.idle_s"),
        ("STALL_S", "0", "gateway.stall_s"),
        ("CORS_ORIGINS", "https://a.org/path", "cors_origins"),
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
        .env("PHALANX__GATEWAY__IDLE_S", "600")
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

#[tokio::test]
async fn what_is_too_much_is_told_in_the_envelope() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let send = async |request| client.send(request).await.expect("an answer");
    let long = format!("/api/v1/agents?tag={}", "y".repeat(9_000));
    let answer = client.get(&long).await;
    answer.refused(414, "URI_TOO_LONG");
    let mut many = client.request(Method::GET, "/api/v1/agents");
    for n in 0..101 {
        many = many.header(format!("x-{n}"), "y");
    }
    send(many).await.refused(431, "HEADERS_TOO_LARGE");
    let large = client
        .request(Method::GET, "/api/v1/agents")
        .header("x-large", "y".repeat(66_000));
    send(large).await.refused(431, "HEADERS_TOO_LARGE");
    let packed = client
        .request(Method::POST, "/api/v1/keys")
        .header("content-type", "application/json")
        .header("content-encoding", "gzip")
        .body("{}");
    send(packed).await.refused(415, "UNSUPPORTED_MEDIA_TYPE");
    client.get("/api/v1/agents").await.ok();
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
