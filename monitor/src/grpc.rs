//! Questions to calls: what comes over the wire is checked, and errors become statuses.

use crate::{Config, Deps, query, summarize, system::System};
use domain::{
    Result, Timestamp,
    id::{AccountId, AgentId, VersionId},
    metrics::{Granularity, Range},
};
use proto::{
    convert::word,
    status::to_status,
    v1::{
        QueryReply, QueryRequest, SummarizeReply, SummarizeRequest, SystemReply, SystemRequest,
        monitor_server::Monitor,
    },
};
use tonic::{Request, Response, Status};

/// 11,000 buckets with many custom figures.
pub const ANSWER_BYTES: usize = 64 * 1024 * 1024;

pub struct Service {
    config: Config,
    deps: Deps,
    system: System,
}

impl Service {
    pub fn new(config: Config, deps: Deps) -> Self {
        Self {
            system: System::new(config.clone(), deps.clone()),
            config,
            deps,
        }
    }

    async fn ask(&self, asked: QueryRequest) -> Result<QueryReply> {
        let account: AccountId = word(&asked.account)?;
        let agent: AgentId = word(&asked.agent_id)?;
        let granularity: Granularity = word(&asked.granularity)?;
        let range = Range::new(
            Timestamp(asked.start_ms),
            Timestamp(asked.end_ms),
            granularity,
        )?;
        query::query(&self.config, &self.deps.store, (&account, &agent), range).await
    }

    async fn sum_up(&self, asked: SummarizeRequest) -> Result<SummarizeReply> {
        let account: AccountId = word(&asked.account)?;
        let agents: Vec<AgentId> = asked
            .agent_ids
            .iter()
            .map(|id| word(id))
            .collect::<Result<_>>()?;
        let version: Option<VersionId> = match asked.version_id.as_str() {
            "" => None,
            id => Some(word(id)?),
        };
        let since = Timestamp(asked.since_ms);
        let asked = summarize::Asked {
            account: &account,
            agents: &agents,
            version: version.as_ref(),
            since,
        };
        let summaries = summarize::summarize(&self.config, &self.deps.store, asked).await?;
        Ok(SummarizeReply { summaries })
    }

    async fn look(&self, asked: SystemRequest) -> Result<SystemReply> {
        let account: AccountId = word(&asked.account)?;
        self.system.look(&account).await
    }
}

#[tonic::async_trait]
impl Monitor for Service {
    async fn query(&self, request: Request<QueryRequest>) -> Result<Response<QueryReply>, Status> {
        let answer = self.ask(request.into_inner()).await;
        answer.map(Response::new).map_err(|error| to_status(&error))
    }

    async fn summarize(
        &self,
        request: Request<SummarizeRequest>,
    ) -> Result<Response<SummarizeReply>, Status> {
        let answer = self.sum_up(request.into_inner()).await;
        answer.map(Response::new).map_err(|error| to_status(&error))
    }

    async fn system(
        &self,
        request: Request<SystemRequest>,
    ) -> Result<Response<SystemReply>, Status> {
        let answer = self.look(request.into_inner()).await;
        answer.map(Response::new).map_err(|error| to_status(&error))
    }
}
