//! Sealing at rest, and keyed hashes.
//!
//! Envelope: every sealed value has a data key of its own (XChaCha20-Poly1305, random 24-byte nonces), wrapped by a master key that
//! is named in the value. Both layers are bound to the value's place, so a sealed value cannot be moved elsewhere. Master keys are
//! behind [`MasterKeys`]: those of a file ([`Ring`]), or whatever else wraps a data key.

mod ring;
#[cfg(test)]
mod tests;

pub use ring::Ring;

use chacha20poly1305::{
    Key, KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Generate, Payload},
};
use domain::{Error, Result, id::AccountId};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::{
    fmt,
    str::FromStr,
    sync::{Arc, OnceLock},
};
use zeroize::Zeroizing;

/// The keyed hash of a secret that somebody presents.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Hash(pub [u8; 32]);

/// Names a master key, in every value that it sealed. Made from the key itself: two keys never have one name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MasterKeyId(pub [u8; 8]);

/// What opens a sealed value; never printed.
pub type Opened = Zeroizing<Vec<u8>>;

/// What seals data keys: the seam for a key management service. One key seals, any that is known opens. Called from tasks: one that
/// has to ask over a network does so in `block_in_place`, and may remember what it unwrapped.
pub trait MasterKeys: Send + Sync {
    /// The key that seals from now on, and the data key wrapped by it, bound to `place`. At most 65535 bytes.
    fn wrap(&self, place: &str, data_key: &[u8; 32]) -> Result<(MasterKeyId, Vec<u8>)>;

    /// `by` is `None` for what was wrapped before keys had names; then any key may have done it. An unknown key is an error that names it.
    fn unwrap(&self, by: Option<MasterKeyId>, place: &str, wrapped: &[u8]) -> Result<Opened>;

    /// The key that seals from now on.
    fn active(&self) -> Result<MasterKeyId>;
}

/// Where a sealed value is kept; it opens nowhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// As `versions.secrets`.
    column: String,
    account: String,
    row: String,
}

impl Place {
    pub(crate) fn new(column: &str, account: &str, row: &str) -> Self {
        Self {
            column: column.to_owned(),
            account: account.to_owned(),
            row: row.to_owned(),
        }
    }

    /// An agent's webhook secret.
    pub fn webhook_secret(account: &AccountId, incarnation: &str) -> Self {
        Self::new("agents.webhook_secret", account.as_str(), incarnation)
    }

    /// The secret that an alert policy's webhooks are signed with.
    pub fn alert_policy(account: &AccountId, id: &str) -> Self {
        Self::new("alert_policies.secret", account.as_str(), id)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.column, self.account, self.row)
    }
}

/// Seals, opens and hashes; never printed.
#[derive(Clone)]
pub struct Secrets {
    keys: Arc<dyn MasterKeys>,
    /// What hashes were keyed with before the row `peppers` was there, and what it is made from.
    first_pepper: Zeroizing<[u8; 32]>,
    pepper: Arc<OnceLock<Zeroizing<[u8; 32]>>>,
}

/// The data key is wrapped by a key without a name, and both layers are bound to the row only.
const UNNAMED: u8 = 1;
/// Version, name of the key, length of the wrapped data key, wrapped data key, nonce, body.
const NAMED: u8 = 2;
const NONCE: usize = 24;
const NAME: usize = 8;
/// A data key as a [`Ring`] wraps it: nonce, 32 bytes, tag.
const WRAPPED: usize = NONCE + 32 + 16;
/// How many bytes of a sealed value tell by which key.
pub(crate) const MARK: usize = 1 + NAME;

impl Secrets {
    /// Of one master key: at least 32 bytes from the operating system's randomness.
    pub fn new(master: &[u8]) -> Result<Self> {
        let ring = Ring::of([master])?;
        let pepper = ring.first_pepper();
        Ok(Self::of(Arc::new(ring), pepper))
    }

    pub fn of(keys: Arc<dyn MasterKeys>, first_pepper: Zeroizing<[u8; 32]>) -> Self {
        Self {
            keys,
            first_pepper,
            pepper: Arc::default(),
        }
    }

    /// Of a role that neither seals nor opens.
    pub fn none() -> Self {
        Self::of(Arc::new(NoKeys), Zeroizing::default())
    }

    pub fn hash(&self, secret: &str) -> Hash {
        let pepper = self.pepper.get().unwrap_or(&self.first_pepper);
        Hash(derive(&pepper[..], secret.as_bytes()))
    }

    pub(crate) fn first_pepper(&self) -> &[u8; 32] {
        &self.first_pepper
    }

    /// From here on hashes are keyed with what its row holds.
    pub(crate) fn set_pepper(&self, pepper: Zeroizing<[u8; 32]>) {
        let _ = self.pepper.set(pepper);
    }

    pub fn active(&self) -> Result<MasterKeyId> {
        self.keys.active()
    }

    pub fn seal(&self, place: &Place, plain: &[u8]) -> Result<Vec<u8>> {
        let place = place.to_string();
        let data_key = Zeroizing::new(<[u8; 32]>::from(Key::generate()));
        let (by, wrapped) = self.keys.wrap(&place, &data_key)?;
        let length = u16::try_from(wrapped.len())
            .map_err(|_| Error::internal("a wrapped data key is too long"))?;
        let body = encrypt(&data_key, &place, plain)?;
        Ok([&[NAMED][..], &by.0, &length.to_be_bytes(), &wrapped, &body].concat())
    }

    pub fn open(&self, place: &Place, sealed: &[u8]) -> Result<Opened> {
        let (by, wrapped, body) =
            parts(sealed).ok_or_else(|| Error::internal("a sealed value is spoilt"))?;
        // Before keys had names, places were rows.
        let bound_to = match by {
            Some(_) => place.to_string(),
            None => place.row.clone(),
        };
        let data_key = self.keys.unwrap(by, &bound_to, wrapped)?;
        decrypt(&data_key, &bound_to, body).ok_or_else(|| {
            Error::internal(
                "a sealed value cannot be opened: it was changed, or moved from elsewhere",
            )
        })
    }
}

struct NoKeys;

impl NoKeys {
    fn refused() -> Error {
        Error::internal("this role has no master key")
    }
}

impl MasterKeys for NoKeys {
    fn wrap(&self, _: &str, _: &[u8; 32]) -> Result<(MasterKeyId, Vec<u8>)> {
        Err(Self::refused())
    }

    fn unwrap(&self, _: Option<MasterKeyId>, _: &str, _: &[u8]) -> Result<Opened> {
        Err(Self::refused())
    }

    fn active(&self) -> Result<MasterKeyId> {
        Err(Self::refused())
    }
}

/// By which key, the wrapped data key, and the body.
fn parts(sealed: &[u8]) -> Option<(Option<MasterKeyId>, &[u8], &[u8])> {
    let (version, rest) = sealed.split_first()?;
    match *version {
        UNNAMED => {
            let (wrapped, body) = rest.split_at_checked(WRAPPED)?;
            Some((None, wrapped, body))
        }
        NAMED => {
            let (name, rest) = rest.split_first_chunk::<NAME>()?;
            let (length, rest) = rest.split_first_chunk::<2>()?;
            let (wrapped, body) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
            Some((Some(MasterKeyId(*name)), wrapped, body))
        }
        _ => None,
    }
}

/// By which key the value was sealed that begins so; `None`: before keys had names.
pub(crate) fn sealed_by(mark: &[u8]) -> Option<MasterKeyId> {
    match mark.split_first()? {
        (&NAMED, name) => Some(MasterKeyId(*name.first_chunk()?)),
        _ => None,
    }
}

/// How every value begins that this key sealed.
pub(crate) fn mark(by: MasterKeyId) -> [u8; MARK] {
    let mut mark = [NAMED; MARK];
    mark[1..].copy_from_slice(&by.0);
    mark
}

/// The nonce and what was encrypted.
fn encrypt(key: &[u8; 32], bound_to: &str, plain: &[u8]) -> Result<Vec<u8>> {
    let nonce = XNonce::generate();
    let aad = bound_to.as_bytes();
    let sealed = XChaCha20Poly1305::new(&Key::from(*key))
        .encrypt(&nonce, Payload { msg: plain, aad })
        .map_err(|_| Error::internal("a secret cannot be sealed"))?;
    Ok([&nonce[..], &sealed].concat())
}

fn decrypt(key: &[u8], bound_to: &str, sealed: &[u8]) -> Option<Opened> {
    let (nonce, body) = sealed.split_at_checked(NONCE)?;
    let (nonce, key) = (XNonce::try_from(nonce).ok()?, Key::try_from(key).ok()?);
    let aad = bound_to.as_bytes();
    let opened = XChaCha20Poly1305::new(&key).decrypt(&nonce, Payload { msg: body, aad });
    opened.ok().map(Zeroizing::new)
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

impl fmt::Display for MasterKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mk_{}", hex::encode(self.0))
    }
}

impl fmt::Debug for MasterKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MasterKeyId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut name = [0; NAME];
        let hex = text.strip_prefix("mk_").filter(|hex| hex.len() == 2 * NAME);
        hex.and_then(|hex| hex::decode_to_slice(hex, &mut name).ok())
            .map(|()| Self(name))
            .ok_or_else(|| {
                Error::fault("master key", "is no name; allowed is mk_ and 16 hex digits")
            })
    }
}
