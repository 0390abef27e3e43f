//! What the sandbox costs a start: the same program as a plain child and confined, in turns, each until it runs and until it has ended.
//! The helper is the Phalanx that is measured, as its executor starts it.

use crate::table::Row;
use anyhow::{Context, Result, bail};
use executor::confine::{Config, Isolation, Level, Spec, probe, spawn};
use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Pairs of starts; a median of so many holds still on a busy machine.
const STARTS: usize = 200;
/// Between two starts, as between two instances: helpers that wait are made anew meanwhile.
const PAUSE: Duration = Duration::from_millis(20);
const AIM_MS: f64 = 5.0;

pub async fn run(phalanx: &Path) -> Result<(Vec<Row>, f64)> {
    let config = Config {
        helper: std::path::absolute(phalanx)?,
        node: format!("bench-{}", std::process::id()),
        ..Config::default()
    };
    let level = probe(config).await;
    if level.isolation != Isolation::Namespaces || !level.is_confined() {
        bail!("this host cannot confine: {level}");
    }
    let mut rows = Vec::new();
    let mut worst = f64::MIN;
    for (what, program) in [
        ("/bin/true", &["/bin/true"][..]),
        (
            "python3 -I -S",
            &["/usr/bin/python3", "-I", "-S", "-c", "1"],
        ),
    ] {
        if !Path::new(program[0]).exists() {
            continue;
        }
        let (plain, confined) = pairs(program, &level).await?;
        let over = confined - plain;
        worst = worst.max(over);
        rows.push(Row {
            what: format!("start of {what} until its end: median ms"),
            one: format!("{confined:.2}"),
            other: format!("{plain:.2}"),
            ratio: format!("+{over:.2} ms, {:.2}×", confined / plain),
            aim: "≤ +5 ms",
        });
    }
    rows.push(Row {
        what: "level".to_owned(),
        one: level.to_string(),
        other: "none".to_owned(),
        ratio: "–".to_owned(),
        aim: "–",
    });
    Ok((rows, worst - AIM_MS))
}

/// The medians of plain and confined starts, which take turns.
async fn pairs(program: &[&str], level: &Level) -> Result<(f64, f64)> {
    let (mut plain, mut confined) = (Vec::new(), Vec::new());
    let words: Vec<String> = program.iter().map(|word| (*word).to_owned()).collect();
    for number in 0..STARTS {
        tokio::time::sleep(PAUSE).await;
        let started = Instant::now();
        let mut child = Command::new(program[0])
            .args(&program[1..])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("a plain start")?;
        child.wait()?;
        plain.push(started.elapsed());

        tokio::time::sleep(PAUSE).await;
        let started = Instant::now();
        let sandbox = spawn(&Spec::new(number.to_string(), words.clone()), level).await?;
        let exit = sandbox.wait().await;
        confined.push(started.elapsed());
        if exit.code != Some(0) {
            bail!("a confined {} ended with {exit:?}", program[0]);
        }
        sandbox.kill().await?;
    }
    Ok((median(plain), median(confined)))
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}
