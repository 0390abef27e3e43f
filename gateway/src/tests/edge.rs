//! Clients that are slow, many, wordy, from a browser's page, or speak TLS.

use super::world::World;
use crate::{Config, tls::Files};
use axum::http::HeaderValue;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const SOON: Duration = Duration::from_secs(1);
/// Far beyond what any of this takes.
const PATIENCE: Duration = Duration::from_secs(60);

async fn connect(world: &World) -> TcpStream {
    TcpStream::connect(world.address)
        .await
        .expect("a connection")
}

/// Everything until the server closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    // A reset is an end as well.
    read.expect("closed by the server").ok();
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn said(world: &World, head: &str) -> String {
    let mut stream = connect(world).await;
    stream.write_all(head.as_bytes()).await.expect("sent");
    rest(&mut stream).await
}

#[tokio::test]
async fn a_head_must_come_whole_and_soon() {
    let world = World::with(Config {
        idle: SOON,
        ..Config::default()
    })
    .await;
    let silent = async { rest(&mut connect(&world).await).await };
    let half_a_preface = said(&world, "PRI * HT");
    let half_a_head = said(&world, "GET /healthz HTTP/1.1\r\nhost: x\r\n");
    let drop_by_drop = async {
        let mut stream = connect(&world).await;
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nx: ")
            .await
            .expect("sent");
        let (mut reading, mut writing) = stream.split();
        let dripping = async {
            while writing.write_all(b"y").await.is_ok() {
                tokio::time::sleep(SOON / 10).await;
            }
        };
        let mut answer = Vec::new();
        tokio::select! {
            read = tokio::time::timeout(PATIENCE, reading.read_to_end(&mut answer)) => {
                read.expect("closed by the server").ok();
            }
            () = dripping => {}
        }
    };
    let idle = said(&world, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
    let (silent, preface, half, (), idle) =
        tokio::join!(silent, half_a_preface, half_a_head, drop_by_drop, idle);
    assert_eq!((silent.as_str(), preface.as_str()), ("", ""));
    assert!(!half.starts_with("HTTP/1.1 200"), "{half}");
    assert!(idle.starts_with("HTTP/1.1 200"), "{idle}");
    assert_eq!(world.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn heads_are_bounded_and_told_why() {
    let world = World::new().await;
    let many: String = (0..101).map(|n| format!("x-{n}: y\r\n")).collect();
    let long = format!("x: {}\r\n", "y".repeat(70_000));
    let url = format!("/{}", "y".repeat(9_000));
    for (path, fields, status, code) in [
        ("/healthz", many, "431", "HEADERS_TOO_LARGE"),
        ("/healthz", long, "431", "HEADERS_TOO_LARGE"),
        (
            &url,
            "connection: close\r\n".to_owned(),
            "414",
            "URI_TOO_LONG",
        ),
    ] {
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{fields}\r\n");
        let answer = said(&world, &head).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{answer}");
        assert!(answer.contains("x-request-id: req_"), "{answer}");
    }
    // What is larger still is not even read.
    let most: String = (0..201).map(|n| format!("x-{n}: y\r\n")).collect();
    let longest = format!("x: {}\r\n", "y".repeat(200_000));
    for fields in [most, longest] {
        let answer = said(&world, &format!("GET /healthz HTTP/1.1\r\n{fields}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
}

#[tokio::test]
async fn what_is_no_http_is_refused_and_harms_nobody() {
    let world = World::new().await;
    let close = "connection: close\r\n";
    let get = |fields: &str| format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{close}{fields}\r\n");
    let post = |fields: &str, body: &str| {
        let head = "POST /api/v1/keys HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
        format!(
            "{head}authorization: Bearer {}\r\n{close}{fields}\r\n{body}",
            world.key
        )
    };
    let path = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n{close}\r\n",
            world.key
        )
    };
    for (what, sent) in [
        (
            "two lengths",
            post("content-length: 2\r\ncontent-length: 3\r\n", "{}x"),
        ),
        ("a signed length", post("content-length: +2\r\n", "{}")),
        (
            "a huge length",
            post("content-length: 99999999999999999999999\r\n", "{}"),
        ),
        (
            "chunked and more",
            post(
                "transfer-encoding: chunked, gzip\r\n",
                "2\r\n{}\r\n0\r\n\r\n",
            ),
        ),
        (
            "a chunk that is too long",
            post("transfer-encoding: chunked\r\n", "FFFFFFFFFFFFFFFFF\r\n{}"),
        ),
        (
            "a chunk of no length",
            post("transfer-encoding: chunked\r\n", "zz\r\n{}\r\n0\r\n\r\n"),
        ),
        (
            "a packed body",
            post("content-encoding: gzip\r\ncontent-length: 2\r\n", "{}"),
        ),
        ("a zero in a header", get("x: a\0b\r\n")),
        ("a folded header", get("x: a\r\n b\r\n")),
        ("a space before the colon", get("x : a\r\n")),
        ("no name", get(": a\r\n")),
        ("no method", "\0\x01\x02\x03 / HTTP/1.1\r\n\r\n".to_owned()),
        ("another version", "GET / HTTP/3.7\r\n\r\n".to_owned()),
        ("a zero in the path", path("/api/v1/agents/%00")),
        ("no UTF-8 in the path", path("/api/v1/agents/%ff%fe")),
        ("no escape", path("/api/v1/agents/%zz")),
        ("climbing", path("/api/v1/agents/..%2f..%2fetc%2fpasswd")),
        ("no UTF-8 in the query", path("/api/v1/agents?page=%ff")),
        ("a zero in the query", path("/api/v1/agents?tag=%00&page=0")),
    ] {
        let answer = said(&world, &sent).await;
        assert!(
            answer.is_empty()
                || answer.starts_with("HTTP/1.1 4")
                || answer.starts_with("HTTP/1.0 4"),
            "{what}: {answer}"
        );
    }
    let packed = said(
        &world,
        &post("content-encoding: gzip\r\ncontent-length: 2\r\n", "{}"),
    )
    .await;
    assert!(
        packed.starts_with("HTTP/1.1 415") && packed.contains("content-encoding"),
        "{packed}"
    );
    // Lengths that disagree are one request, not two: what follows is nobody's.
    let smuggled = post(
        "content-length: 4\r\ntransfer-encoding: chunked\r\n",
        "0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: x\r\n\r\n",
    );
    let answer = said(&world, &smuggled).await;
    assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{answer}");
    assert_eq!(world.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn one_address_leaves_places_to_others() {
    let world = World::with(Config {
        connections_per_address: 2,
        ..Config::default()
    })
    .await;
    let first = connect(&world).await;
    let _second = connect(&world).await;
    let mut third = connect(&world).await;
    assert_eq!(rest(&mut third).await, "", "it is closed at once");
    drop(first);
    let begun = std::time::Instant::now();
    let head = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    while !said(&world, head).await.starts_with("HTTP/1.1 200") {
        assert!(begun.elapsed() < PATIENCE, "no place came free");
        tokio::time::sleep(SOON / 20).await;
    }
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_given_up() {
    let world = World::with(Config {
        request: SOON,
        ..Config::default()
    })
    .await;
    let head = format!(
        "POST /api/v1/keys HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: 100\r\nconnection: close\r\n\r\n{{",
        world.key
    );
    let mut stream = connect(&world).await;
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut first = [0; 2048];
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut first)).await;
    let read = read.expect("in time").expect("an answer");
    let answer = String::from_utf8_lossy(&first[..read]);
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    // A stream goes on for as long as it likes.
    let deployed = world.deploy("mine", "1.0.0").await.body;
    let id = deployed["deployment_id"].as_str().expect("an id");
    let follow = format!("/api/v1/agents/mine/deployments/{id}?follow=true");
    let follow = world.request("GET", &follow).bearer_auth(&world.key);
    let mut stream = follow.send().await.expect("a stream");
    let ended = async { while stream.chunk().await.expect("a chunk").is_some() {} };
    let ended = tokio::time::timeout(SOON * 3, ended).await;
    assert!(ended.is_err(), "it was given up");
}

#[tokio::test]
async fn those_over_the_bound_wait_their_turn() {
    let world = World::with(Config {
        connections: 2,
        idle: SOON,
        ..Config::default()
    })
    .await;
    let mut silent = Vec::new();
    for _ in 0..6 {
        silent.push(connect(&world).await);
    }
    let answer = tokio::time::timeout(PATIENCE, world.get("/healthz")).await;
    assert_eq!(answer.expect("a turn").status, 200);
}

#[tokio::test]
async fn who_does_not_read_is_let_go() {
    let world = World::with(Config {
        connections: 1,
        stall: SOON,
        ..Config::default()
    })
    .await;
    let mut deaf = connect(&world).await;
    // More than all buffers between the two hold.
    let request = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n";
    deaf.write_all(request.repeat(400).as_bytes())
        .await
        .expect("sent");
    let answer = tokio::time::timeout(PATIENCE, world.get("/healthz")).await;
    assert_eq!(answer.expect("a turn").status, 200);
}

#[tokio::test]
async fn answers_say_nothing_of_us_and_much_to_browsers() {
    let world = World::new().await;
    for path in ["/healthz", "/api/v1/agents", "/nowhere"] {
        let answer = world.get(path).await;
        assert_eq!(answer.header("server"), "");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
        assert_eq!(
            answer.header("content-security-policy"),
            "default-src 'none'; frame-ancestors 'none'"
        );
        assert_eq!(answer.header("strict-transport-security"), "", "no TLS");
    }
    let page = world.get("/docs/").await;
    let policy = page.header("content-security-policy");
    assert!(policy.contains("default-src 'self'"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
}

async fn preflight(world: &World, origin: &str) -> super::world::Answer {
    let request = world
        .request("OPTIONS", "/api/v1/agents")
        .header("origin", origin)
        .header("access-control-request-method", "GET")
        .header("access-control-request-headers", "authorization");
    world.send(request).await
}

#[tokio::test]
async fn pages_call_us_only_where_their_origin_is_named() {
    let closed = World::new().await;
    let answer = preflight(&closed, "https://console.example").await;
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (405, "")
    );

    let open = World::with(Config {
        cors_origins: vec![HeaderValue::from_static("https://console.example")],
        ..Config::default()
    })
    .await;
    let answer = preflight(&open, "https://console.example").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        answer.header("access-control-allow-origin"),
        "https://console.example"
    );
    let allowed = answer.header("access-control-allow-headers");
    assert!(allowed.contains("authorization"), "{allowed}");
    let stranger = preflight(&open, "https://console.example.evil").await;
    assert_eq!(stranger.header("access-control-allow-origin"), "");
    assert_eq!(stranger.header("access-control-allow-credentials"), "");
}

fn certify(dir: &Path) -> (Files, reqwest::Certificate) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    let files = Files {
        certificate: dir.join("certificate.pem"),
        key: dir.join("key.pem"),
    };
    std::fs::write(&files.certificate, cert.pem()).expect("written");
    std::fs::write(&files.key, signing_key.serialize_pem()).expect("written");
    let root = reqwest::Certificate::from_pem(cert.pem().as_bytes()).expect("a root");
    (files, root)
}

fn client(root: reqwest::Certificate) -> reqwest::Client {
    reqwest::Client::builder()
        .tls_certs_only([root])
        .build()
        .expect("a client")
}

fn folder() -> PathBuf {
    let dir = std::env::temp_dir().join(format!("phalanx-tls-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&dir).expect("a folder");
    dir
}

#[tokio::test]
async fn a_certificate_is_renewed_without_cutting_anybody_off() {
    let dir = folder();
    let (files, before) = certify(&dir);
    let world = World::with(Config {
        tls: Some(files.clone()),
        ..Config::default()
    })
    .await;
    let url = format!("https://{}/healthz", world.address);
    let old = client(before);
    let answer = old.get(&url).send().await.expect("by TLS");
    assert_eq!(answer.version(), reqwest::Version::HTTP_2);
    assert!(answer.headers().contains_key("strict-transport-security"));
    answer.bytes().await.expect("whole");

    // A key that is not the certificate's changes nothing.
    let (other, _) = certify(&folder());
    std::fs::copy(&other.key, &files.key).expect("copied");
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(old.get(&url).send().await.is_ok());

    let (_, after) = certify(&dir);
    let new = client(after);
    let begun = std::time::Instant::now();
    while new.get(&url).send().await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "the new one is never shown");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // Its connection was made by the certificate before.
    let answer = old.get(&url).send().await.expect("still served");
    assert_eq!(answer.status(), 200);

    let plain = world.request("GET", "/healthz").send().await;
    assert!(plain.is_err(), "{plain:?}");
    std::fs::remove_dir_all(dir).ok();
}

#[test]
fn what_is_no_certificate_is_named() {
    let dir = folder();
    let (files, _) = certify(&dir);
    let (other, _) = certify(&folder());
    let fault = |files: Files| {
        let error = crate::edge::tls::Certificate::read(files).expect_err("no certificate");
        error.to_string()
    };
    let missing = Files {
        certificate: dir.join("nowhere.pem"),
        ..files.clone()
    };
    let swapped = Files {
        certificate: files.key.clone(),
        ..files.clone()
    };
    let foreign = Files {
        key: other.key,
        ..files.clone()
    };
    for (files, setting, words) in [
        (missing, "gateway.tls_certificate", "cannot be read"),
        (swapped, "gateway.tls_certificate", "holds no certificate"),
        (foreign, "gateway.tls_key", "is not the key of"),
    ] {
        let said = fault(files);
        assert!(said.contains(setting) && said.contains(words), "{said}");
    }
    std::fs::remove_dir_all(dir).ok();
}
