//! Frames over the control socket: a length (u32, little endian), JSON, and with the first bytes perhaps descriptors (SCM_RIGHTS).

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bounds a plan: environment and binds. Reports are far smaller.
const FRAME_BYTES: u32 = 4 << 20;
/// Worker socket, stdout, stderr, and the instance's own trees.
pub const FRAME_FDS: usize = 64;

/// Small frames are sent with one call, which a Unix stream keeps whole even with several writers.
pub fn send(socket: &UnixStream, frame: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let json = serde_json::to_vec(frame)?;
    let length = u32::try_from(json.len())
        .ok()
        .filter(|n| *n <= FRAME_BYTES)
        .ok_or(io::ErrorKind::FileTooLarge)?;
    let mut bytes = Vec::with_capacity(4 + json.len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&json);

    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FRAME_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = loop {
        match sendmsg(
            socket,
            &[IoSlice::new(&bytes)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        ) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut rest = socket;
    rest.write_all(&bytes[sent..])
}

/// The next frame; `None` when the other side has closed between frames.
pub fn receive<T: DeserializeOwned>(socket: &UnixStream) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut header = [0; 4];
    let mut fds = Vec::new();
    let mut read = 0;
    while read < header.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FRAME_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let got = match recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut header[read..])],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?.bytes,
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        match got {
            0 if read == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => read += got,
        }
    }
    let length = u32::from_le_bytes(header);
    if length > FRAME_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut json = vec![0; length as usize];
    let mut rest = socket;
    rest.read_exact(&mut json)?;
    Ok(Some((serde_json::from_slice(&json)?, fds)))
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Order, Report};
    use super::*;
    use crate::mutate::{cases, changed};
    use proptest::prelude::*;
    use std::{net::Shutdown, os::fd::AsFd};

    #[test]
    fn frames_keep_their_bounds_and_their_descriptors() {
        let (a, b) = UnixStream::pair().expect("a pair of sockets");
        let (passed, mut other) = UnixStream::pair().expect("a pair of sockets");
        send(&a, &"first", &[passed.as_fd()]).expect("sent");
        send(&a, &"second", &[]).expect("sent");
        drop((a, passed));

        let (text, fds): (String, _) = receive(&b).expect("received").expect("a frame");
        assert_eq!((text.as_str(), fds.len()), ("first", 1));
        UnixStream::from(fds.into_iter().next().expect("the descriptor"))
            .write_all(b"!")
            .expect("written");
        let mut byte = [0];
        other.read_exact(&mut byte).expect("read");
        assert_eq!(byte, *b"!");
        assert_eq!(
            receive::<String>(&b)
                .expect("received")
                .map(|(text, fds)| (text, fds.len())),
            Some(("second".to_owned(), 0))
        );
        assert!(receive::<String>(&b).expect("closed").is_none());
    }

    #[test]
    fn refuses_a_frame_that_is_too_long() {
        let (mut a, b) = UnixStream::pair().expect("a pair of sockets");
        a.write_all(&u32::MAX.to_le_bytes()).expect("written");
        assert_eq!(
            receive::<String>(&b).expect_err("too long").kind(),
            io::ErrorKind::InvalidData
        );
    }

    fn written(frame: &impl Serialize) -> Vec<u8> {
        let json = serde_json::to_vec(frame).expect("JSON");
        let length = u32::try_from(json.len()).expect("short");
        [&length.to_le_bytes()[..], &json].concat()
    }

    fn frames() -> impl Strategy<Value = Vec<u8>> {
        let one = prop_oneof![
            any::<u32>().prop_map(|slot| written(&Order::Open { slot })),
            any::<i32>().prop_map(|pid| written(&Order::Watch { pid })),
            any::<i32>().prop_map(|pid| written(&Report::Born { pid })),
            (any::<u32>(), "\\PC{0,40}")
                .prop_map(|(slot, failure)| written(&Report::NotOpened { slot, failure })),
            (any::<i32>(), any::<Option<i32>>()).prop_map(|(pid, code)| written(&Report::Ended {
                pid,
                code,
                signal: None
            })),
            Just(written(&Report::Running)),
        ];
        prop::collection::vec(one, 1..5).prop_map(|frames| frames.concat())
    }

    /// All that is heard until the end or a fault, written once more, and whether it was the end.
    fn heard<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> (Vec<u8>, bool) {
        let (mut a, b) = UnixStream::pair().expect("a pair of sockets");
        a.write_all(bytes).expect("room for all");
        a.shutdown(Shutdown::Write).expect("the end");
        let mut again = Vec::new();
        loop {
            match receive::<T>(&b) {
                Ok(Some((frame, fds))) => {
                    assert!(fds.is_empty());
                    again.extend(written(&frame));
                }
                Ok(None) => return (again, true),
                Err(_) => return (again, false),
            }
        }
    }

    proptest! {
        #![proptest_config(cases())]

        /// What is heard is what was written, frame by frame, until a fault; and every reading ends.
        #[test]
        fn nearly_good_frames(bytes in changed(frames())) {
            let (values, whole) = heard::<serde_json::Value>(&bytes);
            prop_assert!(values.len() <= bytes.len() * 6 + 4);
            if whole {
                let (_, again) = heard::<serde_json::Value>(&values);
                prop_assert!(again);
            }
            for (known, ended) in [heard::<Order>(&bytes), heard::<Report>(&bytes)] {
                // Whatever is an order or a report is JSON first.
                prop_assert!(known.len() <= values.len() + 64 && (!ended || whole));
            }
        }
    }
}
