//! A receiver's name to its addresses, by the host's resolver, which may take as long as it likes: we do not wait for it.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};
use tokio::task::JoinSet;

const WITHIN: Duration = Duration::from_secs(5);

type LookUp = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// A seam: tests bring a resolver of their own. Cheap to clone.
#[derive(Clone)]
pub struct Resolver {
    look_up: Arc<LookUp>,
    pub within: Duration,
}

/// Looks that have begun. None of them can be broken off: each has a thread until the resolver has done.
pub type Looks = JoinSet<io::Result<Vec<SocketAddr>>>;

impl Default for Resolver {
    fn default() -> Self {
        Self::of(|name, port| Ok((name, port).to_socket_addrs()?.collect()))
    }
}

impl Resolver {
    pub fn of(
        look_up: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            look_up: Arc::new(look_up),
            within: WITHIN,
        }
    }

    /// `None`: not in time; its look is left in `looks`.
    pub async fn resolve(
        &self,
        (name, port): (&str, u16),
        looks: &mut Looks,
    ) -> Option<io::Result<Vec<SocketAddr>>> {
        let (look_up, name) = (self.look_up.clone(), name.to_owned());
        looks.spawn_blocking(move || look_up(&name, port));
        let found = tokio::time::timeout(self.within, looks.join_next()).await;
        let found = found.ok()?.unwrap_or_else(|| Ok(Ok(Vec::new())));
        Some(found.map_err(io::Error::other).and_then(|found| found))
    }
}
