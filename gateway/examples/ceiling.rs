//! What the gateway itself can do: sync executions over real HTTP, real rows in SQLite and the memory bus, answered by a
//! stand-in that runs nothing; 64 clients in this process call it for ten seconds.
//!
//! `cargo run --release -p gateway --example ceiling`

#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use bus::{Bus, Limits, Message, Subject};
use domain::{
    Timestamp,
    execution::{Outcome, Status, Usage},
    id::AccountId,
    traffic::Traffic,
};
use gateway::{Config, Deps, bind, first_key};
use proto::{
    convert::{Execute, Reply},
    peer::Peers,
};
use serde_json::json;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use store::{
    Secrets, Store,
    executions::{End, Key, New},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

const CLIENTS: usize = 64;
const LASTS: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::temp_dir().join(format!("ceiling-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let rows = store::Config::Sqlite {
        path: directory.join("rows.db"),
    };
    let store = Store::open(&rows, Secrets::new(&[7; 32])?).await?;
    let key = first_key(&store, "local", None)
        .await?
        .ok_or("the store is not empty")?;
    let bus = Bus::memory(Limits::default());
    let config = Config {
        listen: ([127, 0, 0, 1], 0).into(),
        ..Config::default()
    };
    let deps = Deps {
        store: store.clone(),
        bus: bus.clone(),
        peers: Peers::default(),
        monitors: Vec::new(),
    };
    let gateway = bind(config, deps).await?;
    let address = gateway.address();
    let stop = CancellationToken::new();
    let mut rooms = JoinSet::new();
    rooms.spawn(gateway.serve(stop.clone()));

    let deploy = json!({
        "agent_metadata": {"agent_id": "mine", "name": "Mine", "version": "1.0.0"},
        "agent_code": {"source_code": "ZGVmIGhhbmRsZXIoKTogcGFzcwo=", "entrypoint": "handler"},
        "deployment_config": {"environment": "dev"}
    });
    let deployed = reqwest::Client::new()
        .post(format!("http://{address}/api/v1/agents/deploy"))
        .bearer_auth(&key)
        .json(&deploy)
        .send()
        .await?;
    deployed.error_for_status()?;
    let (account, agent) = (AccountId::default_account(), "mine".parse()?);
    let row = store.agent(&account, &agent).await?.ok_or("no agent")?;
    let version = "1.0.0".parse()?;
    let found = store
        .version_named(&row.incarnation, &version)
        .await?
        .ok_or("no version")?;
    let traffic = Traffic::all_to(found.id.clone(), version);
    let node = domain::id::NodeId::from_uuid(uuid::Uuid::from_u128(1));
    let wanted = store::envelopes::Wanted {
        version_id: &found.id,
        state: domain::envelope::State::Serving,
        min_instances: 1,
        max_instances: 1,
    };
    store.place(&account, &node, &wanted, Timestamp(1)).await?;
    store
        .set_traffic(&account, &agent, &row.incarnation, &traffic, Timestamp(1))
        .await?;

    let mut requests = bus
        .serve(
            &Subject::run(account.as_str(), found.id.as_str(), node.as_str()),
            Some("executors"),
        )
        .await?;
    rooms.spawn(async move {
        let mut running = JoinSet::new();
        while let Some(mut request) = requests.next().await {
            let store = store.clone();
            running.spawn(async move {
                let execute = Execute::decode(std::mem::take(&mut request.message).payload)?;
                let outcome = outcome(&execute);
                store
                    .record_execution(accepted(&execute), end(&execute, &outcome))
                    .await?;
                let reply = Reply::Outcome(Box::new(outcome)).encode()?;
                Ok::<_, domain::Error>(request.respond(Message::new(reply)).await?)
            });
            while running.try_join_next().is_some() {}
        }
        Ok(())
    });

    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(client(address, key.clone()));
    }
    let mut took = Vec::new();
    while let Some(one) = clients.join_next().await {
        took.extend(one??);
    }
    took.sort_unstable();
    let at = |share: usize| {
        took.get(took.len() * share / 1000)
            .copied()
            .unwrap_or_default()
    };
    println!(
        "{:.0} requests a second, p50 {:?}, p95 {:?}, p99 {:?}",
        took.len() as f64 / LASTS.as_secs_f64(),
        at(500),
        at(950),
        at(990)
    );
    stop.cancel();
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

/// One connection that calls again as soon as it is answered: how long each call took.
async fn client(address: SocketAddr, key: String) -> std::io::Result<Vec<Duration>> {
    let body = r#"{"input_data":{"parameters":{"n":1}}}"#;
    let request = format!(
        "POST /api/v1/agents/mine/execute HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (begun, mut took, mut read) = (Instant::now(), Vec::new(), vec![0; 16 * 1024]);
    while begun.elapsed() < LASTS {
        let sent = Instant::now();
        stream.write_all(request.as_bytes()).await?;
        let length = stream.read(&mut read).await?;
        if !read[..length].starts_with(b"HTTP/1.1 200") {
            let words = String::from_utf8_lossy(&read[..length]).into_owned();
            return Err(std::io::Error::other(words));
        }
        took.push(sent.elapsed());
    }
    Ok(took)
}

fn outcome(execute: &Execute) -> Outcome {
    Outcome {
        status: Status::Completed,
        output: execute.input.clone(),
        error: None,
        attempt: 1,
        accepted_at: execute.accepted_at,
        started_at: Some(execute.accepted_at),
        completed_at: execute.accepted_at,
        duration_ms: 0.0,
        queue_ms: 0.0,
        waterfall: None,
        usage: Usage::default(),
        instance_id: None,
        logs: Vec::new(),
    }
}

fn key(execute: &Execute) -> Key {
    Key {
        account: execute.account.clone(),
        agent_id: execute.agent_id.clone(),
        id: execute.execution_id.clone(),
    }
}

fn accepted(execute: &Execute) -> New {
    New {
        key: key(execute),
        version_id: execute.version_id.clone(),
        mode: execute.options.mode,
        priority: execute.options.priority,
        body_digest: None,
        caller: execute.caller.clone(),
        options: execute.options.clone(),
        input: execute.input.clone().unwrap_or_default(),
        accepted_at: execute.accepted_at,
    }
}

fn end(execute: &Execute, outcome: &Outcome) -> End {
    End {
        key: key(execute),
        attempt: 1,
        status: outcome.status,
        due_at: outcome.completed_at,
        started_at: outcome.started_at,
        completed_at: Some(outcome.completed_at),
        attempts: Vec::new(),
        instance_id: None,
        output: outcome.output.clone(),
        error: None,
        duration_ms: 0.0,
        queue_ms: 0.0,
        waterfall: None,
        recording: None,
        usage: Usage::default(),
    }
}
