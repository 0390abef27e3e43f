//! An order to a deployment: refused where it means nothing now, else written for deployer to find.

use super::found;
use crate::{app::App, door::Who, error::Answer, openapi, respond};
use axum::{http::StatusCode, response::Response};
use domain::{
    Error,
    rollout::{Order, Orders},
};
use serde::Serialize;
use store::{
    deployments::Deployment,
    rollouts::{Given, MOST_ORDERS},
};
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct Ordered {
    deployment_id: String,
    agent_id: String,
    #[schema(schema_with = openapi::order)]
    order: Order,
    /// When it was ordered: before it is carried out.
    #[schema(schema_with = openapi::deployment_status)]
    status: domain::deployment::Status,
}

pub async fn order(app: &App, who: &Who, path: (String, String), order: Order) -> Answer<Response> {
    let one = found(app, who, &path).await?;
    give(app, who, &one, order).await?;
    let body = Ordered {
        deployment_id: one.id.to_string(),
        agent_id: one.agent_id.to_string(),
        order,
        status: one.state.status,
    };
    Ok(respond::json(StatusCode::ACCEPTED, &body))
}

pub async fn give(app: &App, who: &Who, one: &Deployment, order: Order) -> Answer<()> {
    let given = app.store.orders(&one.id).await?;
    let refuse =
        |why: String| Error::conflict(format!("deployment {} takes no {order}: {why}", one.id));
    if given.len() >= MOST_ORDERS {
        return Err(refuse(format!("it had {MOST_ORDERS} orders")).into());
    }
    let words = given
        .iter()
        .map(|one| (one.order, one.created_by.as_str(), one.at));
    let orders = Orders::of(words);
    one.state.takes(one.kind, order, &orders).map_err(refuse)?;
    let new = Given {
        order,
        created_by: who.key.id.to_string(),
        at: app.store.now(),
    };
    let id = uuid::Uuid::now_v7().as_simple().to_string();
    app.store
        .order_deployment(&one.account, &one.id, &id, &new)
        .await?;
    Ok(())
}
