//! Secrets that callers get: made here, shown once, kept as a keyed hash only.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use domain::{
    Error, Result,
    id::{AccountId, AgentId, KeyId},
    key::Key,
};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use store::{Store, keys::New};

const PREFIX: &str = "akc_";
/// Longer ones are not looked at.
const MOST: usize = 512;

/// `akc_` + base64 of `region_account_suffix`; the suffix is 192 bits from the operating system, in hex.
pub fn mint(region: &str, account: &AccountId) -> String {
    let words = format!("{region}_{account}_{}", hex::encode(&random()[..24]));
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(words))
}

/// `whsec_` + base64, as Standard Webhooks writes it.
pub fn webhook_secret() -> String {
    format!("whsec_{}", STANDARD.encode(random()))
}

/// Whether it can be a key at all: anything else costs no look at the rows.
pub fn has_form(secret: &str) -> bool {
    let Some(rest) = secret.strip_prefix(PREFIX) else {
        return false;
    };
    secret.len() <= MOST
        && rest.len() >= 28
        && rest
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+/-_=".contains(&b))
}

/// In an empty store: makes the account `default` and a key with all permissions, and gives its secret, this once. `given` is
/// the secret that it shall have.
pub async fn first_key(
    store: &Store,
    region: &str,
    given: Option<String>,
) -> Result<Option<String>> {
    let account = AccountId::default_account();
    if given.as_ref().is_some_and(|secret| !has_form(secret)) {
        return Err(Error::fault(
            "gateway.admin_key_file",
            "does not hold a key; allowed is what `phalanx admin-key` prints",
        ));
    }
    let secret = given.unwrap_or_else(|| mint(region, &account));
    let key = New::lasting(
        (KeyId::from_uuid(uuid::Uuid::now_v7()), account),
        store.hash_key(&secret),
        "first key".to_owned(),
        Key::all_permissions(),
        store.now(),
    );
    Ok(store.begin(&key).await?.then_some(secret))
}

/// The key that is made with an agent: it may execute and read that agent.
pub fn of_agent(
    store: &Store,
    region: &str,
    account: &AccountId,
    agent: &AgentId,
) -> (New, String) {
    let secret = mint(region, account);
    let key = New {
        agents: Some(BTreeSet::from([agent.clone()])),
        ..New::lasting(
            (KeyId::from_uuid(uuid::Uuid::now_v7()), account.clone()),
            store.hash_key(&secret),
            format!("agent {agent}"),
            Key::agent_permissions(),
            store.now(),
        )
    };
    (key, secret)
}

/// 256 bits: three random UUIDs of 122 bits each from the operating system, folded by SHA-256.
fn random() -> [u8; 32] {
    let mut hash = Sha256::new();
    for _ in 0..3 {
        hash.update(uuid::Uuid::new_v4().as_bytes());
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_form_of_the_contract() {
        let account = AccountId::default_account();
        let secret = mint("local", &account);
        assert!(has_form(&secret), "{secret}");
        let rest = secret.strip_prefix("akc_").expect("the prefix");
        let words = String::from_utf8(URL_SAFE_NO_PAD.decode(rest).expect("base64")).expect("text");
        let parts: Vec<&str> = words.split('_').collect();
        assert_eq!(parts[..2], ["local", "default"]);
        assert!(parts[2].len() * 4 >= 160);
        assert_ne!(secret, mint("local", &account));
    }

    #[test]
    fn garbage_has_no_form() {
        for bad in [
            "",
            "akc_",
            "akc_short",
            "Bearer",
            &format!("akc_{}", "x".repeat(600)),
            "akc_äääääääääääääääääääääääääääää",
        ] {
            assert!(!has_form(bad), "{bad}");
        }
    }

    #[test]
    fn webhook_secrets_have_enough_bytes() {
        let secret = webhook_secret();
        let bytes = STANDARD
            .decode(secret.strip_prefix("whsec_").expect("the prefix"))
            .expect("base64");
        assert!(bytes.len() >= 24);
    }
}
