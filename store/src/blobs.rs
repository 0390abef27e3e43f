//! Bytes that all nodes share outside of the rows: in a folder, or in a bucket of S3 and what speaks like it.
//!
//! In: a name and bytes, or a file. Out: the bytes, or the digest of what came; whoever asks compares it with what a row says,
//! because others may write there. Every request has a deadline and a bound. Never here: a look at the environment.

use bytes::Bytes;
use domain::{Error, Result};
use futures::StreamExt;
use object_store::{
    BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig,
    WriteMultipart,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    local::LocalFileSystem,
    path::Path as Name,
    prefix::PrefixStore,
};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fs, future::Future, path::Path, sync::Arc, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Where the bytes are.
#[derive(Clone, Default)]
pub struct Settings {
    /// Empty: in the rows. Else `file:///folder` or `s3://bucket/prefix`.
    pub url: String,
    /// Of an S3 that is not Amazon's.
    pub endpoint: String,
    pub region: String,
    /// Whether the endpoint may be `http://`.
    pub allow_http: bool,
    /// The `AWS_…` variables of whoever calls: keys, tokens, roles.
    pub variables: BTreeMap<String, String>,
}

/// A handle to the object store; cheap to clone.
#[derive(Clone)]
pub struct Blobs {
    objects: Arc<dyn ObjectStore>,
    place: Arc<str>,
}

/// One request, its retries counted in.
const WITHIN: Duration = Duration::from_secs(60);
/// A large file, as a whole.
const FILE_WITHIN: Duration = Duration::from_secs(300);
const CONNECT: Duration = Duration::from_secs(5);
const TRIES: usize = 3;
const RETRIES_WITHIN: Duration = Duration::from_secs(20);
/// S3 takes no smaller parts but the last, and 10 000 of them.
const PART: usize = 8 << 20;
/// Parts of one file that are on their way at the same time.
const PARTS: usize = 2;

impl Blobs {
    /// `None` where the bytes go into rows. Fails fast: it writes one small object.
    pub async fn open(settings: &Settings) -> Result<Option<Self>> {
        let url = settings.url.trim_end_matches('/');
        let objects: Arc<dyn ObjectStore> = if url.is_empty() {
            return Ok(None);
        } else if let Some(folder) = url.strip_prefix("file://") {
            Arc::new(folder_of(Path::new(folder))?)
        } else if let Some(place) = url.strip_prefix("s3://") {
            let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
            Arc::new(PrefixStore::new(
                bucket_of(bucket, settings)?,
                named(prefix)?,
            ))
        } else {
            return Err(Error::unavailable(format!(
                "blobs.url is {url}; give file:///folder or s3://bucket/prefix, or nothing"
            )));
        };
        let place = url.into();
        let blobs = Self { objects, place };
        blobs.put("probe", Bytes::from_static(b"phalanx")).await?;
        Ok(Some(blobs))
    }

    /// Replaces what is there under this name.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        let name = named(name)?;
        let put = self.objects.put(&name, PutPayload::from(bytes));
        self.within(WITHIN, put).await.map(|_| ())
    }

    /// `None`: nothing is there. More than `most` bytes are an error.
    pub async fn get(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        let name = named(name)?;
        let reading = async {
            let Some(mut parts) = self.stream(&name, most).await? else {
                return Ok(None);
            };
            while let Some(part) = parts.next().await {
                let part = part.map_err(|error| self.failed(error))?;
                self.bounded(&name, (bytes.len() + part.len()) as u64, most)?;
                bytes.extend_from_slice(&part);
            }
            Ok(Some(()))
        };
        let found = self.in_time(WITHIN, reading).await?;
        Ok(found.map(|()| bytes))
    }

    /// Replaces what is there under this name; never more than a few parts are in memory.
    pub async fn put_file(&self, name: &str, path: &Path) -> Result<()> {
        let unread = |error: std::io::Error| {
            Error::unavailable(format!("{} cannot be read: {error}", path.display()))
        };
        let name = named(name)?;
        let begun = self.objects.put_multipart(&name);
        let mut upload =
            WriteMultipart::new_with_chunk_size(self.within(WITHIN, begun).await?, PART);
        let sending = async {
            let mut file = tokio::fs::File::open(path).await.map_err(unread)?;
            loop {
                let mut part = bytes::BytesMut::with_capacity(1 << 20);
                if file.read_buf(&mut part).await.map_err(unread)? == 0 {
                    return Ok(());
                }
                let room = upload.wait_for_capacity(PARTS).await;
                room.map_err(|error| self.failed(error))?;
                upload.put(part.freeze());
            }
        };
        match self.in_time(FILE_WITHIN, sending).await {
            Ok(()) => self.within(FILE_WITHIN, upload.finish()).await.map(|_| ()),
            Err(error) => {
                // Else the parts that arrived would lie there, and cost, unseen.
                self.within(WITHIN, upload.abort()).await.ok();
                Err(error)
            }
        }
    }

    /// Writes what is there to `path` and gives its digest; `None`: nothing is there. More than `most` bytes are an error.
    pub async fn get_file(&self, name: &str, path: &Path, most: u64) -> Result<Option<String>> {
        let unwritten = |error: std::io::Error| {
            Error::unavailable(format!("{} cannot be written: {error}", path.display()))
        };
        let name = named(name)?;
        let receiving = async {
            let Some(mut parts) = self.stream(&name, most).await? else {
                return Ok(None);
            };
            let mut file = tokio::fs::File::create(path).await.map_err(unwritten)?;
            let (mut digest, mut size) = (Sha256::new(), 0);
            while let Some(part) = parts.next().await {
                let part = part.map_err(|error| self.failed(error))?;
                size += part.len() as u64;
                self.bounded(&name, size, most)?;
                digest.update(&part);
                file.write_all(&part).await.map_err(unwritten)?;
            }
            file.flush().await.map_err(unwritten)?;
            Ok(Some(hex::encode(digest.finalize())))
        };
        self.in_time(FILE_WITHIN, receiving).await
    }

    /// It is fine if nothing is there.
    pub async fn delete(&self, name: &str) -> Result<()> {
        let name = named(name)?;
        let deleting = async {
            match self.objects.delete(&name).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(self.failed(error)),
            }
        };
        self.in_time(WITHIN, deleting).await
    }

    async fn stream(
        &self,
        name: &Name,
        most: u64,
    ) -> Result<Option<futures::stream::BoxStream<'static, object_store::Result<Bytes>>>> {
        match self.objects.get(name).await {
            Ok(found) => {
                self.bounded(name, found.meta.size, most)?;
                Ok(Some(found.into_stream()))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn bounded(&self, name: &Name, size: u64, most: u64) -> Result<()> {
        if size > most {
            return Err(Error::internal(format!(
                "{name} in {self} has more than the {most} bytes that were put there"
            )));
        }
        Ok(())
    }

    async fn within<T>(
        &self,
        deadline: Duration,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T> {
        let work = async { work.await.map_err(|error| self.failed(error)) };
        self.in_time(deadline, work).await
    }

    async fn in_time<T>(
        &self,
        deadline: Duration,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::time::timeout(deadline, work).await.map_err(|_| {
            Error::unavailable(format!(
                "{self} does not answer within {} s",
                deadline.as_secs()
            ))
        })?
    }

    /// Translates where it arises; the library's own words, which may name hosts and requests, are for the log.
    fn failed(&self, error: object_store::Error) -> Error {
        use object_store::Error as E;
        let what = match &error {
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
                "refuses the request; look at the keys and what they may do"
            }
            E::NotFound { .. } => "is not there; make the bucket first",
            _ => "cannot be reached or does not answer; try again",
        };
        Error::unavailable(format!("{self} {what}")).because(error)
    }
}

impl std::fmt::Display for Blobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the object store {}", self.place)
    }
}

fn named(name: &str) -> Result<Name> {
    Name::parse(name).map_err(|error| {
        Error::internal(format!("{name} is no name in an object store")).because(error)
    })
}

fn folder_of(folder: &Path) -> Result<LocalFileSystem> {
    let unusable = |error: &dyn std::fmt::Display| {
        Error::unavailable(format!("{} cannot be used: {error}", folder.display()))
    };
    if !folder.is_absolute() {
        return Err(unusable(&"blobs.url wants file:///an/absolute/folder"));
    }
    fs::create_dir_all(folder).map_err(|error| unusable(&error))?;
    let objects = LocalFileSystem::new_with_prefix(folder)
        .map_err(|error| unusable(&error).because(error))?;
    // A committed row may not outlive its bytes in a power cut.
    Ok(objects.with_fsync(true))
}

fn bucket_of(bucket: &str, settings: &Settings) -> Result<object_store::aws::AmazonS3> {
    let mut builder = AmazonS3Builder::new();
    for (variable, value) in &settings.variables {
        // Many variables begin with AWS_; those that mean something here are known by name.
        if let Ok(key) = variable.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    if !settings.endpoint.is_empty() {
        builder = builder.with_endpoint(&settings.endpoint);
    }
    if !settings.region.is_empty() {
        builder = builder.with_region(&settings.region);
    }
    let client = ClientOptions::new()
        .with_connect_timeout(CONNECT)
        // The deadlines above bound the whole; this one notices a silent connection.
        .with_timeout_disabled()
        .with_read_timeout(RETRIES_WITHIN)
        .with_allow_http(settings.allow_http);
    builder
        .with_bucket_name(bucket)
        .with_client_options(client)
        .with_retry(RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: TRIES,
            retry_timeout: RETRIES_WITHIN,
        })
        .build()
        .map_err(|error| {
            Error::unavailable(format!(
                "the object store s3://{bucket} cannot be used as it is configured: {error}"
            ))
            .because(error)
        })
}
