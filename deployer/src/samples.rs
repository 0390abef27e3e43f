//! Asks monitor what became of executions: the next monitor where one is silent, and an error where all are.

use crate::{Config, Deps};
use domain::{Error, Kind, Result, Timestamp};
use proto::{
    status::from_status,
    v1::{SamplesReply, SamplesRequest, monitor_client::MonitorClient},
};
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(2);
/// What ended so lately may not be written yet.
const LAG: Duration = Duration::from_millis(500);

/// Up to where the rows can be counted on.
pub(crate) fn until(now: Timestamp) -> Timestamp {
    Timestamp(now.0 - LAG.as_millis() as i64)
}

pub(crate) async fn samples(
    deps: &Deps,
    config: &Config,
    request: SamplesRequest,
) -> Result<SamplesReply> {
    let mut silent = Error::unavailable("no monitor is known; name one in deployer.monitors");
    for address in &config.monitors {
        let mut client = MonitorClient::new(deps.peers.channel(address)?);
        silent = match tokio::time::timeout(WITHIN, client.samples(request.clone())).await {
            Ok(Ok(reply)) => return Ok(reply.into_inner()),
            Ok(Err(status)) => from_status(&status),
            Err(_) => Error::new(Kind::Timeout, "it is silent"),
        };
        silent.message = format!("monitor does not answer: {}", silent.message);
    }
    Err(silent)
}
