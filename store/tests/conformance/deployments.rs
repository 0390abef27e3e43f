//! Deployments: changed by whoever read last.

use crate::{
    agents::{accepted, deployment, incarnation, spec},
    world::account,
};
use domain::{
    Result, Timestamp,
    deployment::{Input, Kind, Phase, Status},
    traffic::Traffic,
};
use store::{Store, agents::Accepted};

pub async fn advanced_by_whoever_read_last(store: &Store) -> Result<()> {
    let account = account("a");
    let new = accepted(store, &account, spec("echo", (1, 0), &[]), 1)?;
    store.accept_deployment(&new).await?;
    let id = &new.deployment.id;
    let row = store.deployment(&account, id).await?.expect("a row");
    assert_eq!(
        (row.rev, row.kind, row.state.status),
        (0, Kind::Deploy, Status::Deploying)
    );
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..10 {
        let (store, row) = (store.clone(), row.clone());
        tasks.spawn(async move {
            let begun = row
                .state
                .step(Input::Begin(Phase::Validate), Timestamp(n))
                .expect("first");
            let next = begun
                .step(Input::Log(vec![format!("it's line {n} 🦀")]), Timestamp(n))
                .expect("running");
            let done = store
                .advance_deployment(&row.account, &row.id, row.rev, &next, Timestamp(n))
                .await;
            done.map(|won| won.then_some((n, next)))
        });
    }
    let mut winners = Vec::new();
    while let Some(done) = tasks.join_next().await {
        winners.extend(done.expect("no panic")?);
    }
    assert_eq!(winners.len(), 1);
    let now = store.deployment(&account, id).await?.expect("a row");
    assert_eq!(
        (now.rev, &now.state, now.updated_at),
        (1, &winners[0].1, Timestamp(winners[0].0))
    );
    let foreign = crate::world::account("b");
    assert!(
        !store
            .advance_deployment(&foreign, id, 1, &now.state, Timestamp(1))
            .await?
    );
    Ok(())
}

pub async fn unfinished_oldest_first(store: &Store) -> Result<()> {
    let account = account("a");
    let mut rows = Vec::new();
    for (name, at) in [("late", 30), ("early", 10), ("done", 5)] {
        let new = accepted(store, &account, spec(name, (1, 0), &[]), at)?;
        store.accept_deployment(&new).await?;
        rows.push(new.deployment);
    }
    // A second one of the same agent, accepted in the same millisecond.
    let again = deployment(&account, "early", None, 10);
    let more = Accepted {
        agent: None,
        version: None,
        artifact: None,
        deployment: again.clone(),
    };
    assert!(store.accept_deployment(&more).await?);
    let done = store
        .deployment(&account, &rows[2].id)
        .await?
        .expect("a row");
    let ended = done
        .state
        .step(Input::Supersede("x".into()), Timestamp(6))
        .expect("deploying");
    store
        .advance_deployment(&account, &done.id, 0, &ended, Timestamp(6))
        .await?;
    let names = |found: Vec<store::deployments::Deployment>| -> Vec<_> {
        found.into_iter().map(|row| row.id).collect()
    };
    let expected = [rows[1].id.clone(), again.id.clone(), rows[0].id.clone()];
    assert_eq!(names(store.unfinished_deployments(10).await?), expected);
    assert_eq!(names(store.unfinished_deployments(1).await?), expected[..1]);
    let of_one = store
        .unfinished_deployments_of(&incarnation(&account, "early"))
        .await?;
    assert_eq!(names(of_one), expected[..2]);
    let (listed, total) = store
        .deployments(&incarnation(&account, "early"), 0, 10)
        .await?;
    assert_eq!(
        (names(listed), total),
        (vec![again.id, rows[1].id.clone()], 2),
        "newest first"
    );
    Ok(())
}

pub async fn traffic_is_replaced_whole(store: &Store) -> Result<()> {
    let account = account("a");
    let new = accepted(store, &account, spec("echo", (1, 0), &[]), 1)?;
    let row = &new.deployment;
    assert_eq!(store.traffic(&row.incarnation).await?, Traffic::default());
    let version = new.version.as_ref().expect("a version");
    let all = Traffic::all_to(version.id.clone(), version.spec.version.clone());
    for traffic in [&all, &Traffic::default(), &all] {
        store
            .set_traffic(
                &account,
                &row.agent_id,
                &row.incarnation,
                traffic,
                Timestamp(2),
            )
            .await?;
        assert_eq!(store.traffic(&row.incarnation).await?, *traffic);
    }
    assert_eq!(store.traffic("another").await?, Traffic::default());
    let answering = || store.versions_in_traffic();
    assert_eq!(answering().await?, [], "its agent is not there");
    store.accept_deployment(&new).await?;
    assert_eq!(answering().await?, [(account.clone(), version.id.clone())]);
    let mut without = all.clone();
    without.routes[0].weight = 0;
    store
        .set_traffic(
            &account,
            &row.agent_id,
            &row.incarnation,
            &without,
            Timestamp(3),
        )
        .await?;
    assert_eq!(answering().await?, []);
    Ok(())
}

pub async fn of_one_account_only(store: &Store) -> Result<()> {
    for name in ["a", "b"] {
        let new = accepted(store, &account(name), spec("echo", (1, 0), &[]), 1)?;
        store.accept_deployment(&new).await?;
    }
    let (rows, total) = store
        .deployments(&incarnation(&account("a"), "echo"), 0, 9)
        .await?;
    assert_eq!((rows.len(), total, &rows[0].account), (1, 1, &account("a")));
    assert_eq!(
        store.unfinished_deployments(9).await?.len(),
        2,
        "deployer works for all"
    );
    Ok(())
}
