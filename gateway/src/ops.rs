//! For what watches the processes that serve no REST: `/healthz`, `/readyz` and `/metrics` at an address of their own, without
//! a key. It is for the inside of a cluster; nothing of it names a tenant.

use crate::{Readiness, listen, respond};
use axum::{Router, body::Body, http::StatusCode, response::Response, routing::get};
use domain::{Error, Result};
use serde_json::json;
use std::{net::SocketAddr, sync::Arc};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// An address that is bound, and answers once it is served.
pub struct Ops {
    listener: TcpListener,
    address: SocketAddr,
}

/// Fails with what to do where the port cannot be had. Port 0 takes a free one.
pub fn bind(address: SocketAddr) -> Result<Ops> {
    let listener = listen::listen(address)?;
    let address = listener
        .local_addr()
        .map_err(|error| Error::internal("the port has no address").because(error))?;
    Ok(Ops { listener, address })
}

impl Ops {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`; `figures` gives Prometheus' text.
    pub async fn serve(
        self,
        readiness: Readiness,
        figures: Arc<dyn Fn() -> String + Send + Sync>,
        stop: CancellationToken,
    ) -> Result<()> {
        let ready = move || {
            let readiness = readiness.clone();
            async move { ready(&readiness) }
        };
        let metrics = move || {
            let figures = Arc::clone(&figures);
            async move { respond::with_type(StatusCode::OK, METRICS, figures().into()) }
        };
        let router = Router::new()
            .route(
                "/healthz",
                get(async || respond::ok(&json!({"status": "ok"}))),
            )
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics));
        axum::serve(self.listener, router)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await
            .map_err(|error| Error::internal("the server broke off").because(error))
    }
}

fn ready(readiness: &Readiness) -> Response<Body> {
    if readiness.is_ready() {
        respond::ok(&json!({"status": "ready"}))
    } else {
        respond::json(
            StatusCode::SERVICE_UNAVAILABLE,
            &json!({"status": "starting or stopping"}),
        )
    }
}
