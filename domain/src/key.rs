//! Who may do what. A key opens routes by its permissions, in one account, and may be held to one agent.

use crate::{
    Error, Kind, Result, Timestamp,
    id::{AccountId, AgentId, KeyId},
    words,
};
use std::{collections::BTreeSet, time::Duration};

words! {
    pub enum Permission {
        AgentDeploy = "agent:deploy",
        AgentUpdate = "agent:update",
        AgentDelete = "agent:delete",
        AgentExecute = "agent:execute",
        AgentMonitor = "agent:monitor",
        SystemHealth = "system:health",
        KeyManage = "key:manage",
    }
}

/// What a presented key turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub id: KeyId,
    pub account: AccountId,
    pub permissions: BTreeSet<Permission>,
    /// Only these agents, if any are named.
    pub agents: Option<BTreeSet<AgentId>>,
    pub expires_at: Option<Timestamp>,
    /// From then on it should be rotated.
    pub rotate_at: Option<Timestamp>,
}

/// A key that is rotated by plan is due after this, and ends after the grace that follows.
pub const ROTATED_AFTER: Duration = Duration::from_secs(90 * DAY);
pub const GRACE: Duration = Duration::from_secs(GRACE_DAYS as u64 * DAY);
pub const GRACE_DAYS: u32 = 30;
const DAY: u64 = 24 * 3600;

impl Key {
    pub fn all_permissions() -> BTreeSet<Permission> {
        Permission::ALL.iter().copied().collect()
    }

    /// The agent's own key: execute it and read it.
    pub fn agent_permissions() -> BTreeSet<Permission> {
        BTreeSet::from([Permission::AgentExecute, Permission::AgentMonitor])
    }

    pub fn allows(&self, permission: Permission) -> Result<()> {
        if self.permissions.contains(&permission) {
            return Ok(());
        }
        Err(Error::new(
            Kind::Forbidden,
            format!("this key lacks the permission {permission}"),
        ))
    }

    /// An agent outside the key's scope is as unknown to it as one that does not exist.
    pub fn reaches(&self, agent: &AgentId) -> Result<()> {
        match &self.agents {
            Some(agents) if !agents.contains(agent) => {
                Err(Error::not_found(format!("agent {agent}")))
            }
            _ => Ok(()),
        }
    }

    /// For routes that are about no agent in particular.
    pub fn reaches_all(&self) -> Result<()> {
        match self.agents {
            None => Ok(()),
            Some(_) => Err(Error::new(
                Kind::Forbidden,
                "this key is limited to named agents",
            )),
        }
    }

    /// What it may hand on: nothing that it cannot do itself. All that is too much is said.
    pub fn may_grant(
        &self,
        permissions: &BTreeSet<Permission>,
        agents: Option<&BTreeSet<AgentId>>,
    ) -> Result<()> {
        let lacking = permissions.difference(&self.permissions);
        let mut faults: Vec<String> = lacking
            .map(|one| format!("permissions: {one} is not this key's own to give"))
            .collect();
        if let Some(own) = &self.agents
            && !agents.is_some_and(|agents| agents.is_subset(own))
        {
            faults.push("agents: allowed are only agents that this key is limited to".to_owned());
        }
        if faults.is_empty() {
            return Ok(());
        }
        let mut error = Error::invalid(faults);
        error.kind = Kind::Forbidden;
        Err(error)
    }

    pub fn is_due_at(&self, now: Timestamp) -> bool {
        self.rotate_at.is_some_and(|due| due <= now)
    }

    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_key_opens_its_agent_and_nothing_else() {
        let agent: AgentId = "mine".parse().expect("an id");
        let key = Key {
            id: KeyId::from_uuid(uuid::Uuid::nil()),
            account: AccountId::default_account(),
            permissions: Key::agent_permissions(),
            agents: Some(BTreeSet::from([agent.clone()])),
            expires_at: Some(Timestamp(10)),
            rotate_at: Some(Timestamp(5)),
        };
        assert!(key.reaches(&agent).is_ok());
        assert_eq!(
            key.reaches(&"other".parse().expect("an id"))
                .expect_err("scope")
                .kind,
            Kind::NotFound
        );
        let denied = key.allows(Permission::AgentDeploy).expect_err("permission");
        assert!(denied.message.contains("agent:deploy"));
        assert!(key.is_valid_at(Timestamp(9)) && !key.is_valid_at(Timestamp(10)));
        assert!(!key.is_due_at(Timestamp(4)) && key.is_due_at(Timestamp(5)));
    }

    #[test]
    fn nobody_gives_what_they_have_not() {
        let (mine, other): (AgentId, AgentId) = (
            "mine".parse().expect("an id"),
            "other".parse().expect("an id"),
        );
        let mut giver = Key {
            id: KeyId::from_uuid(uuid::Uuid::nil()),
            account: AccountId::default_account(),
            permissions: BTreeSet::from([Permission::AgentExecute, Permission::KeyManage]),
            agents: None,
            expires_at: None,
            rotate_at: None,
        };
        let execute = BTreeSet::from([Permission::AgentExecute]);
        let only = |agent: &AgentId| BTreeSet::from([agent.clone()]);
        assert!(giver.may_grant(&execute, None).is_ok());
        let error = giver.may_grant(&Key::all_permissions(), None);
        assert_eq!(error.expect_err("too much").kind, Kind::Forbidden);
        giver.agents = Some(only(&mine));
        assert!(giver.may_grant(&execute, Some(&only(&mine))).is_ok());
        assert!(giver.may_grant(&execute, Some(&only(&other))).is_err());
        assert!(
            giver.may_grant(&execute, None).is_err(),
            "all agents are more"
        );
    }
}
