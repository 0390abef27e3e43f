//! The table that a run ends with.

use crate::load::Figures;
use anyhow::Result;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use std::io::Write;

pub struct Row {
    pub what: String,
    pub one: String,
    pub other: String,
    pub ratio: String,
    pub aim: &'static str,
}

pub fn show(header: [&str; 5], rows: Vec<Row>) -> Result<()> {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header);
    for row in rows {
        table.add_row([row.what, row.one, row.other, row.ratio, row.aim.to_owned()]);
    }
    writeln!(std::io::stdout(), "{table}")?;
    Ok(())
}

pub fn throughput(what: &str, (one, other): &(Figures, Figures), aim: &'static str) -> Row {
    let shown = |figures: &Figures| {
        let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|share| figures.percentile(share));
        let failed = failures(figures);
        format!(
            "{:.0} (ms: p50 {p50:.1}, p95 {p95:.1}, p99 {p99:.1}){failed}",
            figures.per_second
        )
    };
    Row {
        what: what.to_owned(),
        one: shown(one),
        other: shown(other),
        ratio: ratio(one.per_second, other.per_second),
        aim,
    }
}

/// Each side beside itself; the ratio is of both sides' second figures.
pub fn before_and_after(
    what: String,
    (before, after): (&(Figures, Figures), &(Figures, Figures)),
    figure: impl Fn(&Figures) -> f64,
    aim: &'static str,
) -> Row {
    let shown = |before: &Figures, after: &Figures| {
        let (was, is) = (figure(before), figure(after));
        let decimals = if is < 100.0 { 2 } else { 0 };
        format!(
            "{was:.decimals$} → {is:.decimals$} ({}){}{}",
            ratio(was, is),
            failures(before),
            failures(after)
        )
    };
    Row {
        what,
        one: shown(&before.0, &after.0),
        other: shown(&before.1, &after.1),
        ratio: ratio(figure(&after.0), figure(&after.1)),
        aim,
    }
}

pub fn ratio(one: f64, other: f64) -> String {
    format!("{:.2}×", other / one)
}

pub fn failures(figures: &Figures) -> String {
    if figures.failed == 0 {
        return String::new();
    }
    format!(", {} FAILED", figures.failed)
}
