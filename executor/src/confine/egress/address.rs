//! Which addresses are this host's own.

use std::net::{IpAddr, UdpSocket};

/// Bound to this host, public or not: services that listen on all interfaces of the host are none of an agent's.
pub fn is_ours(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn what_this_host_listens_on_is_ours() {
        assert!(is_ours(Ipv4Addr::LOCALHOST.into()));
        assert!(!is_ours(Ipv4Addr::new(1, 1, 1, 1).into()));
    }
}
