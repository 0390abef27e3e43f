//! A version as this executor runs it: its description, its variables, and where its files lie here.

use crate::{confine, python::Python};
use domain::{
    agent::Spec,
    id::{AccountId, VersionId},
};
use std::{borrow::Cow, collections::BTreeMap, path::PathBuf};

pub struct Version {
    pub id: VersionId,
    pub account: AccountId,
    pub spec: Spec,
    pub environment: BTreeMap<String, String>,
    pub files: Files,
}

/// Host paths; the sandbox sees them under names of its own.
pub struct Files {
    pub python: Python,
    /// The folder that holds the worker, compiled for this interpreter.
    pub runner: PathBuf,
    pub code: PathBuf,
    /// `None` where the version needs no packages.
    pub packages: Option<PathBuf>,
    /// `None` where the version needs no packages of the system.
    pub layer: Option<PathBuf>,
    pub processes: u64,
    pub open_files: u64,
    pub tmp_mb: u64,
}

const CODE: &str = "/agent/code";
const PACKAGES: &str = "/agent/env";

impl Version {
    /// Under which names an instance finds its code and its packages: without a sandbox there are only the host's.
    pub fn seen_at(&self, isolation: confine::Isolation) -> (Cow<'_, str>, Option<Cow<'_, str>>) {
        let (code, packages) = (&self.files.code, self.files.packages.as_ref());
        match isolation {
            confine::Isolation::Namespaces => (CODE.into(), packages.map(|_| PACKAGES.into())),
            confine::Isolation::None => (
                code.to_string_lossy(),
                packages.map(|packages| packages.to_string_lossy()),
            ),
        }
    }

    /// What of this node's disk it needs.
    pub fn folders(&self) -> Vec<PathBuf> {
        let Files {
            code,
            packages,
            layer,
            ..
        } = &self.files;
        let folders = [Some(code), packages.as_ref(), layer.as_ref()];
        folders.into_iter().flatten().cloned().collect()
    }

    /// What one instance of it may see and use.
    pub fn confine_spec(&self, id: &str) -> confine::Spec {
        let python = &self.files.python;
        let program = ["-I", "-S", "-u", "/agent/runner/worker.pyc"].map(str::to_owned);
        let mut argv = vec![python.executable.clone()];
        argv.extend(program);
        let mut spec = confine::Spec::new(id, argv)
            .show(&self.files.runner, "/agent/runner")
            .show(&self.files.code, CODE);
        for prefix in &python.prefixes {
            spec = spec.show(prefix, prefix.to_string_lossy().into_owned());
        }
        if let Some(packages) = &self.files.packages {
            spec = spec.show(packages, PACKAGES);
        }
        spec.layer = self.files.layer.clone().map(confine::Layer::Shown);
        let configuration = &self.spec.configuration;
        spec.memory_mb = u64::from(configuration.memory_limit_mb);
        // Sync handlers get a thread each, and threads count as processes.
        spec.processes = self.files.processes + u64::from(configuration.concurrent_executions);
        spec.open_files = self.files.open_files;
        spec.tmp_mb = self.files.tmp_mb;
        spec
    }
}
