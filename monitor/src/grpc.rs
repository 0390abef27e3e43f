//! Questions to calls: what comes over the wire is checked, and errors become statuses.

use crate::{
    Config, Deps, Meter, look::Eyes, query, samples, summarize, system::System, tail::Tail,
};
use domain::{
    Result, Timestamp,
    id::{AccountId, AgentId, VersionId},
    metrics::{Granularity, Range},
};
use proto::{
    convert::word,
    status::to_status,
    v1::{
        QueryReply, QueryRequest, SamplesReply, SamplesRequest, SummarizeReply, SummarizeRequest,
        SystemReply, SystemRequest, monitor_server::Monitor,
    },
};
use std::time::Instant;
use tonic::{Request, Response, Status};

/// 11,000 buckets with many custom figures.
pub const ANSWER_BYTES: usize = 64 * 1024 * 1024;

pub struct Service {
    config: Config,
    deps: Deps,
    tail: Tail,
    system: System,
    meter: Meter,
}

impl Service {
    pub fn new(config: Config, deps: Deps, meter: Meter, eyes: Eyes) -> Self {
        Self {
            tail: Tail::new(&deps.store, config.most_rows),
            system: System::new(config.clone(), deps.clone(), eyes),
            config,
            deps,
            meter,
        }
    }

    /// Counts an answer.
    async fn counted<T>(
        &self,
        kind: &'static str,
        answer: impl Future<Output = Result<T>>,
    ) -> Result<Response<T>, Status> {
        let begun = Instant::now();
        let answer = answer.await;
        self.meter.answered(kind, answer.is_ok(), begun);
        answer.map(Response::new).map_err(|error| to_status(&error))
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
        let asked = query::Asked {
            account: &account,
            agent: &agent,
            range,
            brief: asked.brief,
        };
        query::query(&self.deps.store, &self.tail, asked).await
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
        let summaries = summarize::summarize(&self.deps.store, &self.tail, asked).await?;
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
        self.counted("query", self.ask(request.into_inner())).await
    }

    async fn summarize(
        &self,
        request: Request<SummarizeRequest>,
    ) -> Result<Response<SummarizeReply>, Status> {
        self.counted("summarize", self.sum_up(request.into_inner()))
            .await
    }

    async fn samples(
        &self,
        request: Request<SamplesRequest>,
    ) -> Result<Response<SamplesReply>, Status> {
        self.counted(
            "samples",
            samples::samples(&self.config, &self.deps.store, request.into_inner()),
        )
        .await
    }

    async fn system(
        &self,
        request: Request<SystemRequest>,
    ) -> Result<Response<SystemReply>, Status> {
        self.counted("system", self.look(request.into_inner()))
            .await
    }
}
