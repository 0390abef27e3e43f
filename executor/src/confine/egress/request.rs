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
    let stray = |c: char| c.is_control() && c != '\t';
    if head.replace("\r\n", "").contains(stray) {
        return Err("stray control characters in the head");
    }
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1" | "HTTP/1.0"), None) =
        (first.next(), first.next(), first.next(), first.next())
    else {
        return Err("the request line is not METHOD target HTTP/1.1");
    };
    if !is_token(method) || target.contains('\t') {
        return Err("the request line is not METHOD target HTTP/1.1");
    }
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
    let mut names_v6 = false;
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("an unclosed [ in the host")?;
            names_v6 = true;
            match port.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if port.is_empty() => (host, None),
                None => return Err("something other than a port after ]"),
            }
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
    let clean = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    // In brackets stands an address of IPv6, and nowhere else.
    let sound = if names_v6 {
        host.parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        (1..=253).contains(&host.len()) && host.bytes().all(clean)
    };
    match port {
        Some(port) if port > 0 && sound => Ok((host.to_ascii_lowercase(), port)),
        _ => Err("the host or its port is not valid"),
    }
}

/// What methods and names of headers are made of (RFC 9110, section 5.6.2).
fn is_token(text: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(fine)
}

fn headers<'a>(
    lines: impl Iterator<Item = &'a str>,
    forward: &mut String,
) -> Result<Body, &'static str> {
    let (mut length, mut chunked) = (None, false);
    for line in lines {
        let (name, value) = line.split_once(':').ok_or("a header without a colon")?;
        if !is_token(name) {
            return Err("a header's name that is none");
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
    use crate::mutate::{cases, changed};
    use proptest::prelude::*;

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
            "CONNECT ::1:80 HTTP/1.1\r\n\r\n",
            "CONNECT [example.org]:80 HTTP/1.1\r\n\r\n",
            "GET http://[2606::1]@127.0.0.1/ HTTP/1.1\r\n\r\n",
            "GET http://[2606::1]80/ HTTP/1.1\r\n\r\n",
            " http://a/ HTTP/1.1\r\n\r\n",
            "G\tET http://a/ HTTP/1.1\r\n\r\n",
            "GET http://a/b\tc HTTP/1.1\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nTransfer-Encoding\u{b}: chunked\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nX: a\u{b}b\r\n\r\n",
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

    fn heads() -> impl Strategy<Value = Vec<u8>> {
        let target = prop_oneof![
            "[a-z0-9.-]{1,9}:[0-9]{1,5}",
            "\\[[0-9a-f:.]{2,12}\\](:[0-9]{1,5})?",
            "(http|HTTP|https)://([a-z.]{1,9}|127\\.1|\\[2606::1\\])(:[0-9]{1,5})?(/[!-~]{0,9})?(\\?[!-~]{0,5})?",
        ];
        let header = prop_oneof![
            "(Content-Length|content-length): ?[0-9]{1,20}",
            "(Transfer-Encoding|TE): ?(chunked|gzip|gzip, chunked|CHUNKED)",
            "(Host|Connection|Upgrade|Proxy-Authorization|Keep-Alive): [!-~]{0,9}",
            "[A-Za-z-]{1,9}:[ -~]{0,12}",
        ];
        let first = ("(GET|POST|CONNECT|OPTIONS)", target, "HTTP/1\\.[01]");
        (first, prop::collection::vec(header, 0..5)).prop_map(
            |((method, target, version), headers)| {
                let mut head = format!("{method} {target} {version}\r\n");
                for header in headers {
                    head += &format!("{header}\r\n");
                }
                (head + "\r\n").into_bytes()
            },
        )
    }

    proptest! {
        #![proptest_config(cases())]

        /// Whoever reads strictly what is sent on finds the host that was checked, one request, and the body that is let through.
        #[test]
        fn one_reading_of_every_head(head in changed(heads())) {
            let request = match parse(&head) {
                Ok(request) => request,
                Err(why) => {
                    prop_assert!((10..80).contains(&why.len()));
                    return Ok(());
                }
            };
            let Request { host, port, kind } = request;
            let named = host.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b));
            prop_assert!(port > 0 && !host.is_empty() && (named || host.parse::<std::net::Ipv6Addr>().is_ok()), "{host}");
            let Kind::Forward { head, body } = kind else { return Ok(()) };
            let text = String::from_utf8(head).expect("it was text");
            let whole = text.strip_suffix("\r\n\r\n").expect("an empty line at the end");
            prop_assert!(!whole.contains("\r\n\r\n") && !whole.replace("\r\n", "").contains(|c: char| c.is_control() && c != '\t'));
            let mut lines = whole.split("\r\n");
            let first: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
            prop_assert!(first.len() == 3 && first[1].starts_with('/') && first[2] == "HTTP/1.1", "{text}");
            let fields: Vec<(String, &str)> = lines.map(|line| {
                let (name, value) = line.split_once(": ").expect("a name");
                (name.to_ascii_lowercase(), value)
            }).collect();
            let of = |name: &str| fields.iter().filter(|(known, _)| known == name).map(|(_, value)| *value).collect::<Vec<_>>();
            let shown = of("host")[0];
            let last = host.rsplit('.').find(|label| !label.is_empty()).unwrap_or_default();
            match format!("http://{shown}").parse::<url::Url>() {
                Ok(url) => {
                    let read: Option<std::net::IpAddr> = url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse().ok());
                    let same = url.host_str() == Some(host.as_str()) || read.is_some_and(|ip| host.parse() == Ok(ip));
                    // A number is a name here. Whatever a resolver makes of it is looked at before it is connected.
                    let number = read.is_some_and(|ip| ip.is_ipv4()) && last.starts_with(|c: char| c.is_ascii_digit());
                    prop_assert!((same || number) && url.port().unwrap_or(80) == port, "{url} is not {host}:{port}");
                }
                // Names that are none by other rules: numbers that are no address, and what is no punycode.
                Err(_) => prop_assert!(last.starts_with(|c: char| c.is_ascii_digit()) || host.contains("xn--") || host.contains(".."), "{shown}"),
            }
            prop_assert_eq!((of("host").len(), of("connection")), (1, vec!["close"]));
            let (lengths, codings) = (of("content-length"), of("transfer-encoding"));
            match body {
                Body::Length(0) => prop_assert!(codings.is_empty() && lengths.iter().all(|said| said.parse() == Ok(0u64))),
                Body::Length(n) => prop_assert!(codings.is_empty() && lengths.len() == 1 && lengths[0].parse() == Ok(n)),
                Body::Chunked => prop_assert!(lengths.is_empty() && codings.len() == 1 && codings[0].eq_ignore_ascii_case("chunked")),
            }
        }
    }
}
