//! Who may do what. A key opens routes by its permissions, in one account, and may be held to named agents and
//! environments, and to limits.

use crate::{
    Error, Kind, Result, Timestamp,
    agent::Environment,
    id::{AccountId, AgentId, KeyId},
    limit::Limits,
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
    /// Only agents of these environments, if any are named.
    pub environments: Option<BTreeSet<Environment>>,
    pub limits: Limits,
    pub expires_at: Option<Timestamp>,
    /// From then on it should be rotated, or was.
    pub rotate_at: Option<Timestamp>,
    /// It may replace itself when it is due.
    pub auto_rotation: bool,
    pub replaced: bool,
}

/// What a key is, or shall be, allowed.
#[derive(Debug, Clone, Copy)]
pub struct Grant<'a> {
    pub permissions: &'a BTreeSet<Permission>,
    pub agents: Option<&'a BTreeSet<AgentId>>,
    pub environments: Option<&'a BTreeSet<Environment>>,
    pub limits: &'a Limits,
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

    /// The same of an agent that lives, or lived, in these environments; none: nobody knows it. All must be in reach: what an id
    /// did in one environment stays readable when it is used in another one.
    pub fn reaches_in(&self, agent: &AgentId, lived_in: &BTreeSet<Environment>) -> Result<()> {
        match &self.environments {
            Some(own) if lived_in.is_empty() || !lived_in.is_subset(own) => {
                Err(Error::not_found(format!("agent {agent}")))
            }
            _ => self.reaches(agent),
        }
    }

    /// For routes that are about no agent in particular.
    pub fn reaches_all(&self) -> Result<()> {
        let limited = match (&self.agents, &self.environments) {
            (None, None) => return Ok(()),
            (Some(_), _) => "agents",
            (None, Some(_)) => "environments",
        };
        Err(Error::new(
            Kind::Forbidden,
            format!("this key is limited to named {limited}"),
        ))
    }

    /// What it may hand on: nothing that it cannot do itself. All that is too much is said.
    pub fn may_grant(&self, grant: Grant<'_>) -> Result<()> {
        fn within<T: Ord>(wanted: Option<&BTreeSet<T>>, own: Option<&BTreeSet<T>>) -> bool {
            own.is_none_or(|own| wanted.is_some_and(|wanted| wanted.is_subset(own)))
        }
        let lacking = grant.permissions.difference(&self.permissions);
        let mut faults: Vec<String> = lacking
            .map(|one| format!("permissions: {one} is not this key's own to give"))
            .collect();
        if !within(grant.agents, self.agents.as_ref()) {
            faults.push("agents: allowed are only agents that this key is limited to".to_owned());
        }
        if !within(grant.environments, self.environments.as_ref()) {
            faults.push(
                "environments: allowed are only those that this key is limited to".to_owned(),
            );
        }
        if !grant.limits.is_within(&self.limits) {
            faults.push("limits: allowed are only limits within those of this key".to_owned());
        }
        if faults.is_empty() {
            return Ok(());
        }
        let mut error = Error::invalid(faults);
        error.kind = Kind::Forbidden;
        Err(error)
    }

    /// Since when it should not be used any longer, if that has come: it is due, or was replaced.
    pub fn deprecated_since(&self, now: Timestamp) -> Option<Timestamp> {
        self.rotate_at.filter(|due| *due <= now)
    }

    /// Whether it may be replaced by itself, without the permission to manage keys: once, when it is due, where that was wanted.
    pub fn may_replace_itself(&self, now: Timestamp) -> Result<()> {
        let refuse = |why: String| Err(Error::new(Kind::Forbidden, why));
        if !self.auto_rotation {
            return refuse(
                "this key lacks the permission key:manage, and was made without auto_rotation"
                    .to_owned(),
            );
        }
        match self.rotate_at {
            Some(due) if due <= now => Ok(()),
            Some(due) => refuse(format!(
                "this key lacks the permission key:manage; it may replace itself from {due} on"
            )),
            None => refuse("this key lacks the permission key:manage".to_owned()),
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
            environments: None,
            limits: Limits::default(),
            expires_at: Some(Timestamp(10)),
            rotate_at: Some(Timestamp(5)),
            auto_rotation: true,
            replaced: false,
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
        let since = |now| key.deprecated_since(Timestamp(now));
        assert_eq!((since(4), since(6)), (None, Some(Timestamp(5))));
        assert!(key.may_replace_itself(Timestamp(4)).is_err());
        assert!(key.may_replace_itself(Timestamp(5)).is_ok());
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
            environments: None,
            limits: Limits::default(),
            expires_at: None,
            rotate_at: None,
            auto_rotation: false,
            replaced: false,
        };
        let execute = BTreeSet::from([Permission::AgentExecute]);
        let only = |agent: &AgentId| BTreeSet::from([agent.clone()]);
        fn grant<'a>(permissions: &'a BTreeSet<Permission>, limits: &'a Limits) -> Grant<'a> {
            Grant {
                permissions,
                agents: None,
                environments: None,
                limits,
            }
        }
        let free = Limits::default();
        assert!(giver.may_grant(grant(&execute, &free)).is_ok());
        let error = giver.may_grant(grant(&Key::all_permissions(), &free));
        assert_eq!(error.expect_err("too much").kind, Kind::Forbidden);
        giver.agents = Some(only(&mine));
        let of = |agent: &AgentId| {
            let agents = only(agent);
            giver.may_grant(Grant {
                agents: Some(&agents),
                ..grant(&execute, &free)
            })
        };
        assert!(of(&mine).is_ok() && of(&other).is_err());
        assert!(
            giver.may_grant(grant(&execute, &free)).is_err(),
            "all agents are more"
        );
        giver.agents = None;
        giver.environments = Some(BTreeSet::from([Environment::Dev]));
        let wide = BTreeSet::from([Environment::Dev, Environment::Prod]);
        let within = |environments| {
            giver.may_grant(Grant {
                environments,
                ..grant(&execute, &free)
            })
        };
        let narrow = BTreeSet::from([Environment::Dev]);
        assert!(within(Some(&narrow)).is_ok());
        assert!(within(Some(&wide)).is_err() && within(None).is_err());
        giver.environments = None;
        giver.limits.executions_per_day = Some(5);
        assert!(giver.may_grant(grant(&execute, &giver.limits)).is_ok());
        assert!(giver.may_grant(grant(&execute, &free)).is_err());
    }

    #[test]
    fn environments_are_walls() {
        let agent: AgentId = "mine".parse().expect("an id");
        let mut key = Key {
            id: KeyId::from_uuid(uuid::Uuid::nil()),
            account: AccountId::default_account(),
            permissions: Key::all_permissions(),
            agents: None,
            environments: Some(BTreeSet::from([Environment::Dev])),
            limits: Limits::default(),
            expires_at: None,
            rotate_at: None,
            auto_rotation: false,
            replaced: false,
        };
        let (dev, prod) = (
            BTreeSet::from([Environment::Dev]),
            BTreeSet::from([Environment::Prod]),
        );
        let both = dev.union(&prod).copied().collect();
        assert!(key.reaches_in(&agent, &dev).is_ok());
        for hidden in [&prod, &both, &BTreeSet::new()] {
            let error = key.reaches_in(&agent, hidden).expect_err("a wall");
            assert_eq!(
                (error.kind, error.message.as_str()),
                (Kind::NotFound, "agent mine does not exist")
            );
        }
        assert_eq!(
            key.reaches_all().expect_err("limited").kind,
            Kind::Forbidden
        );
        key.environments = None;
        assert!(key.reaches_in(&agent, &BTreeSet::new()).is_ok() && key.reaches_all().is_ok());
    }
}
