//! Server-sent events, read from an answer (WHATWG HTML, 9.2).

use super::{api::Api, trouble::Trouble};
use reqwest::Response;

/// More than any event we send.
const MOST: usize = 64 * 1024 * 1024;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub name: String,
    pub data: String,
}

#[derive(Debug)]
pub struct Events {
    response: Response,
    lines: Lines,
}

impl Events {
    pub fn new(response: Response) -> Self {
        Self {
            response,
            lines: Lines::default(),
        }
    }

    /// `None` at the end.
    pub async fn next(&mut self, api: &Api) -> Result<Option<Event>, Trouble> {
        loop {
            if let Some(event) = self.lines.event() {
                return Ok(Some(event));
            }
            match self
                .response
                .chunk()
                .await
                .map_err(|error| api.unreachable(&error))?
            {
                None => return Ok(None),
                Some(bytes) => self.lines.buffer.extend_from_slice(&bytes),
            }
            if self.lines.buffer.len() > MOST {
                return Err(Trouble::odd("an event has no end"));
            }
        }
    }
}

#[derive(Debug, Default)]
struct Lines {
    buffer: Vec<u8>,
    event: Event,
    filled: bool,
}

impl Lines {
    fn event(&mut self) -> Option<Event> {
        while let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                let event = std::mem::take(&mut self.event);
                if std::mem::take(&mut self.filled) {
                    return Some(event);
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut self.event.name),
                "data" => {
                    if self.filled {
                        self.event.data.push('\n');
                    }
                    self.event.data.push_str(value);
                    self.filled = true;
                }
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_whole_however_they_are_cut() {
        let text = ": hello\n\nid: 1\nevent: chunk\ndata: {\"a\":\ndata: 1}\n\nevent: result\r\ndata: x\r\n\r\n";
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for byte in text.bytes() {
            lines.buffer.push(byte);
            found.extend(lines.event());
        }
        let wanted = [("chunk", "{\"a\":\n1}"), ("result", "x")].map(|(name, data)| Event {
            name: name.to_owned(),
            data: data.to_owned(),
        });
        assert_eq!(found, wanted);
    }
}
