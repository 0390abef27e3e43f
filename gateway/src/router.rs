//! The table of contents: one line an endpoint, with who may call it and what the audit calls it.
//!
//! A line cannot be written without its access, and every line's handler runs behind [`door::guard`] with that access.

use crate::{
    api::{
        agents, alerts, callbacks, dead_letters, deployments, executions, keys, metrics, sessions,
        system,
    },
    app::App,
    door::{self, Gate},
    limits,
};
use axum::{
    Router,
    http::{HeaderName, HeaderValue, Method, header},
    response::Response,
    routing::MethodFilter,
};
use domain::key::Permission as P;
use std::time::Duration;
use tower_http::cors::CorsLayer;

#[derive(Debug)]
pub struct Endpoint {
    pub method: &'static str,
    pub path: &'static str,
    pub access: Access,
    /// What the audit calls it; `None` where nothing is changed, and for executions, which keep a row themselves.
    pub audited: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Without a key.
    Open,
    /// With a key that holds any of these.
    Key(&'static [P]),
    /// With such a key, or about the calling key itself: the handler says when.
    KeyItself(&'static [P]),
    /// With such a key, unless the configuration opens it.
    KeyUnlessOpened(&'static [P]),
}

use Access::{Key, KeyItself, KeyUnlessOpened, Open};

const READ_EXECUTION: Access = Key(&[P::AgentMonitor, P::AgentExecute]);

macro_rules! endpoints {
    ($($method:ident $path:literal => $($segment:ident)::+, $access:expr, $audited:expr;)*) => {
        pub static ENDPOINTS: &[Endpoint] = &[
            $(Endpoint { method: stringify!($method), path: $path, access: $access, audited: $audited },)*
        ];

        /// The handlers' own words about themselves.
        #[derive(utoipa::OpenApi)]
        #[openapi(paths($($($segment)::+),*))]
        pub struct Handlers;

        fn routes(app: &App) -> Router<App> {
            let mut router = Router::new();
            let mut places = 0..ENDPOINTS.len();
            $(
                let place = places.next().unwrap_or_default();
                let gate = axum::middleware::from_fn_with_state(Gate::new(app, place), door::guard);
                router = router.route($path, axum::routing::on(MethodFilter::$method, $($segment)::+).route_layer(gate));
            )*
            router
        }
    };
}

endpoints! {
    POST   "/api/v1/agents/deploy"                                       => agents::deploy::deploy, Key(&[P::AgentDeploy]), Some("agent.deploy");
    GET    "/api/v1/agents"                                              => agents::list::list, Key(&[P::AgentMonitor]), None;
    GET    "/api/v1/agents/{agent_id}"                                   => agents::get::get, Key(&[P::AgentMonitor]), None;
    DELETE "/api/v1/agents/{agent_id}"                                   => agents::delete::delete, Key(&[P::AgentDelete]), Some("agent.delete");
    PUT    "/api/v1/agents/{agent_id}/versions/{version}"                => agents::update::update, Key(&[P::AgentUpdate]), Some("agent.update");
    POST   "/api/v1/agents/{agent_id}/rollback"                          => agents::rollback::rollback, Key(&[P::AgentUpdate]), Some("agent.rollback");
    POST   "/api/v1/agents/{agent_id}/webhook-secret/rotate"             => agents::rotate_webhook_secret::rotate_webhook_secret, Key(&[P::AgentUpdate]), Some("webhook_secret.rotate");
    GET    "/api/v1/agents/{agent_id}/versions"                          => agents::versions::versions, Key(&[P::AgentMonitor]), None;
    GET    "/api/v1/agents/{agent_id}/limits"                            => agents::limits::limits, Key(&[P::AgentMonitor]), None;
    PUT    "/api/v1/agents/{agent_id}/limits"                            => agents::replace_limits::replace_limits, Key(&[P::AgentUpdate]), Some("agent_limits.replace");
    GET    "/api/v1/agents/{agent_id}/instances"                         => agents::instances::instances, Key(&[P::AgentMonitor]), None;
    GET    "/api/v1/agents/{agent_id}/sessions"                          => sessions::list::list, Key(&[P::AgentMonitor]), None;
    DELETE "/api/v1/agents/{agent_id}/sessions/{session_id}"             => sessions::end::end, Key(&[P::AgentExecute]), Some("session.end");
    GET    "/api/v1/agents/{agent_id}/logs"                              => agents::logs::logs, Key(&[P::AgentMonitor]), None;
    GET    "/api/v1/agents/{agent_id}/metrics"                           => metrics::get::get, Key(&[P::AgentMonitor]), None;
    GET    "/api/v1/agents/{agent_id}/deployments"                       => deployments::list::list, Key(&[P::AgentMonitor]), None;
    GET    "/api/v1/agents/{agent_id}/deployments/{deployment_id}"       => deployments::get::get, Key(&[P::AgentMonitor]), None;
    POST   "/api/v1/agents/{agent_id}/deployments/{deployment_id}/promote" => deployments::promote::promote, Key(&[P::AgentUpdate]), Some("deployment.promote");
    POST   "/api/v1/agents/{agent_id}/deployments/{deployment_id}/pause" => deployments::pause::pause, Key(&[P::AgentUpdate]), Some("deployment.pause");
    POST   "/api/v1/agents/{agent_id}/deployments/{deployment_id}/resume" => deployments::resume::resume, Key(&[P::AgentUpdate]), Some("deployment.resume");
    POST   "/api/v1/agents/{agent_id}/deployments/{deployment_id}/abort" => deployments::abort::abort, Key(&[P::AgentUpdate]), Some("deployment.abort");
    POST   "/api/v1/agents/{agent_id}/execute"                           => executions::execute::execute, Key(&[P::AgentExecute]), None;
    GET    "/api/v1/agents/{agent_id}/executions"                        => executions::list::list, READ_EXECUTION, None;
    GET    "/api/v1/agents/{agent_id}/executions/{execution_id}"         => executions::get::get, READ_EXECUTION, None;
    POST   "/api/v1/agents/{agent_id}/executions/{execution_id}/cancel"  => executions::cancel::cancel, Key(&[P::AgentExecute]), Some("execution.cancel");
    GET    "/api/v1/agents/{agent_id}/executions/{execution_id}/logs"    => executions::logs::logs, READ_EXECUTION, None;
    GET    "/api/v1/agents/{agent_id}/callbacks"                         => callbacks::list::list, READ_EXECUTION, None;
    POST   "/api/v1/agents/{agent_id}/callbacks/{callback_id}/redeliver" => callbacks::redeliver::redeliver, Key(&[P::AgentExecute]), Some("callback.redeliver");
    GET    "/api/v1/system/health"                                       => system::health::health, Key(&[P::SystemHealth]), None;
    GET    "/api/v1/alerts"                                              => alerts::list::list, Key(&[P::AgentMonitor]), None;
    POST   "/api/v1/alerts/{alert_id}/acknowledge"                       => alerts::acknowledge::acknowledge, Key(&[P::AgentMonitor]), Some("alert.acknowledge");
    GET    "/api/v1/alerts/policy"                                       => alerts::policy::policy, Key(&[P::AgentMonitor]), None;
    PUT    "/api/v1/alerts/policy"                                       => alerts::replace_policy::replace_policy, Key(&[P::AgentUpdate]), Some("alert_policy.replace");
    DELETE "/api/v1/alerts/policy"                                       => alerts::delete_policy::delete_policy, Key(&[P::AgentUpdate]), Some("alert_policy.delete");
    POST   "/api/v1/keys"                                                => keys::create::create, Key(&[P::KeyManage]), Some("key.create");
    GET    "/api/v1/keys"                                                => keys::list::list, Key(&[P::KeyManage]), None;
    PATCH  "/api/v1/keys/{key_id}"                                       => keys::change::change, Key(&[P::KeyManage]), Some("key.change");
    POST   "/api/v1/keys/{key_id}/rotate"                                => keys::rotate::rotate, KeyItself(&[P::KeyManage]), Some("key.rotate");
    DELETE "/api/v1/keys/{key_id}"                                       => keys::revoke::revoke, Key(&[P::KeyManage]), Some("key.revoke");
    GET    "/api/v1/audit"                                               => system::audit::audit, Key(&[P::KeyManage]), None;
    GET    "/api/v1/dead-letters"                                        => dead_letters::list::list, Key(&[P::SystemHealth]), None;
    POST   "/api/v1/dead-letters/{dead_letter_id}/redrive"               => dead_letters::redrive::redrive, Key(&[P::KeyManage]), Some("dead_letter.redrive");
    GET    "/openapi.json"                                               => system::docs::openapi_json, Open, None;
    GET    "/docs"                                                       => system::docs::docs, Open, None;
    GET    "/healthz"                                                    => system::probes::healthz, Open, None;
    GET    "/readyz"                                                     => system::probes::readyz, Open, None;
    GET    "/metrics"                                                    => system::probes::metrics, KeyUnlessOpened(&[P::SystemHealth]), None;
}

/// Every endpoint there is, for tests that walk them.
pub fn endpoints() -> &'static [Endpoint] {
    ENDPOINTS
}

pub fn router(app: App) -> Router {
    let mut router = routes(&app);
    if app.config.docs {
        // The page's own files belong to the endpoint `/docs`.
        router = router
            .route("/docs/", axum::routing::get(system::docs::page))
            .route("/docs/{*file}", axum::routing::get(system::docs::file));
    }
    router = router
        .fallback(door::unknown)
        .method_not_allowed_fallback(door::wrong_method);
    if !app.config.cors_origins.is_empty() {
        router = router.layer(browsers(&app.config.cors_origins));
    }
    if app.config.tls.is_some() {
        router = router.layer(axum::middleware::map_response(only_by_tls));
    }
    router.with_state(app)
}

/// Pages of these origins may call everything, with a key that they hold themselves: no cookie of ours exists.
fn browsers(origins: &[HeaderValue]) -> CorsLayer {
    let headers = [
        header::AUTHORIZATION,
        header::CONTENT_TYPE,
        HeaderName::from_static("last-event-id"),
        HeaderName::from_static("traceparent"),
        HeaderName::from_static("tracestate"),
        door::REQUEST_ID,
    ];
    CorsLayer::new()
        .allow_origin(origins.to_vec())
        .allow_methods([
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ])
        .allow_headers(headers)
        .expose_headers([
            door::REQUEST_ID,
            header::RETRY_AFTER,
            HeaderName::from_static("deprecation"),
            HeaderName::from_static("sunset"),
            header::LINK,
            limits::POLICY,
            limits::STANDING,
        ])
        .max_age(Duration::from_secs(600))
}

/// Who came by TLS shall not come without it.
async fn only_by_tls(mut response: Response) -> Response {
    response.headers_mut().insert(
        header::STRICT_TRANSPORT_SECURITY,
        HeaderValue::from_static("max-age=31536000"),
    );
    response
}

/// The methods that this path takes, as `Allow` says them; empty where no endpoint has such a path.
pub fn allowed(path: &str) -> String {
    let matches = |template: &str| {
        let mut parts = path.split('/');
        template.split('/').all(|want| {
            parts
                .next()
                .is_some_and(|part| (want.starts_with('{') && !part.is_empty()) || want == part)
        }) && parts.next().is_none()
    };
    // A fixed path hides a path with a placeholder: `/agents/deploy` is no agent.
    let fixed = ENDPOINTS.iter().any(|endpoint| endpoint.path == path);
    let takes = |endpoint: &&Endpoint| {
        if fixed {
            endpoint.path == path
        } else {
            matches(endpoint.path)
        }
    };
    let mut methods: Vec<&str> = ENDPOINTS
        .iter()
        .filter(takes)
        .map(|endpoint| endpoint.method)
        .collect();
    if methods.contains(&"GET") {
        methods.push("HEAD");
    }
    methods.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_takes() {
        assert_eq!(allowed("/api/v1/agents/deploy"), "POST");
        assert_eq!(allowed("/api/v1/agents/mine"), "GET, DELETE, HEAD");
        assert_eq!(allowed("/api/v1/agents/mine/execute"), "POST");
        assert_eq!(allowed("/nowhere"), "");
    }

    #[test]
    fn the_table_says_who_may_and_what_is_audited() {
        let lines: Vec<String> = ENDPOINTS
            .iter()
            .map(|endpoint| {
                let access = match endpoint.access {
                    Open => "open".to_owned(),
                    Key(any) | KeyItself(any) | KeyUnlessOpened(any) => {
                        assert!(!any.is_empty(), "{} is closed to everybody", endpoint.path);
                        any.iter()
                            .map(|one| one.as_str())
                            .collect::<Vec<_>>()
                            .join("|")
                    }
                };
                format!(
                    "{} {access} {}",
                    endpoint.path,
                    endpoint.audited.unwrap_or("-")
                )
            })
            .collect();
        assert!(
            lines.contains(&"/api/v1/agents/deploy agent:deploy agent.deploy".to_owned()),
            "{lines:?}"
        );
        let open: Vec<&String> = lines
            .iter()
            .filter(|line| line.contains(" open "))
            .collect();
        assert_eq!(
            open,
            [
                "/openapi.json open -",
                "/docs open -",
                "/healthz open -",
                "/readyz open -"
            ]
        );
    }
}
