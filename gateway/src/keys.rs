//! Which key a caller holds. Found by its keyed hash, remembered for a short while.

use crate::{
    cache::{Cache, Life},
    key,
};
use axum::http::{HeaderMap, header};
use domain::{
    Error, Kind, Result, Timestamp,
    id::{AccountId, KeyId},
    key::Key,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use store::{Hash, Store};
use tokio_util::sync::CancellationToken;

const NOTED_EVERY: Duration = Duration::from_secs(10);

pub struct Keys {
    good: Cache<Hash, Arc<Key>>,
    /// Hashes that nobody holds: apart, so that garbage never pushes a good key out.
    bad: Cache<Hash, ()>,
    /// When each key was used that was not noted yet.
    used: Mutex<HashMap<KeyId, Timestamp>>,
}

/// A revoked key opens nothing after two seconds, even where no gateway could be told, and where the rows cannot be read.
const GOOD: Life = Life {
    fresh: Duration::from_millis(900),
    kept: Duration::from_millis(1800),
};
/// How often it is asked whether the key of a stream is still good.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const BAD: Life = Life {
    fresh: Duration::from_secs(2),
    kept: Duration::from_secs(2),
};

impl Default for Keys {
    fn default() -> Self {
        Self {
            good: Cache::new(50_000),
            bad: Cache::new(10_000),
            used: Mutex::default(),
        }
    }
}

impl Keys {
    /// The key of a request. What has not the form of a key costs nothing; a wrong key costs one hash, and one read every
    /// other second. The comparison is by the hash of 256 bits, which a caller cannot steer.
    pub async fn of(&self, store: &Store, headers: &HeaderMap) -> Result<(Arc<Key>, Hash)> {
        let secret = bearer(headers)?;
        let hash = store.hash_key(secret);
        let key = self.valid(store, &hash).await?.ok_or_else(refused)?;
        self.used().insert(key.id.clone(), store.now());
        Ok((key, hash))
    }

    async fn valid(&self, store: &Store, hash: &Hash) -> Result<Option<Arc<Key>>> {
        let key = self.find(store, hash).await?;
        Ok(key.filter(|key| key.is_valid_at(store.now())))
    }

    /// Returns when the key opens nothing any more. While the rows cannot be read nobody can say so.
    pub async fn until_over(&self, store: &Store, hash: &Hash) {
        while !matches!(self.valid(store, hash).await, Ok(None)) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn find(&self, store: &Store, hash: &Hash) -> Result<Option<Arc<Key>>> {
        let life = |_: &Arc<Key>| GOOD;
        let unknown = async || Ok(self.is_bad(store, hash).await?.map(Arc::new));
        self.good.get(hash, life, unknown).await
    }

    async fn is_bad(&self, store: &Store, hash: &Hash) -> Result<Option<Key>> {
        let mut found = None;
        let read = async || {
            found = store.key(hash).await?;
            Ok(found.is_none().then_some(()))
        };
        self.bad.get(hash, |()| BAD, read).await?;
        Ok(found)
    }

    /// Notes now and then which keys were used, until told to stop, and then once more.
    pub async fn note_used(&self, store: &Store, stop: CancellationToken) {
        let mut over = false;
        while !over {
            over = tokio::time::timeout(NOTED_EVERY, stop.cancelled())
                .await
                .is_ok();
            let used: Vec<_> = std::mem::take(&mut *self.used()).into_iter().collect();
            if used.is_empty() {
                continue;
            }
            if let Err(error) = store.note_used_keys(&used).await {
                tracing::debug!(error = ?error, "that keys were used was not noted");
            }
        }
    }

    fn used(&self) -> MutexGuard<'_, HashMap<KeyId, Timestamp>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn forget_account(&self, account: &AccountId) {
        self.good.forget_where(|_, key| key.account == *account);
        self.bad.forget_where(|_, ()| true);
    }

    pub fn forget_all(&self) {
        self.good.forget_where(|_, _| true);
        self.bad.forget_where(|_, ()| true);
    }
}

pub fn bearer(headers: &HeaderMap) -> Result<&str> {
    let missing = || {
        Error::new(
            Kind::Unauthenticated,
            "no key was sent; send it as authorization: Bearer akc_…",
        )
    };
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or_else(missing)?;
    if values.next().is_some() {
        return Err(missing());
    }
    let (scheme, secret) = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .ok_or_else(missing)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(missing());
    }
    let secret = secret.trim();
    if key::has_form(secret) {
        Ok(secret)
    } else {
        Err(refused())
    }
}

fn refused() -> Error {
    Error::new(
        Kind::Unauthenticated,
        "this key is not known, was revoked or has expired",
    )
}
