//! Dead letters in `proto`'s types: what a gateway shows of them, and lets be put back.

use crate::{
    Bus, DeadLetter, Message,
    typed::{ALL, deployments},
};
use domain::{
    Result, Timestamp,
    id::{AccountId, AgentId, DeploymentId, ExecutionId, VersionId},
};
use proto::{
    convert::{Execute, read, word},
    v1,
};

/// A dead letter, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dead {
    /// Names it as long as it is kept.
    pub id: u64,
    pub of: Of,
    pub deliveries: u32,
    pub dead_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Of {
    Execution {
        agent_id: AgentId,
        version_id: VersionId,
        execution_id: ExecutionId,
    },
    Deployment(DeploymentId),
    /// An execution's message that cannot be read.
    Unreadable,
}

impl Bus {
    /// The dead letters of an account, newest first: those of one page, and how many there are in all.
    pub async fn dead(
        &self,
        account: &AccountId,
        skip: usize,
        most: usize,
    ) -> Result<(Vec<Dead>, usize)> {
        // Deployments of all accounts share one lane, which keeps few enough to look into each.
        let lane = deployments();
        let mut letters = self.dead_letters(account.as_str()).await?;
        letters.retain(|letter| letter.subject != lane);
        for letter in self.dead_letters(ALL).await? {
            if letter.subject == lane && self.dead_one(account, letter.id).await?.is_some() {
                letters.push(letter);
            }
        }
        letters.sort_by_key(|letter| std::cmp::Reverse(letter.id));
        let total = letters.len();
        let mut page = Vec::new();
        for letter in letters.iter().skip(skip).take(most) {
            // Redriven meanwhile: left out.
            page.extend(self.dead_one(account, letter.id).await?);
        }
        Ok((page, total))
    }

    /// One of them. `None`: there is none of this name, or it is another account's.
    pub async fn dead_one(&self, account: &AccountId, id: u64) -> Result<Option<Dead>> {
        let found = self.dead_letter(id).await?;
        Ok(found.and_then(|(letter, message)| told(account, &letter, message)))
    }
}

fn told(account: &AccountId, letter: &DeadLetter, message: Message) -> Option<Dead> {
    let of = if letter.subject == deployments() {
        let deploy: v1::Deploy = read(message.payload).ok()?;
        if deploy.account != account.as_str() {
            return None;
        }
        Of::Deployment(word(&deploy.deployment_id).ok()?)
    } else if letter.subject.is_of(account.as_str()) {
        Execute::decode(message.payload).map_or(Of::Unreadable, |execute| Of::Execution {
            agent_id: execute.agent_id,
            version_id: execute.version_id,
            execution_id: execute.execution_id,
        })
    } else {
        return None;
    };
    Some(Dead {
        id: letter.id,
        of,
        deliveries: letter.deliveries,
        dead_at: letter.dead_at,
    })
}
