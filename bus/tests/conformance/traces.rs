//! Trace context in headers: who takes a message knows the span that sent it, whatever lies between.

use bus::{Error, Priority, Subject};
use domain::{
    Timestamp,
    execution::{Caller, Mode, Options},
    id::NodeId,
    trace::{Context, Traceparent},
};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use proto::convert::{Execute, Reply};
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::layer::SubscriberExt;

use crate::world::{SOON, World, options, soon};

const CALLER: Traceparent = Traceparent {
    trace: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
    span: 0xb7ad_6b71_6920_3331,
    sampled: true,
};

/// Spans are made on this thread while the answer lives.
fn observed() -> DefaultGuard {
    let tracer = SdkTracerProvider::builder().build().tracer("test");
    let spans = tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_context_activation(false);
    tracing::subscriber::set_default(tracing_subscriber::registry().with(spans))
}

/// In an account that an execution can have.
fn execute() -> Execute {
    Execute {
        account: uuid::Uuid::new_v4()
            .simple()
            .to_string()
            .parse()
            .expect("an account"),
        agent_id: "echo".parse().expect("an id"),
        version_id: domain::id::VersionId::from_uuid(uuid::Uuid::new_v4()),
        execution_id: "e1".parse().expect("an id"),
        options: Options {
            mode: Mode::Async,
            priority: domain::execution::Priority::Normal,
            timeout_s: 7,
            retry: domain::retry::Policy::default(),
            retry_explicit: false,
            trace: true,
            callback_url: None,
        },
        caller: Caller {
            traceparent: Some(CALLER),
            tracestate: Some("a=1".to_owned()),
            ..Caller::default()
        },
        input: None,
        accepted_at: Timestamp(5),
        losses: 0,
        has_row: true,
        sent: None,
    }
}

fn work(execute: &Execute) -> Subject {
    Subject::work(
        execute.account.as_str(),
        execute.version_id.as_str(),
        Priority::Normal,
    )
}

/// In the caller's trace, after the caller's span, with all of its state.
#[track_caller]
fn follows(sent: Option<Context>) {
    let sent = sent.expect("the sender's span");
    assert_eq!(sent.parent.trace, CALLER.trace);
    assert_ne!(
        sent.parent.span, CALLER.span,
        "the sender's own span comes between"
    );
    assert!(sent.parent.sampled);
    assert_eq!(sent.state.as_deref(), Some("a=1"));
}

pub async fn a_request_carries_the_span_that_sends_it(world: World) -> Result<(), Error> {
    let _observed = observed();
    let execute = execute();
    let node = NodeId::from_uuid(uuid::Uuid::new_v4());
    let (account, version) = (execute.account.as_str(), execute.version_id.as_str());
    let subject = Subject::run(account, version, node.as_str());
    let mut requests = world.bus.serve(&subject, Some("executors")).await?;
    let other = world.other().await?;
    let (reply, headers) = tokio::join!(other.execute(&execute, &node, SOON), async {
        let request = soon("the request", requests.next()).await.expect("served");
        let headers = request.message.headers.clone();
        let span = world.bus.taking("run", &headers, None);
        let reply = Reply::Refused(domain::Error::conflict("for the test"));
        let reply = bus::Message::new(reply.encode().expect("encodes"));
        request.respond(reply).await.expect("answered");
        (headers, proto::trace::context(&span))
    });
    assert!(matches!(reply, Ok(Reply::Refused(_))), "{reply:?}");
    follows(headers.0.trace());
    // The taker's span is one more.
    follows(headers.1.clone());
    assert_ne!(headers.0.trace(), headers.1);
    Ok(())
}

pub async fn stored_work_carries_it_as_well(world: World) -> Result<(), Error> {
    let observed = observed();
    let execute = execute();
    let sent = world.bus.enqueue_execution(&execute, Timestamp(5)).await;
    sent.expect("stored");
    drop(observed);
    let subject = work(&execute);
    let mut taker = world.other().await?.work(&subject, options(1)).await?;
    let first = soon("the work", taker.next()).await.expect("stored");
    follows(first.message.headers.trace());
    let before = first.message.headers.clone();
    first.retry(std::time::Duration::ZERO).await?;
    let again = soon("the same work", taker.next()).await.expect("put back");
    assert_eq!(again.message.headers.trace(), before.trace());
    again.ack().await
}

pub async fn where_no_span_is_made_no_header_is_sent(world: World) -> Result<(), Error> {
    let execute = execute();
    let sent = world.bus.enqueue_execution(&execute, Timestamp(6)).await;
    sent.expect("stored");
    let subject = work(&execute);
    let mut taker = world.bus.work(&subject, options(1)).await?;
    let taken = soon("the work", taker.next()).await.expect("stored");
    assert!(taken.message.headers.is_empty());
    // What its caller sent is in the message itself.
    let payload = taken.message.payload.clone();
    let caller = Execute::decode(payload).expect("decodes").caller;
    assert_eq!(caller.traceparent, Some(CALLER));
    taken.ack().await
}
