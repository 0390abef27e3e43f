//! One process beside a cluster of single roles: the same load, the same machine, in turns within one run. Both are up all the
//! time and share its cores with the client; ratios count, not single figures.

use crate::{
    Arguments, ECHO, WARM_UP,
    cluster::Cluster,
    front::{Front, Size},
    load::{Figures, Pace, drive},
    median, parameters,
    rows::{Rows, Summary, stored_id},
    runs::{MANY, available_mb, deploy_all, executed, in_background, path_of, serves},
    servers::Phalanx,
    table::{Row, before_and_after, failures, ratio, throughput},
};
use anyhow::{Result, bail};
use serde_json::Value;
use std::{
    io::Write,
    process::Command,
    time::{Duration, Instant},
};

pub const PARTS: [&str; 5] = ["sync", "reads", "async", "stored", "agents"];
const NOOP: &str = "def handler(input):\n    return None\n";
/// Share of what a side can finish that is offered to it where waiting is measured: what is saturated waits without end.
const SPARING: f64 = 0.8;
const STEADY_S: f64 = 10.0;
/// Before and after, of stored executions.
const FEW_STORED: usize = 1000;
/// Of the stored executions, those that are read.
const READ: usize = 1000;
/// Prime to it: they are read in no order.
const SCATTER: usize = 617;
const AGENT: &str = "/api/v1/agents/echo";
/// A monitor rolls up what was put into the rows behind its back.
const COUNTED_WITHIN: Duration = Duration::from_secs(300);
/// What an idle instance takes, generously.
const INSTANCE_MB: u64 = 40;

#[derive(clap::Args)]
pub struct Options {
    /// Async executions of a run, for `cluster`.
    #[arg(long, default_value_t = 20_000)]
    executions: usize,
    /// Async executions that are offered in a second where waiting is measured, if the side can finish so many, for `cluster`.
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
    /// Stored executions, for `cluster`.
    #[arg(long, default_value_t = 1_000_000)]
    stored: usize,
    /// Deployed agents, for `cluster`.
    #[arg(long, default_value_t = 200)]
    agents: usize,
}

struct Beside<'a> {
    arguments: &'a Arguments,
    embedded: Phalanx,
    cluster: Cluster,
}

/// On either side, where so many executions are stored.
struct WithStored {
    runs: (Figures, Figures),
    executions: (Figures, Figures),
    agents: (Figures, Figures),
    months: (Figures, Figures),
}

/// The rows of the parts that are named, or of all of them; and how many parts failed.
pub async fn run(arguments: &Arguments, parts: &[String]) -> Result<(Vec<Row>, usize)> {
    if let Some(unknown) = parts.iter().find(|part| !PARTS.contains(&part.as_str())) {
        bail!("{unknown} is no part of cluster; there are {PARTS:?}");
    }
    say("starting both")?;
    let cluster = Cluster::start(&arguments.phalanx).await?;
    let embedded = Phalanx::start(&arguments.phalanx).await?;
    let mut beside = Beside {
        arguments,
        embedded,
        cluster,
    };
    for front in beside.fronts() {
        front.deploy("echo", ECHO, size(2)).await?;
    }
    let (mut rows, mut failed) = (Vec::new(), 0);
    for part in PARTS {
        if !parts.is_empty() && !parts.iter().any(|wanted| wanted == part) {
            continue;
        }
        say(part)?;
        let measured = match part {
            "sync" => beside.sync().await,
            "reads" => beside.reads().await,
            "async" => beside.background().await,
            "stored" => beside.stored().await,
            _ => beside.many_agents().await,
        };
        match measured {
            Ok(measured) => rows.extend(measured),
            Err(error) => {
                say(&format!("{part} failed: {error:#}"))?;
                failed += 1;
            }
        }
    }
    say("ending both")?;
    Ok((rows, failed))
}

impl Beside<'_> {
    fn fronts(&self) -> [&Front; 2] {
        [&self.embedded.front, &self.cluster.front]
    }

    fn rows(&self) -> [Rows; 2] {
        [
            Rows::Lite {
                python: self.arguments.python.clone(),
                path: self.embedded.database(),
            },
            Rows::Pg {
                url: self.cluster.backing.postgres_url.clone(),
            },
        ]
    }

    fn lasts(&self) -> Pace {
        Pace::For(Duration::from_secs(self.arguments.seconds))
    }

    /// The same load on both, in turns; the median pair of so many.
    async fn pair(
        &self,
        rounds: usize,
        connections: usize,
        requests: impl Fn(&Front) -> Vec<Vec<u8>>,
    ) -> Result<(Figures, Figures)> {
        let [one, other] = self.fronts().map(|front| front.targets(requests(front)));
        drive(&one, connections, WARM_UP).await?;
        drive(&other, connections, WARM_UP).await?;
        let mut pairs = Vec::new();
        for _ in 0..rounds.max(1) {
            let one = drive(&one, connections, self.lasts()).await?;
            let other = drive(&other, connections, self.lasts()).await?;
            pairs.push((one, other));
        }
        Ok(median(pairs, |(one, other)| {
            other.per_second / one.per_second
        }))
    }

    async fn sync(&self) -> Result<Vec<Row>> {
        let echo = |front: &Front| vec![front.execute("echo", &parameters())];
        let many = self.pair(self.arguments.rounds, MANY, echo).await?;
        let alone = self.pair(self.arguments.rounds, 1, echo).await?;
        let shown = |figures: &Figures| {
            let (p50, p99) = (figures.percentile(0.5), figures.percentile(0.99));
            format!("{p50:.2} (p99 {p99:.2}){}", failures(figures))
        };
        Ok(vec![
            throughput("sync echo, 64 connections: executions/s", &many, "–"),
            Row {
                what: "sync echo, 1 connection: median ms".to_owned(),
                one: shown(&alone.0),
                other: shown(&alone.1),
                ratio: ratio(alone.0.percentile(0.5), alone.1.percentile(0.5)),
                aim: "–",
            },
        ])
    }

    async fn reads(&self) -> Result<Vec<Row>> {
        let aim = "≥ 1,000/s, p95 < 200 ms";
        let agent = self.pair(1, MANY, |front| vec![front.get(AGENT)]).await?;
        let mut ids = [Vec::new(), Vec::new()];
        for (front, ids) in self.fronts().into_iter().zip(&mut ids) {
            for _ in 0..MANY {
                ids.push(executed(front, "echo").await?);
            }
        }
        let execution = self
            .pair(1, MANY, |front| {
                // Each side has its own ids.
                let ours = front.address() == self.embedded.front.address();
                let ids = &ids[usize::from(!ours)];
                ids.iter().map(|id| front.get(&path_of(id))).collect()
            })
            .await?;
        Ok(vec![
            throughput("GET an agent, 64 connections: requests/s", &agent, aim),
            throughput(
                "GET an execution, 64 connections: requests/s",
                &execution,
                aim,
            ),
        ])
    }

    async fn background(&self) -> Result<Vec<Row>> {
        let options = &self.arguments.cluster;
        let (mut fast, mut steady) = (Vec::new(), Vec::new());
        for (front, rows) in self.fronts().into_iter().zip(self.rows()) {
            for agent in ["noop-fast", "noop-steady"] {
                front.deploy(agent, NOOP, size(2)).await?;
            }
            let pace = Pace::Count(options.executions);
            let (accepted, ended) = in_background(front, &rows, "noop-fast", pace).await?;
            let finished = ended.ended as f64 * 1000.0 / ended.lasted_ms;
            let rate = options.rate.min(finished * SPARING);
            fast.push((accepted, finished));
            let pace = Pace::Every {
                count: options.executions.min((rate * STEADY_S) as usize),
                per_second: rate,
            };
            steady.push(in_background(front, &rows, "noop-steady", pace).await?);
        }
        let fast_shown = |(accepted, finished): &(Figures, f64)| {
            format!(
                "{:.0} / {finished:.0}{}",
                accepted.per_second,
                failures(accepted)
            )
        };
        let steady_shown = |(accepted, ended): &(Figures, Summary)| {
            format!(
                "{:.1} (p99 {:.1}), at {:.0}/s{}",
                ended.queue_ms_mean,
                ended.queue_ms_p99,
                accepted.per_second,
                failures(accepted)
            )
        };
        Ok(vec![
            Row {
                what: format!(
                    "async noop, {} as fast as they are taken: accepted / finished per s",
                    options.executions
                ),
                one: fast_shown(&fast[0]),
                other: fast_shown(&fast[1]),
                ratio: ratio(fast[0].1, fast[1].1),
                aim: "≥ 2,000/s",
            },
            Row {
                what: "async noop, steady: mean ms from acceptance to start".to_owned(),
                one: steady_shown(&steady[0]),
                other: steady_shown(&steady[1]),
                ratio: ratio(steady[0].1.queue_ms_mean, steady[1].1.queue_ms_mean),
                aim: "≤ 50 ms at 2,000/s",
            },
        ])
    }

    async fn stored(&mut self) -> Result<Vec<Row>> {
        let stored = self.arguments.cluster.stored;
        let before = self.with_stored(FEW_STORED.min(stored)).await?;
        let after = self.with_stored(stored).await?;
        let what = format!("with {FEW_STORED}, then {stored} stored executions");
        let median = |figures: &Figures| figures.percentile(0.5);
        Ok(vec![
            before_and_after(
                format!("sync echo, 64 connections: executions/s {what}"),
                (&before.runs, &after.runs),
                |figures| figures.per_second,
                "flat: ≥ 0.9×",
            ),
            before_and_after(
                format!("GET an execution, 1 connection: median ms {what}"),
                (&before.executions, &after.executions),
                median,
                "flat: ≤ 1.1×",
            ),
            before_and_after(
                format!("GET an agent, 1 connection: median ms {what}"),
                (&before.agents, &after.agents),
                median,
                "flat: ≤ 1.1×",
            ),
            before_and_after(
                format!("GET 30 days of metrics at 1h, 1 connection: median ms {what}"),
                (&before.months, &after.months),
                median,
                "< 50 ms",
            ),
        ])
    }

    async fn with_stored(&mut self, count: usize) -> Result<WithStored> {
        for front in self.fronts() {
            executed(front, "echo").await?;
        }
        let [lite, postgres] = self.rows();
        self.embedded.stop();
        let filled = lite.fill("echo", count);
        self.embedded.start_again().await?;
        filled?;
        postgres.fill("echo", count)?;
        serves(&self.embedded.front, "echo").await?;
        for front in self.fronts() {
            counted(front, count).await?;
        }
        let step = (count / READ).max(1);
        let places = (0..READ).map(|turn| 1 + turn * SCATTER % READ * step % count.max(1));
        let paths: Vec<String> = places.map(|place| path_of(&stored_id(place))).collect();
        let reads = |front: &Front| paths.iter().map(|path| front.get(path)).collect();
        let executions = self.pair(1, 1, reads).await?;
        let echo = |front: &Front| vec![front.execute("echo", &parameters())];
        let runs = self.pair(1, MANY, echo).await?;
        // Last: the database may still be at it when nobody waits for it any more.
        let agent = |front: &Front| vec![front.get(AGENT)];
        let agents = self.pair(1, 1, agent).await?;
        let path = month()?;
        let month = |front: &Front| vec![front.get(&path)];
        let months = self.pair(1, 1, month).await?;
        Ok(WithStored {
            runs,
            executions,
            agents,
            months,
        })
    }

    async fn many_agents(&self) -> Result<Vec<Row>> {
        let count = self.arguments.cluster.agents.max(1);
        let needed = count as u64 * 2 * INSTANCE_MB;
        let min = u32::from(available_mb()? > needed);
        let names: Vec<String> = (0..count).map(|place| format!("many-{place}")).collect();
        let size = Size {
            concurrency: 100,
            memory_mb: 128,
            min,
            max: 1,
        };
        let echo = |names: &[String]| {
            let names = names.to_vec();
            move |front: &Front| -> Vec<Vec<u8>> {
                let executes = names.iter().map(|name| front.execute(name, &parameters()));
                executes.collect()
            }
        };
        for front in self.fronts() {
            deploy_all(front, &names[..1], size).await?;
        }
        let alone = self.pair(1, MANY, echo(&names[..1])).await?;
        for front in self.fronts() {
            deploy_all(front, &names[1..], size).await?;
        }
        let beside = self.pair(1, MANY, echo(&names[..1])).await?;
        let among = self.pair(1, MANY, echo(&names)).await?;
        let row = |what: String, after| {
            before_and_after(
                what,
                (&alone, after),
                |figures| figures.per_second,
                "flat: ≥ 0.9×",
            )
        };
        let sync = "sync echo, 64 connections: executions/s";
        Ok(vec![
            row(
                format!(
                    "{sync} of an agent alone, then of it beside {} idle ones",
                    count - 1
                ),
                &beside,
            ),
            row(
                format!("{sync} of an agent alone, then spread over {count} (min_instances {min})"),
                &among,
            ),
        ])
    }
}

/// Until as many are counted as are stored.
async fn counted(front: &Front, count: usize) -> Result<()> {
    let began = Instant::now();
    loop {
        let answer = front.ask("GET", AGENT, "").await?;
        let document: Value = serde_json::from_slice(&answer.body)?;
        if document["performance"]["total_requests"].as_u64() >= Some(count as u64) {
            return Ok(());
        }
        if began.elapsed() > COUNTED_WITHIN {
            bail!("{count} stored executions are not counted: {document}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The metrics of the last 30 days by the hour.
fn month() -> Result<String> {
    let at = |when: &str| -> Result<String> {
        let said = Command::new("date")
            .args(["-u", "-d", when, "+%FT%TZ"])
            .output()?;
        Ok(String::from_utf8(said.stdout)?.trim().to_owned())
    };
    let (start, end) = (at("30 days ago")?, at("now")?);
    Ok(format!(
        "{AGENT}/metrics?start_time={start}&end_time={end}&granularity=1h"
    ))
}

fn size(instances: u32) -> Size {
    Size {
        concurrency: 100,
        memory_mb: 512,
        min: instances,
        max: instances,
    }
}

fn say(what: &str) -> Result<()> {
    Ok(writeln!(std::io::stderr(), "bench: {what}")?)
}
