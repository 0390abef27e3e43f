//! What was read a moment ago: bounded, short-lived, dropped by the event that changes it.
//!
//! A value that is older than `fresh` but younger than `kept` is still given out while one caller reads it anew, so a
//! busy gateway never stands still for a read. A value that was dropped while somebody read it is not put back.

use domain::Result;
use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// Reads at once for values that nobody has; the others wait and then find them.
const READERS: usize = 8;

pub struct Cache<K, V> {
    entries: RwLock<HashMap<K, Entry<V>>>,
    /// Grows with every drop.
    drops: AtomicU64,
    readers: Semaphore,
    bound: usize,
}

/// How long a value is good for.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    pub fresh: Duration,
    pub kept: Duration,
}

struct Entry<V> {
    value: V,
    read_at: Instant,
    life: Life,
    /// Somebody reads it anew.
    renewing: AtomicBool,
}

enum Found<V> {
    Fresh(V),
    /// Ours to read anew; nobody waits for us. Good until then at the latest.
    Stale(V, Instant),
    Nothing,
}

impl<K: Eq + Hash + Clone, V: Clone> Cache<K, V> {
    pub fn new(bound: usize) -> Self {
        Self {
            entries: RwLock::default(),
            drops: AtomicU64::new(0),
            readers: Semaphore::new(READERS),
            bound,
        }
    }

    /// The value of `key`, by `read` where it is not known. `None` from `read` is given out and not kept.
    pub async fn get(
        &self,
        key: &K,
        life: impl Fn(&V) -> Life,
        read: impl AsyncFnOnce() -> Result<Option<V>>,
    ) -> Result<Option<V>> {
        match self.find(key) {
            Found::Fresh(value) => Ok(Some(value)),
            // What was true a moment ago serves better than a refusal.
            Found::Stale(value, until) => match self.renew(key, life, read).await {
                Err(_) if Instant::now() < until => Ok(Some(value)),
                renewed => renewed,
            },
            Found::Nothing => {
                // Closed never: a refused permit would only mean one reader more.
                let _permit = self.readers.acquire().await;
                if let Found::Fresh(value) | Found::Stale(value, _) = self.find(key) {
                    return Ok(Some(value));
                }
                self.renew(key, life, read).await
            }
        }
    }

    async fn renew(
        &self,
        key: &K,
        life: impl Fn(&V) -> Life,
        read: impl AsyncFnOnce() -> Result<Option<V>>,
    ) -> Result<Option<V>> {
        let drops = self.drops.load(Ordering::SeqCst);
        // An answer is as old as its question.
        let asked_at = Instant::now();
        let value = read().await?;
        match &value {
            Some(value) => self.keep(key, value, (life(value), asked_at), drops),
            // What is gone is not served stale; what was never there leaves nothing to take out.
            None if self.reading().contains_key(key) => {
                self.writing().remove(key);
            }
            None => {}
        }
        Ok(value)
    }

    fn find(&self, key: &K) -> Found<V> {
        let entries = self.reading();
        let Some(entry) = entries.get(key) else {
            return Found::Nothing;
        };
        let age = entry.read_at.elapsed();
        if age < entry.life.fresh {
            Found::Fresh(entry.value.clone())
        } else if age >= entry.life.kept {
            Found::Nothing
        } else if entry.renewing.swap(true, Ordering::Relaxed) {
            Found::Fresh(entry.value.clone())
        } else {
            Found::Stale(entry.value.clone(), entry.read_at + entry.life.kept)
        }
    }

    fn keep(&self, key: &K, value: &V, (life, read_at): (Life, Instant), drops: u64) {
        let mut entries = self.writing();
        if self.drops.load(Ordering::SeqCst) != drops {
            return;
        }
        if entries.len() >= self.bound && !entries.contains_key(key) {
            entries.retain(|_, entry| entry.read_at.elapsed() < entry.life.kept);
            if entries.len() >= self.bound {
                entries.clear();
            }
        }
        let entry = Entry {
            value: value.clone(),
            read_at,
            life,
            renewing: AtomicBool::new(false),
        };
        entries.insert(key.clone(), entry);
    }

    pub fn forget(&self, key: &K) {
        let mut entries = self.writing();
        self.drops.fetch_add(1, Ordering::SeqCst);
        entries.remove(key);
    }

    pub fn forget_where(&self, mut gone: impl FnMut(&K, &V) -> bool) {
        let mut entries = self.writing();
        self.drops.fetch_add(1, Ordering::SeqCst);
        entries.retain(|key, entry| !gone(key, &entry.value));
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.reading().len()
    }

    fn reading(&self) -> RwLockReadGuard<'_, HashMap<K, Entry<V>>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> RwLockWriteGuard<'_, HashMap<K, Entry<V>>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    const LIFE: Life = Life {
        fresh: Duration::from_secs(60),
        kept: Duration::from_secs(120),
    };

    #[tokio::test]
    async fn reads_once_and_again_after_a_drop() {
        let cache: Cache<u8, u32> = Cache::new(10);
        let reads = AtomicU32::new(0);
        let get = || {
            cache.get(
                &1,
                |_| LIFE,
                async || Ok(Some(reads.fetch_add(1, Ordering::SeqCst))),
            )
        };
        assert_eq!(
            (get().await.expect("read"), get().await.expect("kept")),
            (Some(0), Some(0))
        );
        cache.forget(&1);
        assert_eq!(get().await.expect("read"), Some(1));
    }

    #[tokio::test]
    async fn what_is_dropped_while_it_is_read_is_not_kept() {
        let cache: Cache<u8, u32> = Cache::new(10);
        let read = async || {
            cache.forget(&1);
            Ok(Some(7))
        };
        assert_eq!(cache.get(&1, |_| LIFE, read).await.expect("read"), Some(7));
        assert_eq!(cache.len(), 0);
    }

    #[tokio::test]
    async fn is_bounded() {
        let cache: Cache<u32, u32> = Cache::new(100);
        for key in 0..1000 {
            cache
                .get(&key, |_| LIFE, async || Ok(Some(key)))
                .await
                .expect("read");
        }
        assert!(cache.len() <= 100);
    }

    #[tokio::test]
    async fn nothing_outlives_its_life_by_a_slow_read() {
        let cache: Cache<u8, u32> = Cache::new(10);
        let life = Life {
            fresh: Duration::ZERO,
            kept: Duration::from_millis(20),
        };
        let slowly = async |answer| {
            tokio::time::sleep(Duration::from_millis(40)).await;
            answer
        };
        let first = async || Ok(Some(3));
        assert_eq!(cache.get(&1, |_| life, first).await.expect("read"), Some(3));
        let failing = async || slowly(Err(domain::Error::unavailable("no"))).await;
        let late = cache.get(&1, |_| life, failing).await;
        assert!(
            late.is_err(),
            "it was over before the read failed: {late:?}"
        );
        // What was asked for long ago is old when it comes.
        let slow = async || slowly(Ok(Some(4))).await;
        assert_eq!(cache.get(&1, |_| life, slow).await.expect("read"), Some(4));
        let anew = async || Ok(Some(5));
        assert_eq!(cache.get(&1, |_| life, anew).await.expect("read"), Some(5));
    }

    #[tokio::test]
    async fn what_was_true_a_moment_ago_outlives_a_failed_read() {
        let cache: Cache<u8, u32> = Cache::new(10);
        let life = Life {
            fresh: Duration::ZERO,
            kept: Duration::from_secs(60),
        };
        cache
            .get(&1, |_| life, async || Ok(Some(3)))
            .await
            .expect("read");
        let failing = async || Err(domain::Error::unavailable("no"));
        assert_eq!(
            cache.get(&1, |_| life, failing).await.expect("stale"),
            Some(3)
        );
    }
}
