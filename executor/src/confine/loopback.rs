//! Brings `lo` up in a new network namespace: one rtnetlink message (RTM_NEWLINK, rtnetlink(7)), so that no ioctl is needed.

use std::io;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

use super::error::{Error, Step};

const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST_ACK: u16 = 1 | 4;
const NLMSG_ERROR: u16 = 2;
const IFF_UP: u32 = 1;
const LO_INDEX: i32 = 1;

pub fn up() -> Result<(), Error> {
    set_up().step("bring lo up")
}

fn set_up() -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?; // protocol 0: NETLINK_ROUTE
    let mut message = Vec::with_capacity(32);
    message.extend(32u32.to_ne_bytes()); // nlmsghdr: length, type, flags, sequence, port
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([0; 4]); // ifinfomsg: family, padding, device type
    message.extend(LO_INDEX.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes()); // flags
    message.extend(IFF_UP.to_ne_bytes()); // which of them change
    sendto(
        &socket,
        &message,
        SendFlags::empty(),
        &SocketAddrNetlink::new(0, 0),
    )?;

    let mut answer = [0u8; 512];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    let field = |at: usize| {
        answer
            .get(at..at + 4)
            .filter(|_| length >= at + 4)
            .and_then(|b| b.try_into().ok())
            .map(i32::from_ne_bytes)
    };
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    match (kind, field(16)) {
        (NLMSG_ERROR, Some(0)) => Ok(()),
        (NLMSG_ERROR, Some(errno)) => Err(io::Error::from_raw_os_error(-errno)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
