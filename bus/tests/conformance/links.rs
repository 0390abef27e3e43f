//! Getting in: TLS both ways, passwords, tokens and credentials files, each on a server of its own that lets nobody else in. What
//! is refused is said in one line without a secret.

mod server;

use std::path::Path;

use bus::{Bus, Error, Priority, Subject, nats};
use server::{Authority, Server, credentials};

use crate::world::{delivery, options, soon, text, words};

const PASSWORD: &str = "s3cr3t@/:%!";
/// The same as an address has it.
const ESCAPED: &str = "s3cr3t%40%2F%3A%25%21";

/// A bus that works: stored, and delivered.
async fn works(config: nats::Config) -> Result<(), Error> {
    let bus = soon("a connection", Bus::nats(config)).await?;
    let subject = Subject::work("links", "ver_1", Priority::Normal);
    let id = uuid::Uuid::new_v4().to_string();
    bus.enqueue(&subject, &id, text("through")).await?;
    let mut work = bus.work(&subject, options(1)).await?;
    let got = delivery(&mut work).await;
    assert_eq!(words(&got.message), "through");
    got.ack().await?;
    bus.drain().await;
    Ok(())
}

/// Why one is not let in: one line, no secret of those given.
async fn refused(config: nats::Config, secrets: &[&str]) -> String {
    let error = soon("a refusal", Bus::nats(config)).await;
    let error = error.err().expect("this must not be let in").to_string();
    assert!(!error.contains('\n') && error.len() < 400, "{error}");
    for secret in secrets {
        assert!(!error.contains(secret), "{error}");
    }
    error
}

fn tls(server: &Server, ca: &Path, client: Option<&Authority>) -> nats::Config {
    nats::Config {
        root_certificates: Some(ca.to_owned()),
        client_certificate: client.map(|by| by.certificate(&server.dir, "client")),
        ..nats::Config::new([server.url("tls", "")])
    }
}

#[tokio::test]
async fn over_tls_with_a_certificate_of_ones_own() -> Result<(), Error> {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = Server::start(|dir| {
        let (certificate, key) = ours.certificate(dir, "server");
        format!(
            "tls {{ cert_file: {certificate:?}, key_file: {key:?}, ca_file: {:?}, verify: true, timeout: 5 }}",
            ours.write(dir, "ca.pem")
        )
    })
    .await;
    let ca = ours.write(&server.dir, "ca.pem");
    works(tls(&server, &ca, Some(&ours))).await?;
    // The server asks for it, so the scheme need not say it.
    let unsaid = nats::Config {
        servers: vec![server.url("nats", "").into()],
        ..tls(&server, &ca, Some(&ours))
    };
    works(unsaid).await?;

    let no_ca = nats::Config {
        root_certificates: None,
        ..tls(&server, &ca, Some(&ours))
    };
    let why = refused(no_ca, &[]).await;
    assert!(
        why.contains("certificate") && why.contains("UnknownIssuer"),
        "{why}"
    );
    let other_ca = theirs.write(&server.dir, "other-ca.pem");
    let why = refused(tls(&server, &other_ca, Some(&ours)), &[]).await;
    assert!(why.contains("certificate"), "{why}");
    let why = refused(tls(&server, &ca, None), &[]).await;
    assert!(why.contains("CertificateRequired"), "{why}");
    let why = refused(tls(&server, &ca, Some(&theirs)), &[]).await;
    assert!(
        why.starts_with("the bus is not available: cannot connect to"),
        "{why}"
    );
    // The certificate is of 127.0.0.1 alone.
    let renamed = nats::Config {
        servers: vec![
            server
                .url("tls", "")
                .replace("127.0.0.1", "localhost")
                .into(),
        ],
        ..tls(&server, &ca, Some(&ours))
    };
    let why = refused(renamed, &[]).await;
    assert!(why.contains("not valid for name"), "{why}");
    Ok(())
}

#[tokio::test]
async fn files_that_do_not_hold_what_they_should_are_named() {
    let ours = Authority::new();
    let dir = server::directory();
    let (certificate, key) = ours.certificate(dir.path(), "client");
    let with = |root: Option<&Path>, client: Option<(&Path, &Path)>| nats::Config {
        root_certificates: root.map(Path::to_owned),
        client_certificate: client.map(|(one, two)| (one.to_owned(), two.to_owned())),
        ..nats::Config::new(["tls://127.0.0.1:1"])
    };
    let nowhere = dir.path().join("nowhere.pem");
    let why = refused(with(Some(&nowhere), None), &[]).await;
    assert!(
        why.contains("nowhere.pem cannot be used: No such file"),
        "{why}"
    );
    let why = refused(with(Some(&key), None), &[]).await;
    assert!(
        why.contains("client.key cannot be used: it holds no certificate in PEM"),
        "{why}"
    );
    let why = refused(with(None, Some((&certificate, &certificate))), &[]).await;
    assert!(why.contains("it holds no private key in PEM"), "{why}");
    let creds = nats::Config {
        credentials: Some(nowhere.clone()),
        ..nats::Config::new(["nats://127.0.0.1:1"])
    };
    assert!(refused(creds, &[]).await.contains("nowhere.pem"));
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_it_is_required() {
    let server = Server::start(|_| String::new()).await;
    let required = nats::Config {
        require_tls: true,
        ..nats::Config::new([server.url("nats", "")])
    };
    let why = refused(required, &[]).await;
    assert!(why.contains("cannot connect"), "{why}");
}

#[tokio::test]
async fn with_a_password_in_the_address() -> Result<(), Error> {
    let server =
        Server::start(|_| format!("authorization {{ user: phalanx, password: {PASSWORD:?} }}"))
            .await;
    let with = |login: &str| nats::Config::new([server.url("nats", login)]);
    works(with(&format!("phalanx:{ESCAPED}@"))).await?;
    let why = refused(with("phalanx:wr0ng@"), &["wr0ng"]).await;
    assert!(
        why.contains("authorization violation; check the user and password")
            && why.contains("127.0.0.1"),
        "{why}"
    );
    refused(with(""), &[]).await;
    // Nor where the address itself, or the server behind it, is the trouble.
    let login = format!("phalanx:{ESCAPED}@");
    for address in [
        format!("nats://{login}127.0.0.1:1"),
        format!("http://{login}127.0.0.1:1"),
        format!("nats://{login}127.0.0.1:99999"),
    ] {
        refused(nats::Config::new([address]), &[PASSWORD, ESCAPED]).await;
    }
    let two = ["nats://a:one@127.0.0.1:1", "nats://a:two@127.0.0.1:2"];
    let why = refused(nats::Config::new(two), &["one@", "two@"]).await;
    assert!(why.contains("different users"), "{why}");
    Ok(())
}

#[tokio::test]
async fn with_a_token_in_the_address() -> Result<(), Error> {
    let server = Server::start(|_| "authorization { token: \"t0ken\" }".to_owned()).await;
    works(nats::Config::new([server.url("nats", "t0ken@")])).await?;
    let why = refused(
        nats::Config::new([server.url("nats", "wr0ng@")]),
        &["wr0ng"],
    )
    .await;
    assert!(why.contains("authorization violation"), "{why}");
    Ok(())
}

#[tokio::test]
async fn with_a_credentials_file() -> Result<(), Error> {
    let (signed, stranger) = (credentials(), credentials());
    let server = Server::start(|_| signed.server.clone()).await;
    let with = |name: &str, text: &str| nats::Config {
        credentials: Some(server.write(name, text)),
        ..nats::Config::new([server.url("nats", "")])
    };
    works(with("ours.creds", &signed.file)).await?;
    let why = refused(with("theirs.creds", &stranger.file), &[&stranger.seed]).await;
    assert!(why.contains("authorization violation"), "{why}");
    let broken = signed.file.replace(&signed.seed, "N0SEED");
    let why = refused(with("broken.creds", &broken), &[&signed.seed]).await;
    assert!(why.contains("broken.creds"), "{why}");
    refused(nats::Config::new([server.url("nats", "")]), &[]).await;
    Ok(())
}
