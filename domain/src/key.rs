//! Who may do what. A key opens routes by its permissions, in one account, and may be held to one agent.

use crate::{
    Error, Kind, Result, Timestamp,
    id::{AccountId, AgentId, KeyId},
    words,
};
use std::collections::BTreeSet;

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
}

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
    }
}
