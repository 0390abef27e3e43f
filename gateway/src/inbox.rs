//! What the others tell: drops what it changes from memory. Nothing depends on hearing it; what is remembered also ages.

use crate::{app::App, hosts};
use bus::{Event, Events, typed};
use proto::v1::{Alive, event::Event as Told};
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
        Told::CallbackOwed(_) => app.owed.notify_one(),
        Told::InstanceChanged(_) | Told::Finished(_) | Told::Alive(_) | Told::DeliveryDue(_) => {}
    }
}

fn forget(app: &App, account: &str, agent: &str) {
    match (account.parse(), agent.parse()) {
        (Ok(account), Ok(agent)) => app.agents.forget(account, agent),
        _ => app.agents.forget_all(),
    }
}

/// Executors that live, and ourselves.
pub async fn hear(app: App, mut beats: Events, stop: CancellationToken) {
    let ourselves = name(&app);
    loop {
        let event = tokio::select! {
            event = beats.next() => event,
            () = stop.cancelled() => return,
        };
        let Some(event) = event else { return };
        let Event::Message(message) = event else {
            continue;
        };
        match typed::event(message) {
            Ok(Some(Told::Alive(alive))) if alive.id == ourselves => app.hosts.heard_ourselves(),
            Ok(Some(Told::Alive(alive))) if alive.service == "executor" => app.hosts.heard(&alive),
            Ok(_) => {}
            Err(error) => tracing::warn!(error = ?error, "a beat cannot be read"),
        }
    }
}

/// Says that we live, to hear whether we are heard; and looks who is silent.
pub async fn beat(app: App, stop: CancellationToken) {
    let mut tick = tokio::time::interval(hosts::BEAT);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let alive = Alive {
            service: "gateway".to_owned(),
            id: name(&app),
            at_ms: app.store.now().0,
            ..Alive::default()
        };
        if let Err(error) = app.bus.beat(alive).await {
            tracing::debug!(error = ?error, "the bus does not take our beat");
        }
        app.hosts.tick();
    }
}

fn name(app: &App) -> String {
    app.instance.as_simple().to_string()
}
