//! Which addresses are public: where agents and webhooks may connect to. Sources: the IANA special-purpose registries for IPv4 and IPv6 (RFC 6890 and its updates).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Globally reachable unicast, and not a disguise of something else: a v6 address that embeds a v4 one is as public as that one.
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => v4(ip),
        IpAddr::V6(ip) => v6(ip),
    }
}

#[expect(clippy::match_same_arms, reason = "a table: a line for each source")]
fn v4(ip: Ipv4Addr) -> bool {
    match ip.octets() {
        [0, ..] => false,                                                   // this network
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => false,            // private, RFC 1918
        [100, 64..=127, ..] => false, // carrier-grade NAT, RFC 6598
        [127, ..] => false,           // loopback
        [168, 63, 129, 16] => false,  // Azure's host services, on a public address
        [169, 254, ..] => false,      // link-local, and the clouds' metadata
        [192, 0, 0, _] => false,      // IETF protocol assignments
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => false, // documentation
        [192, 31, 196, _] | [192, 52, 193, _] | [192, 175, 48, _] => false, // AS112, AMT
        [192, 88, 99, _] => false,    // 6to4 relays, RFC 7526
        [198, 18..=19, ..] => false,  // benchmarking, RFC 2544
        [224..=255, ..] => false,     // multicast, reserved, broadcast
        _ => true,
    }
}

#[expect(clippy::match_same_arms, reason = "a table: a line for each source")]
fn v6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    let embedded =
        |high: u16, low: u16| v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] => embedded(high, low), // mapped
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => false,                     // unspecified, loopback
        [0, 0, 0, 0, 0, 0, high, low] => embedded(high, low),      // compatible, deprecated
        [0, 0, 0, 0, 0xffff, 0, high, low] => embedded(high, low), // translated, RFC 2765
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low), // NAT64, RFC 6052
        [0x2002, high, low, ..] => embedded(high, low),            // 6to4, RFC 3056
        // Teredo, RFC 4380: a server, and a client whose address is stored inverted.
        [0x2001, 0, server_high, server_low, _, _, high, low] => {
            embedded(server_high, server_low) && embedded(!high, !low)
        }
        [0x2001, second, ..] if second < 0x200 => false, // IETF protocol assignments, ORCHID, benchmarking
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false, // documentation
        // Only 2000::/3 is assigned for global unicast: this leaves out ULA, link-local, site-local, multicast, discard, local NAT64.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(address: &str) -> bool {
        is_public(address.parse().expect("an address"))
    }

    #[test]
    fn public_addresses_are_public() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "93.184.216.34",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.1",
            "192.167.1.1",
            "198.17.1.1",
            "198.20.0.1",
            "223.255.255.255",
            "168.63.129.17",
            "2606:4700:4700::1111",
            "2a00:1450:4001::8a",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "::ffff:8.8.8.8",
            "2001:4860:4860::8888",
            "2001:0:808:808:0:0:f7f7:f7f7",
        ] {
            assert!(public(address), "{address}");
        }
    }

    #[test]
    fn everything_else_is_not() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.0",
            "100.100.100.200",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::2",
            "::7f00:1",
            "::10.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:10.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::8.8.8.8",
            "100::1",
            "2001:db8::1",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2002:7f00:1::1",
            "2002:a00:1::1",
            "2002:a9fe:a9fe::1",
            "2001:0:808:808:0:0:80ff:fffe",
            "2001:0:a00:1:0:0:f7f7:f7f7",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "4000::1",
        ] {
            assert!(!public(address), "{address}");
        }
    }
}
