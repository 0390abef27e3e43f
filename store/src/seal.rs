//! Sealing at rest and keyed hashes, both from the installation's one master key.
//!
//! Envelope: every sealed value has a data key of its own, sealed by the master key (XChaCha20-Poly1305, random 24-byte
//! nonces); the bound name (whose value it is) is authenticated with it, so a sealed value cannot be moved elsewhere.

use chacha20poly1305::{
    Key, KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Generate, Payload},
};
use domain::{Error, Result};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fmt;

/// The keyed hash of a secret that somebody presents.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Hash(pub [u8; 32]);

/// Keys derived from the master key; never printed.
#[derive(Clone)]
pub struct Secrets {
    seal: Key,
    pepper: [u8; 32],
}

const VERSION: u8 = 1;
const NONCE: usize = 24;
/// A sealed data key: 32 bytes and the tag.
const WRAPPED: usize = 32 + 16;

impl Secrets {
    /// `master` is at least 32 bytes from the operating system's randomness.
    pub fn new(master: &[u8]) -> Result<Self> {
        if master.len() < 32 {
            return Err(Error::internal("the master key has fewer than 32 bytes"));
        }
        let seal = derive(master, b"phalanx seal v1");
        let pepper = derive(master, b"phalanx key hash v1");
        Ok(Self {
            seal: Key::from(seal),
            pepper,
        })
    }

    pub fn hash(&self, secret: &str) -> Hash {
        Hash(derive(&self.pepper, secret.as_bytes()))
    }

    pub fn seal(&self, bound_to: &str, plain: &[u8]) -> Result<Vec<u8>> {
        let data_key = Key::generate();
        let (outer, inner) = (XNonce::generate(), XNonce::generate());
        let aad = bound_to.as_bytes();
        let refused = |_| Error::internal("a secret cannot be sealed");
        let wrapped = XChaCha20Poly1305::new(&self.seal)
            .encrypt(
                &outer,
                Payload {
                    msg: &data_key,
                    aad,
                },
            )
            .map_err(refused)?;
        let body = XChaCha20Poly1305::new(&data_key)
            .encrypt(&inner, Payload { msg: plain, aad })
            .map_err(refused)?;
        Ok([&[VERSION][..], &outer, &wrapped, &inner, &body].concat())
    }

    pub fn open(&self, bound_to: &str, sealed: &[u8]) -> Result<Vec<u8>> {
        let refused = || {
            Error::internal(
                "a sealed value cannot be opened: it was sealed by another master key, or changed",
            )
        };
        let aad = bound_to.as_bytes();
        let (version, rest) = sealed.split_first().ok_or_else(refused)?;
        if *version != VERSION || rest.len() < NONCE + WRAPPED + NONCE {
            return Err(refused());
        }
        let (outer, rest) = rest.split_at(NONCE);
        let (wrapped, rest) = rest.split_at(WRAPPED);
        let (inner, body) = rest.split_at(NONCE);
        let nonce = |bytes: &[u8]| XNonce::try_from(bytes).map_err(|_| refused());
        let data_key = XChaCha20Poly1305::new(&self.seal)
            .decrypt(&nonce(outer)?, Payload { msg: wrapped, aad })
            .map_err(|_| refused())?;
        let data_key = Key::try_from(data_key.as_slice()).map_err(|_| refused())?;
        XChaCha20Poly1305::new(&data_key)
            .decrypt(&nonce(inner)?, Payload { msg: body, aad })
            .map_err(|_| refused())
    }
}

fn derive(key: &[u8], label: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(label);
    mac.finalize().into_bytes().into()
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets([REDACTED])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_what_it_sealed_and_only_where() {
        let secrets = Secrets::new(&[7; 32]).expect("a key");
        let sealed = secrets.seal("ver_1", b"hunter2").expect("sealed");
        assert!(!sealed.windows(7).any(|window| window == b"hunter2"));
        assert_eq!(secrets.open("ver_1", &sealed).expect("opened"), b"hunter2");
        assert!(secrets.open("ver_2", &sealed).is_err());
        assert!(
            Secrets::new(&[8; 32])
                .expect("a key")
                .open("ver_1", &sealed)
                .is_err()
        );
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(secrets.open("ver_1", &changed).is_err(), "byte {at}");
            assert!(secrets.open("ver_1", &sealed[..at]).is_err(), "{at} bytes");
        }
        assert_ne!(
            secrets.seal("a", b"x").expect("sealed"),
            secrets.seal("a", b"x").expect("sealed")
        );
    }

    #[test]
    fn hashes_are_keyed() {
        let one = Secrets::new(&[1; 32]).expect("a key");
        assert_eq!(one.hash("akc_x"), one.hash("akc_x"));
        assert_ne!(
            one.hash("akc_x"),
            Secrets::new(&[2; 32]).expect("a key").hash("akc_x")
        );
        assert_eq!(format!("{one:?}"), "Secrets([REDACTED])");
    }
}
