//! Phalanx beside its peer: the same handler, the same client, the same machine, in turns within one run.

mod backing;
mod beside;
mod cluster;
mod confined;
mod front;
mod http;
mod load;
mod process;
mod rows;
mod runs;
mod servers;
mod table;
mod warm;

use anyhow::{Result, bail};
use clap::Parser;
use front::Size;
use load::{Figures, Pace, Target, all_at_once, drive};
use serde_json::json;
use servers::{Peer, Phalanx};
use std::{path::PathBuf, time::Duration};
use table::{Row, show};
use tokio::signal::unix::{SignalKind, signal};

const WARM_UP: Pace = Pace::For(Duration::from_secs(1));
/// What can be measured in one run.
const TOGETHER: [&str; 3] = ["echo", "sleep", "cold"];
const ECHO: &str = "def handler(input):\n    return input\n";
const SLEEP: &str =
    "import asyncio\n\nasync def handler(input):\n    await asyncio.sleep(1)\n    return input\n";

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    phalanx: PathBuf,
    /// With the peer's packages.
    #[arg(long)]
    python: PathBuf,
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Pairs of runs; the median pair is shown.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    #[arg(long, default_value_t = 10_000)]
    at_once: usize,
    #[command(flatten)]
    cluster: beside::Options,
    /// echo, sleep, cold; all without any. Or one alone: confined, idle. Or cluster, alone or with sync, reads, async, stored, agents.
    what: Vec<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        // What is dropped here ends what it has started.
        tokio::select! {
            done = measure(&arguments) => done,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            _ = terminated.recv() => bail!("terminated"),
        }
    })
}

/// A word that measures nothing is a mistake of whoever wrote it.
fn check(what: &[String]) -> Result<()> {
    let Some(first) = what.first() else {
        return Ok(());
    };
    let (first, allowed): (&str, &[&str]) = match first.as_str() {
        "cluster" => ("cluster", &beside::PARTS),
        "confined" => ("confined", &[]),
        "idle" => ("idle", &[]),
        _ => ("", &TOGETHER),
    };
    let words = if first.is_empty() { what } else { &what[1..] };
    if let Some(unknown) = words.iter().find(|word| !allowed.contains(&word.as_str())) {
        let place = if first.is_empty() { "there" } else { first };
        let allowed = match (first, allowed) {
            ("", allowed) => format!("{}, or alone cluster, confined, idle", allowed.join(", ")),
            (_, []) => "nothing else".to_owned(),
            (_, allowed) => allowed.join(", "),
        };
        bail!("{unknown:?} cannot be measured beside {place}; allowed are {allowed}");
    }
    Ok(())
}

async fn measure(arguments: &Arguments) -> Result<()> {
    check(&arguments.what)?;
    if arguments.what.first().is_some_and(|what| what == "cluster") {
        let (rows, failed) = beside::run(arguments, &arguments.what[1..]).await?;
        show(["what", "embedded", "cluster", "ratio", "aim"], rows)?;
        if failed > 0 {
            bail!("{failed} parts could not be measured");
        }
        return Ok(());
    }
    if arguments
        .what
        .first()
        .is_some_and(|what| what == "confined")
    {
        let (rows, over) = confined::run(&arguments.phalanx).await?;
        show(["what", "confined", "plain", "over it", "aim"], rows)?;
        if over > 0.0 {
            bail!("a confined start costs more than it may");
        }
        return Ok(());
    }
    if arguments.what.first().is_some_and(|what| what == "idle") {
        let rows = warm::idle(&arguments.phalanx).await?;
        return show(["what", "Phalanx", "–", "ratio", "aim"], rows);
    }
    if wanted(arguments, "echo") || wanted(arguments, "sleep") {
        let rows = run(arguments).await?;
        let peer = "BedrockAgentCoreApp + uvicorn";
        show(["what", "Phalanx", peer, "ratio", "aim"], rows)?;
    }
    if wanted(arguments, "cold") {
        let rows = warm::cold(&arguments.phalanx).await?;
        show(["what", "forked", "spawned", "ratio", "aim"], rows)?;
    }
    Ok(())
}

fn wanted(arguments: &Arguments, name: &str) -> bool {
    arguments.what.is_empty() || arguments.what.iter().any(|what| what == name)
}

async fn run(arguments: &Arguments) -> Result<Vec<Row>> {
    let wanted = |name: &str| wanted(arguments, name);
    let phalanx = Phalanx::start(&arguments.phalanx).await?;
    let mut rows = Vec::new();
    if wanted("echo") {
        phalanx.front.deploy("echo", ECHO, size(100, 1, 1)).await?;
        let peer = Peer::start(&arguments.python, "echo.py").await?;
        rows.push(throughput(arguments, &phalanx, &peer).await?);
        rows.push(latency(arguments, &phalanx, &peer).await?);
    }
    if wanted("sleep") {
        let instances = u32::try_from(arguments.at_once.div_ceil(1000))?;
        phalanx
            .front
            .deploy("sleep", SLEEP, size(1000, instances, instances))
            .await?;
        let peer = Peer::start(&arguments.python, "sleep.py").await?;
        rows.push(sleepers(arguments, &phalanx, &peer).await?);
    }
    Ok(rows)
}

fn size(concurrency: u32, min: u32, max: u32) -> Size {
    Size {
        concurrency,
        memory_mb: 512,
        min,
        max,
    }
}

fn parameters() -> serde_json::Value {
    json!({"message": "hello", "numbers": [1, 2, 3]})
}

async fn throughput(arguments: &Arguments, phalanx: &Phalanx, peer: &Peer) -> Result<Row> {
    let pairs = pairs(arguments, phalanx, peer, 64).await?;
    let (ours, theirs) = median(pairs, |(ours, theirs)| ours.per_second / theirs.per_second);
    Ok(Row {
        what: "sync echo, 64 connections: executions/s".to_owned(),
        one: format!(
            "{:.0} (p50 {:.2} ms, p99 {:.2} ms)",
            ours.per_second,
            ours.percentile(0.5),
            ours.percentile(0.99)
        ),
        other: format!(
            "{:.0} (p50 {:.2} ms, p99 {:.2} ms)",
            theirs.per_second,
            theirs.percentile(0.5),
            theirs.percentile(0.99)
        ),
        ratio: format!("{:.2}×", ours.per_second / theirs.per_second),
        aim: "≥ 4×",
    })
}

async fn latency(arguments: &Arguments, phalanx: &Phalanx, peer: &Peer) -> Result<Row> {
    let pairs = pairs(arguments, phalanx, peer, 1).await?;
    let (ours, theirs) = median(pairs, |(ours, theirs)| {
        ours.percentile(0.5) / theirs.percentile(0.5)
    });
    Ok(Row {
        what: "sync echo, 1 connection: median ms".to_owned(),
        one: format!(
            "{:.3} (p99 {:.2})",
            ours.percentile(0.5),
            ours.percentile(0.99)
        ),
        other: format!(
            "{:.3} (p99 {:.2})",
            theirs.percentile(0.5),
            theirs.percentile(0.99)
        ),
        ratio: format!("{:.2}×", ours.percentile(0.5) / theirs.percentile(0.5)),
        aim: "≤ 1×",
    })
}

async fn pairs(
    arguments: &Arguments,
    phalanx: &Phalanx,
    peer: &Peer,
    connections: usize,
) -> Result<Vec<(Figures, Figures)>> {
    let lasts = Pace::For(Duration::from_secs(arguments.seconds));
    let (our_request, their_request) = (
        phalanx.front.execute("echo", &parameters()),
        peer.invoke(&parameters()),
    );
    let ours = [Target::one(phalanx.front.address(), our_request)];
    let theirs = [Target::one(peer.address, their_request)];
    drive(&ours, connections, WARM_UP).await?;
    drive(&theirs, connections, WARM_UP).await?;
    let mut pairs = Vec::new();
    for _ in 0..arguments.rounds {
        let ours = drive(&ours, connections, lasts).await?;
        let theirs = drive(&theirs, connections, lasts).await?;
        if ours.failed + theirs.failed > 0 {
            bail!(
                "{} of ours and {} of theirs failed",
                ours.failed,
                theirs.failed
            );
        }
        pairs.push((ours, theirs));
    }
    Ok(pairs)
}

fn median(
    mut pairs: Vec<(Figures, Figures)>,
    ratio: impl Fn(&(Figures, Figures)) -> f64,
) -> (Figures, Figures) {
    pairs.sort_by(|one, other| ratio(one).total_cmp(&ratio(other)));
    let middle = pairs.len() / 2;
    pairs.swap_remove(middle)
}

async fn sleepers(arguments: &Arguments, phalanx: &Phalanx, peer: &Peer) -> Result<Row> {
    let count = arguments.at_once;
    let ours = all_at_once(
        phalanx.front.address(),
        phalanx.front.execute("sleep", &parameters()),
        count,
    )
    .await?;
    let theirs = all_at_once(peer.address, peer.invoke(&parameters()), count).await?;
    let say = |figures: &Figures| {
        format!(
            "{:.0} (max {:.0}, {} failed)",
            figures.percentile(0.5),
            figures.percentile(1.0),
            figures.failed
        )
    };
    Ok(Row {
        what: format!("{count} at once, each sleeps 1 s: median ms"),
        one: say(&ours),
        other: say(&theirs),
        ratio: format!("{:.2}×", ours.percentile(0.5) / theirs.percentile(0.5)),
        aim: "< 0.5×, none failed",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_measures_nothing_is_refused() {
        let says = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            check(&words).map_err(|error| error.to_string())
        };
        for good in [
            &[][..],
            &["echo", "cold"],
            &["confined"],
            &["idle"],
            &["cluster"],
            &["cluster", "sync", "reads"],
        ] {
            assert_eq!(says(good), Ok(()), "{good:?}");
        }
        for bad in [
            &["warm"][..],
            &["sleep", "confined"],
            &["confined", "sleep"],
            &["idle", "cold"],
            &["cluster", "echo"],
            &["echo", "cluster"],
        ] {
            assert!(says(bad).is_err(), "{bad:?}");
        }
    }
}
