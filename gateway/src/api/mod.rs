//! The endpoints: a folder a noun, a file a verb. A file holds what its verb takes, does and answers.

pub mod agents;
pub mod alerts;
pub mod callbacks;
pub mod dead_letters;
pub mod deployments;
pub mod executions;
pub mod keys;
pub mod limits;
pub mod metrics;
pub mod sessions;
pub mod system;

use crate::params::Page;
use serde::Serialize;
use utoipa::ToSchema;

/// Which part of a list this is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Pagination {
    pub page: u32,
    pub limit: u32,
    pub total: u64,
    pub total_pages: u64,
}

impl Pagination {
    pub fn new(page: Page, total: u64) -> Self {
        Self {
            page: page.page,
            limit: page.limit,
            total,
            total_pages: total.div_ceil(u64::from(page.limit)),
        }
    }
}
