//! The master keys of a file: the first seals, all open. One line a key: its name and 64 or more hex digits, or the digits alone, as
//! files have it that were made before keys had names. Where keys are kept is not known here.

use super::{MasterKeyId, MasterKeys, Opened, decrypt, derive, encrypt};
use domain::{Error, Result};
use zeroize::Zeroizing;

/// Sealing and names have keys of their own, derived from each.
struct Master {
    id: MasterKeyId,
    text: Zeroizing<String>,
    seal: Zeroizing<[u8; 32]>,
    pepper: Zeroizing<[u8; 32]>,
}

/// Never empty, never printed.
pub struct Ring {
    keys: Vec<Master>,
}

impl Master {
    fn new(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < 32 {
            return Err(Error::internal("the master key has fewer than 32 bytes"));
        }
        let name = derive(bytes, b"phalanx master key name v1");
        Ok(Self {
            id: MasterKeyId(*name.first_chunk().expect("32 bytes begin with eight")),
            text: Zeroizing::new(hex::encode(bytes)),
            seal: Zeroizing::new(derive(bytes, b"phalanx seal v1")),
            pepper: Zeroizing::new(derive(bytes, b"phalanx key hash v1")),
        })
    }
}

impl Ring {
    /// The first seals.
    pub fn of<'a>(keys: impl IntoIterator<Item = &'a [u8]>) -> Result<Self> {
        let keys: Result<Vec<_>> = keys.into_iter().map(Master::new).collect();
        Self::checked(keys?)
    }

    /// As a file has it; lines that begin with # are for people.
    pub fn read(text: &str) -> Result<Self> {
        let mut keys = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = |what: &str| Error::internal(format!("line {} {what}", at + 1));
            let words: Vec<&str> = line.split_whitespace().collect();
            let (name, digits) = match words[..] {
                [digits] => (None, digits),
                [name, digits] => (Some(name), digits),
                _ => return Err(bad("has more than a name and a key")),
            };
            let bytes = hex::decode(digits).map(Zeroizing::new);
            let bytes = bytes.ok().filter(|bytes| bytes.len() >= 32);
            let key = Master::new(
                &bytes.ok_or_else(|| bad("does not hold a key of 64 hex digits or more"))?,
            )?;
            if name.is_some_and(|name| name != key.id.to_string()) {
                return Err(bad(&format!(
                    "calls a key by another's name: the name of this one is {}",
                    key.id
                )));
            }
            keys.push(key);
        }
        Self::checked(keys)
    }

    fn checked(keys: Vec<Master>) -> Result<Self> {
        if keys.is_empty() {
            return Err(Error::internal(
                "there is no key of 64 hex digits; `phalanx master-key` prints a new one",
            ));
        }
        for (at, key) in keys.iter().enumerate() {
            if keys[..at].iter().any(|before| before.id == key.id) {
                return Err(Error::internal(format!("{} is there twice", key.id)));
            }
        }
        Ok(Self { keys })
    }

    /// As a file has it.
    pub fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::new());
        for key in &self.keys {
            text.push_str(&format!("{} {}\n", key.id, key.text.as_str()));
        }
        text
    }

    /// The first seals.
    pub fn ids(&self) -> Vec<MasterKeyId> {
        self.keys.iter().map(|key| key.id).collect()
    }

    pub fn holds(&self, id: MasterKeyId) -> bool {
        self.keys.iter().any(|key| key.id == id)
    }

    /// Behind the first, so that all processes can open what it will seal before one seals by it. The last stays the oldest.
    pub fn add(&mut self, key: &[u8]) -> Result<MasterKeyId> {
        let key = Master::new(key)?;
        if self.holds(key.id) {
            return Err(Error::conflict(format!("{} is there already", key.id)));
        }
        let id = key.id;
        self.keys.insert(1, key);
        Ok(id)
    }

    /// From here on this one seals.
    pub fn activate(&mut self, id: MasterKeyId) -> Result<()> {
        let at = self.keys.iter().position(|key| key.id == id);
        let at = at.ok_or_else(|| Error::not_found(format!("the master key {id}")))?;
        self.keys[..=at].rotate_right(1);
        Ok(())
    }

    /// The line of a key that is not there any more.
    pub fn remove(&mut self, id: MasterKeyId) -> Result<Zeroizing<String>> {
        let at = self.keys.iter().position(|key| key.id == id);
        match at {
            None => Err(Error::not_found(format!("the master key {id}"))),
            Some(0) => Err(Error::conflict(format!(
                "{id} is the key that seals; make another one with `phalanx master-key rotate`"
            ))),
            Some(at) => {
                let key = self.keys.remove(at);
                Ok(Zeroizing::new(format!(
                    "{} {}\n",
                    key.id,
                    key.text.as_str()
                )))
            }
        }
    }

    /// Of the oldest key: what hashes are keyed with until that is a row of its own.
    pub fn first_pepper(&self) -> Zeroizing<[u8; 32]> {
        let oldest = self.keys.last().expect("a ring is never empty");
        oldest.pepper.clone()
    }
}

impl MasterKeys for Ring {
    fn wrap(&self, place: &str, data_key: &[u8; 32]) -> Result<(MasterKeyId, Vec<u8>)> {
        let active = &self.keys[0];
        Ok((active.id, encrypt(&active.seal, place, data_key)?))
    }

    fn unwrap(&self, by: Option<MasterKeyId>, place: &str, wrapped: &[u8]) -> Result<Opened> {
        let mut may = self
            .keys
            .iter()
            .filter(|key| by.is_none_or(|by| by == key.id));
        let opened = may.find_map(|key| decrypt(&key.seal[..], place, wrapped));
        let by_whom = || {
            match by {
            None => "a value was sealed before master keys had names, and none of those that are there opens it".to_owned(),
            Some(by) if self.holds(by) => format!("a value that {by} sealed was changed, or moved from elsewhere"),
            Some(by) => format!("a value was sealed by the master key {by}, which is not there: put it back into master_key_file"),
        }
        };
        opened.ok_or_else(|| Error::internal(by_whom()))
    }

    fn active(&self) -> Result<MasterKeyId> {
        Ok(self.keys[0].id)
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ring({:?})", self.ids())
    }
}
