//! Sealed values over an exchange of master keys: under which they are, and sealed anew while others write.

use crate::{
    alerts,
    world::{World, account, version},
};
use domain::{Result, Timestamp, id::VersionId};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};
use store::{
    MasterKeyId, MasterKeys, Opened, Place, Ring, Secrets, Store, alerts::KeptPolicy, deliveries,
    reseal::Walk,
};

/// Another implementation of the seam: the ring in it is exchanged as a service would.
#[derive(Clone)]
pub struct Service(Arc<Mutex<Ring>>);

impl Service {
    pub fn of(key: u8) -> (Self, Secrets) {
        let ring = Ring::of([&[key; 32][..]]).expect("a key");
        let pepper = ring.first_pepper();
        let service = Self(Arc::new(Mutex::new(ring)));
        (service.clone(), Secrets::of(Arc::new(service), pepper))
    }

    fn rotate(&self, key: u8) -> MasterKeyId {
        let mut ring = self.0.lock().expect("nobody panicked");
        let id = ring.add(&[key; 32]).expect("new");
        ring.activate(id).expect("known");
        id
    }

    fn retire(&self, id: MasterKeyId) {
        let mut ring = self.0.lock().expect("nobody panicked");
        ring.remove(id).expect("it does not seal");
    }
}

impl MasterKeys for Service {
    fn wrap(&self, place: &str, data_key: &[u8; 32]) -> Result<(MasterKeyId, Vec<u8>)> {
        self.0
            .lock()
            .expect("nobody panicked")
            .wrap(place, data_key)
    }

    fn unwrap(&self, by: Option<MasterKeyId>, place: &str, wrapped: &[u8]) -> Result<Opened> {
        self.0
            .lock()
            .expect("nobody panicked")
            .unwrap(by, place, wrapped)
    }

    fn active(&self) -> Result<MasterKeyId> {
        self.0.lock().expect("nobody panicked").active()
    }
}

async fn policy(store: &Store, n: u32) -> Result<()> {
    let (account, id) = (account("a"), format!("alert_policy_{n:04}"));
    let kept = KeptPolicy {
        secret: store.seal(
            &Place::alert_policy(&account, &id),
            format!("whsec_{n}").as_bytes(),
        )?,
        account,
        agent_id: Some(format!("agent-{n}").parse().expect("an agent id")),
        id,
        policy: domain::alert::Policy::default(),
        updated_at: Timestamp(1),
        updated_by: "key_1".into(),
    };
    assert!(store.keep_alert_policy(&kept).await?);
    Ok(())
}

async fn walk(store: &Store) -> Result<Walk> {
    let mut walk = Walk::default();
    while store.reseal_some(&mut walk, 3).await? {}
    Ok(walk)
}

async fn opens_all(store: &Store, policies: usize) -> Result<()> {
    let kept = store.alert_policies().await?;
    assert_eq!(kept.len(), policies);
    for one in kept {
        let secret = store.unseal(&Place::alert_policy(&one.account, &one.id), &one.secret)?;
        let n: u32 = one.id[one.id.len() - 4..].parse().expect("its number");
        assert_eq!(&secret[..], format!("whsec_{n}").as_bytes());
    }
    Ok(())
}

pub async fn taken_over_to_another_key(world: &World) -> Result<()> {
    let (service, secrets) = Service::of(1);
    let store = &world.another(secrets).await;
    store.take_up_pepper().await?;
    let hash = store.hash_key("akc_x");
    for n in 0..10 {
        policy(store, n).await?;
    }
    // A webhook on its way has a copy of its policy's secret; one that has none is not counted.
    let lease = alerts::leased(store).await?;
    let policy = store.alert_policies().await?.remove(0);
    let mut of = alerts::one(1, "echo");
    of.account = policy.account.clone();
    let sent = |n: u128, secret: &[u8]| deliveries::New {
        secret: secret.to_owned(),
        sealed_for: policy.id.clone(),
        ..alerts::message(n, &of, &format!("https://receiver/{n}"))
    };
    let sent = [sent(1, &policy.secret), sent(2, &[])];
    assert!(store.write_alert(&lease, &of, &sent).await?);
    let old = store.active_master_key()?;
    assert_eq!(
        store.sealed_values().await?,
        BTreeMap::from([(Some(old), 12)])
    );
    assert_eq!(walk(store).await?.resealed, 0, "there is nothing to do");

    let new = service.rotate(2);
    // Cut off after the first slice, as by a crash: what is left is found by whoever goes on.
    let mut cut = Walk::default();
    while cut.resealed < 4 {
        assert!(store.reseal_some(&mut cut, 3).await?);
    }
    let values = store.sealed_values().await?;
    assert_eq!(values[&Some(new)], cut.resealed);
    assert_eq!(values[&Some(old)], 12 - cut.resealed);
    opens_all(store, 10).await?;
    let rest = walk(store).await?;
    assert_eq!((rest.resealed, rest.refused), (12 - cut.resealed, 0));
    assert_eq!(
        store.sealed_values().await?,
        BTreeMap::from([(Some(new), 12)])
    );

    // Without the old key: values and hashes alike.
    service.retire(old);
    opens_all(store, 10).await?;
    let later = Timestamp(i64::MAX / 2);
    let mut signed = 0;
    for due in store.due_deliveries(later, 10).await?.due {
        let taken = store
            .take_delivery(&due, later)
            .await?
            .expect("due")
            .expect("it can be read");
        if !taken.secret.is_empty() {
            let secrets = store.signing_secrets(&taken, later).await?;
            assert!(secrets.iter().all(|secret| secret.starts_with("whsec_")));
            signed += secrets.len();
        }
    }
    assert_eq!(signed, 1, "one of two");
    let ring = Ring::of([&[2; 32][..]])?;
    let pepper = ring.first_pepper();
    let store = &world.another(Secrets::of(Arc::new(ring), pepper)).await;
    assert_ne!(store.hash_key("akc_x"), hash, "of another key");
    store.take_up_pepper().await?;
    assert_eq!(store.hash_key("akc_x"), hash, "of its row");
    Ok(())
}

pub async fn without_a_key_nothing_is_lost(world: &World) -> Result<()> {
    let (_, secrets) = Service::of(1);
    let first = &world.another(secrets).await;
    first.take_up_pepper().await?;
    policy(first, 1).await?;
    let lost = first.active_master_key()?;
    let (_, secrets) = Service::of(2);
    let other = &world.another(secrets).await;
    let refused = other.take_up_pepper().await.expect_err("another key");
    assert!(refused.message.contains(&lost.to_string()), "{refused}");
    let walked = walk(other).await?;
    assert_eq!((walked.resealed, walked.refused), (0, 2));
    let why = walked.why.expect("a reason");
    assert!(why.message.contains(&lost.to_string()), "{why}");
    opens_all(first, 1).await
}

/// Writers by the old key beside two walks: nothing is lost, and a walk after the last writer leaves nothing behind.
pub async fn resealed_while_others_write(world: &World) -> Result<()> {
    let (service, secrets) = Service::of(1);
    let store = &world.another(secrets).await;
    for n in 0..20 {
        policy(store, n).await?;
    }
    // One that has not heard of the new key yet.
    let (_, secrets) = Service::of(1);
    let behind = &world.another(secrets).await;
    let new = service.rotate(2);
    let writing = async {
        for n in 20..40 {
            policy(behind, n).await?;
        }
        Ok::<_, domain::Error>(())
    };
    let (written, one, two) = tokio::join!(writing, walk(store), walk(store));
    written?;
    let resealed = one?.resealed + two?.resealed + walk(store).await?.resealed;
    assert_eq!(resealed, 40, "each once, whoever does it");
    assert_eq!(
        store.sealed_values().await?,
        BTreeMap::from([(Some(new), 40)])
    );
    opens_all(store, 40).await
}

pub async fn variables_open_in_their_own_place(world: &World) -> Result<()> {
    let store = &world.store;
    let variables = BTreeMap::from([("TOKEN".to_owned(), "s3cret".to_owned())]);
    let id: VersionId = version(1);
    let sealed = store.seal_environment(&account("a"), &id, &variables)?;
    assert!(!sealed.windows(6).any(|bytes| bytes == b"s3cret"));
    let elsewhere = Place::webhook_secret(&account("a"), id.as_str());
    assert!(store.unseal(&elsewhere, &sealed).is_err());
    Ok(())
}
