//! What the others tell: drops what it changes from memory. Nothing depends on hearing it; what is remembered also ages.

use crate::app::App;
use bus::{Event, Events, typed};
use proto::v1::event::Event as Told;
use tokio_util::sync::CancellationToken;

pub async fn run(app: App, mut events: Events, stop: CancellationToken) {
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = stop.cancelled() => return,
        };
        match event {
            None => return,
            Some(Event::Lagged(lost)) => {
                tracing::warn!(
                    lost,
                    "events were missed: everything remembered is read anew"
                );
                app.agents.forget_all();
                app.keys.forget_all();
            }
            Some(Event::Message(message)) => match typed::event(message) {
                Ok(Some(told)) => heed(&app, told),
                Ok(None) => {}
                Err(error) => tracing::warn!(error = ?error, "an event cannot be read"),
            },
        }
    }
}

fn heed(app: &App, told: Told) {
    match told {
        Told::TrafficChanged(changed) => forget(app, &changed.account, &changed.agent_id),
        Told::AgentChanged(changed) => forget(app, &changed.account, &changed.agent_id),
        Told::KeysChanged(changed) => match changed.account.parse() {
            Ok(account) => app.keys.forget_account(&account),
            Err(_) => app.keys.forget_all(),
        },
        Told::InstanceChanged(_) | Told::Finished(_) | Told::Alive(_) => {}
    }
}

fn forget(app: &App, account: &str, agent: &str) {
    match (account.parse(), agent.parse()) {
        (Ok(account), Ok(agent)) => app.agents.forget(account, agent),
        _ => app.agents.forget_all(),
    }
}
