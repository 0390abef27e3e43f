//! The helper of the confinement tests, an executor for them to kill, and two ways to look at a host by hand:
//! `confine probe` prints its level, `confine bench [program…]` what a start costs there, `confine hold <node> <program…>` runs one.
#![expect(clippy::print_stdout, reason = "a tool for a terminal")]

use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use executor::confine::{Config, Level, Spec, helper_main, probe, spawn};

const STARTS: usize = 40;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "__confine") {
        helper_main();
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let config = Config {
        node: "example".to_owned(),
        ..Config::default()
    };
    match args.first().map(String::as_str) {
        Some("probe") => {
            let level = runtime.block_on(probe(config));
            println!("{level}\n{}", serde_json::to_string_pretty(&level)?);
        }
        Some("bench") => {
            let program = if args.len() > 1 {
                args[1..].to_vec()
            } else {
                vec!["/bin/true".to_owned()]
            };
            runtime.block_on(bench(config, &program))?;
        }
        Some("hold") if args.len() > 2 => {
            let config = Config {
                node: args[1].clone(),
                standby: 1,
                ..config
            };
            runtime.block_on(hold(config, args[2..].to_vec()))?;
        }
        _ => println!("confine probe | bench [program…] | hold <node> <program…>"),
    }
    Ok(())
}

/// Prints the pid of the sandbox's first process, then waits for the end that a test prepares for us.
async fn hold(config: Config, program: Vec<String>) -> Result<(), Box<dyn std::error::Error>> {
    let held = spawn(&Spec::new("held", program), &probe(config).await).await?;
    println!("{}", held.pid());
    held.wait().await;
    Ok(())
}

async fn bench(config: Config, program: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let cold = probe(Config {
        standby: 0,
        ..config.clone()
    })
    .await;
    let warm = probe(config).await;
    println!("{warm}");
    report("plain, until exec", &mut plain(program, false)?);
    report("plain, until exit", &mut plain(program, true)?);
    for (name, level, pause) in [
        ("confined", &cold, 0),
        ("confined, after 100 ms", &cold, 100),
        ("standby, after 100 ms", &warm, 100),
    ] {
        let (mut running, mut ended, mut killed) = confined(level, program, pause).await?;
        report(&format!("{name}, until exec"), &mut running);
        report(&format!("{name}, until byte or exit"), &mut ended);
        report(&format!("{name}, clearing up"), &mut killed);
    }
    let started = Instant::now();
    let many: Vec<_> = (0..STARTS)
        .map(|n| Spec::new(n.to_string(), program.to_vec()))
        .collect();
    let all = futures::future::try_join_all(many.iter().map(|spec| spawn(spec, &warm))).await?;
    println!(
        "{STARTS} at once, until all run: {:.1} ms",
        started.elapsed().as_secs_f64() * 1e3
    );
    for one in &all {
        one.kill().await?;
    }
    Ok(())
}

fn plain(program: &[String], wait: bool) -> std::io::Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let started = Instant::now();
        let mut child = std::process::Command::new(&program[0])
            .args(&program[1..])
            .stdout(std::process::Stdio::null())
            .spawn()?;
        if wait {
            child.wait()?;
        }
        times.push(started.elapsed());
        child.wait()?;
    }
    Ok(times)
}

type Times = (Vec<Duration>, Vec<Duration>, Vec<Duration>);

async fn confined(
    level: &Level,
    program: &[String],
    pause_ms: u64,
) -> Result<Times, Box<dyn std::error::Error>> {
    let mut times = Times::default();
    for n in 0..STARTS {
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        let started = Instant::now();
        let mut one = spawn(&Spec::new(n.to_string(), program.to_vec()), level).await?;
        times.0.push(started.elapsed());
        // The first byte, or the end of the program.
        let socket = one.socket.as_mut().ok_or("no socket")?;
        let _ = socket.read(&mut [0]).await?;
        times.1.push(started.elapsed());
        let started = Instant::now();
        one.kill().await?;
        times.2.push(started.elapsed());
    }
    Ok(times)
}

fn report(name: &str, times: &mut [Duration]) {
    times.sort();
    let ms = |at: usize| times[at].as_secs_f64() * 1e3;
    println!(
        "{name:40} p50 {:6.2} ms   p95 {:6.2} ms",
        ms(times.len() / 2),
        ms(times.len() * 95 / 100)
    );
}
