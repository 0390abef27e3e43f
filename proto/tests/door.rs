//! Doors over TCP: health and reflection behind every one, mutual TLS, and a goodbye that is said before it is meant.

use proto::{
    door::Tls,
    peer::{Listen, Peers},
    trace::Calls,
    v1::{InspectRequest, executor_client::ExecutorClient},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Code, service::Routes, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

fn peers(tls: Option<Tls>) -> Peers {
    // One a process; every test may be the first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let listen = Listen {
        address: ([127, 0, 0, 1], 0).into(),
        advertise: None,
    };
    Peers::over_tcp(listen, tls)
}

struct Served {
    address: String,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

async fn serve(peers: &Peers) -> Served {
    let door = peers.open("any").await.expect("a free port");
    let (address, stop) = (door.address().to_owned(), CancellationToken::new());
    let until = stop.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        door.serve(Routes::default(), &["phalanx.v1.Some"], until)
            .await
            .expect("serves");
    });
    Served {
        address,
        stop,
        tasks,
    }
}

async fn health(channel: Calls<Channel>, service: &str) -> Result<ServingStatus, tonic::Status> {
    let asked = HealthCheckRequest {
        service: service.to_owned(),
    };
    let mut client = HealthClient::new(channel);
    let answer = tokio::time::timeout(Duration::from_secs(5), client.check(asked)).await;
    Ok(answer.expect("an answer in time")?.into_inner().status())
}

/// A certificate authority and what it signs, for the name `phalanx`.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("signed"))
    }

    fn tls(&self) -> Tls {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["phalanx".to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.0).expect("signed");
        Tls {
            ca: self.0.pem(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            name: Some("phalanx".to_owned()),
        }
    }
}

#[tokio::test]
async fn health_and_reflection_stand_behind_every_door() {
    let peers = peers(None);
    let served = serve(&peers).await;
    let channel = peers.channel(&served.address).expect("a channel");
    for service in ["", "phalanx.v1.Some"] {
        assert_eq!(
            health(channel.clone(), service).await.expect("answers"),
            ServingStatus::Serving
        );
    }
    let unknown = health(channel.clone(), "nobody").await.expect_err("none");
    assert_eq!(unknown.code(), Code::NotFound);
    let asked = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol(
            "phalanx.v1.Executor".to_owned(),
        )),
    };
    let answer = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(asked))
        .await
        .expect("reflection");
    let first = answer.into_inner().message().await.expect("an answer");
    let file = first.and_then(|first| first.message_response);
    assert!(
        matches!(file, Some(MessageResponse::FileDescriptorResponse(_))),
        "{file:?}"
    );
}

#[tokio::test]
async fn who_leaves_says_so_first() {
    let peers = peers(None);
    let mut served = serve(&peers).await;
    let channel = peers.channel(&served.address).expect("a channel");
    let mut watched = HealthClient::new(channel)
        .watch(HealthCheckRequest::default())
        .await
        .expect("watches")
        .into_inner();
    let first = watched.message().await.expect("told").expect("a status");
    assert_eq!(first.status(), ServingStatus::Serving);
    served.stop.cancel();
    let last = watched.message().await.expect("told").expect("a status");
    assert_eq!(last.status(), ServingStatus::NotServing);
    drop(watched);
    tokio::time::timeout(Duration::from_secs(5), served.tasks.join_next())
        .await
        .expect("it ends when its watchers have gone")
        .expect("one")
        .expect("serves");
}

#[tokio::test]
async fn with_tls_both_sides_show_who_they_are() {
    let authority = Authority::new();
    let server = peers(Some(authority.tls()));
    let served = serve(&server).await;
    let good = peers(Some(authority.tls()));
    let channel = good.channel(&served.address).expect("a channel");
    assert_eq!(
        health(channel, "").await.expect("answers"),
        ServingStatus::Serving
    );
    // In the clear; signed by somebody else; trusting us, but without a certificate that we trust.
    let stranger = Authority::new().tls();
    let half = Tls {
        ca: authority.0.pem(),
        ..Authority::new().tls()
    };
    for bad in [None, Some(stranger), Some(half)] {
        let other = peers(bad.clone());
        let channel = other.channel(&served.address).expect("a channel");
        let refused = health(channel, "").await;
        assert!(refused.is_err(), "{bad:?} was let in");
    }
}

#[tokio::test]
async fn nobody_there_is_an_error_and_no_wait() {
    let peers = peers(None);
    let mut served = serve(&peers).await;
    served.stop.cancel();
    served.tasks.join_next().await.expect("one").expect("ends");
    let channel = peers.channel(&served.address).expect("a channel");
    let mut client = ExecutorClient::new(channel);
    let asked = client.inspect(InspectRequest::default());
    let asked = tokio::time::timeout(Duration::from_secs(5), asked);
    let refused = asked.await.expect("at once").expect_err("nobody");
    assert_eq!(refused.code(), Code::Unavailable);
}
