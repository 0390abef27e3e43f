//! TLS at the port: one certificate from files, read anew when they change. Connections that are there keep what they began with.

use crate::edge::Files;
use domain::{Error, Result};
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// How often the files are looked at. Both together are a few kB, and cheaper to read than to be told of by inotify, which
/// does not see what Kubernetes does to a mounted secret.
const LOOK_EVERY: Duration = Duration::from_secs(2);

pub struct Tls {
    files: Files,
    /// What was read last, whether it could be used or not: a fault is said once.
    read: (Vec<u8>, Vec<u8>),
    shown: Arc<Shown>,
    config: Arc<ServerConfig>,
}

/// What new handshakes are shown.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let key = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&key))
    }
}

impl Tls {
    /// Fails with the file that cannot be used, and why.
    pub fn open(files: Files) -> Result<Self> {
        let read = bytes(&files)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let key = certified(&read, &provider)?;
        let shown = Arc::new(Shown(RwLock::new(Arc::new(key))));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::internal("TLS cannot be set up").because(error))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            files,
            read,
            shown,
            config: Arc::new(config),
        })
    }

    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }

    /// Looks at the files until `stop`. One that cannot be used leaves the certificate as it was.
    pub async fn follow(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return,
            }
            match self.look() {
                Ok(false) => {}
                Ok(true) => tracing::info!("the certificate of the port was read anew"),
                Err(error) => {
                    tracing::error!(error = %error, "the new certificate of the port cannot be used; the one before stays");
                }
            }
        }
    }

    /// Whether there was something new. The two files are replaced one after the other: a pair that does not fit together is
    /// looked at again.
    fn look(&mut self) -> Result<bool> {
        // Away for a moment while it is replaced, most often.
        let Ok(read) = bytes(&self.files) else {
            return Ok(false);
        };
        if read == self.read {
            return Ok(false);
        }
        self.read = read;
        let key = certified(&self.read, self.config.crypto_provider())?;
        *self.shown.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
        Ok(true)
    }
}

fn bytes(files: &Files) -> Result<(Vec<u8>, Vec<u8>)> {
    let read = |name: &str, path: &Path| {
        std::fs::read(path).map_err(|error| {
            Error::fault(name, format!("{} cannot be read: {error}", path.display()))
        })
    };
    Ok((
        read("gateway.tls_certificate", &files.certificate)?,
        read("gateway.tls_key", &files.key)?,
    ))
}

fn certified(
    (chain, key): &(Vec<u8>, Vec<u8>),
    provider: &Arc<CryptoProvider>,
) -> Result<CertifiedKey> {
    let chain = CertificateDer::pem_slice_iter(chain)
        .collect::<std::result::Result<Vec<_>, _>>()
        .ok()
        .filter(|chain| !chain.is_empty())
        .ok_or_else(|| {
            Error::fault(
                "gateway.tls_certificate",
                "holds no certificate; allowed is a PEM file with our own first",
            )
        })?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| {
        Error::fault(
            "gateway.tls_key",
            "holds no private key; allowed is a PEM file with one",
        )
    })?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| {
        Error::fault(
            "gateway.tls_key",
            format!("does not fit gateway.tls_certificate: {error}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(files: &Files) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
        std::fs::write(&files.certificate, made.cert.pem()).expect("written");
        std::fs::write(&files.key, made.signing_key.serialize_pem()).expect("written");
    }

    fn shown(tls: &Tls) -> Vec<u8> {
        let key = tls.shown.0.read().expect("no poison");
        key.cert[0].to_vec()
    }

    #[test]
    fn changed_files_are_shown_and_bad_ones_are_not() {
        let dir = std::env::temp_dir().join(format!("tls-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&dir).expect("a directory");
        let files = Files {
            certificate: dir.join("certificate.pem"),
            key: dir.join("key.pem"),
        };
        let missing = Tls::open(files.clone()).err().expect("no files");
        assert!(
            missing.to_string().contains("gateway.tls_certificate"),
            "{missing}"
        );
        write(&files);
        let mut tls = Tls::open(files.clone()).expect("a pair");
        let first = shown(&tls);
        assert!(!tls.look().expect("the same"));
        write(&files);
        assert!(tls.look().expect("a new pair"));
        let second = shown(&tls);
        assert_ne!(first, second);
        // Half of a new pair, rubbish, nothing: the one before stays.
        let key = std::fs::read(&files.key).expect("the key");
        write(&files);
        std::fs::write(&files.key, key).expect("written");
        assert!(tls.look().is_err());
        std::fs::write(&files.certificate, "rubbish").expect("written");
        assert!(tls.look().is_err());
        std::fs::remove_file(&files.certificate).expect("removed");
        assert!(!tls.look().expect("away"));
        assert_eq!(shown(&tls), second);
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
