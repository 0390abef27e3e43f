//! POST /agents/{id}/rollback: back to the version before, or to one that is named.

use super::{
    deploy::{self, DeployResponse, Plan, Secrets, is_deleting},
    living,
};
use crate::{
    api::deployments::order,
    app::App,
    body,
    door::Who,
    error::Answer,
    fields::{Faults, Fields},
    json,
    params::Path,
    respond,
};
use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};
use domain::{
    Error,
    deployment::{Kind, Status},
    id::VersionId,
    rollout::Order,
};
use store::{agents::Agent, deployments::Deployment};
use utoipa::ToSchema;

const MOST_BYTES: usize = 64 * 1024;
/// How far back a version is looked for.
const MOST_DEPLOYMENTS: u32 = 200;

#[derive(ToSchema)]
#[expect(dead_code, reason = "the schema of what is read below")]
pub struct RollbackRequest {
    /// Left out: the one that answered before.
    #[schema(
        required = false,
        pattern = r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)([-+].*)?$"
    )]
    version: String,
}

/// Roll an agent back
///
/// While the version before is warm (a rollout is on its way, or is watched), that rollout is aborted: one write moves all callers. Else the
/// version is deployed again. Gives the deployment to follow.
#[utoipa::path(post, path = "/api/v1/agents/{agent_id}/rollback", operation_id = "rollback_agent", tag = "agents",
    params(("agent_id" = String, Path)), request_body = RollbackRequest,
    responses((status = 202, body = DeployResponse, description = "Ordered; follow it by its deployment_id"),
        (status = 409, description = "There is nothing to go back to; the message says why (`CONFLICT`)")))]
pub async fn rollback(
    State(app): State<App>,
    who: Who,
    Path(agent_id): Path<String>,
    request: Request,
) -> Answer<Response> {
    let agent = living(&app, &who, &agent_id).await?;
    let named = named(&body::read(request, MOST_BYTES).await?)?;
    let store = &app.store;
    let id = &agent.agent_id;
    let named = match named {
        None => None,
        Some(version) => {
            let found = store.version_named(&agent.incarnation, &version).await?;
            let missing = || Error::not_found(format!("version {version} of agent {id}"));
            Some(found.ok_or_else(missing)?.id)
        }
    };
    let (all, _) = store
        .deployments(&agent.incarnation, 0, MOST_DEPLOYMENTS)
        .await?;
    if let Some(deleting) = all.first().filter(|newest| is_deleting(newest)) {
        let message = format!("agent {id} is being deleted by deployment {}", deleting.id);
        return Err(Error::conflict(message).into());
    }
    let warm = all.iter().find(|one| is_warm(one, named.as_ref()));
    let deployment = match warm {
        Some(warm) => {
            order::give(&app, &who, warm, Order::Abort).await?;
            warm.clone()
        }
        None => again(&app, &who, &agent, named, &all).await?,
    };
    let body = deploy::answer(&app, &deployment, Secrets::default()).await;
    Ok(respond::json(StatusCode::ACCEPTED, &body))
}

/// Absent and empty are the same as an empty object.
fn named(bytes: &[u8]) -> Answer<Option<semver::Version>> {
    if bytes.trim_ascii().is_empty() {
        return Ok(None);
    }
    let (sent, _) = json::read(bytes, &[])?;
    let faults = Faults::default();
    let version = {
        let fields = Fields::of(&sent, &faults);
        let text = fields.text("version");
        let read = text.map(domain::agent::version).transpose();
        read.unwrap_or_else(|what| {
            fields.fault("version", what);
            None
        })
    };
    faults.check()?;
    Ok(version)
}

/// It is on its way, and whoever answered before it still can.
fn is_warm(one: &Deployment, named: Option<&VersionId>) -> bool {
    let baseline = one.state.rollout.baseline.as_ref();
    one.state.status == Status::Deploying
        && one.state.can_go_back()
        && named.is_none_or(|named| baseline.is_some_and(|route| route.version_id == *named))
}

async fn again(
    app: &App,
    who: &Who,
    agent: &Agent,
    named: Option<VersionId>,
    all: &[Deployment],
) -> Answer<Deployment> {
    let id = &agent.agent_id;
    let traffic = app.store.traffic(&agent.incarnation).await?;
    let answers = |version: &VersionId| traffic.weight_of(version) == domain::rollout::ALL;
    let before = || {
        let good = all
            .iter()
            .filter(|one| one.kind == Kind::Deploy && one.state.status == Status::Deployed);
        let mut versions = good.filter_map(|one| one.version_id.clone());
        versions.find(|version| !answers(version))
    };
    let target = named.or_else(before).ok_or_else(|| {
        Error::conflict(format!(
            "no other version of agent {id} was deployed before; name one"
        ))
    })?;
    if answers(&target) {
        return Err(Error::conflict(format!("that version of agent {id} answers already")).into());
    }
    let (incarnation, now) = (agent.incarnation.clone(), app.store.now());
    let plan = Plan::again(who, id, incarnation, target, now);
    let deployment = deploy::begin(app, &plan.accepted).await?;
    Ok(deployment
        .ok_or_else(|| Error::conflict("others deploy this agent right now; try again"))?)
}
