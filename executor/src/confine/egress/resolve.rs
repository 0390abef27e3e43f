//! Names to addresses, by the host's own resolver. A look-up holds a thread until the resolver has given up, whoever asked for it has
//! gone or not, so there are few at a time: for one instance, and for all together, who share those threads with everything else.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use tokio::sync::Semaphore;

const OF_ALL: usize = 64;
const OF_ONE: usize = 8;

/// One for each instance, by [`Resolver::share`].
#[derive(Debug, Clone)]
pub struct Resolver {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
    #[cfg(test)]
    told: Arc<std::collections::BTreeMap<String, Vec<IpAddr>>>,
}

impl Default for Resolver {
    fn default() -> Self {
        Resolver {
            all: Arc::new(Semaphore::new(OF_ALL)),
            own: Arc::new(Semaphore::new(OF_ONE)),
            #[cfg(test)]
            told: Arc::default(),
        }
    }
}

impl Resolver {
    /// Another one's, with the same bound for all.
    #[must_use]
    pub fn share(&self) -> Self {
        Resolver {
            all: Arc::clone(&self.all),
            ..Resolver::default()
        }
    }

    /// Knows some names by itself.
    #[cfg(test)]
    pub fn telling<const N: usize>(told: [(&str, &[&str]); N]) -> Self {
        let parsed = |(name, ips): (&str, &[&str])| {
            let ips = ips.iter().map(|ip| ip.parse().expect("an address"));
            (name.to_owned(), ips.collect())
        };
        Resolver {
            told: Arc::new(told.map(parsed).into()),
            ..Resolver::default()
        }
    }

    pub async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        #[cfg(test)]
        if let Some(ips) = self.told.get(host) {
            return Ok(ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect());
        }
        let acquire = |of: &Arc<Semaphore>| Arc::clone(of).acquire_owned();
        let own = acquire(&self.own).await.map_err(io::Error::other)?;
        let all = acquire(&self.all).await.map_err(io::Error::other)?;
        let host = host.to_owned();
        let look_up = move || {
            let found = (host.as_str(), port).to_socket_addrs();
            drop((own, all));
            found.map(Iterator::collect)
        };
        tokio::task::spawn_blocking(look_up)
            .await
            .map_err(io::Error::other)?
    }
}
