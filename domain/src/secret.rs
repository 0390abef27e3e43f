//! A word that is used, and never printed.

use core::{convert::Infallible, fmt, ops::Deref, str::FromStr};
use serde::Deserialize;

/// Of settings: reads as the text that it is, and `Debug` shows nothing of it, whatever it is a part of.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Deref for Secret {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_it_is_printed() {
        let secret = Secret::from("planted");
        assert_eq!(secret.len(), 7);
        for printed in [format!("{secret:?}"), format!("{:#?}", Some(&secret))] {
            assert!(!printed.contains("planted"), "{printed}");
        }
    }
}
