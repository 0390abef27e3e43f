//! Frames between the executor and a worker, as `docs/worker-protocol.md` writes them. The worker is hostile: every length,
//! kind and body is checked, and whatever does not fit ends the connection.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use domain::{
    Timestamp,
    execution::{Failure, FailureCode, FailurePhase, Usage},
    log::{Level, Line},
    trace::Traceparent,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

const HEADER: usize = 4 + 1 + 8;
/// Figures that one execution may report under names of its own.
const MOST_METRICS: usize = 64;
const MOST_MESSAGE: usize = 16 * 1024;
const MOST_TRACEBACK: usize = 64 * 1024;
/// Of one line: the worker cuts at less.
const MOST_LINE: usize = 64 * 1024;
const MOST_CONTEXT: usize = 16 * 1024;
/// Levels of an output: what a caller's document, two levels about it, may have of an input.
const MOST_LEVELS: usize = 125;
/// Above what any execution uses, and far below where sums over years of them overflow.
const MOST_FIGURE: f64 = 1e15;
/// Of a metric of the agent's own, either way.
const MOST_METRIC: f64 = 1e100;

/// What the executor says to a worker.
#[derive(Debug, Serialize)]
pub struct Init<'a> {
    pub code_dir: &'a str,
    pub site_dirs: &'a [&'a str],
    pub entrypoint: &'a str,
    pub concurrency: u32,
    pub log_level: &'a str,
    pub environment: &'a BTreeMap<String, String>,
    pub limits: InitLimits,
    /// It is to be forked, and answers no call itself.
    pub template: bool,
    /// What a template handles once before it is forked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm_up: Option<&'a serde_json::Value>,
}

#[derive(Debug, Serialize)]
pub struct InitLimits {
    pub frame_bytes: usize,
    pub result_bytes: usize,
    pub log_lines: u32,
    pub log_bytes: u32,
    pub log_line_bytes: u32,
}

#[derive(Debug, Serialize)]
pub struct CallBody<'a> {
    pub execution_id: &'a str,
    pub attempt: u32,
    pub deadline_ms: i64,
    pub stream: bool,
    pub context: Context<'a>,
    pub input: &'a RawValue,
}

/// The caller as the handler's `context` shows it. Its trace is not the caller's own: the attempt's span comes between.
#[derive(Debug, Serialize)]
pub struct Context<'a> {
    pub user_id: Option<&'a str>,
    pub session_id: Option<&'a str>,
    pub request_id: Option<&'a str>,
    pub metadata: &'a serde_json::Map<String, serde_json::Value>,
    pub traceparent: Option<Traceparent>,
    pub tracestate: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct CancelBody {
    reason: &'static str,
}

#[derive(Debug, Serialize)]
struct PingBody<'a> {
    path: Option<&'a str>,
}

pub fn init(body: &Init<'_>) -> Result<Bytes, serde_json::Error> {
    encode(1, 0, body)
}

pub fn call(id: u64, body: &CallBody<'_>) -> Result<Bytes, serde_json::Error> {
    encode(2, id, body)
}

pub fn cancel(id: u64, reason: &'static str) -> Result<Bytes, serde_json::Error> {
    encode(3, id, &CancelBody { reason })
}

/// Asks how it is doing; with a path, what an ASGI application answers there.
pub fn ping(id: u64, path: Option<&str>) -> Result<Bytes, serde_json::Error> {
    encode(4, id, &PingBody { path })
}

/// To a template, with the new one's socket.
pub fn fork(id: u64) -> Result<Bytes, serde_json::Error> {
    encode(5, id, &serde_json::Map::new())
}

/// First to what was forked: to be an instance, in a root of its own.
pub fn adopt(root: &str) -> Result<Bytes, serde_json::Error> {
    encode(6, 0, &serde_json::json!({ "root": root }))
}

fn encode<T: Serialize>(kind: u8, id: u64, body: &T) -> Result<Bytes, serde_json::Error> {
    let mut frame = BytesMut::with_capacity(512);
    frame.put_u32(0);
    frame.put_u8(kind);
    frame.put_u64(id);
    serde_json::to_writer((&mut frame).writer(), body)?;
    // A body over 4 GiB cannot be: inputs are bounded at the door.
    let length = u32::try_from(frame.len() - 4).unwrap_or(u32::MAX);
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame.freeze())
}

/// What a worker says to the executor.
#[derive(Debug)]
pub enum Said {
    Ready(Ready),
    Failed(Failure),
    Result(u64, Done),
    Error(u64, Failure, Spent),
    Log(u64, Vec<Line>),
    Chunk(u64, Bytes),
    Progress(u64, f64),
    Pong(u64, Pong),
}

/// How a worker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Pong {
    /// Background work is declared.
    pub busy: bool,
    /// What the application answered at the path that was asked for; an answer without it may come first.
    #[serde(default)]
    pub status: Option<u16>,
}

#[derive(Debug, Deserialize)]
pub struct Ready {
    pub entrypoint_kind: String,
    pub import_ms: f64,
    pub init_ms: f64,
    /// Of a template: why it must not be forked.
    #[serde(default)]
    pub spawn_only: Option<String>,
}

#[derive(Debug)]
pub struct Done {
    pub output: Box<RawValue>,
    pub spent: Spent,
}

/// What a call used, as the worker says.
#[derive(Debug, Default)]
pub struct Spent {
    pub handler_ms: Option<f64>,
    pub usage: Usage,
}

/// What a call used, and in a RESULT its output.
#[derive(Deserialize)]
struct Figures<'a> {
    #[serde(default)]
    cpu_ms: Option<f64>,
    #[serde(default)]
    memory_peak_mb: Option<f64>,
    #[serde(default)]
    handler_ms: Option<f64>,
    #[serde(default)]
    tokens: Option<i64>,
    #[serde(default)]
    metrics: BTreeMap<String, f64>,
    #[serde(default)]
    log_dropped: u64,
    #[serde(borrow, default)]
    output: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ErrorBody {
    code: String,
    phase: String,
    message: String,
    #[serde(default)]
    exception_type: Option<String>,
    #[serde(default)]
    traceback: Option<String>,
}

#[derive(Deserialize)]
struct LogBody<'a> {
    #[serde(borrow)]
    lines: Vec<RawLine<'a>>,
}

/// Unix ms, level, message, fields.
type RawLine<'a> = (f64, String, String, Option<&'a RawValue>);

#[derive(Deserialize)]
struct ChunkBody<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct ProgressBody {
    percent: f64,
}

/// Takes the next whole frame out of what has been read; `None` until there is one. `most` bounds a frame's length.
pub fn next(read: &mut BytesMut, most: usize) -> Result<Option<Said>, String> {
    let Some(length) = read.get(..4) else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
    if length < HEADER - 4 || length > most {
        return Err(format!(
            "a frame of {length} bytes; allowed are {} to {most}",
            HEADER - 4
        ));
    }
    if read.len() < 4 + length {
        read.reserve(4 + length - read.len());
        return Ok(None);
    }
    let mut frame = read.split_to(4 + length).freeze();
    frame.advance(4);
    let kind = frame.get_u8();
    let id = frame.get_u64();
    said(kind, id, &frame).map(Some)
}

fn said(kind: u8, id: u64, body: &Bytes) -> Result<Said, String> {
    match kind {
        65 => Ok(Said::Ready(read(body)?)),
        66 => Ok(Said::Failed(failure(body)?)),
        67 => {
            let figures: Figures<'_> = read_borrowed(body)?;
            // `null` and none at all are one to serde, and to us.
            let output = figures.output.unwrap_or(RawValue::NULL).to_owned();
            if let Some(failure) = too_deep(&output) {
                return Ok(Said::Error(id, failure, spent(figures)));
            }
            Ok(Said::Result(
                id,
                Done {
                    output,
                    spent: spent(figures),
                },
            ))
        }
        68 => {
            let figures: Figures<'_> = read_borrowed(body)?;
            Ok(Said::Error(id, failure(body)?, spent(figures)))
        }
        69 => {
            let log: LogBody<'_> = read_borrowed(body)?;
            Ok(Said::Log(id, log.lines.into_iter().map(line).collect()))
        }
        70 => {
            let chunk: ChunkBody<'_> = read_borrowed(body)?;
            if let Some(failure) = too_deep(chunk.data) {
                return Ok(Said::Error(id, failure, Spent::default()));
            }
            Ok(Said::Chunk(id, body.slice_ref(chunk.data.get().as_bytes())))
        }
        71 => {
            let progress: ProgressBody = read(body)?;
            Ok(Said::Progress(id, progress.percent.clamp(0.0, 100.0)))
        }
        72 => Ok(Said::Pong(id, read(body)?)),
        other => Err(format!("a frame of the unknown kind {other}")),
    }
}

/// Parsers of our own, of databases and of callers descend into what is nested: beyond a bound they give up, or fall.
fn too_deep(output: &RawValue) -> Option<Failure> {
    let (mut level, mut deepest) = (0usize, 0);
    let mut bytes = output.get().bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                level += 1;
                deepest = deepest.max(level);
            }
            b']' | b'}' => level = level.saturating_sub(1),
            b'"' => skip_text(&mut bytes),
            _ => {}
        }
    }
    (deepest > MOST_LEVELS).then(|| {
        let message =
            format!("the output is nested {deepest} levels deep; allowed are {MOST_LEVELS}");
        Failure::new(
            FailureCode::OutputNotSerializable,
            FailurePhase::Serialize,
            message,
        )
    })
}

fn skip_text(bytes: &mut std::str::Bytes<'_>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
}

fn spent(figures: Figures<'_>) -> Spent {
    let sane = |figure: Option<f64>| figure.filter(|figure| (0.0..=MOST_FIGURE).contains(figure));
    let named = figures.metrics.into_iter().filter(|(name, value)| {
        value.abs() <= MOST_METRIC && domain::agent::metric_name(name).is_ok()
    });
    Spent {
        handler_ms: sane(figures.handler_ms),
        usage: Usage {
            cpu_ms: sane(figures.cpu_ms),
            memory_peak_mb: sane(figures.memory_peak_mb),
            tokens: figures
                .tokens
                .filter(|n| (0..=MOST_FIGURE as i64).contains(n)),
            metrics: named.take(MOST_METRICS).collect(),
            logs_dropped: figures.log_dropped.min(MOST_FIGURE as u64),
        },
    }
}

fn failure(body: &Bytes) -> Result<Failure, String> {
    let error: ErrorBody = read(body)?;
    // A worker may not claim what only the executor can know.
    let code = match error.code.parse() {
        Ok(
            code @ (FailureCode::HandlerRaised
            | FailureCode::OutOfMemory
            | FailureCode::OutputNotSerializable
            | FailureCode::OutputTooLarge
            | FailureCode::InitFailed
            | FailureCode::Cancelled),
        ) => code,
        _ => FailureCode::HandlerRaised,
    };
    let phase = error.phase.parse().unwrap_or(FailurePhase::Handler);
    let mut failure = Failure::new(code, phase, bounded(error.message, MOST_MESSAGE));
    failure.exception_type = error.exception_type.map(|text| bounded(text, 256));
    failure.traceback = error.traceback.map(|text| bounded(text, MOST_TRACEBACK));
    Ok(failure)
}

fn line((at, level, message, context): RawLine<'_>) -> Line {
    let level = level.parse().unwrap_or(Level::Info);
    let context = context
        .filter(|raw| raw.get().len() <= MOST_CONTEXT)
        .and_then(|raw| serde_json::from_str(raw.get()).ok())
        .filter(serde_json::Value::is_object);
    Line {
        timestamp: Timestamp(at as i64),
        level,
        message: visible(&bounded(message, MOST_LINE)),
        context,
    }
}

/// Escapes what a terminal would act on: an agent's words must not move a reader's cursor.
fn visible(message: &str) -> String {
    let hidden = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !message.contains(hidden) {
        return message.to_owned();
    }
    message
        .chars()
        .map(|c| {
            if hidden(c) {
                c.escape_unicode().to_string()
            } else {
                c.to_string()
            }
        })
        .collect()
}

fn bounded(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = (0..=most)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    read_borrowed(body)
}

/// The parser's words hold what it did not expect, however long that is.
fn read_borrowed<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| {
        let words = visible(&bounded(error.to_string(), 256));
        format!("a frame with a bad body: {words}")
    })
}

#[cfg(test)]
mod tests;
