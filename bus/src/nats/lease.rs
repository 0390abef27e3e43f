//! One delivery's way back to the stream: acknowledged, put back, extended or buried.

use std::{sync::Arc, time::Duration};

use async_nats::{
    Client,
    jetstream::{AckKind, Context, message::PublishMessage},
};

use super::{dead::DELIVERIES, wire};
use crate::{
    error::{Error, Result},
    message::Message,
    subject::Subject,
};

pub(crate) struct Lease {
    pub(super) origin: Arc<Origin>,
    /// Where the server waits for the acknowledgement.
    pub(super) reply: async_nats::Subject,
    pub(super) sequence: u64,
}

/// What all deliveries of one worker share.
pub(super) struct Origin {
    pub(super) client: Client,
    pub(super) context: Context,
    pub(super) subject: Subject,
    pub(super) max_deliver: u32,
}

impl Lease {
    pub(crate) async fn ack(&self) -> Result<()> {
        self.answer(AckKind::Ack).await
    }

    pub(crate) async fn retry(
        &self,
        delay: Duration,
        message: Message,
        deliveries: u32,
    ) -> Result<()> {
        if deliveries >= self.origin.max_deliver {
            return self.bury(message, deliveries).await;
        }
        self.answer(AckKind::Nak((!delay.is_zero()).then_some(delay)))
            .await
    }

    pub(crate) async fn in_progress(&self) -> Result<()> {
        self.answer(AckKind::Progress).await
    }

    /// Stored as a dead letter first, then out of the queue.
    pub(crate) async fn bury(&self, mut message: Message, deliveries: u32) -> Result<()> {
        let Origin {
            context, subject, ..
        } = &*self.origin;
        message.headers.set(DELIVERIES, deliveries.to_string());
        let dead = subject.dead();
        store(
            context,
            &dead,
            &format!("{dead}/{}", self.sequence),
            message,
        )
        .await?;
        tracing::warn!(%subject, deliveries, "a message was delivered too often and is a dead letter now");
        self.answer(AckKind::Term).await
    }

    async fn answer(&self, kind: AckKind) -> Result<()> {
        self.origin
            .client
            .publish(self.reply.clone(), kind.into())
            .await
            .map_err(Error::unavailable)
    }
}

/// Stores a message; the server has acknowledged it when this returns.
pub(super) async fn store(
    context: &Context,
    subject: &Subject,
    id: &str,
    message: Message,
) -> Result<()> {
    let mut publish = PublishMessage::build();
    if let Some(headers) = wire::headers(&message.headers)? {
        publish = publish.headers(headers);
    }
    let publish = publish.message_id(id).payload(message.payload);
    let stored = context
        .send_publish(subject.to_string(), publish)
        .await
        .map_err(|error| wire::store_error(&error))?;
    stored.await.map_err(|error| wire::store_error(&error))?;
    Ok(())
}
