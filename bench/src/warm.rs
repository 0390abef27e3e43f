//! Cold starts, forked and spawned in turns, and what a thousand idle instances cost.

use crate::{
    front::{Front, Size},
    http::Connection,
    servers::Phalanx,
    table::Row,
};
use anyhow::{Context, Result, bail};
use nix::unistd::{SysconfVar, sysconf};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

const ROUNDS: usize = 15;
/// What lets go of instances soon, and of nothing else.
const SCALES_DOWN: (&str, &str) = ("PHALANX__EXECUTOR__IDLE_S", "1");
const EMPTY_WITHIN: Duration = Duration::from_secs(60);
const STDLIB: &str = "def handler(input):\n    return 1\n";
const AGNO: &str = include_str!("../../examples/agno_agent.py");
/// Agents, and instances of each.
const IDLE: (usize, u32) = (10, 100);
const IDLE_FOR: Duration = Duration::from_secs(10);
const GROWN_WITHIN: Duration = Duration::from_secs(300);

/// One way to start one kind of agent.
struct Way {
    agent: String,
    kind: usize,
    start: &'static str,
    figures: Vec<f64>,
}

/// From a request to an agent without instances until its answer.
pub async fn cold(program: &Path) -> Result<Vec<Row>> {
    let phalanx = Phalanx::start_with(program, &[SCALES_DOWN]).await?;
    let front = &phalanx.front;
    let kinds = [
        (
            "stdlib",
            STDLIB,
            "handler",
            json!([]),
            json!({"x": 1}),
            "≤ 15 ms",
        ),
        (
            "Agno",
            AGNO,
            "agent",
            json!(["agno"]),
            json!({"message": "Hello"}),
            "≤ 30 ms",
        ),
    ];
    let mut ways = Vec::new();
    for (kind, (name, source, entrypoint, python, warm_up, _)) in kinds.iter().enumerate() {
        for (start, warm) in [("forked", true), ("spawned", false)] {
            let mut configuration = json!({"memory_limit": 512, "timeout": 120, "concurrent_executions": 1, "warm_start": warm});
            if warm {
                configuration["warm_up"] = warm_up.clone();
            }
            let agent = format!("{}-{start}", name.to_lowercase());
            let code = json!({
                "source_code": source, "entrypoint": entrypoint, "configuration": configuration,
                "dependencies": {"python": python},
            });
            let size = Size {
                concurrency: 1,
                memory_mb: 512,
                min: 0,
                max: 1,
            };
            front.deploy_code(&agent, code, size).await?;
            ways.push(Way {
                agent,
                kind,
                start,
                figures: Vec::new(),
            });
        }
    }
    for round in 0..=ROUNDS {
        for way in &mut ways {
            let took = one(front, way, &kinds[way.kind].4, round == 0).await?;
            // The first one is for what comes later, templates above all.
            if round > 0 {
                way.figures.push(took);
            }
        }
    }
    let mut rows = Vec::new();
    for (kind, (name, .., aim)) in kinds.iter().enumerate() {
        let mut of = |start: &str| {
            let way = ways
                .iter_mut()
                .find(|way| way.kind == kind && way.start == start);
            way.map(|way| Spread::of(&mut way.figures)).context("a way")
        };
        let (forked, spawned) = (of("forked")?, of("spawned")?);
        rows.push(Row {
            what: format!("cold start, {name}: median ms (p10, most)"),
            one: forked.to_string(),
            other: spawned.to_string(),
            ratio: format!("{:.2}×", forked.median / spawned.median),
            aim,
        });
    }
    Ok(rows)
}

async fn one(front: &Front, way: &Way, parameters: &Value, first: bool) -> Result<f64> {
    let began = Instant::now();
    while !front.instances(&way.agent).await?.is_empty() {
        if began.elapsed() > EMPTY_WITHIN {
            bail!("{} has instances still", way.agent);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut connection = Connection::open(front.address()).await?;
    let request = front.execute(&way.agent, parameters);
    let sent = Instant::now();
    let answer = connection.send(&request).await?;
    let took = sent.elapsed().as_secs_f64() * 1000.0;
    let told: Value = serde_json::from_slice(&answer.body)?;
    let start = told["performance"]["instance_start"].as_str();
    if told["status"] != "completed" || (start != Some(way.start) && !first) {
        bail!(
            "a cold start of {} that was to be {}: {told}",
            way.agent,
            way.start
        );
    }
    Ok(took)
}

struct Spread {
    low: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn of(figures: &mut [f64]) -> Self {
        figures.sort_by(f64::total_cmp);
        let at = |share: usize| figures.get(figures.len() * share / 100).copied();
        Self {
            low: at(10).unwrap_or(f64::NAN),
            median: at(50).unwrap_or(f64::NAN),
            most: figures.last().copied().unwrap_or(f64::NAN),
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} ({:.1}, {:.1})", self.median, self.low, self.most)
    }
}

/// What idle instances hold and use.
pub async fn idle(program: &Path) -> Result<Vec<Row>> {
    let phalanx = Phalanx::start_with(program, &[]).await?;
    let (agents, each) = IDLE;
    let began = Instant::now();
    for number in 0..agents {
        let size = Size {
            concurrency: 1,
            memory_mb: 128,
            min: each,
            max: each,
        };
        let code = json!({
            "source_code": STDLIB, "entrypoint": "handler",
            "configuration": {"memory_limit": size.memory_mb, "concurrent_executions": 1},
        });
        phalanx
            .front
            .deploy_code(&format!("idle-{number}"), code, size)
            .await?;
    }
    let mut instances = BTreeSet::new();
    let wanted = agents * each as usize;
    while instances.len() < wanted {
        if began.elapsed() > GROWN_WITHIN {
            bail!(
                "{} of {wanted} instances after {GROWN_WITHIN:?}",
                instances.len()
            );
        }
        instances.clear();
        for number in 0..agents {
            let listed = phalanx.front.instances(&format!("idle-{number}")).await?;
            instances.extend(listed.iter().filter_map(|one| one["pid"].as_i64()));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let grown = began.elapsed();
    // What starting them has left to do.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let own = phalanx.pid().context("Phalanx runs")?;
    let before = ticks(own)?;
    tokio::time::sleep(IDLE_FOR).await;
    let after = ticks(own)?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("ticks")?;
    let share = |ticks: u64| ticks as f64 / per_second as f64 / IDLE_FOR.as_secs_f64() * 100.0;
    // Those that are sandboxes of their own: there the pid is of the helper.
    let forked = instances.iter().filter(|pid| is_worker(**pid));
    let mut private: Vec<f64> = forked.filter_map(|pid| private_mib(*pid)).collect();
    let count = private.len();
    let private = Spread::of(&mut private);
    let row = |what: &str, one: String, aim| Row {
        what: what.to_owned(),
        one,
        other: "–".to_owned(),
        ratio: "–".to_owned(),
        aim,
    };
    Ok(vec![
        row(
            "idle confined instances on one node",
            format!(
                "{} ({count} forked), there after {:.1} s",
                instances.len(),
                grown.as_secs_f64()
            ),
            "1000",
        ),
        row(
            "private memory of a forked one: median MiB (p10, most)",
            private.to_string(),
            "≤ 3",
        ),
        row(
            "processor over 10 s, of all agents' processes: % of a core",
            format!("{:.2}", share(after.1 - before.1)),
            "0",
        ),
        row(
            "the same, of Phalanx itself",
            format!("{:.2}", share(after.0 - before.0)),
            "–",
        ),
    ])
}

fn is_worker(pid: i64) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("worker.pyc"))
}

/// proc_pid_smaps_rollup(5).
fn private_mib(pid: i64) -> Option<f64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let private = rollup.lines().filter(|line| line.starts_with("Private_"));
    let kib = private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    Some(kib.sum::<f64>() / 1024.0)
}

/// Of the process, and of all that descend from it.
fn ticks(own: u32) -> Result<(u64, u64)> {
    let mut left = vec![i64::from(own)];
    let mut sums = (0, 0);
    while let Some(pid) = left.pop() {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        let (_, fields) = stat.rsplit_once(')').context("a name")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let used: u64 = fields
            .get(11..13)
            .unwrap_or_default()
            .iter()
            .filter_map(|n| n.parse::<u64>().ok())
            .sum();
        if pid == i64::from(own) {
            sums.0 += used;
        } else {
            sums.1 += used;
        }
        for task in fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            left.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<i64>().ok()),
            );
        }
    }
    Ok(sums)
}
