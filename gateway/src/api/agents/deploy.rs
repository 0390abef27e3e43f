//! POST /agents/deploy: a new agent, or a new version of one.

use super::request::{self, DeployRequest, Wanted};
use crate::{app::App, audit::Subject, body, door::Who, error::Answer, key, openapi, respond};
use axum::{
    extract::{Request, State},
    response::Response,
};
use domain::{
    Error, Timestamp,
    artifact::Limits,
    deployment::{self, Kind, Status},
    id::{AccountId, AgentId, DeploymentId, VersionId},
    rollout,
};
use serde::Serialize;
use store::{
    Place,
    agents::{Accepted, Agent, NewAgent},
    deployments::{Deployment, New},
    versions,
};
use utoipa::ToSchema;
use uuid::Uuid;

/// An accepted (or already known) deployment.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeployResponse {
    #[schema(value_type = String)]
    deployment_id: DeploymentId,
    agent_id: String,
    #[schema(schema_with = openapi::deployment_status)]
    status: Status,
    /// POST it the execute body with the agent's key.
    api_endpoint: String,
    deployment_info: DeploymentInfo,
    monitoring: MonitoringPlaces,
    security: Secrets,
}

#[derive(Debug, Serialize, ToSchema)]
struct DeploymentInfo {
    region: String,
    runtime_environment: &'static str,
    #[schema(schema_with = openapi::time)]
    created_at: Timestamp,
    /// From earlier deployments of this installation; when it ended, if it has.
    #[schema(schema_with = openapi::time)]
    estimated_completion: Timestamp,
}

#[derive(Debug, Serialize, ToSchema)]
struct MonitoringPlaces {
    cloudwatch_log_group: String,
    metrics_namespace: String,
    /// Null where this installation names none (`gateway.dashboard_url`).
    dashboard_url: Option<String>,
}

/// Shown once, in the response that makes the agent; later null.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Secrets {
    api_key: Option<String>,
    webhook_secret: Option<String>,
}

/// Deploy an agent, or a new version of it
///
/// A version that is known with the same content gives its deployment again (and a new one where that failed); with other
/// content it is a conflict. All faults of a request are named at once.
#[utoipa::path(post, path = "/api/v1/agents/deploy", operation_id = "deploy_agent", tag = "agents",
    request_body = DeployRequest,
    responses((status = 200, body = DeployResponse, description = "Accepted; follow it by its deployment_id"),
        (status = 409, description = "The version is known with other content, or the agent is being deleted (`CONFLICT`)")))]
pub async fn deploy(State(app): State<App>, who: Who, request: Request) -> Answer<Response> {
    let bytes = body::read(request, app.config.max_deploy_body_bytes).await?;
    let read = tokio::task::spawn_blocking(move || request::read(&bytes, Limits::default())).await;
    let wanted =
        read.map_err(|error| Error::internal("the request could not be read").because(error))??;
    let subject = Subject(format!(
        "agents/{} {}",
        wanted.spec.agent_id, wanted.spec.version
    ));
    let answer = accept(&app, &who, &wanted).await;
    let mut response =
        axum::response::IntoResponse::into_response(answer.map(|answer| respond::ok(&answer)));
    response.extensions_mut().insert(subject);
    Ok(response)
}

async fn accept(app: &App, who: &Who, wanted: &Wanted) -> Answer<DeployResponse> {
    let id = &wanted.spec.agent_id;
    may_deploy(app, who, wanted).await?;
    // Whoever loses a race for the agent or the version looks again and finds it there.
    for _ in 0..4 {
        let agent = app.store.agent(&who.key.account, id).await?;
        let plan = match agent {
            None => Plan::first(app, who, wanted)?,
            Some(agent) => match known(app, who, wanted, agent).await? {
                Known::Already(deployment) => {
                    return Ok(answer(app, &deployment, Secrets::default()).await);
                }
                Known::Next(plan) => *plan,
            },
        };
        let Some(deployment) = begin(app, &plan.accepted).await? else {
            continue;
        };
        return Ok(answer(app, &deployment, plan.secrets).await);
    }
    Err(Error::conflict(format!(
        "agent {id} is being deployed by others right now; try again"
    ))
    .into())
}

/// Into the reach of the key, and under no name that is, or was, out of it.
async fn may_deploy(app: &App, who: &Who, wanted: &Wanted) -> Answer<()> {
    let (id, into) = (&wanted.spec.agent_id, wanted.spec.environment);
    let forbidden = |message| Err(Error::new(domain::Kind::Forbidden, message).into());
    if who.key.reaches(id).is_err() {
        return forbidden(format!("this key is limited to other agents than {id}"));
    }
    let Some(own) = &who.key.environments else {
        return Ok(());
    };
    let taken = !app
        .store
        .environments_of(&who.key.account, id)
        .await?
        .is_subset(own);
    if taken || !own.contains(&into) {
        let words: Vec<&str> = own.iter().map(|one| one.as_str()).collect();
        return forbidden(format!(
            "this key is limited to the environment {}, and agent {id} is elsewhere",
            words.join(" and ")
        ));
    }
    Ok(())
}

/// Writes it and nudges a deployer; nothing, where somebody else was quicker with the agent or the version.
pub async fn begin(app: &App, accepted: &Accepted) -> Answer<Option<Deployment>> {
    if !app.store.accept_deployment(accepted).await? {
        return Ok(None);
    }
    let new = &accepted.deployment;
    if let Err(error) = app.bus.deploy(&new.account, &new.id).await {
        tracing::warn!(deployment.id = %new.id, error = ?error, "a deployer was not nudged; it finds the row by itself");
    }
    let deployment = made(new);
    tell(app, &deployment).await;
    Ok(Some(deployment))
}

/// What will be written, and the secrets that are shown for it.
pub struct Plan {
    pub accepted: Accepted,
    secrets: Secrets,
}

enum Known {
    Already(Box<Deployment>),
    Next(Box<Plan>),
}

impl Plan {
    fn first(app: &App, who: &Who, wanted: &Wanted) -> Answer<Self> {
        let (now, incarnation) = (app.store.now(), Uuid::now_v7().as_simple().to_string());
        let (account, spec) = (&who.key.account, &wanted.spec);
        let (key, api_key) = key::of_agent(&app.store, &app.config.region, account, &spec.agent_id);
        let webhook_secret = key::webhook_secret();
        let agent = NewAgent {
            agent: Agent {
                account: account.clone(),
                agent_id: spec.agent_id.clone(),
                incarnation: incarnation.clone(),
                environment: spec.environment,
                name: spec.name.clone(),
                created_by: who.key.id.to_string(),
                created_at: now,
                deleted_at: None,
            },
            webhook_secret: app.store.seal(
                &Place::webhook_secret(account, &incarnation),
                webhook_secret.as_bytes(),
            )?,
            key,
        };
        let mut plan = Self::next(app, who, wanted, incarnation, now)?;
        plan.accepted.agent = Some(agent);
        plan.secrets = Secrets {
            api_key: Some(api_key),
            webhook_secret: Some(webhook_secret),
        };
        Ok(plan)
    }

    pub fn next(
        app: &App,
        who: &Who,
        wanted: &Wanted,
        incarnation: String,
        now: Timestamp,
    ) -> Answer<Self> {
        let id = VersionId::from_uuid(Uuid::now_v7());
        let account = &who.key.account;
        let version = versions::New {
            sealed: app
                .store
                .seal_environment(account, &id, &wanted.variables)?,
            id: id.clone(),
            account: account.clone(),
            incarnation: incarnation.clone(),
            spec: wanted.spec.clone(),
            artifact: wanted.artifact.clone(),
            digest: wanted.digest.clone(),
            created_at: now,
        };
        let artifact = versions::Artifact {
            account: account.clone(),
            digest: wanted.artifact.clone(),
            bytes: wanted.code.as_slice().into(),
            created_at: now,
        };
        let agent_id = &wanted.spec.agent_id;
        let mut plan = Self::again(who, agent_id, incarnation, id, now);
        plan.accepted.version = Some(version);
        plan.accepted.artifact = Some(artifact);
        Ok(plan)
    }

    /// Only a deployment: the version is there.
    pub fn again(
        who: &Who,
        agent_id: &AgentId,
        incarnation: String,
        version: VersionId,
        now: Timestamp,
    ) -> Self {
        let deployment = New {
            id: DeploymentId::from_uuid(Uuid::now_v7()),
            account: who.key.account.clone(),
            agent_id: agent_id.clone(),
            incarnation,
            version_id: Some(version),
            kind: Kind::Deploy,
            plan: rollout::Plan::default(),
            created_by: who.key.id.to_string(),
            created_at: now,
        };
        Self {
            accepted: Accepted {
                agent: None,
                version: None,
                artifact: None,
                deployment,
            },
            secrets: Secrets::default(),
        }
    }
}

async fn known(app: &App, who: &Who, wanted: &Wanted, agent: Agent) -> Answer<Known> {
    let (id, version) = (&wanted.spec.agent_id, &wanted.spec.version);
    let (newest, _) = app.store.deployments(&agent.incarnation, 0, 1).await?;
    if let Some(newest) = newest.first().filter(|newest| is_deleting(newest)) {
        return Err(Error::conflict(format!(
            "agent {id} is being deleted by deployment {}; deploy it when that is done",
            newest.id
        ))
        .into());
    }
    if agent.environment != wanted.spec.environment {
        let message = format!(
            "agent {id} lives in environment {}; deploy it there, or under another agent id",
            agent.environment
        );
        return Err(Error::conflict(message).into());
    }
    let Some(there) = app.store.version_named(&agent.incarnation, version).await? else {
        return Ok(Known::Next(Box::new(Plan::next(
            app,
            who,
            wanted,
            agent.incarnation,
            app.store.now(),
        )?)));
    };
    if there.digest != wanted.digest {
        let message = format!(
            "version {version} of agent {id} was deployed with other content; give the change a new version"
        );
        return Err(Error::conflict(message).into());
    }
    match app.store.deployment_of(&there.id).await? {
        Some(deployment) if deployment.state.status != Status::Failed => {
            Ok(Known::Already(Box::new(deployment)))
        }
        _ => Ok(Known::Next(Box::new(Plan::again(
            who,
            id,
            agent.incarnation,
            there.id,
            app.store.now(),
        )))),
    }
}

pub fn is_deleting(deployment: &Deployment) -> bool {
    deployment.kind == Kind::Delete && deployment.state.status == Status::Deploying
}

/// The row as it was just written.
pub fn made(new: &New) -> Deployment {
    Deployment {
        id: new.id.clone(),
        account: new.account.clone(),
        agent_id: new.agent_id.clone(),
        incarnation: new.incarnation.clone(),
        version_id: new.version_id.clone(),
        kind: new.kind,
        state: deployment::State::accepted(new.kind, new.plan.clone()),
        rev: 0,
        created_by: new.created_by.clone(),
        created_at: new.created_at,
        updated_at: new.created_at,
    }
}

pub async fn tell(app: &App, deployment: &Deployment) {
    tell_of(app, &deployment.account, &deployment.agent_id).await;
}

/// The other gateways forget what they know of the agent; so do we.
pub async fn tell_of(app: &App, account: &AccountId, agent: &AgentId) {
    app.agents.forget(account.clone(), agent.clone());
    let changed = proto::v1::AgentChanged {
        account: account.to_string(),
        agent_id: agent.to_string(),
    };
    let event = proto::v1::event::Event::AgentChanged(changed);
    if let Err(error) = app.bus.tell(account, event).await {
        tracing::debug!(error = ?error, "nobody was told; what others remember ages by itself");
    }
}

pub async fn answer(app: &App, deployment: &Deployment, security: Secrets) -> DeployResponse {
    let estimated_completion = if deployment.state.status.is_terminal() {
        deployment.updated_at
    } else {
        deployment.created_at
            + app
                .estimates
                .deployment(&app.store, &deployment.account)
                .await
    };
    let id = &deployment.agent_id;
    DeployResponse {
        deployment_id: deployment.id.clone(),
        agent_id: id.to_string(),
        status: deployment.state.status,
        api_endpoint: app.endpoint_of(id),
        deployment_info: DeploymentInfo {
            region: app.config.region.clone(),
            runtime_environment: "python",
            created_at: deployment.created_at,
            estimated_completion,
        },
        monitoring: MonitoringPlaces {
            cloudwatch_log_group: format!("/phalanx/agents/{id}"),
            metrics_namespace: format!("Phalanx/{id}"),
            dashboard_url: app.dashboard_of(id),
        },
        security,
    }
}
