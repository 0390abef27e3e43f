#![expect(
    clippy::disallowed_methods,
    reason = "what a test spawns here, it awaits"
)]

use super::*;

use tokio::io::AsyncBufReadExt;

struct World {
    proxy: SocketAddr,
    refusals: mpsc::Receiver<Refusal>,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

/// As an operator may allow it.
fn loopback() -> Policy {
    Policy {
        private: vec!["127.0.0.0/8:*".parse().expect("a rule")].into(),
        ..Policy::default()
    }
}

async fn world(policy: Policy, bounds: Bounds) -> World {
    let resolver = Resolver::telling([
        ("here.example", &["127.0.0.1"]),
        (
            "both.example",
            &["10.0.0.1", "169.254.169.254", "127.0.0.1"],
        ),
        ("rebound.example", &["169.254.169.254"]),
    ]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let proxy = listener.local_addr().expect("its address");
    let (refusals, heard) = mpsc::channel(8);
    let stop = CancellationToken::new();
    let serving = tokio::spawn(
        Proxy {
            policy,
            bounds,
            refusals,
            resolver,
        }
        .serve(listener, stop.clone()),
    );
    World {
        proxy,
        refusals: heard,
        stop,
        serving,
    }
}

impl World {
    async fn ask(&self, bytes: &str) -> TcpStream {
        let mut client = TcpStream::connect(self.proxy).await.expect("connected");
        client.write_all(bytes.as_bytes()).await.expect("written");
        client
    }

    async fn answer(&self, bytes: &str) -> String {
        all(self.ask(bytes).await).await
    }

    async fn end(self) {
        self.stop.cancel();
        timeout(Duration::from_secs(5), self.serving)
            .await
            .expect("it stops")
            .expect("without a panic");
    }
}

async fn all(mut stream: TcpStream) -> String {
    let mut text = String::new();
    timeout(Duration::from_secs(5), stream.read_to_string(&mut text))
        .await
        .expect("in time")
        .expect("read");
    text
}

/// Reads until the other side has closed its half, then answers with what it read.
async fn echo_at_the_end() -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let at = listener.local_addr().expect("its address");
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accepted");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("read");
        stream
            .write_all(text.to_uppercase().as_bytes())
            .await
            .expect("written");
    });
    (at, serving)
}

#[tokio::test]
async fn refuses_what_is_not_public_however_it_is_spelt() {
    let mut world = world(Policy::default(), Bounds::default()).await;
    for host in [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f.1",
        "127.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "169.254.169.254",
        "10.0.0.1",
        "0",
    ] {
        let answer = world
            .answer(&format!("CONNECT {host}:80 HTTP/1.1\r\n\r\n"))
            .await;
        assert!(
            answer.starts_with("HTTP/1.1 403 Forbidden\r\n")
                && answer.contains("is not a public address"),
            "{host}: {answer}"
        );
        let refusal = world.refusals.recv().await.expect("told");
        assert_eq!(
            (refusal.host.as_str(), refusal.port),
            (host.trim_matches(['[', ']']), 80)
        );

        let answer = world
            .answer(&format!(
                "GET http://{host}/latest/meta-data HTTP/1.1\r\n\r\n"
            ))
            .await;
        assert!(
            answer.starts_with("HTTP/1.1 403 Forbidden\r\n"),
            "{host}: {answer}"
        );
        world.refusals.recv().await.expect("told");
    }
    world.end().await;
}

#[tokio::test]
async fn tunnels_bytes_and_half_closes() {
    let world = world(loopback(), Bounds::default()).await;
    let (server, serving) = echo_at_the_end().await;
    let mut client = world
        .ask(&format!("CONNECT {server} HTTP/1.1\r\n\r\nearly "))
        .await;
    client.write_all(b"and late").await.expect("written");
    client.shutdown().await.expect("half closed");
    assert_eq!(
        all(client).await,
        "HTTP/1.1 200 Connection established\r\n\r\nEARLY AND LATE"
    );
    serving.await.expect("served");
    world.end().await;
}

#[tokio::test]
async fn forwards_one_request_and_its_body_only() {
    let world = world(loopback(), Bounds::default()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let server = listener.local_addr().expect("its address");
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("accepted");
        let mut stream = tokio::io::BufReader::new(stream);
        let (mut head, mut body) = (String::new(), [0; 4]);
        while !head.ends_with("\r\n\r\n") {
            stream.read_line(&mut head).await.expect("a line");
        }
        stream.read_exact(&mut body).await.expect("the body");
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello")
            .await
            .expect("written");
        let mut more = Vec::new();
        drop(timeout(Duration::from_millis(50), stream.read_to_end(&mut more)).await);
        (head, body, more)
    });
    let second = "GET http://10.0.0.1/ HTTP/1.1\r\n\r\n";
    let request = format!(
        "POST http://{server}/a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody{second}"
    );
    assert_eq!(
        world.answer(&request).await,
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"
    );
    let (head, body, more) = serving.await.expect("served");
    assert_eq!(
        head,
        format!(
            "POST /a HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\nContent-Length: 4\r\n\r\n"
        )
    );
    assert_eq!((&body, more), (b"body", Vec::new()));
    world.end().await;
}

#[tokio::test]
async fn bounds_the_head_its_time_and_the_silence() {
    let bounds = Bounds {
        head_within: Duration::from_millis(50),
        idle: Duration::from_millis(50),
        ..Bounds::default()
    };
    let world = world(loopback(), bounds).await;
    let long = format!("GET http://a/ HTTP/1.1\r\nX: {}", "x".repeat(16 << 10));
    assert!(
        world
            .answer(&long[..16 << 10])
            .await
            .starts_with("HTTP/1.1 400 ")
    );
    assert!(
        world
            .answer("GET http://a/ HT")
            .await
            .starts_with("HTTP/1.1 408 ")
    );
    assert!(
        world
            .answer("GET / HTTP/1.1\r\n\r\n")
            .await
            .contains("a proxy needs CONNECT")
    );

    let (server, serving) = echo_at_the_end().await;
    assert_eq!(
        world
            .answer(&format!("CONNECT {server} HTTP/1.1\r\n\r\n"))
            .await,
        "HTTP/1.1 200 Connection established\r\n\r\n"
    );
    serving.await.expect("the server saw the end");
    world.end().await;
}

#[tokio::test]
async fn serves_so_many_at_a_time_and_ends_them_with_itself() {
    let world = world(
        loopback(),
        Bounds {
            connections: 2,
            ..Bounds::default()
        },
    )
    .await;
    let (first, second) = (world.ask("G").await, world.ask("G").await);
    let mut third = world.ask("GET / HTTP/1.1\r\n\r\n").await;
    let mut byte = [0];
    assert!(
        timeout(Duration::from_millis(50), third.read(&mut byte))
            .await
            .is_err(),
        "the third waits"
    );
    drop(first);
    assert!(all(third).await.starts_with("HTTP/1.1 400 "));
    world.end().await;
    assert!(all(second).await.is_empty());
}

#[tokio::test]
async fn keeps_to_the_allow_list() {
    let egress = |policy, rules: &[&str]| Egress {
        policy,
        allow: rules
            .iter()
            .map(|rule| rule.parse().expect("a rule"))
            .collect(),
    };
    let (server, serving) = echo_at_the_end().await;
    let port = server.port();
    let policy = Policy {
        egress: egress(
            domain::egress::Policy::Allowlist,
            &[&format!("*.example:{port}"), "rebound.example:*"],
        ),
        ..loopback()
    };
    let mut world = world(policy.clone(), Bounds::default()).await;
    for (target, why) in [
        (format!("127.0.0.1:{port}"), "not on the agent's allow-list"),
        ("localhost:80".to_owned(), "not on the agent's allow-list"),
        ("here.example:1".to_owned(), "not on the agent's allow-list"),
        (
            format!("here.example.evil:{port}"),
            "not on the agent's allow-list",
        ),
        // What the name says does not matter to what the address is.
        (
            "rebound.example:80".to_owned(),
            "169.254.169.254 is not a public address",
        ),
    ] {
        let tunnel = world
            .answer(&format!("CONNECT {target} HTTP/1.1\r\n\r\n"))
            .await;
        assert!(
            tunnel.starts_with("HTTP/1.1 403 ") && tunnel.contains(why),
            "{target}: {tunnel}"
        );
        assert!(
            world
                .refusals
                .recv()
                .await
                .expect("told")
                .reason
                .contains(why)
        );
        let plain = world
            .answer(&format!("GET http://{target}/ HTTP/1.1\r\n\r\n"))
            .await;
        assert!(plain.starts_with("HTTP/1.1 403 "), "{target}: {plain}");
        world.refusals.recv().await.expect("told");
    }
    // However it is written; and of its addresses only the one that is allowed.
    let mut client = world
        .ask(&format!("CONNECT BOTH.example.:{port} HTTP/1.1\r\n\r\nx"))
        .await;
    client.shutdown().await.expect("half closed");
    assert!(all(client).await.ends_with("\r\n\r\nX"));
    serving.await.expect("served");
    world.end().await;

    let none = Policy {
        egress: egress(domain::egress::Policy::None, &[]),
        ..policy
    };
    let mut world = self::world(none, Bounds::default()).await;
    let answer = world
        .answer(&format!("CONNECT here.example:{port} HTTP/1.1\r\n\r\n"))
        .await;
    assert!(
        answer.contains("the agent's egress policy is none"),
        "{answer}"
    );
    assert_eq!(
        world.refusals.recv().await.expect("told").host,
        "here.example"
    );
    world.end().await;
}
