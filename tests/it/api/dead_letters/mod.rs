//! /dead-letters
mod list;
mod redrive;

use phalanx_tests::{Client, Cluster, Options, Shape, Value, apart::ANYBODY, fixtures, json, wait};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

const WITHIN: Duration = Duration::from_secs(60);

/// One process a role, and a version that is served.
struct World {
    cluster: Cluster,
    /// Where its async executions wait, from the account on.
    lane: String,
}

impl World {
    async fn start() -> Self {
        let one = Shape {
            gateways: 1,
            deployers: 1,
            executors: 1,
            monitors: 1,
        };
        let cluster = Cluster::many(one, Options::default()).await;
        let client = &cluster.client;
        client
            .deploy_source("echo", fixtures::ECHO, json!({}))
            .await;
        client.output("echo", json!({})).await;
        let instances = client.get("/api/v1/agents/echo/instances").await.ok();
        let version = instances["instances"][0]["version_id"]
            .as_str()
            .expect("an id");
        let lane = format!("work.{version}.normal");
        Self { cluster, lane }
    }

    fn client(&self) -> &Client {
        &self.cluster.client
    }

    /// Past all of us, as somebody would who breaks into the bus.
    fn nats(&self) -> Nats {
        let backing = self.cluster.backing.as_ref().expect("a cluster");
        Nats::connect(backing.nats(), backing.password(ANYBODY))
    }

    /// What no executor can read, on the lane of the version.
    fn poison(&self) {
        self.nats().publish(
            &format!("phalanx.v1.default.{}", self.lane),
            b"\xff\xff no execution",
        );
    }

    /// The list, once it has so many letters.
    async fn letters(&self, count: usize) -> Vec<Value> {
        wait::until(&format!("{count} dead letters"), WITHIN, || async {
            let list = self.client().get("/api/v1/dead-letters").await.ok();
            let letters = list["dead_letters"].as_array().expect("a list");
            if letters.len() == count {
                Ok(letters.clone())
            } else {
                Err(list.to_string())
            }
        })
        .await
    }
}

/// As much of the NATS protocol as one needs to be a nuisance.
struct Nats(BufReader<TcpStream>);

impl Nats {
    fn connect(address: SocketAddr, password: &str) -> Self {
        let stream = TcpStream::connect(address).expect("the server");
        stream.set_read_timeout(Some(WITHIN)).expect("a deadline");
        let mut nats = Self(BufReader::new(stream));
        assert!(nats.line().starts_with("INFO "));
        let who = json!({"verbose": false, "headers": false, "user": ANYBODY, "pass": password});
        nats.say(format!("CONNECT {who}\r\n").as_bytes());
        nats.flush();
        nats
    }

    fn publish(&mut self, subject: &str, payload: &[u8]) {
        self.say(format!("PUB {subject} {}\r\n", payload.len()).as_bytes());
        self.say(payload);
        self.say(b"\r\n");
        self.flush();
    }

    fn subscribe(&mut self, subject: &str) {
        self.say(format!("SUB {subject} 1\r\n").as_bytes());
        self.flush();
    }

    /// The next message's payload.
    fn next(&mut self) -> Vec<u8> {
        loop {
            let line = self.line();
            if line == "PING" {
                self.say(b"PONG\r\n");
            }
            if line.starts_with("MSG ") {
                let size = line.rsplit(' ').next().and_then(|size| size.parse().ok());
                let mut payload = vec![0; size.expect("a size")];
                self.0.read_exact(&mut payload).expect("a payload");
                return payload;
            }
        }
    }

    /// Until the server has taken what was said.
    fn flush(&mut self) {
        self.say(b"PING\r\n");
        loop {
            let line = self.line();
            assert!(!line.starts_with("-ERR"), "{line}");
            if line == "PONG" {
                return;
            }
        }
    }

    fn say(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).expect("it listens");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("it answers");
        line.trim_end().to_owned()
    }
}
