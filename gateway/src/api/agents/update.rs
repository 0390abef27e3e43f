//! PUT /agents/{id}/versions/{version}: a new version, or a known one again, by the strategy that the caller names.

use super::{
    deploy::{self, DeployResponse, Plan, Secrets, is_deleting},
    living,
    request::{Code, Wanted as Whole},
    update_request::{self, UpdateRequest, Wanted},
};
use crate::{app::App, body, door::Who, error::Answer, params::Path, respond};
use axum::{
    extract::{Request, State},
    response::Response,
};
use domain::{Error, artifact, artifact::Limits, deployment::Status};
use sha2::{Digest, Sha256};
use store::{agents::Agent, deployments::Deployment, versions::Version};

/// Update an agent
///
/// With `agent_code`, the version is new and takes all that is not code from the version that answers now. Without, a version that is known is
/// rolled out again. `rolling` moves callers in steps, `blue_green` all at once when as many instances are ready as served before, `canary`
/// first a share of them, and all of them when it is found no worse. The version before stays warm for a watch time after.
#[utoipa::path(put, path = "/api/v1/agents/{agent_id}/versions/{version}", operation_id = "update_agent", tag = "agents",
    params(("agent_id" = String, Path), ("version" = String, Path)), request_body = UpdateRequest,
    responses((status = 200, body = DeployResponse, description = "Accepted; follow it by its deployment_id"),
        (status = 409, description = "The version is known with other code, or the agent is being deleted (`CONFLICT`)")))]
pub async fn update(
    State(app): State<App>,
    who: Who,
    Path((agent_id, version)): Path<(String, String)>,
    request: Request,
) -> Answer<Response> {
    let agent = living(&app, &who, &agent_id).await?;
    let bytes = body::read(request, app.config.max_deploy_body_bytes).await?;
    let read = tokio::task::spawn_blocking(move || update_request::read(&bytes, Limits::default()));
    let wanted = read
        .await
        .map_err(|error| Error::internal("the request could not be read").because(error))?;
    let version = domain::agent::version(&version).map_err(|what| Error::fault("version", what));
    let (version, wanted) = (version?, wanted?);
    // Whoever loses a race for the version looks again and finds it there.
    for _ in 0..4 {
        let (newest, _) = app.store.deployments(&agent.incarnation, 0, 1).await?;
        let newest = newest.into_iter().next();
        if let Some(deleting) = newest.as_ref().filter(|newest| is_deleting(newest)) {
            return Err(Error::conflict(format!(
                "agent {} is being deleted by deployment {}",
                agent.agent_id, deleting.id
            ))
            .into());
        }
        let there = app
            .store
            .version_named(&agent.incarnation, &version)
            .await?;
        let mut plan = match (&there, &wanted.code) {
            (Some(there), code) => {
                if code.as_ref().is_some_and(|code| differs(there, code)) {
                    return Err(Error::conflict(format!(
                        "version {version} of agent {} is known with other code; give the change a new version",
                        agent.agent_id
                    ))
                    .into());
                }
                if let Some(same) = newest.filter(|newest| is_same(newest, there, &wanted)) {
                    return Ok(respond::ok(
                        &deploy::answer(&app, &same, Secrets::default()).await,
                    ));
                }
                let (incarnation, now) = (agent.incarnation.clone(), app.store.now());
                Plan::again(&who, &agent.agent_id, incarnation, there.id.clone(), now)
            }
            (None, Some(code)) => new_version(&app, &who, &agent, &version, code).await?,
            (None, None) => {
                return Err(Error::not_found(format!(
                    "version {version} of agent {}; send its agent_code to make it",
                    agent.agent_id
                ))
                .into());
            }
        };
        plan.accepted.deployment.plan = wanted.plan.clone();
        if let Some(deployment) = deploy::begin(&app, &plan.accepted).await? {
            return Ok(respond::ok(
                &deploy::answer(&app, &deployment, Secrets::default()).await,
            ));
        }
    }
    let message = format!(
        "agent {} is being updated by others right now; try again",
        agent.agent_id
    );
    Err(Error::conflict(message).into())
}

/// The same is on its way.
fn is_same(newest: &Deployment, version: &Version, wanted: &Wanted) -> bool {
    newest.state.status == Status::Deploying
        && newest.version_id.as_ref() == Some(&version.id)
        && newest.state.rollout.plan == wanted.plan
}

fn differs(there: &Version, code: &Code) -> bool {
    let spec = &there.spec;
    there.artifact != artifact::digest(&code.bytes)
        || spec.entrypoint != code.entrypoint
        || spec.python != code.python
        || spec.system != code.system
        || spec.configuration != code.configuration
        || spec.warm != code.warm
}

/// Everything but the code is of the version that answers, else of the newest.
async fn new_version(
    app: &App,
    who: &Who,
    agent: &Agent,
    version: &semver::Version,
    code: &Code,
) -> Answer<Plan> {
    let store = &app.store;
    let traffic = store.traffic(&agent.incarnation).await?;
    let most = traffic.routes.iter().max_by_key(|route| route.weight);
    let before = match most {
        Some(route) => store.version(&agent.account, &route.version_id).await?,
        None => store.versions(&agent.incarnation, 0, 1).await?.0.pop(),
    };
    let before = before.ok_or_else(|| Error::internal("an agent has no version"))?;
    let variables = store.environment(&agent.account, &before.id).await?;
    let artifact = artifact::digest(&code.bytes);
    let mut spec = before.spec;
    spec.version = version.clone();
    spec.entrypoint = code.entrypoint.clone();
    spec.python.clone_from(&code.python);
    spec.system.clone_from(&code.system);
    spec.configuration = code.configuration;
    spec.warm = code.warm.clone();
    let content = format!(
        "{}\n{}\n{artifact}\n{:?}",
        before.digest, spec.version, spec
    );
    let whole = Whole {
        spec,
        code: code.bytes.clone(),
        artifact,
        digest: hex::encode(Sha256::digest(content)),
        variables,
    };
    Plan::next(app, who, &whole, agent.incarnation.clone(), store.now())
}
