//! Calls of the REST API.

use super::{
    Global,
    trouble::{Refusal, Trouble},
};
use reqwest::{Client, Method, RequestBuilder, Response, header};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::time::Duration;

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// For everything but executions and streams.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// An execution may take 28800 s; then it has an answer.
pub const EXECUTION_WITHIN: Duration = Duration::from_secs(28_800 + 120);

#[derive(Debug)]
pub struct Api {
    client: Client,
    base: String,
    key: domain::Secret,
    pub json: bool,
}

/// A good answer, as it came.
#[derive(Debug)]
pub struct Body(pub String);

impl Body {
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Trouble> {
        serde_json::from_str(&self.0).map_err(Trouble::odd)
    }

    pub fn value(&self) -> Result<Value, Trouble> {
        self.read()
    }
}

impl Api {
    pub fn new(global: &Global) -> Result<Self, Trouble> {
        let client = Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .user_agent(concat!("phalanx-cli/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Trouble::Failed(format!("no HTTP client: {error}")))?;
        let base = global.url.trim_end_matches('/').to_owned();
        if !base.starts_with("http://") && !base.starts_with("https://") {
            return Err(Trouble::usage(format!(
                "--url is {base:?}; allowed is http://HOST:PORT or https://HOST"
            )));
        }
        Ok(Self {
            client,
            base,
            key: key(global)?.into(),
            json: global.json,
        })
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    pub async fn get(&self, path: &str) -> Result<Body, Trouble> {
        self.body(self.request(Method::GET, path).timeout(ANSWER_WITHIN))
            .await
    }

    pub async fn post(
        &self,
        path: &str,
        body: &impl Serialize,
        within: Duration,
    ) -> Result<Body, Trouble> {
        self.body(self.request(Method::POST, path).json(body).timeout(within))
            .await
    }

    pub async fn delete(&self, path: &str) -> Result<Body, Trouble> {
        self.body(self.request(Method::DELETE, path).timeout(ANSWER_WITHIN))
            .await
    }

    /// An answer that comes bit by bit.
    pub async fn stream(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Response, Trouble> {
        let mut request = self
            .request(method, path)
            .header(header::ACCEPT, "text/event-stream");
        if let Some(body) = body {
            request = request.json(body);
        }
        self.send(request).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.base))
            .bearer_auth(&*self.key)
    }

    async fn body(&self, request: RequestBuilder) -> Result<Body, Trouble> {
        let response = self.send(request).await?;
        response
            .text()
            .await
            .map(Body)
            .map_err(|error| self.unreachable(&error))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Trouble> {
        let response = request
            .send()
            .await
            .map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let body = response.text().await.unwrap_or_default();
        Err(Trouble::Refused(Refusal::read(status, &body)))
    }

    pub fn unreachable(&self, error: &reqwest::Error) -> Trouble {
        let mut why = error.to_string();
        let mut next = std::error::Error::source(error);
        while let Some(source) = next {
            why = source.to_string();
            next = source.source();
        }
        let base = &self.base;
        if error.is_connect() {
            return Trouble::Unreachable(format!(
                "no server answers at {base} ({why}); start one with `phalanx up`, or name another with --url"
            ));
        }
        if error.is_timeout() {
            return Trouble::Unreachable(format!("the server at {base} does not answer in time"));
        }
        Trouble::Unreachable(format!("the connection to {base} broke: {why}"))
    }
}

fn key(global: &Global) -> Result<String, Trouble> {
    if let Some(key) = &global.key {
        return checked(key, "--key");
    }
    let file = global
        .data_dir
        .clone()
        .unwrap_or_else(crate::settings::default_data_dir)
        .join("admin.key");
    match std::fs::read_to_string(&file) {
        Ok(key) => checked(&key, &file.display().to_string()),
        // Without a key the server says what is missing, if it is a server at all.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Trouble::usage(format!(
            "{} cannot be read ({error}); name a key with --key or PHALANX_KEY",
            file.display()
        ))),
    }
}

fn checked(key: &str, from: &str) -> Result<String, Trouble> {
    let key = key.trim();
    if key.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(key.to_owned());
    }
    Err(Trouble::usage(format!(
        "{from} holds no key: a key is one word of visible characters"
    )))
}

/// A part of a path that a person typed.
pub fn segment(text: &str) -> String {
    escaped(text, |b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// `?a=b&c=d` of those that have a value.
pub fn query<'a>(pairs: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
    let mut query = String::new();
    for (name, value) in pairs {
        let Some(value) = value else { continue };
        query.push(if query.is_empty() { '?' } else { '&' });
        query.push_str(name);
        query.push('=');
        query.push_str(&escaped(&value, |b| {
            b.is_ascii_alphanumeric() || b"-_.~".contains(&b)
        }));
    }
    query
}

fn escaped(text: &str, plain: impl Fn(u8) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if plain(byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    // A dot segment would be taken as a step in the path.
    if matches!(text, "." | "..") {
        text.replace('.', "%2E")
    } else {
        escaped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_stays_one_segment() {
        assert_eq!(segment("a/../b?c"), "a%2F..%2Fb%3Fc");
        assert_eq!(segment(".."), "%2E%2E");
        assert_eq!(
            query([
                ("a", Some("x y&".to_owned())),
                ("b", None),
                ("c", Some("1".to_owned()))
            ]),
            "?a=x%20y%26&c=1"
        );
    }
}
