//! Code that is none, and archives that lie.

use crate::still_serves;
use base64::{Engine, engine::general_purpose::STANDARD};
use phalanx_tests::{Cluster, fixtures, json};
use std::process::Command;

/// A zip that Python's own library writes: `script` adds to the archive `z`.
fn zip_by_python(script: &str) -> Vec<u8> {
    let program = format!(
        "import io, stat, sys, zipfile\nb = io.BytesIO()\nwith zipfile.ZipFile(b, 'w', zipfile.ZIP_DEFLATED) as z:\n    z.writestr('main.py', 'def handler(i): return i')\n{script}\nsys.stdout.buffer.write(b.getvalue())\n"
    );
    let output = Command::new("python3")
        .args(["-c", &program])
        .output()
        .expect("python3");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

async fn refused(cluster: &Cluster, what: &str, bytes: &[u8], word: &str) {
    let faults = cluster
        .client
        .deploy(&fixtures::agent_of("x1", bytes))
        .await
        .faults();
    assert!(
        faults
            .iter()
            .all(|fault| fault.starts_with("agent_code.source_code: ")),
        "{what}: {faults:?}"
    );
    assert!(faults.join(" ").contains(word), "{what}: {faults:?}");
}

#[tokio::test]
async fn archives_that_lie() {
    let cluster = Cluster::start().await;
    refused(
        &cluster,
        "bomb",
        &zip_by_python("    z.writestr('big.bin', bytes(300 << 20))"),
        "bytes",
    )
    .await;
    refused(
        &cluster,
        "many",
        &zip_by_python("    for n in range(20001): z.writestr(f'f{n}', '')"),
        "entries",
    )
    .await;
    for name in [
        "../evil.py",
        "/etc/evil.py",
        "a/../../evil.py",
        "a\\\\..\\\\evil.py",
        "c:evil.py",
    ] {
        let script =
            format!("    i = zipfile.ZipInfo('x'); i.filename = '{name}'; z.writestr(i, 'x')");
        refused(&cluster, name, &zip_by_python(&script), "path").await;
    }
    let link = "    i = zipfile.ZipInfo('link.py'); i.create_system = 3; i.external_attr = (stat.S_IFLNK | 0o777) << 16; z.writestr(i, '/etc/passwd')";
    refused(&cluster, "symlink", &zip_by_python(link), "symbolic link").await;
    refused(
        &cluster,
        "no code",
        &fixtures::zipped(&[("readme.txt", b"hello")]),
        ".py",
    )
    .await;
    refused(&cluster, "empty zip", &fixtures::zipped(&[]), ".py").await;
    let mut cut = fixtures::zipped(&[("main.py", b"def handler(i): return i")]);
    cut.truncate(cut.len() / 2);
    refused(&cluster, "cut", &cut, "zip").await;
    refused(
        &cluster,
        "requirements",
        &fixtures::zipped(&[
            ("main.py", b"x"),
            ("requirements.txt", b"-e .\n-r /etc/passwd\n"),
        ]),
        "requirements.txt",
    )
    .await;
    // A header that says one byte and has many.
    let mut liar = fixtures::zipped(&[
        ("main.py", b"def handler(i): return i"),
        ("big.bin", &vec![b'a'; 100_000]),
    ]);
    let size = 100_000u32.to_le_bytes();
    while let Some(at) = liar.windows(4).position(|window| window == size) {
        liar[at..at + 4].copy_from_slice(&1u32.to_le_bytes());
    }
    let answer = cluster
        .client
        .deploy(&fixtures::agent_of("liar", &liar))
        .await;
    if answer.status == 200 {
        assert_eq!(
            cluster.client.deployment_end(&answer.body()).await["status"],
            "failed"
        );
    } else {
        answer.faults();
    }
    still_serves(&cluster).await;
}

#[tokio::test]
async fn code_that_is_none() {
    let cluster = Cluster::start().await;
    for (what, bytes) in [
        ("nothing", &b""[..]),
        ("white space", b" \n\t"),
        ("binary", b"\x7fELF\x02\x01\x01\x00\x00"),
        ("nul", b"x = 1\0"),
        ("latin-1", b"x = '\xe9'"),
    ] {
        refused(&cluster, what, bytes, "allowed").await;
    }
    for source in [
        "%%%",
        "a",
        "YWJj*",
        "\u{202e}",
        "data:text/plain;base64,cGFzcw==",
    ] {
        let body = fixtures::with(
            fixtures::agent("x1", "x"),
            json!({"agent_code": {"source_code": source}}),
        );
        let faults = cluster.client.deploy(&body).await.faults();
        assert!(
            faults
                .iter()
                .any(|fault| fault.starts_with("agent_code.source_code: ")),
            "{source}: {faults:?}"
        );
    }
    // Line breaks within base64 are what many tools write.
    let wrapped = STANDARD
        .encode(fixtures::ECHO)
        .as_bytes()
        .chunks(20)
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect::<Vec<_>>()
        .join("\r\n");
    let body = fixtures::with(
        fixtures::agent("wrapped", "x"),
        json!({"agent_code": {"source_code": wrapped}}),
    );
    cluster.client.deployed(&body).await;
    assert_eq!(
        cluster.client.output("wrapped", json!({"a": 1})).await,
        json!({"a": 1})
    );
}
