//! Messages of the bus as somebody might send them who is no service of ours: whatever comes is read or refused, and what was read is
//! what would be sent on.

#[path = "../../tests/mutate.rs"]
mod mutate;

use bytes::Bytes;
use domain::{
    Error, Kind, Timestamp,
    execution::{
        Caller, Failure, FailureCode, FailurePhase, Mode, Options, Outcome, Priority, Status, Usage,
    },
    id::{AccountId, VersionId},
    log::{Level, Line},
    verdict::{Histogram, Sample},
    waterfall::{Sent, Waterfall},
};
use mutate::{cases, changed};
use proptest::prelude::*;
use prost::Message;
use proto::{
    convert::{self, Execute, Reply},
    v1,
};
use serde_json::value::RawValue;
use std::time::Duration;

fn json() -> impl Strategy<Value = Box<RawValue>> {
    let text = prop_oneof![
        "[a-z]{0,9}".prop_map(|text| format!("{{\"a\": \"{text}\"}}")),
        any::<f64>().prop_map(|n| serde_json::to_string(&n).unwrap_or_default()),
        (1usize..300).prop_map(|deep| "[".repeat(deep) + &"]".repeat(deep)),
        Just("null".to_owned()),
    ];
    text.prop_map(|text| RawValue::from_string(text).expect("JSON"))
}

fn execute() -> impl Strategy<Value = Execute> {
    let sent = prop::option::of((any::<u32>(), 1i64..i64::MAX));
    (json(), any::<bool>(), any::<i64>(), any::<u32>(), sent).prop_map(
        |(input, flag, at, losses, sent)| Execute {
            account: AccountId::default_account(),
            agent_id: "echo".parse().expect("an id"),
            version_id: VersionId::from_uuid(Default::default()),
            execution_id: "e1".parse().expect("an id"),
            options: Options {
                mode: if flag { Mode::Sync } else { Mode::Async },
                priority: Priority::High,
                timeout_s: 7,
                retry: domain::retry::Policy::default(),
                retry_explicit: flag,
                trace: flag,
                callback_url: flag.then(|| "https://hooks.example.org/".to_owned()),
            },
            caller: Caller {
                user_id: Some("u".into()),
                ..Caller::default()
            },
            input: flag.then_some(input),
            accepted_at: Timestamp(at),
            losses,
            has_row: !flag,
            sent: sent.map(|(us, at_us)| Sent {
                gateway: Duration::from_micros(us.into()),
                at_us,
            }),
        },
    )
}

fn replies() -> impl Strategy<Value = Reply> {
    let outcome = (
        json(),
        any::<bool>(),
        any::<i64>(),
        any::<f64>(),
        "\\PC{0,20}",
        any::<[u64; 8]>(),
    )
        .prop_map(|(output, failed, at, ms, text, waterfall)| {
            let mut failure = Failure::new(
                FailureCode::HandlerRaised,
                FailurePhase::Handler,
                text.clone(),
            );
            failure.traceback = Some(text.clone());
            Outcome {
                status: if failed {
                    Status::Failed
                } else {
                    Status::Completed
                },
                output: (!failed).then_some(output),
                error: failed.then_some(failure),
                attempt: 2,
                accepted_at: Timestamp(at),
                started_at: failed.then_some(Timestamp(at)),
                completed_at: Timestamp(at),
                duration_ms: ms,
                queue_ms: ms,
                waterfall: failed.then(|| Waterfall::from(waterfall)),
                usage: Usage {
                    tokens: Some(9),
                    ..Usage::default()
                },
                instance_id: None,
                logs: vec![Line {
                    timestamp: Timestamp(at),
                    level: Level::Warn,
                    message: text,
                    context: failed.then(|| serde_json::json!({"a": [1]})),
                }],
            }
        });
    prop_oneof![
        3 => outcome.prop_map(|outcome| Reply::Outcome(Box::new(outcome))),
        1 => "[a-z0-9.:]{0,20}".prop_map(|node_address| Reply::Accepted { node_address }),
        1 => prop::sample::select(Status::ALL).prop_map(Reply::Cancelled),
        1 => (prop::sample::select(&Kind::ALL[..]), "\\PC{0,20}").prop_map(|(kind, words)| Reply::Refused(Error::new(kind, words))),
    ]
}

fn events() -> impl Strategy<Value = v1::Event> {
    use v1::event::Event;
    let room = (any::<u32>(), any::<u32>()).prop_map(|(free, waiting)| v1::Room {
        version_id: "ver_1".to_owned(),
        free,
        waiting,
    });
    let alive = (prop::collection::vec(room, 0..4), any::<i64>()).prop_map(|(rooms, at_ms)| {
        Event::Alive(v1::Alive {
            service: "executor".to_owned(),
            id: "node_1".to_owned(),
            at_ms,
            boot_id: "b".to_owned(),
            rooms,
        })
    });
    let event = prop_oneof![
        alive,
        "[a-z]{0,9}".prop_map(|account| Event::KeysChanged(v1::KeysChanged { account })),
        ("[a-z]{0,9}", "[a-z]{0,9}").prop_map(|(account, agent_id)| Event::TrafficChanged(
            v1::TrafficChanged { account, agent_id }
        )),
    ];
    event.prop_map(|event| v1::Event { event: Some(event) })
}

fn count() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), 0u64..100, Just(1 << 48), Just(u64::MAX)]
}

/// Of us, for the log; nothing of what was sent goes back to whoever sent it.
fn told(error: &Error) -> Result<(), TestCaseError> {
    prop_assert_eq!(error.kind, Kind::Internal);
    prop_assert!(
        error.message.len() < 60 && error.message.is_ascii(),
        "{}",
        error.message
    );
    Ok(())
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn executions_to_run(bytes in changed(execute().prop_map(|one| one.encode().expect("encodes").to_vec()))) {
        match Execute::decode(Bytes::from(bytes.clone())) {
            Ok(read) => {
                prop_assert!(read.input.as_ref().is_none_or(|input| input.get().len() <= bytes.len()));
                let again = Execute::decode(read.encode().expect("encodes")).expect("decodes");
                prop_assert_eq!(format!("{:?}", again), format!("{:?}", read));
            }
            Err(error) => told(&error)?,
        }
    }

    #[test]
    fn answers(bytes in changed(replies().prop_map(|one| one.encode().expect("encodes").to_vec()))) {
        match Reply::decode(Bytes::from(bytes)) {
            Ok(Reply::OutcomeByReference(_)) => {}
            Ok(read) => {
                let again = Reply::decode(read.encode().expect("encodes")).expect("decodes");
                prop_assert_eq!(format!("{:?}", again), format!("{:?}", read));
                if let Reply::Outcome(outcome) = read {
                    // Whoever shows it can.
                    prop_assert!(outcome.completed_at.to_string().len() < 40);
                    prop_assert!(outcome.output.is_none_or(|output| serde_json::to_string(&output).is_ok()));
                }
            }
            Err(error) => told(&error)?,
        }
    }

    #[test]
    fn news(bytes in changed(events().prop_map(|one| one.encode_to_vec()))) {
        match convert::read::<v1::Event>(Bytes::from(bytes.clone())) {
            Ok(event) => {
                let rooms = match &event.event {
                    Some(v1::event::Event::Alive(alive)) => alive.rooms.len(),
                    _ => 0,
                };
                prop_assert!(rooms <= bytes.len());
                prop_assert_eq!(convert::read::<v1::Event>(convert::encode(&event)).ok(), Some(event));
            }
            Err(error) => told(&error)?,
        }
    }

    /// More bad or measured ones than ended would be a share above one.
    #[test]
    fn samples(ended in count(), counts in [count(), count()], latency in prop::collection::btree_map(any::<u16>(), count(), 0..4), far in any::<u32>()) {
        let [failed, timeouts] = counts;
        let one = Sample { ended, failed, timeouts, latency: Histogram(latency) };
        let mut sent = convert::sample("ver_1", &one);
        match convert::read_sample(&sent) {
            Ok(read) => prop_assert_eq!(read, one),
            Err(error) => {
                told(&error)?;
                let most = u128::from(failed) + u128::from(timeouts);
                let seen: u128 = one.latency.0.values().map(|count| u128::from(*count)).sum();
                prop_assert!(ended > 1 << 48 || most > u128::from(ended) || seen > u128::from(ended));
            }
        }
        sent.latency.insert(far, 0);
        if far > u32::from(u16::MAX) {
            prop_assert!(convert::read_sample(&sent).is_err());
        }
    }
}
