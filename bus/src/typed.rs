//! The same three ways to send, in `proto`'s types: what services use. Errors leave as [`domain::Error`].

use crate::{Bus, Error, Message, Pattern, Priority, Subject};
use domain::{
    Kind, Result, Timestamp,
    id::{AccountId, AgentId, DeploymentId, ExecutionId, NodeId, VersionId},
};
use proto::{
    convert::{Execute, Reply, encode, read},
    trace::follow,
    v1,
};
use std::time::Duration;
use tracing::{Instrument, Span};

/// Of no account: deployments of all of them share one lane, each names its own; and beats are nobody's.
pub(crate) const ALL: &str = "all";

/// Kinds of events, as their subjects name them.
pub const EVENT: &str = "changed";
const BEAT: &str = "alive";

impl From<Error> for domain::Error {
    fn from(error: Error) -> Self {
        let (kind, message) = match &error {
            Error::NoResponders => (
                Kind::Unavailable,
                "no executor hosts this version right now; try again",
            ),
            Error::Timeout => (Kind::Timeout, "no answer within the deadline"),
            Error::Busy | Error::Full => (
                Kind::Exhausted,
                "every place in the queue is taken; try again",
            ),
            Error::Unanswered => (
                Kind::Unavailable,
                "the executor gave the request up; try again",
            ),
            Error::TooLarge { .. } => (Kind::TooLarge, "the message is too large for the bus"),
            Error::Closed => (Kind::Unavailable, "the service is shutting down; try again"),
            Error::Setup(_) | Error::Unavailable(_) => {
                (Kind::Unavailable, "the bus is not available; try again")
            }
        };
        Self::new(kind, message).because(error)
    }
}

/// Nobody took this request: nothing of it was done, and nothing will be.
pub fn untaken(error: &domain::Error) -> bool {
    let source = std::error::Error::source(error);
    matches!(
        source.and_then(|source| source.downcast_ref::<Error>()),
        Some(Error::NoResponders | Error::Busy | Error::Full | Error::TooLarge { .. })
    )
}

pub fn priority(priority: domain::execution::Priority) -> Priority {
    match priority {
        domain::execution::Priority::High => Priority::High,
        domain::execution::Priority::Normal => Priority::Normal,
        domain::execution::Priority::Low => Priority::Low,
    }
}

impl Bus {
    /// Runs a sync or streamed execution on that node: its answer.
    pub async fn execute(
        &self,
        execute: &Execute,
        node: &NodeId,
        deadline: Duration,
    ) -> Result<Reply> {
        let subject = Subject::run(
            execute.account.as_str(),
            execute.version_id.as_str(),
            node.as_str(),
        );
        let span = self.sending_execution("request", "run", execute);
        let message = Message::new(execute.encode()?).sent_by(&span);
        let answer = self
            .request(&subject, message, deadline)
            .instrument(span)
            .await?;
        Reply::decode(answer.payload)
    }

    /// Hands an async execution over, whose row is committed already. Lost, it is found by a sweep.
    /// The same execution due at the same time is one message, however often it is handed over.
    pub async fn enqueue_execution(&self, execute: &Execute, due_at: Timestamp) -> Result<()> {
        let lane = priority(execute.options.priority);
        let subject = Subject::work(execute.account.as_str(), execute.version_id.as_str(), lane);
        let span = self.sending_execution("enqueue", "work", execute);
        let message = Message::new(execute.encode()?).sent_by(&span);
        Ok(self
            .enqueue(&subject, &enqueue_id(execute, due_at), message)
            .instrument(span)
            .await?)
    }

    /// What its caller wants no trace of has no spans. A sweep that sends it anew follows what the row has kept.
    fn sending_execution(
        &self,
        operation: &'static str,
        destination: &'static str,
        execute: &Execute,
    ) -> Span {
        if !execute.options.trace {
            return Span::none();
        }
        let span = self.sending(operation, destination);
        if !span.is_disabled() {
            follow(&span, execute.caller.trace().as_ref());
        }
        span
    }

    /// Asks whoever holds the execution to stop it. Silence until the deadline: nobody holds it.
    pub async fn cancel_execution(
        &self,
        account: &AccountId,
        agent_id: &AgentId,
        version_id: &VersionId,
        execution_id: &ExecutionId,
        deadline: Duration,
    ) -> Result<Reply> {
        let cancel = v1::Cancel {
            account: account.to_string(),
            agent_id: agent_id.to_string(),
            execution_id: execution_id.to_string(),
        };
        let subject = Subject::cancel(account.as_str(), version_id.as_str());
        let span = self.sending("request", "cancel");
        let message = Message::new(encode(&cancel)).sent_by(&span);
        let answer = self
            .request(&subject, message, deadline)
            .instrument(span)
            .await?;
        Reply::decode(answer.payload)
    }

    /// Nudges a deployer to a deployment whose row is committed already. Lost, it is found by a sweep.
    pub async fn deploy(&self, account: &AccountId, deployment_id: &DeploymentId) -> Result<()> {
        let deploy = v1::Deploy {
            account: account.to_string(),
            deployment_id: deployment_id.to_string(),
        };
        let span = self.sending("enqueue", "deploy");
        let message = Message::new(encode(&deploy)).sent_by(&span);
        Ok(self
            .enqueue(&deployments(), deployment_id.as_str(), message)
            .instrument(span)
            .await?)
    }

    /// Says to all gateways that the sender lives.
    pub async fn beat(&self, alive: v1::Alive) -> Result<()> {
        let event = v1::Event {
            event: Some(v1::event::Event::Alive(alive)),
        };
        Ok(self
            .publish(&Subject::event(ALL, BEAT), Message::new(encode(&event)))
            .await?)
    }

    /// Tells all who listen now. Nobody may depend on hearing it.
    pub async fn tell(&self, account: &AccountId, event: v1::event::Event) -> Result<()> {
        let event = v1::Event { event: Some(event) };
        Ok(self
            .publish(
                &Subject::event(account.as_str(), EVENT),
                Message::new(encode(&event)),
            )
            .await?)
    }
}

fn enqueue_id(execute: &Execute, due_at: Timestamp) -> String {
    format!(
        "{}/{}/{}/{}",
        execute.account, execute.agent_id, execute.execution_id, due_at.0
    )
}

/// Where deployers take their work from.
pub fn deployments() -> Subject {
    Subject::deploy(ALL)
}

/// Everything that services tell each other.
pub fn events() -> Pattern {
    Pattern::events(None, Some(EVENT))
}

/// Who lives.
pub fn beats() -> Pattern {
    Pattern::events(Some(ALL), Some(BEAT))
}

/// What was told.
pub fn event(message: Message) -> Result<Option<v1::event::Event>> {
    Ok(read::<v1::Event>(message.payload)?.event)
}
