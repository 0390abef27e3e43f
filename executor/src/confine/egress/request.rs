//! The head of a proxied request, read strictly: what two readers could understand differently is refused (RFC 9112, section 11).

/// How a request wants to leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub host: String,
    pub port: u16,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// CONNECT: bytes both ways, mostly TLS.
    Tunnel,
    /// Absolute form: the head to send on, and how much of a body follows.
    Forward { head: Vec<u8>, body: Body },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    Length(u64),
    Chunked,
}

/// Of one hop only (RFC 9110, section 7.6.1), or of the proxy.
const HOP_BY_HOP: [&str; 7] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "proxy-authorization",
    "te",
    "upgrade",
    "host",
];

/// `head` ends with the empty line. The error is for the agent's eyes.
pub fn parse(head: &[u8]) -> Result<Request, &'static str> {
    let head = std::str::from_utf8(head).map_err(|_| "the head is not UTF-8")?;
    let head = head
        .strip_suffix("\r\n\r\n")
        .ok_or("the head does not end with an empty line")?;
    if head.bytes().any(|b| b == 0) || head.replace("\r\n", "").contains(['\r', '\n']) {
        return Err("stray control characters in the head");
    }
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1" | "HTTP/1.0"), None) =
        (first.next(), first.next(), first.next(), first.next())
    else {
        return Err("the request line is not METHOD target HTTP/1.1");
    };
    if method == "CONNECT" {
        let (host, port) = authority(target, None)?;
        return Ok(Request {
            host,
            port,
            kind: Kind::Tunnel,
        });
    }
    let Some(rest) = strip_scheme(target) else {
        return Err("a proxy needs CONNECT host:port or an absolute http:// target");
    };
    let (at, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (host, port) = authority(at, Some(80))?;
    let path = match path.split('#').next().unwrap_or_default() {
        "" => "/".to_owned(),
        query if query.starts_with('?') => format!("/{query}"),
        path => path.to_owned(),
    };
    let mut forward = format!("{method} {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n");
    let body = headers(lines, &mut forward)?;
    forward.push_str("\r\n");
    Ok(Request {
        host,
        port,
        kind: Kind::Forward {
            head: forward.into_bytes(),
            body,
        },
    })
}

fn strip_scheme(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    scheme.eq_ignore_ascii_case("http").then_some(rest)
}

/// `host:port`, `[v6]:port`; without a port only where one is implied. No user, which nobody needs and which can hide a host.
fn authority(text: &str, implied: Option<u16>) -> Result<(String, u16), &'static str> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("an unclosed [ in the host")?;
            (host, port.strip_prefix(':'))
        }
        None => match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => port.parse().ok(),
        Some(_) => None,
        None => implied,
    };
    let clean = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
    match port {
        Some(port)
            if port > 0 && !host.is_empty() && host.len() <= 253 && host.bytes().all(clean) =>
        {
            Ok((host.to_ascii_lowercase(), port))
        }
        _ => Err("the host or its port is not valid"),
    }
}

fn headers<'a>(
    lines: impl Iterator<Item = &'a str>,
    forward: &mut String,
) -> Result<Body, &'static str> {
    let (mut length, mut chunked) = (None, false);
    for line in lines {
        let (name, value) = line.split_once(':').ok_or("a header without a colon")?;
        if name.is_empty() || name.bytes().any(|b| b.is_ascii_whitespace()) {
            return Err("white space in a header's name");
        }
        let (key, value) = (name.to_ascii_lowercase(), value.trim());
        match key.as_str() {
            "content-length" => {
                let said: u64 = value
                    .parse()
                    .map_err(|_| "the content-length is not a number")?;
                if value.starts_with('+') || length.replace(said).is_some() {
                    return Err("more than one content-length");
                }
            }
            "transfer-encoding" if value.eq_ignore_ascii_case("chunked") && !chunked => {
                chunked = true;
            }
            "transfer-encoding" => return Err("a transfer-encoding other than chunked"),
            _ => {}
        }
        if !HOP_BY_HOP.contains(&key.as_str()) {
            forward.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    match (length, chunked) {
        (Some(_), true) => Err("both content-length and transfer-encoding"),
        (_, true) => Ok(Body::Chunked),
        (length, false) => Ok(Body::Length(length.unwrap_or(0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_clients_send() {
        let tunnel = |head: &str| parse(head.as_bytes()).map(|r| (r.host, r.port));
        assert_eq!(
            tunnel("CONNECT Example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n"),
            Ok(("example.org".to_owned(), 443))
        );
        assert_eq!(
            tunnel("CONNECT [::1]:80 HTTP/1.1\r\n\r\n"),
            Ok(("::1".to_owned(), 80))
        );

        let get = parse(b"GET http://example.org/a?b=c HTTP/1.1\r\nHost: other\r\nProxy-Connection: keep-alive\r\nAccept: */*\r\n\r\n");
        let head =
            b"GET /a?b=c HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\nAccept: */*\r\n\r\n"
                .to_vec();
        let kind = Kind::Forward {
            head,
            body: Body::Length(0),
        };
        assert_eq!(
            get,
            Ok(Request {
                host: "example.org".to_owned(),
                port: 80,
                kind
            })
        );

        let post = parse(b"POST HTTP://[2606::1]:8080?x HTTP/1.1\r\nContent-Length: 7\r\n\r\n")
            .expect("valid");
        assert_eq!((post.host.as_str(), post.port), ("2606::1", 8080));
        assert!(matches!(
            post.kind,
            Kind::Forward {
                body: Body::Length(7),
                ..
            }
        ));
    }

    #[test]
    fn refuses_what_is_ambiguous() {
        for head in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET https://a/ HTTP/1.1\r\n\r\n",
            "GET http://user@a/ HTTP/1.1\r\n\r\n",
            "GET http://a/ HTTP/2\r\n\r\n",
            "GET  http://a/ HTTP/1.1\r\n\r\n",
            "CONNECT a HTTP/1.1\r\n\r\n",
            "CONNECT a:0 HTTP/1.1\r\n\r\n",
            "CONNECT a:+80 HTTP/1.1\r\n\r\n",
            "CONNECT a:99999 HTTP/1.1\r\n\r\n",
            "CONNECT [::1:80 HTTP/1.1\r\n\r\n",
            "CONNECT a%00b:80 HTTP/1.1\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nX: a\nY: b\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\n folded\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nX : a\r\n\r\n",
            "POST http://a/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "POST http://a/ HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
            "POST http://a/ HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST http://a/ HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        ] {
            assert!(parse(head.as_bytes()).is_err(), "{head:?}");
        }
    }
}
