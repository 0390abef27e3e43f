//! The certificate that clients see: read anew when its files change, so that renewing one needs no restart and cuts nobody off.

use domain::{Error, Result};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{
    fs,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// PEM files: the certificate with what leads to its root, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug)]
pub struct Certificate {
    files: Files,
    shown: RwLock<Shown>,
}

#[derive(Debug)]
struct Shown {
    key: Arc<CertifiedKey>,
    /// What was in the files.
    bytes: (Vec<u8>, Vec<u8>),
}

impl Certificate {
    pub fn read(files: Files) -> Result<Arc<Self>> {
        let shown = RwLock::new(files.read()?);
        Ok(Arc::new(Self { files, shown }))
    }

    pub fn server(self: Arc<Self>) -> Arc<ServerConfig> {
        let mut server = ServerConfig::builder()
            .with_no_client_auth()
            .with_cert_resolver(self);
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(server)
    }

    /// Follows the files until `stop`. What cannot be used is said, and the certificate before stays.
    pub async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let mut complained = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let looking = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || looking.look()).await;
            match looked {
                Ok(Ok(changed)) => {
                    complained = None;
                    if changed {
                        tracing::info!(file = %self.files.certificate.display(), "a new certificate is shown");
                    }
                }
                Ok(Err(error)) if complained.as_ref() != Some(&error.message) => {
                    tracing::error!(error = ?error, "the certificate before stays");
                    complained = Some(error.message);
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    fn look(&self) -> Result<bool> {
        let bytes = self.files.bytes()?;
        let is_same = |shown: &Shown| shown.bytes == bytes;
        if is_same(&self.shown.read().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(false);
        }
        let shown = self.files.parse(bytes)?;
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = shown;
        Ok(true)
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&shown.key))
    }
}

impl Files {
    fn read(&self) -> Result<Shown> {
        self.parse(self.bytes()?)
    }

    fn bytes(&self) -> Result<(Vec<u8>, Vec<u8>)> {
        let read = |setting: &str, path: &PathBuf| {
            fs::read(path).map_err(|error| {
                Error::fault(
                    setting,
                    format!("{} cannot be read: {error}", path.display()),
                )
            })
        };
        Ok((
            read("gateway.tls_certificate", &self.certificate)?,
            read("gateway.tls_key", &self.key)?,
        ))
    }

    fn parse(&self, bytes: (Vec<u8>, Vec<u8>)) -> Result<Shown> {
        let bad = |setting: &str, path: &PathBuf, what: String| {
            Error::fault(setting, format!("{}: {what}", path.display()))
        };
        let chain = CertificateDer::pem_slice_iter(&bytes.0)
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|error| {
                bad(
                    "gateway.tls_certificate",
                    &self.certificate,
                    error.to_string(),
                )
            })?;
        if chain.is_empty() {
            let what = "holds no certificate in PEM".to_owned();
            return Err(bad("gateway.tls_certificate", &self.certificate, what));
        }
        let key = PrivateKeyDer::from_pem_slice(&bytes.1).map_err(|error| {
            let what = format!("holds no private key in PEM ({error})");
            bad("gateway.tls_key", &self.key, what)
        })?;
        let key = any_supported_type(&key)
            .map_err(|error| bad("gateway.tls_key", &self.key, error.to_string()))?;
        let key = CertifiedKey::new(chain, key);
        key.keys_match().map_err(|error| {
            let what = format!("is not the key of {} ({error})", self.certificate.display());
            bad("gateway.tls_key", &self.key, what)
        })?;
        Ok(Shown {
            key: Arc::new(key),
            bytes,
        })
    }
}
