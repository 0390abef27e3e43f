//! Agents: made whole, listed with what answers for them.

use crate::{
    keys::new_key,
    world::{account, agent as agent_id},
};
use domain::{
    Result, Timestamp,
    agent::{self, Environment, Spec, Status},
    deployment::{Input, Kind, Phase},
    id::{AccountId, DeploymentId, VersionId},
    log,
    traffic::Traffic,
};
use std::collections::{BTreeMap, BTreeSet};
use store::{
    Store,
    agents::{Accepted, Agent, Filter, NewAgent, Sort},
    deployments,
    versions::{self, Lock, Needed},
};

pub fn spec(name: &str, version: (u64, u64), tags: &[&str]) -> Spec {
    Spec {
        agent_id: agent_id(name),
        name: format!("Agent {name}"),
        version: semver::Version::new(version.0, version.1, 0),
        description: "does \"this\" and 'that' 🦀".into(),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        entrypoint: "handler".parse().expect("an entrypoint"),
        python: Vec::new(),
        system: Vec::new(),
        configuration: agent::Configuration::default(),
        environment: Environment::Dev,
        scaling: agent::Scaling::default(),
        placement: agent::Placement::default(),
        health_check: agent::HealthCheck::default(),
        custom_metrics: Vec::new(),
        log_level: log::Level::Info,
        isolation: agent::Isolation::default(),
        egress: domain::egress::Egress::default(),
        warm: domain::agent::Warm::default(),
    }
}

/// The incarnation of an agent of this name in this account.
pub fn incarnation(account: &AccountId, name: &str) -> String {
    format!("{account}-{name}")
}

pub fn deployment(
    account: &AccountId,
    name: &str,
    version: Option<VersionId>,
    at: i64,
) -> deployments::New {
    deployments::New {
        id: DeploymentId::from_uuid(uuid::Uuid::now_v7()),
        account: account.clone(),
        agent_id: agent_id(name),
        incarnation: incarnation(account, name),
        kind: if version.is_some() {
            Kind::Deploy
        } else {
            Kind::Delete
        },
        version_id: version,
        plan: domain::rollout::Plan::default(),
        created_by: "key_1".into(),
        created_at: Timestamp(at),
    }
}

/// All that a first deploy writes.
pub fn accepted(store: &Store, account: &AccountId, spec: Spec, at: i64) -> Result<Accepted> {
    let name = spec.agent_id.to_string();
    let version = next_version(store, account, spec.clone(), at)?;
    Ok(Accepted {
        agent: Some(NewAgent {
            agent: Agent {
                account: account.clone(),
                agent_id: spec.agent_id.clone(),
                incarnation: incarnation(account, &name),
                environment: spec.environment,
                name: spec.name,
                created_by: "key_1".into(),
                created_at: Timestamp(at),
                deleted_at: None,
            },
            webhook_secret: vec![0, 1, 255],
            key: new_key(store, account, &format!("{account} {name} {at}")),
        }),
        artifact: Some(versions::Artifact {
            account: account.clone(),
            digest: "code".into(),
            bytes: (*b"\0\x01def").into(),
            created_at: Timestamp(at),
        }),
        deployment: deployment(account, &name, Some(version.id.clone()), at),
        version: Some(version),
    })
}

fn next_version(store: &Store, account: &AccountId, spec: Spec, at: i64) -> Result<versions::New> {
    let id = VersionId::from_uuid(uuid::Uuid::now_v7());
    Ok(versions::New {
        sealed: store.seal_environment(
            account,
            &id,
            &BTreeMap::from([("A".into(), "b".into())]),
        )?,
        id,
        account: account.clone(),
        incarnation: incarnation(account, spec.agent_id.as_str()),
        spec,
        artifact: "code".into(),
        digest: "sent".into(),
        created_at: Timestamp(at),
    })
}

/// Ends a deployment well or badly.
async fn finish(store: &Store, new: &deployments::New, well: bool, at: i64) -> Result<()> {
    let row = store
        .deployment(&new.account, &new.id)
        .await?
        .expect("a row");
    let mut state = row.state;
    for phase in Phase::of(new.kind, domain::rollout::Strategy::Rolling) {
        state = state
            .step(Input::Begin(*phase), Timestamp(at))
            .expect("next");
        let end = if well {
            Input::Complete(*phase)
        } else {
            Input::Fail(*phase, "why".into())
        };
        state = state.step(end, Timestamp(at)).expect("running");
        if !well {
            break;
        }
    }
    assert!(
        store
            .advance_deployment(&new.account, &new.id, row.rev, &state, Timestamp(at))
            .await?
    );
    Ok(())
}

async fn route(store: &Store, new: &Accepted, at: i64) -> Result<()> {
    let version = new.version.as_ref().expect("a version");
    let traffic = Traffic::all_to(version.id.clone(), version.spec.version.clone());
    let row = &new.deployment;
    store
        .set_traffic(
            &row.account,
            &row.agent_id,
            &row.incarnation,
            &traffic,
            Timestamp(at),
        )
        .await
}

async fn names(
    store: &Store,
    account: &AccountId,
    filter: &Filter,
    sort: (Sort, bool),
) -> Result<Vec<String>> {
    let (rows, total) = store.agents(account, filter, sort, 0, 100).await?;
    assert_eq!(rows.len() as u64, total);
    Ok(rows
        .into_iter()
        .map(|row| row.agent.agent_id.to_string())
        .collect())
}

pub async fn accepted_whole_or_not_at_all(store: &Store) -> Result<()> {
    let account = account("a");
    let first = accepted(store, &account, spec("echo", (1, 0), &["x"]), 10)?;
    assert!(store.accept_deployment(&first).await?);
    let living = store
        .agent(&account, &agent_id("echo"))
        .await?
        .expect("an agent");
    assert_eq!(
        (living.name.as_str(), living.created_at),
        ("Agent echo", Timestamp(10))
    );
    assert!(
        store
            .key(&first.agent.as_ref().expect("new").key.hash)
            .await?
            .is_some()
    );

    // The version is taken: nothing of the rest is written.
    let mut second = accepted(store, &account, spec("echo", (1, 0), &[]), 20)?;
    second.agent = None;
    assert!(!store.accept_deployment(&second).await?);
    assert!(
        store
            .deployment(&account, &second.deployment.id)
            .await?
            .is_none()
    );
    let third = accepted(store, &account, spec("echo", (2, 0), &[]), 30)?;
    assert!(
        !store.accept_deployment(&third).await?,
        "the agent is there"
    );
    let version = third.version.as_ref().expect("a version");
    assert!(store.version(&account, &version.id).await?.is_none());
    assert!(
        store
            .key(&third.agent.as_ref().expect("new").key.hash)
            .await?
            .is_none()
    );
    // What failed leaves no transaction open behind it.
    let mut fourth = third.clone();
    fourth.agent = None;
    assert!(store.accept_deployment(&fourth).await?);
    Ok(())
}

pub async fn of_two_that_race_one_wins(store: &Store) -> Result<()> {
    let account = account("a");
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..20 {
        let new = accepted(store, &account, spec("echo", (1, 0), &["t"]), n)?;
        let store = store.clone();
        tasks.spawn(async move { store.accept_deployment(&new).await });
    }
    let mut won = 0;
    while let Some(done) = tasks.join_next().await {
        won += u32::from(done.expect("no panic")?);
    }
    assert_eq!(won, 1);
    let (_, total) = store
        .deployments(&incarnation(&account, "echo"), 0, 50)
        .await?;
    assert_eq!(total, 1);
    Ok(())
}

pub async fn an_id_lives_again_after_deletion(store: &Store) -> Result<()> {
    let account = account("a");
    let first = accepted(store, &account, spec("echo", (1, 0), &[]), 1)?;
    store.accept_deployment(&first).await?;
    store
        .mark_agent_deleted(&first.deployment.incarnation, Timestamp(5))
        .await?;
    assert!(store.agent(&account, &agent_id("echo")).await?.is_none());
    assert!(store.agent_ever_lived(&account, &agent_id("echo")).await?);
    assert!(!store.agent_ever_lived(&account, &agent_id("never")).await?);
    assert!(
        names(store, &account, &Filter::default(), (Sort::Name, false))
            .await?
            .is_empty()
    );
    assert_eq!(store.count_agents(&account).await?, (0, 0));
    let mut again = accepted(store, &account, spec("echo", (1, 0), &[]), 9)?;
    let reborn = "a-echo-again".to_owned();
    again.agent.as_mut().expect("new").agent.incarnation = reborn.clone();
    again.version.as_mut().expect("a version").incarnation = reborn.clone();
    again.deployment.incarnation = reborn.clone();
    assert!(store.accept_deployment(&again).await?);
    let living = store
        .agent(&account, &agent_id("echo"))
        .await?
        .expect("an agent");
    assert_eq!(living.incarnation, reborn);
    Ok(())
}

pub async fn statuses_follow_deployments_and_traffic(store: &Store) -> Result<()> {
    let account = account("a");
    let status = async |name: &str| -> Result<(Status, String)> {
        let filter = Filter {
            agent_id: Some(agent_id(name)),
            ..Filter::default()
        };
        let (rows, _) = store
            .agents(&account, &filter, (Sort::Name, false), 0, 9)
            .await?;
        Ok((rows[0].status, rows[0].spec.version.to_string()))
    };
    let first = accepted(store, &account, spec("echo", (1, 0), &[]), 1)?;
    store.accept_deployment(&first).await?;
    assert_eq!(status("echo").await?.0, Status::Deploying);
    finish(store, &first.deployment, false, 2).await?;
    assert_eq!(status("echo").await?.0, Status::Failed);
    route(store, &first, 3).await?;
    assert_eq!(status("echo").await?.0, Status::Active);
    assert_eq!(store.count_agents(&account).await?, (1, 1));

    // A newer version that fails: the old one answers, and it is what is shown.
    let mut second = accepted(store, &account, spec("echo", (2, 0), &[]), 5)?;
    second.agent = None;
    store.accept_deployment(&second).await?;
    assert_eq!(status("echo").await?, (Status::Deploying, "1.0.0".into()));
    finish(store, &second.deployment, false, 6).await?;
    assert_eq!(status("echo").await?, (Status::Active, "1.0.0".into()));
    route(store, &second, 7).await?;
    assert_eq!(status("echo").await?, (Status::Active, "2.0.0".into()));

    let delete = deployment(&account, "echo", None, 8);
    let deletion = Accepted {
        agent: None,
        version: None,
        artifact: None,
        deployment: delete.clone(),
    };
    store.accept_deployment(&deletion).await?;
    assert_eq!(status("echo").await?.0, Status::Deleting);
    let row = &first.deployment;
    store
        .set_traffic(
            &row.account,
            &row.agent_id,
            &row.incarnation,
            &Traffic::default(),
            Timestamp(9),
        )
        .await?;
    finish(store, &delete, true, 10).await?;
    assert_eq!(status("echo").await?.0, Status::Inactive);
    assert_eq!(store.count_agents(&account).await?, (1, 0));
    Ok(())
}

pub async fn filters_combine(store: &Store) -> Result<()> {
    let account = account("a");
    for (n, (name, environment, tags)) in [
        ("one", Environment::Dev, &["x", "y"][..]),
        ("two", Environment::Prod, &["x"][..]),
        ("three", Environment::Prod, &["x", "it's"][..]),
    ]
    .into_iter()
    .enumerate()
    {
        let mut spec = spec(name, (1, 0), tags);
        spec.environment = environment;
        let new = accepted(store, &account, spec, n as i64)?;
        store.accept_deployment(&new).await?;
        if name == "three" {
            route(store, &new, 5).await?;
            finish(store, &new.deployment, true, 6).await?;
        }
    }
    let tags = |tags: &[&str]| Filter {
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        ..Filter::default()
    };
    let by_name = (Sort::Name, false);
    assert_eq!(
        names(store, &account, &tags(&["x"]), by_name).await?.len(),
        3
    );
    assert_eq!(
        names(store, &account, &tags(&["x", "y"]), by_name).await?,
        ["one"]
    );
    assert_eq!(
        names(store, &account, &tags(&["it's"]), by_name).await?,
        ["three"]
    );
    assert!(
        names(store, &account, &tags(&["nobody's"]), by_name)
            .await?
            .is_empty()
    );
    let prod = Filter {
        environment: Some(Environment::Prod),
        ..Filter::default()
    };
    assert_eq!(
        names(store, &account, &prod, by_name).await?,
        ["three", "two"]
    );
    let all = Filter {
        environment: Some(Environment::Prod),
        status: Some(Status::Active),
        tags: vec!["x".into()],
        agent_id: None,
        scope: Some(vec![agent_id("three"), agent_id("one")]),
        environments: Some(BTreeSet::from([Environment::Prod])),
    };
    assert_eq!(names(store, &account, &all, by_name).await?, ["three"]);
    let walled = Filter {
        environments: Some(BTreeSet::from([Environment::Dev, Environment::Staging])),
        ..Filter::default()
    };
    assert_eq!(names(store, &account, &walled, by_name).await?, ["one"]);
    let lived = store.environments_of(&account, &agent_id("two")).await?;
    assert_eq!(lived, BTreeSet::from([Environment::Prod]));
    let nowhere = Filter {
        scope: Some(Vec::new()),
        ..Filter::default()
    };
    assert!(names(store, &account, &nowhere, by_name).await?.is_empty());
    let scoped = Filter {
        scope: Some(vec![agent_id("one")]),
        tags: vec!["x".into(), "y".into()],
        ..Filter::default()
    };
    assert_eq!(names(store, &account, &scoped, by_name).await?, ["one"]);
    Ok(())
}

pub async fn sorts_and_pages(store: &Store) -> Result<()> {
    let account = account("a");
    for (n, name) in ["delta", "alpha", "charlie", "bravo"]
        .into_iter()
        .enumerate()
    {
        // Two of them were made in the same millisecond.
        let new = accepted(
            store,
            &account,
            spec(name, (1, 0), &[]),
            [10, 20, 20, 30][n],
        )?;
        store.accept_deployment(&new).await?;
        if name == "delta" {
            finish(store, &new.deployment, true, 99).await?;
        }
    }
    let all = Filter::default();
    assert_eq!(
        names(store, &account, &all, (Sort::Name, false)).await?,
        ["alpha", "bravo", "charlie", "delta"]
    );
    assert_eq!(
        names(store, &account, &all, (Sort::Name, true)).await?,
        ["delta", "charlie", "bravo", "alpha"]
    );
    assert_eq!(
        names(store, &account, &all, (Sort::CreatedAt, false)).await?,
        ["delta", "alpha", "charlie", "bravo"]
    );
    assert_eq!(
        names(store, &account, &all, (Sort::LastUpdated, true)).await?,
        ["delta", "bravo", "charlie", "alpha"]
    );
    let mut seen = Vec::new();
    for offset in 0..4 {
        let (rows, total) = store
            .agents(&account, &all, (Sort::CreatedAt, true), offset, 1)
            .await?;
        assert_eq!(total, 4);
        seen.push(rows[0].agent.agent_id.to_string());
    }
    assert_eq!(seen, ["bravo", "charlie", "alpha", "delta"]);
    let (rows, total) = store
        .agents(&account, &all, (Sort::Name, false), 50, 10)
        .await?;
    assert_eq!(
        (rows.len(), total),
        (0, 4),
        "past the end the total is still said"
    );
    Ok(())
}

pub async fn versions_artifacts_and_locks(store: &Store) -> Result<()> {
    let account = account("a");
    let first = accepted(store, &account, spec("echo", (1, 0), &[]), 10)?;
    store.accept_deployment(&first).await?;
    let version = first.version.clone().expect("a version");
    for n in 1..5 {
        let mut more = accepted(
            store,
            &account,
            spec("echo", (1, n), &[]),
            10 + n as i64 / 3,
        )?;
        more.agent = None;
        assert!(store.accept_deployment(&more).await?);
    }
    let kept = store
        .version(&account, &version.id)
        .await?
        .expect("a version");
    assert_eq!(
        (kept.spec, kept.digest.as_str()),
        (version.spec.clone(), "sent")
    );
    let named = store
        .version_named(&version.incarnation, &version.spec.version)
        .await?;
    assert_eq!(named.expect("a version").id, version.id);
    assert!(
        store
            .version_named(&version.incarnation, &semver::Version::new(9, 0, 0))
            .await?
            .is_none()
    );
    let (rows, total) = store.versions(&version.incarnation, 1, 2).await?;
    let names: Vec<_> = rows
        .iter()
        .map(|row| row.spec.version.to_string())
        .collect();
    assert_eq!(
        (names, total),
        (vec!["1.3.0".to_owned(), "1.2.0".to_owned()], 5)
    );
    assert_eq!(
        store.artifact(&account, "code").await?.as_deref(),
        Some(&b"\0\x01def"[..])
    );
    assert!(store.artifact(&account, "none").await?.is_none());
    let environment = store.environment(&account, &version.id).await?;
    assert_eq!(environment.get("A").map(String::as_str), Some("b"));

    let lock = |text: &str| Lock {
        lock: text.into(),
        digest: format!("digest of {text}"),
        system: format!("system of {text}"),
    };
    assert!(store.lock(&account, &version.id).await?.is_none());
    store.keep_lock(&account, &version.id, &lock("one")).await?;
    store.keep_lock(&account, &version.id, &lock("two")).await?;
    assert_eq!(
        store.lock(&account, &version.id).await?,
        Some(lock("one")),
        "the first one stays"
    );

    let set = |text: &str| BTreeSet::from([text.to_owned()]);
    let needed = store.needed().await?;
    assert!(needed.code.contains(&version.artifact));
    assert_eq!(
        (needed.locks, needed.systems),
        (set("one"), set("system of one"))
    );
    store
        .mark_agent_deleted(&first.deployment.incarnation, Timestamp(20))
        .await?;
    assert_eq!(store.needed().await?, Needed::default());
    Ok(())
}

pub async fn other_accounts_see_nothing(store: &Store) -> Result<()> {
    let (ours, theirs) = (account("a"), account("b"));
    let first = accepted(store, &ours, spec("echo", (1, 0), &["x"]), 10)?;
    store.accept_deployment(&first).await?;
    route(store, &first, 11).await?;
    let second = accepted(store, &theirs, spec("echo", (1, 0), &[]), 10)?;
    assert!(
        store.accept_deployment(&second).await?,
        "the same id in another account is another agent"
    );
    let version = first.version.as_ref().expect("a version");
    assert!(store.version(&theirs, &version.id).await?.is_none());
    assert!(store.environment(&theirs, &version.id).await.is_err());
    assert!(
        store
            .deployment(&theirs, &first.deployment.id)
            .await?
            .is_none()
    );
    store
        .keep_lock(
            &ours,
            &version.id,
            &Lock {
                lock: "l".into(),
                digest: "d".into(),
                system: String::new(),
            },
        )
        .await?;
    assert!(store.lock(&theirs, &version.id).await?.is_none());
    assert!(store.artifact(&account("c"), "code").await?.is_none());
    assert!(
        store
            .agent(&account("c"), &agent_id("echo"))
            .await?
            .is_none()
    );
    let (rows, total) = store
        .agents(&theirs, &Filter::default(), (Sort::Name, false), 0, 9)
        .await?;
    assert_eq!(
        (rows.len(), total, rows[0].status),
        (1, 1, Status::Deploying)
    );
    assert_eq!(store.count_agents(&theirs).await?, (1, 0));
    Ok(())
}
