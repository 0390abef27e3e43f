//! The phases of a deployment as they go by: a spinner on a terminal, plain lines elsewhere, log lines as they appear.

use crate::cli::{out, text};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use std::{collections::BTreeMap, time::Duration};

#[derive(Debug, Deserialize)]
pub struct Phase {
    pub name: String,
    pub status: String,
    #[serde(default)]
    pub logs: Vec<String>,
}

pub struct Progress {
    bar: Option<ProgressBar>,
    /// By phase: the status last said and the number of log lines shown.
    seen: BTreeMap<String, (String, usize)>,
}

impl Progress {
    pub fn new() -> Self {
        let bar = out::is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self {
            bar,
            seen: BTreeMap::new(),
        }
    }

    pub fn show(&mut self, phases: &[Phase]) {
        for phase in phases {
            let (said, shown) = self.seen.get(&phase.name).cloned().unwrap_or_default();
            let name = text::line(&phase.name);
            if phase.status == "running" {
                if let Some(bar) = &self.bar {
                    bar.set_message(name.clone());
                } else if said != "running" {
                    self.line(&format!("{name} …"));
                }
            }
            for line in phase.logs.iter().skip(shown) {
                self.line(&format!("    {}", text::line(line)));
            }
            if said != phase.status {
                match phase.status.as_str() {
                    "completed" => self.line(&format!("{name} done")),
                    "failed" => self.line(&format!("{name} FAILED")),
                    _ => {}
                }
            }
            self.seen
                .insert(phase.name.clone(), (phase.status.clone(), phase.logs.len()));
        }
    }

    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => out::say(text),
        }
    }
}

/// Which phase failed, and its own last words; all of them have been shown.
pub fn failed(phases: &[Phase]) -> Option<String> {
    let phase = phases.iter().find(|phase| phase.status == "failed")?;
    let words = phase.logs.iter().rev().find(|line| !line.trim().is_empty());
    let words = words.map_or("it says nothing", String::as_str);
    Some(format!("phase {} failed: {words}", phase.name))
}
