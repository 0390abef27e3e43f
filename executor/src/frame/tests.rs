use super::*;
use crate::mutate::{cases, changed};
use proptest::prelude::*;

fn frame(kind: u8, id: u64, body: &str) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u32(u32::try_from(9 + body.len()).expect("short"));
    out.put_u8(kind);
    out.put_u64(id);
    out.put_slice(body.as_bytes());
    out
}

#[test]
fn whole_frames_come_out_of_pieces() {
    let whole = frame(
        67,
        5,
        r#"{"cpu_ms":1.5,"handler_ms":2,"tokens":3,"metrics":{"a":1},"log_dropped":0,"output":{"x":[1, 2]}}"#,
    );
    for cut in 0..whole.len() {
        let mut part = BytesMut::from(&whole[..cut]);
        assert!(
            next(&mut part, 1000)
                .expect("a prefix is no fault")
                .is_none()
        );
    }
    let mut two = whole.clone();
    two.extend_from_slice(&whole);
    for _ in 0..2 {
        let Ok(Some(Said::Result(5, done))) = next(&mut two, 1000) else {
            panic!("a result")
        };
        assert_eq!(done.output.get(), r#"{"x":[1, 2]}"#);
        assert_eq!(
            (done.spent.usage.cpu_ms, done.spent.usage.tokens),
            (Some(1.5), Some(3))
        );
    }
    assert!(two.is_empty());
}

#[test]
fn nothing_is_an_output_too() {
    let mut result = frame(67, 1, r#"{"output":null}"#);
    let Ok(Some(Said::Result(1, done))) = next(&mut result, 1000) else {
        panic!("a result")
    };
    assert_eq!(done.output.get(), "null");
}

#[test]
fn forged_frames_are_faults() {
    for mut bad in [
        BytesMut::from(&[0xff, 0xff, 0xff, 0xff, 65][..]),
        BytesMut::from(&[0, 0, 0, 0][..]),
        frame(1, 0, "{}"),
        frame(67, 1, "not json"),
        frame(70, 1, r#"{"data":}"#),
        frame(69, 1, r#"{"lines":[[1,2]]}"#),
    ] {
        assert!(next(&mut bad, 1000).is_err(), "{bad:?}");
    }
}

#[test]
fn a_worker_cannot_claim_a_timeout_or_move_a_cursor() {
    let mut forged = frame(
        68,
        1,
        r#"{"code":"HANDLER_TIMEOUT","phase":"x","message":"m"}"#,
    );
    let Ok(Some(Said::Error(1, failure, _))) = next(&mut forged, 1000) else {
        panic!("an error")
    };
    assert_eq!(failure.code, FailureCode::HandlerRaised);
    assert_eq!(visible("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\nc");
}

/// What the executor makes of everything that one worker says, until it breaks off.
fn heard(mut bytes: BytesMut, most: usize) -> (Vec<Said>, Option<String>) {
    let mut all = Vec::new();
    loop {
        match next(&mut bytes, most) {
            Ok(Some(said)) => all.push(said),
            Ok(None) => return (all, None),
            Err(fault) => return (all, Some(fault)),
        }
    }
}

#[test]
fn figures_stay_where_sums_are_finite() {
    let mut forged = frame(
        67,
        1,
        r#"{"cpu_ms":1e308,"handler_ms":-1,"memory_peak_mb":1e16,"tokens":9223372036854775807,"metrics":{"a":1e308,"b":-1e99},"log_dropped":18446744073709551615}"#,
    );
    let Ok(Some(Said::Result(1, done))) = next(&mut forged, 1000) else {
        panic!("a result")
    };
    let usage = &done.spent.usage;
    assert_eq!(
        (
            done.spent.handler_ms,
            usage.cpu_ms,
            usage.memory_peak_mb,
            usage.tokens
        ),
        (None, None, None, None)
    );
    assert_eq!(usage.metrics.keys().collect::<Vec<_>>(), ["b"]);
    assert_eq!(usage.logs_dropped, 1_000_000_000_000_000);
}

#[test]
fn lines_are_bounded_one_by_one() {
    let long = "x".repeat(MOST_LINE + 1);
    let body = format!(
        r#"{{"lines":[[1e300,"LOUD","{long}",{{"a":"{long}"}}],[0,"INFO","m",{{"a":1}}],[0,"INFO","m",[1]]]}}"#
    );
    let Ok(Some(Said::Log(1, lines))) = next(&mut frame(69, 1, &body), 1 << 20) else {
        panic!("lines")
    };
    assert!(lines[0].message.len() <= MOST_LINE + '…'.len_utf8());
    assert_eq!(
        (&lines[0].context, &lines[2].context, lines[0].timestamp),
        (&None, &None, Timestamp(i64::MAX))
    );
    assert_eq!(lines[1].context, Some(serde_json::json!({"a": 1})));
}

#[test]
fn what_is_nested_too_deep_is_an_error_of_the_call() {
    let nested = |levels: usize| "[".repeat(levels) + r#""\"[[[{""# + &"]".repeat(levels);
    let result = |levels| frame(67, 3, &format!(r#"{{"output":{}}}"#, nested(levels)));
    assert!(matches!(
        next(&mut result(MOST_LEVELS), 1 << 20),
        Ok(Some(Said::Result(3, _)))
    ));
    for mut deep in [
        result(MOST_LEVELS + 1),
        result(100_000),
        frame(70, 3, &format!(r#"{{"data":{}}}"#, nested(100_000))),
    ] {
        let Ok(Some(Said::Error(3, failure, _))) = next(&mut deep, 1 << 20) else {
            panic!("an error")
        };
        assert_eq!(failure.code, FailureCode::OutputNotSerializable);
        assert!(failure.message.contains("allowed are 125"), "{failure:?}");
    }
}

/// JSON as a hostile worker may write it: names that we know with values that do not belong there.
fn body() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| format!("{n:e}")),
        "[a-zA-Z\\\\u{1b}\"]{0,8}".prop_map(|text| serde_json::to_string(&text).expect("text")),
        (1usize..200).prop_map(|deep| "[".repeat(deep) + &"]".repeat(deep)),
        Just(r#"{"a":1}"#.to_owned()),
        Just(r#"[[0,"INFO","m",null]]"#.to_owned()),
        Just(r#"[[1e300,"x","\u0000",{"a":[]}]]"#.to_owned()),
        Just("\u{0}".to_owned()),
    ];
    let name = prop_oneof![
        Just("entrypoint_kind"),
        Just("import_ms"),
        Just("init_ms"),
        Just("cpu_ms"),
        Just("memory_peak_mb"),
        Just("handler_ms"),
        Just("tokens"),
        Just("metrics"),
        Just("log_dropped"),
        Just("output"),
        Just("code"),
        Just("phase"),
        Just("message"),
        Just("exception_type"),
        Just("traceback"),
        Just("lines"),
        Just("data"),
        Just("percent"),
        Just("busy"),
        Just("status"),
    ];
    proptest::collection::vec((name, value), 0..8).prop_map(|members| {
        let members: Vec<String> = members
            .iter()
            .map(|(name, value)| format!("\"{name}\":{value}"))
            .collect();
        format!("{{{}}}", members.join(","))
    })
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn no_bytes_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        heard(BytesMut::from(&bytes[..]), 4096);
    }

    /// However the frames come apart, the same is heard; and no figure that is passed on can make a sum of many infinite.
    #[test]
    fn no_body_breaks_the_reader(frames in proptest::collection::vec((60u8..75, any::<u64>(), body()), 1..6), cut in any::<prop::sample::Index>()) {
        let mut whole = BytesMut::new();
        for (kind, id, body) in &frames {
            whole.put_slice(&frame(*kind, *id, body));
        }
        let (all, fault) = heard(whole.clone(), 4096);
        for said in &all {
            if let Said::Result(_, Done { spent, .. }) | Said::Error(_, _, spent) = said {
                let figures = [spent.handler_ms, spent.usage.cpu_ms, spent.usage.memory_peak_mb];
                prop_assert!(figures.into_iter().flatten().all(|n| (0.0..=MOST_FIGURE).contains(&n)));
                prop_assert!(spent.usage.metrics.values().all(|n| n.abs() <= MOST_METRIC));
            }
        }
        let cut = cut.index(whole.len());
        let mut pieces = BytesMut::from(&whole[..cut]);
        let mut count = 0;
        let mut broken = false;
        for more in [&whole[cut..], &[]] {
            loop {
                match next(&mut pieces, 4096) {
                    Ok(Some(_)) => count += 1,
                    Ok(None) => break,
                    Err(_) => { broken = true; break }
                }
            }
            if broken { break }
            pieces.put_slice(more);
        }
        prop_assert_eq!((count, broken), (all.len(), fault.is_some()));
    }

    /// What came from a worker of ours and was then touched: what is passed on is bounded, shows nothing to a terminal and claims nothing
    /// that only the executor knows; a fault is said in a few words.
    #[test]
    fn nearly_good_frames_are_heard_within_bounds(bytes in changed(good()), most in prop::sample::select(vec![9usize, 200, 1 << 16])) {
        let mut left = BytesMut::from(&bytes[..]);
        let mut passed = 0;
        loop {
            match next(&mut left, most) {
                Ok(Some(said)) => passed += checked(&said)?,
                Ok(None) => {
                    prop_assert!(left.capacity() <= bytes.len() + most + 64, "{} bytes are held", left.capacity());
                    break;
                }
                Err(fault) => {
                    prop_assert!(fault.len() < 2500 && !fault.contains(char::is_control), "{fault}");
                    break;
                }
            }
        }
        // An escape may take eight times the byte that it stands for.
        prop_assert!(passed <= bytes.len() * 8, "{passed} of {}", bytes.len());
    }
}

/// Frames as a worker of ours sends them.
fn good() -> impl Strategy<Value = Vec<u8>> {
    let long = "x".repeat(3000);
    let bodies = vec![
        (65, r#"{"entrypoint_kind":"function","import_ms":1.5,"init_ms":2}"#.to_owned()),
        (65, format!(r#"{{"entrypoint_kind":"asgi","import_ms":"{long}","init_ms":2}}"#)),
        (66, r#"{"code":"INIT_FAILED","phase":"init","message":"no module","traceback":"File\n"}"#.to_owned()),
        (67, r#"{"cpu_ms":1.5,"handler_ms":2,"tokens":3,"metrics":{"a":1},"log_dropped":0,"output":{"x":[1, "\u001b\"]"]}}"#.to_owned()),
        (68, format!(r#"{{"code":"HANDLER_RAISED","phase":"handler","message":"{long}","exception_type":"E{long}","cpu_ms":7}}"#)),
        (69, r#"{"lines":[[1700000000000.5,"INFO","hello\u001b[2J\n",{"a":1}],[0,"DEBUG","",null]]}"#.to_owned()),
        (70, r#"{"data":{"token":"é\u0000"}}"#.to_owned()),
        (71, r#"{"percent":37.5}"#.to_owned()),
        (72, r#"{"busy":true,"status":200}"#.to_owned()),
    ];
    let one = (prop::sample::select(bodies), any::<u64>());
    proptest::collection::vec(one, 1..4).prop_map(|frames| {
        frames
            .iter()
            .flat_map(|((kind, body), id)| frame(*kind, *id, body))
            .collect()
    })
}

/// The bytes that are passed on of it.
fn checked(said: &Said) -> Result<usize, TestCaseError> {
    let failure = |failure: &Failure| {
        let known = [
            FailureCode::HandlerRaised,
            FailureCode::OutOfMemory,
            FailureCode::OutputNotSerializable,
            FailureCode::OutputTooLarge,
            FailureCode::InitFailed,
            FailureCode::Cancelled,
        ];
        prop_assert!(known.contains(&failure.code), "{failure:?}");
        let more = failure.exception_type.as_ref().map_or(0, String::len)
            + failure.traceback.as_ref().map_or(0, String::len);
        prop_assert!(failure.message.len() <= MOST_MESSAGE + 3 && more <= 256 + MOST_TRACEBACK + 6);
        Ok(failure.message.len().saturating_sub(100) + more)
    };
    Ok(match said {
        Said::Ready(ready) => ready.entrypoint_kind.len(),
        Said::Failed(one) | Said::Error(_, one, _) => failure(one)?,
        Said::Result(_, done) => {
            prop_assert!(
                serde_json::from_str::<serde_json::Value>(done.output.get()).is_ok(),
                "{}",
                done.output
            );
            done.output.get().len()
        }
        Said::Log(_, lines) => {
            for line in lines {
                prop_assert!(
                    !line
                        .message
                        .contains(|c: char| c.is_control() && c != '\n' && c != '\t'),
                    "{line:?}"
                );
                prop_assert!(
                    line.timestamp.to_string().len() < 40
                        && line
                            .context
                            .as_ref()
                            .is_none_or(serde_json::Value::is_object)
                );
            }
            lines.iter().map(|line| line.message.len()).sum()
        }
        Said::Chunk(_, data) => data.len(),
        Said::Progress(_, percent) => {
            prop_assert!((0.0..=100.0).contains(percent));
            0
        }
        Said::Pong(_, _) => 0,
    })
}
