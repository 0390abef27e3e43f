//! One gateway with an own store and bus.

use crate::door::{Caller, Who};
use domain::{id::{AccountId, KeyId}, key::Key};
use std::sync::Arc;

/// A caller that may do everything.
pub fn somebody() -> Who {
    Who::new(Caller {
        key: Arc::new(Key {
            id: KeyId::from_uuid(uuid::Uuid::nil()),
            account: AccountId::default_account(),
            permissions: Key::all_permissions(),
            agents: None,
            expires_at: None,
        }),
        request_id: "req_test".to_owned(),
        traceparent: None,
        remote: None,
    })
}
