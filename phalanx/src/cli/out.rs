//! The only place of the command line that writes: results to standard output, words to standard error.

use super::{text, trouble::Trouble};
use comfy_table::{ContentArrangement, Table, presets};
use std::io::{self, IsTerminal, Write};

/// A line of the result.
pub fn line(text: &str) -> Result<(), Trouble> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()?;
    Ok(())
}

/// Something from the API, as JSON.
pub fn json(raw: &str) -> Result<(), Trouble> {
    line(&text::pretty(raw))
}

/// A word about the result. When nobody reads standard error there is nobody left to tell.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

pub fn is_terminal() -> bool {
    io::stderr().is_terminal()
}

pub fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> Result<(), Trouble> {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.to_vec());
    for row in rows {
        table.add_row(row.map(|cell| text::line(&cell)).to_vec());
    }
    line(&table.trim_fmt())
}

/// Says which page of how many a list was.
pub fn pages(pagination: &serde_json::Value) {
    let page = pagination["page"].as_u64().unwrap_or(1);
    let pages = pagination["total_pages"].as_u64().unwrap_or(1);
    if pages > 1 {
        say(&format!(
            "page {page} of {pages}, {} in all; see more with --page",
            pagination["total"]
        ));
    }
}
