//! An object store by S3's protocol, against a server of its own on the loopback (moto, from tests/requirements.txt).

use crate::{
    blobs::{CODE, deploys},
    world::{World, account},
};
use domain::{Kind, Result, artifact};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};
use store::{Blobs, blobs::Settings};

/// The server wants a signature and does not look at it.
const ANYBODY: &str = "AWS4-HMAC-SHA256 Credential=other/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=none";

struct S3 {
    server: Child,
    address: String,
}

impl S3 {
    /// Started with one bucket.
    fn start() -> Self {
        let mut server = Command::new("moto_server")
            .args(["-H", "127.0.0.1", "-p", "0"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("moto_server ({error}): run `tests/run`, which installs it")
            });
        let words = BufReader::new(server.stderr.take().expect("piped"));
        let (found, address) = mpsc::channel();
        // It reads on, so that the server never waits for its log to be read.
        std::thread::spawn(move || {
            for line in words.lines().map_while(Result::<_, std::io::Error>::ok) {
                if let Some((_, rest)) = line.split_once("Running on http://") {
                    found.send(rest.trim().to_owned()).ok();
                }
            }
        });
        let address = address.recv_timeout(Duration::from_secs(60));
        let s3 = Self {
            address: address.unwrap_or_default(),
            server,
        };
        assert!(
            !s3.address.is_empty(),
            "moto_server says no address within a minute"
        );
        s3.send("PUT", "/bucket", b"");
        s3
    }

    /// Past our own client, as somebody else who may write there would.
    fn send(&self, method: &str, path: &str, body: &[u8]) -> String {
        let mut connection = TcpStream::connect(&self.address).expect("connects");
        let within = Some(Duration::from_secs(30));
        connection.set_read_timeout(within).expect("a deadline");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: {ANYBODY}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        connection.write_all(head.as_bytes()).expect("sent");
        connection.write_all(body).expect("sent");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).expect("an answer");
        let fine = ["HTTP/1.1 200", "HTTP/1.1 204"];
        assert!(
            fine.iter().any(|status| answer.starts_with(status)),
            "{answer}"
        );
        answer
    }

    fn settings(&self, bucket: &str) -> Settings {
        let variables = [
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_PAGER", "means nothing here"),
        ];
        Settings {
            url: format!("s3://{bucket}/deep/prefix/"),
            endpoint: format!("http://{}", self.address),
            region: "us-east-1".into(),
            allow_http: true,
            variables: BTreeMap::from(variables.map(|(name, value)| (name.into(), value.into()))),
        }
    }

    async fn open(&self) -> Blobs {
        let opened = Blobs::open(&self.settings("bucket")).await;
        opened.expect("opens").expect("an object store")
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

#[tokio::test]
async fn bytes_come_back_until_they_are_deleted() -> Result<()> {
    let s3 = S3::start();
    let blobs = s3.open().await;
    assert!(blobs.get("artifacts/none", 10).await?.is_none());
    for _ in 0..2 {
        blobs
            .put("artifacts/some", (&b"\0\xffcode"[..]).into())
            .await?;
        assert_eq!(
            blobs.get("artifacts/some", 6).await?.as_deref(),
            Some(&b"\0\xffcode"[..])
        );
    }
    let there = s3.send("GET", "/bucket?list-type=2", b"");
    assert!(
        there.contains("<Key>deep/prefix/artifacts/some</Key>"),
        "{there}"
    );
    blobs.delete("artifacts/some").await?;
    blobs.delete("artifacts/some").await?;
    assert!(blobs.get("artifacts/some", 6).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn code_is_deployed_there_and_missing_or_spoilt_code_is_named() -> Result<()> {
    let s3 = S3::start();
    let world = World::sqlite("s3_code").await;
    let store = world.store.clone().with_blobs(Some(s3.open().await));
    let (account, digest) = (account("a"), artifact::digest(CODE));
    assert!(store.accept_deployment(&deploys(&store, 0, CODE)?).await?);
    assert_eq!(
        store.artifact(&account, &digest).await?.as_deref(),
        Some(CODE)
    );
    let path = format!("/bucket/deep/prefix/artifacts/{digest}");
    s3.send("PUT", &path, &vec![b'x'; CODE.len()]);
    let error = store.artifact(&account, &digest).await.expect_err("spoilt");
    assert!(error.message.contains(&digest), "{error}");
    assert!(error.message.contains("not what was put"), "{error}");
    s3.send("DELETE", &path, b"");
    let error = store
        .artifact(&account, &digest)
        .await
        .expect_err("missing");
    assert!(error.message.contains(&digest), "{error}");
    assert!(
        error
            .message
            .contains("missing in the object store s3://bucket"),
        "{error}"
    );
    assert!(store.accept_deployment(&deploys(&store, 1, CODE)?).await?);
    assert_eq!(
        store.artifact(&account, &digest).await?.as_deref(),
        Some(CODE)
    );
    world.close().await;
    Ok(())
}

#[tokio::test]
async fn what_others_wrote_there_is_bounded() -> Result<()> {
    let s3 = S3::start();
    let blobs = s3.open().await;
    s3.send("PUT", "/bucket/deep/prefix/artifacts/some", &[b'x'; 4096]);
    let error = blobs
        .get("artifacts/some", 4095)
        .await
        .expect_err("too much");
    assert_eq!(error.kind, Kind::Internal);
    assert!(
        error.message.contains("artifacts/some") && error.message.contains("4095"),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn a_large_file_goes_in_parts_and_is_known_by_its_digest() -> Result<()> {
    let s3 = S3::start();
    let blobs = s3.open().await;
    let dir = std::env::temp_dir().join(format!("phalanx-s3-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir(&dir).expect("a folder");
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(dir.join("there"), &bytes).expect("written");
    blobs
        .put_file("environments/a/b", &dir.join("there"))
        .await?;
    let most = bytes.len() as u64;
    let came = blobs
        .get_file("environments/a/b", &dir.join("back"), most)
        .await?;
    assert_eq!(came, Some(artifact::digest(&bytes)));
    assert_eq!(std::fs::read(dir.join("back")).expect("read"), bytes);
    assert!(
        blobs
            .get_file("environments/a/b", &dir.join("back"), most - 1)
            .await
            .is_err()
    );
    assert!(
        blobs
            .get_file("environments/a/c", &dir.join("back"), most)
            .await?
            .is_none()
    );
    std::fs::remove_dir_all(dir).expect("removed");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_used_is_said_at_the_start() {
    let s3 = S3::start();
    let refused = async |settings: Settings| match Blobs::open(&settings).await {
        Ok(_) => panic!("opened {}", settings.url),
        Err(error) => error.message,
    };
    let words = refused(s3.settings("other")).await;
    assert!(
        words.contains("s3://other") && words.contains("make the bucket"),
        "{words}"
    );
    let plain = Settings {
        allow_http: false,
        ..s3.settings("bucket")
    };
    assert!(refused(plain).await.contains("s3://bucket"));
    let unknown = Settings {
        url: "ftp://host".into(),
        ..Settings::default()
    };
    assert!(refused(unknown).await.contains("file:///folder"));
    let relative = Settings {
        url: "file://folder".into(),
        ..Settings::default()
    };
    assert!(refused(relative).await.contains("absolute"));
    assert!(
        matches!(Blobs::open(&Settings::default()).await, Ok(None)),
        "rows"
    );
}

#[tokio::test]
async fn a_server_that_is_gone_is_said() -> Result<()> {
    let mut s3 = S3::start();
    let blobs = s3.open().await;
    s3.server.kill().expect("killed");
    s3.server.wait().expect("ended");
    let error = blobs
        .get("artifacts/some", 10)
        .await
        .expect_err("nobody answers");
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(error.message.contains("s3://bucket/deep/prefix"), "{error}");
    assert!(!format!("{error:?}").contains("secret"));
    Ok(())
}
