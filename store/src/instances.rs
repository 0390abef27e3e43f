//! Instances and the scaling that made or ended them.

use crate::db::{Store, document, failed, json, parsed, read, write};
use domain::{
    Result, Timestamp,
    execution::Failure,
    health::Health,
    id::{AccountId, AgentId, BootId, InstanceId, NodeId, VersionId},
    instance::State,
    waterfall::How,
};
use sqlx::Row as _;

#[derive(Debug, Clone)]
pub struct Instance {
    pub id: InstanceId,
    pub account: AccountId,
    pub agent_id: AgentId,
    pub version_id: VersionId,
    pub node_id: NodeId,
    pub boot_id: BootId,
    pub state: State,
    pub pid: Option<i64>,
    /// `None`: it never became ready, or an older release made it.
    pub start: Option<How>,
    pub created_at: Timestamp,
    pub ready_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub failure: Option<Failure>,
    pub health: Health,
    /// Why it is not healthy.
    pub complaint: Option<String>,
    /// It belongs to this session alone.
    pub session_id: Option<String>,
    /// Health checks that failed since it became ready.
    pub failed_checks: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalingEvent {
    pub id: String,
    pub account: AccountId,
    pub agent_id: AgentId,
    pub version_id: VersionId,
    pub node_id: NodeId,
    pub at: Timestamp,
    pub reason: String,
    pub from_instances: u32,
    pub to_instances: u32,
}

impl ScalingEvent {
    pub fn action(&self) -> &'static str {
        if self.to_instances >= self.from_instances {
            "scale_up"
        } else {
            "scale_down"
        }
    }
}

/// Reads one instance, on either engine.
macro_rules! from_row {
    ($row:expr) => {{
        let row = $row;
        let text = |name: &str| row.try_get::<String, _>(name).map_err(failed);
        let maybe = |name: &str| row.try_get::<Option<String>, _>(name).map_err(failed);
        let number = |name: &str| row.try_get::<i64, _>(name).map_err(failed);
        let maybe_number = |name: &str| row.try_get::<Option<i64>, _>(name).map_err(failed);
        Ok(Instance {
            id: parsed(&text("id")?, "instance id")?,
            account: parsed(&text("account")?, "account")?,
            agent_id: parsed(&text("agent_id")?, "agent id")?,
            version_id: parsed(&text("version_id")?, "version id")?,
            node_id: parsed(&text("node_id")?, "node id")?,
            boot_id: parsed(&text("boot_id")?, "boot id")?,
            state: parsed(&text("state")?, "instance state")?,
            pid: maybe_number("pid")?,
            start: maybe("start")?
                .map(|word| parsed(&word, "start"))
                .transpose()?,
            created_at: Timestamp(number("created_at")?),
            ready_at: maybe_number("ready_at")?.map(Timestamp),
            ended_at: maybe_number("ended_at")?.map(Timestamp),
            failure: maybe("failure")?
                .map(|failure| document(&failure, "failure"))
                .transpose()?,
            health: maybe("health")?.map_or(Ok(Health::Healthy), |word| parsed(&word, "health"))?,
            complaint: maybe("complaint")?,
            session_id: maybe("session_id")?,
            failed_checks: u32::try_from(number("failed_checks")?).unwrap_or(u32::MAX),
        })
    }};
}

impl Store {
    /// Inserts an instance or replaces what is kept of it.
    pub async fn keep_instance(&self, instance: &Instance) -> Result<()> {
        let sql = "INSERT INTO instances (id, account, agent_id, version_id, node_id, boot_id, state, pid, created_at, ready_at, ended_at, failure, \
             health, complaint, session_id, failed_checks, start) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17) ON CONFLICT (id) DO UPDATE SET state = excluded.state, pid = excluded.pid, \
             ready_at = excluded.ready_at, ended_at = excluded.ended_at, failure = excluded.failure, \
             health = excluded.health, complaint = excluded.complaint, session_id = excluded.session_id, failed_checks = excluded.failed_checks";
        let failure = instance.failure.as_ref().map(json).transpose()?;
        write!(self, pool => sqlx::query(sql).bind(instance.id.as_str()).bind(instance.account.as_str()).bind(instance.agent_id.as_str())
            .bind(instance.version_id.as_str()).bind(instance.node_id.as_str()).bind(instance.boot_id.as_str()).bind(instance.state.as_str())
            .bind(instance.pid).bind(instance.created_at.0).bind(instance.ready_at.map(|at| at.0)).bind(instance.ended_at.map(|at| at.0)).bind(failure)
            .bind((instance.health != Health::Healthy).then(|| instance.health.as_str())).bind(instance.complaint.as_deref()).bind(instance.session_id.as_deref())
            .bind(i64::from(instance.failed_checks)).bind(instance.start.map(How::as_str))
            .execute(pool).await.map(|_| ()))
        .map_err(failed)
    }

    /// Instances of an agent that are not gone.
    pub async fn living_instances(
        &self,
        account: &AccountId,
        agent: &AgentId,
    ) -> Result<Vec<Instance>> {
        let sql = "SELECT id, account, agent_id, version_id, node_id, boot_id, state, pid, start, created_at, ready_at, ended_at, failure, health, complaint, \
             session_id, failed_checks FROM instances WHERE account = $1 AND agent_id = $2 AND ended_at IS NULL ORDER BY created_at, id LIMIT 5000";
        read!(self, pool => {
            let query = sqlx::query(sql).bind(account.as_str()).bind(agent.as_str());
            let rows = query.fetch_all(pool).await.map_err(failed)?;
            rows.iter().map(|row| from_row!(row)).collect()
        })
    }

    /// A node starts anew: whatever an earlier run of it left is gone. How many that were.
    pub async fn end_instances_of_earlier_boots(
        &self,
        node: &NodeId,
        boot: &BootId,
        at: Timestamp,
    ) -> Result<u64> {
        let sql = "UPDATE instances SET state = 'stopped', ended_at = $3 WHERE node_id = $1 AND boot_id <> $2 AND ended_at IS NULL";
        write!(self, pool => sqlx::query(sql).bind(node.as_str()).bind(boot.as_str()).bind(at.0).execute(pool).await.map(|done| done.rows_affected()))
            .map_err(failed)
    }

    /// Of a node that is gone: instances of what has been given to others cannot come back, whatever became of them. How many.
    pub async fn end_instances_of_lost_node(&self, node: &NodeId, at: Timestamp) -> Result<u64> {
        let sql = "UPDATE instances SET state = 'stopped', ended_at = $2 WHERE node_id = $1 AND ended_at IS NULL AND NOT EXISTS \
             (SELECT 1 FROM envelopes WHERE envelopes.node_id = instances.node_id AND envelopes.version_id = instances.version_id AND envelopes.state <> 'retired')";
        write!(self, pool => sqlx::query(sql).bind(node.as_str()).bind(at.0).execute(pool).await.map(|done| done.rows_affected()))
            .map_err(failed)
    }

    /// Deletes what is kept of instances that ended, and of scaling, before `before`.
    pub async fn purge_instances(&self, before: Timestamp) -> Result<u64> {
        write!(self, pool => {
            sqlx::query("DELETE FROM scaling_events WHERE at < $1").bind(before.0).execute(pool).await.map_err(failed)?;
            sqlx::query("DELETE FROM instances WHERE ended_at < $1").bind(before.0).execute(pool).await.map(|done| done.rows_affected()).map_err(failed)
        })
    }

    pub async fn note_scaling(&self, event: &ScalingEvent) -> Result<()> {
        let sql = "INSERT INTO scaling_events (id, account, agent_id, version_id, node_id, at, action, reason, from_instances, to_instances) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
        write!(self, pool => sqlx::query(sql).bind(&event.id).bind(event.account.as_str()).bind(event.agent_id.as_str()).bind(event.version_id.as_str())
            .bind(event.node_id.as_str()).bind(event.at.0).bind(event.action()).bind(&event.reason).bind(i64::from(event.from_instances))
            .bind(i64::from(event.to_instances)).execute(pool).await.map(|_| ()))
        .map_err(failed)
    }

    /// The newest scaling events of an agent, newest first.
    pub async fn scaling_events(
        &self,
        account: &AccountId,
        agent: &AgentId,
        limit: u32,
    ) -> Result<Vec<ScalingEvent>> {
        let sql = "SELECT id, version_id, node_id, at, reason, from_instances, to_instances FROM scaling_events WHERE account = $1 AND agent_id = $2 \
             ORDER BY at DESC, id DESC LIMIT $3";
        let rows: Vec<(String, String, String, i64, String, i64, i64)> =
            read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(agent.as_str()).bind(i64::from(limit)).fetch_all(pool).await).map_err(failed)?;
        rows.into_iter()
            .map(|(id, version_id, node_id, at, reason, from, to)| {
                Ok(ScalingEvent {
                    id,
                    account: account.clone(),
                    agent_id: agent.clone(),
                    version_id: parsed(&version_id, "version id")?,
                    node_id: parsed(&node_id, "node id")?,
                    at: Timestamp(at),
                    reason,
                    from_instances: u32::try_from(from).unwrap_or(0),
                    to_instances: u32::try_from(to).unwrap_or(0),
                })
            })
            .collect()
    }
}
