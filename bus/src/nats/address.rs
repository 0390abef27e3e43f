//! The servers' addresses, and what in them lets us in. It is given to the server and shown to nobody.

use async_nats::{ConnectOptions, ServerAddr};

use crate::error::{Error, Result};

pub(super) fn parse(servers: &[String]) -> Result<Vec<ServerAddr>> {
    let one = |(number, server): (usize, &String)| {
        server.parse::<ServerAddr>().map_err(|error| {
            let number = number + 1;
            Error::Setup(format!(
                "address {number} of the bus is not nats://host:port: {error}"
            ))
        })
    };
    servers.iter().enumerate().map(one).collect()
}

/// async-nats reads a user out of a URL and never sends it. The first address that has one speaks for all of them: a client has one login.
pub(super) fn log_in(options: ConnectOptions, addresses: &[ServerAddr]) -> ConnectOptions {
    match login(addresses) {
        Some((user, Some(password))) => {
            options.user_and_password(user.to_owned(), password.to_owned())
        }
        Some((token, None)) => options.token(token.to_owned()),
        None => options,
    }
}

fn login(addresses: &[ServerAddr]) -> Option<(&str, Option<&str>)> {
    addresses
        .iter()
        .find_map(|address| Some((address.username()?, address.password())))
}

/// Without user, password and token.
pub(super) fn shown(addresses: &[ServerAddr]) -> String {
    let one = |address: &ServerAddr| {
        format!(
            "{}://{}:{}",
            address.scheme(),
            address.host(),
            address.port()
        )
    };
    addresses.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(servers: &[&str]) -> Vec<ServerAddr> {
        let servers: Vec<_> = servers.iter().map(|&server| server.to_owned()).collect();
        parse(&servers).expect("good addresses")
    }

    #[test]
    fn a_user_and_password_or_a_token_are_found_at_any_address() {
        let found = |servers: &[&str]| {
            login(&addresses(servers))
                .map(|(user, password)| (user.to_owned(), password.map(str::to_owned)))
        };
        let user = Some(("gateway".to_owned(), Some("s3cret".to_owned())));
        assert_eq!(found(&["nats://gateway:s3cret@a:4222"]), user);
        assert_eq!(found(&["nats://a", "nats://gateway:s3cret@b"]), user);
        assert_eq!(found(&["nats://t0ken@a"]), Some(("t0ken".to_owned(), None)));
        assert_eq!(found(&["nats://a", "tls://b:4223"]), None);
    }

    #[test]
    fn what_lets_us_in_is_never_shown() {
        let shown = shown(&addresses(&[
            "nats://gateway:s3cret@a:4222",
            "tls://t0ken@b",
        ]));
        assert_eq!(shown, "nats://a:4222, tls://b:4222");
        let refused = parse(&["http://gateway:s3cret@a".to_owned()]).expect_err("not ours");
        assert!(!refused.to_string().contains("s3cret"), "{refused}");
    }
}
