//! The port: bound with words that say what to do.

use domain::{Error, Result};
use std::{io, net::SocketAddr};
use tokio::net::{TcpListener, TcpSocket};

/// Connections that may wait to be accepted; the kernel takes less where `somaxconn` is lower.
const BACKLOG: u32 = 16_384;

pub fn listen(address: SocketAddr) -> Result<TcpListener> {
    let open = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    open().map_err(|error: io::Error| {
        let words = match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!("cannot listen on {address}: another process has this port; stop it or choose another one")
            }
            io::ErrorKind::PermissionDenied => {
                format!("cannot listen on {address}: this user may not open the port; choose one above 1023")
            }
            io::ErrorKind::AddrNotAvailable => {
                format!("cannot listen on {address}: this host has no such address; choose one of its own, as 0.0.0.0")
            }
            _ => format!("cannot listen on {address}: {error}"),
        };
        Error::unavailable(words).because(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_said_in_one_line() {
        let first = listen(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let taken = first.local_addr().expect("an address");
        let error = listen(taken).expect_err("taken");
        assert!(
            error.message.contains("another process") && !error.message.contains('\n'),
            "{error}"
        );
        let foreign = listen(SocketAddr::from(([192, 0, 2, 1], 0))).expect_err("not ours");
        assert!(foreign.message.contains("192.0.2.1"), "{foreign}");
    }
}
