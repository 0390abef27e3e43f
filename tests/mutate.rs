//! For properties of parsers, in every room (by `#[path]`): how often they are tried, and bytes that are nearly good. Random bytes
//! alone are refused at the first of them; what a parser gets wrong lies behind that.

use proptest::{prelude::*, sample::Index};

/// 256 times; more of them once in a while: `PHALANX_TEST_CASES=1000000`.
pub fn cases() -> ProptestConfig {
    let told = std::env::var("PHALANX_TEST_CASES").ok();
    ProptestConfig {
        cases: told.and_then(|cases| cases.parse().ok()).unwrap_or(256),
        max_local_rejects: u32::MAX,
        max_global_rejects: u32::MAX,
        ..ProptestConfig::default()
    }
}

/// What means something to one parser or another.
const PIECES: [&[u8]; 24] = [
    b"\0",
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b" ",
    b"\t",
    b"\x0b",
    b"..",
    b"../",
    b"/",
    b"\\",
    b"%",
    b"%00",
    b"@",
    b":",
    b",",
    b"[",
    b"]",
    b"{\"",
    b"\"",
    b"-1",
    b"1e999",
    b"\xff\xff\xff\xff",
    b"\xc3\xa9",
];

/// Good bytes, some of them with a few faults; others with none.
pub fn changed(good: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = (0u8..7, any::<Index>(), any::<Index>(), any::<u8>());
    (good, prop::collection::vec(change, 0..4)).prop_map(|(mut bytes, changes)| {
        for (kind, at, to, byte) in changes {
            let (at, to) = (at.index(bytes.len() + 1), to.index(bytes.len() + 1));
            let (from, to) = (at.min(to), at.max(to));
            match kind {
                0 if at < bytes.len() => bytes[at] = byte,
                1 if at < bytes.len() => bytes[at] ^= 1 << (byte % 8),
                2 => bytes.truncate(at),
                3 => drop(bytes.drain(from..to.min(from + 16))),
                4 => {
                    let again = bytes[from..to.min(from + 64)].to_vec();
                    bytes.splice(from..from, again);
                }
                5 => {
                    let piece = PIECES[usize::from(byte) % PIECES.len()];
                    bytes.splice(at..at, piece.iter().copied());
                }
                // A length, as large as it can be or nearly so, or nothing.
                _ => {
                    let number = [u32::MAX, u32::MAX >> 1, 1 << 24, 0][usize::from(byte % 4)];
                    for (place, byte) in bytes[at..].iter_mut().zip(number.to_le_bytes()) {
                        *place = byte;
                    }
                }
            }
        }
        bytes
    })
}
