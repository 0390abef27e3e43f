//! How many connections each address has: one client shall not take the places of all others.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

#[derive(Clone)]
pub struct Peers {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
    most: usize,
}

/// A connection of an address, until dropped.
pub struct One {
    peers: Peers,
    address: IpAddr,
}

impl Peers {
    pub fn new(most: usize) -> Self {
        Self {
            open: Arc::default(),
            most,
        }
    }

    /// `None`: it has as many as it may.
    pub fn one_of(&self, address: IpAddr) -> Option<One> {
        let address = who(address);
        let mut open = self.open();
        let count = open.entry(address).or_insert(0);
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(One {
            peers: self.clone(),
            address,
        })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for One {
    fn drop(&mut self) {
        let mut open = self.peers.open();
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

/// IPv4 in either spelling is itself; of IPv6 a client has a whole /64 (RFC 6177).
fn who(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() >> 64 << 64;
            Ipv6Addr::from_bits(network).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_bound() {
        let peers = Peers::new(2);
        let of = |text: &str| peers.one_of(text.parse().expect("an address"));
        let first = of("192.0.2.1").expect("a place");
        let _mapped = of("::ffff:192.0.2.1").expect("the same");
        assert!(of("192.0.2.1").is_none());
        let _other = of("192.0.2.2").expect("another");
        drop(first);
        assert!(of("192.0.2.1").is_some());
        let _one = of("2001:db8::1").expect("a place");
        let _two = of("2001:db8::ffff:2").expect("a place");
        assert!(of("2001:db8::3").is_none());
        assert!(of("2001:db8:0:1::3").is_some());
        drop((_mapped, _other, _one, _two));
        assert!(peers.open().is_empty());
    }
}
