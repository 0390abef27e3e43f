"""The network: families of sockets, this host by every name, services of others, metadata, and ways by the proxy."""

import contextlib
import os
import socket
import urllib.error
import urllib.request

from tried import attempt

PROXY = ("127.0.0.1", 3128)


def _connect(address, family=socket.AF_INET):
    with socket.socket(family, socket.SOCK_STREAM) as stream:
        stream.settimeout(3)
        stream.connect(address)
        return "connected"


def _ask(bytes):
    """What the proxy says first; what it would go on to send is not waited for."""
    with socket.create_connection(PROXY, 5) as stream:
        stream.sendall(bytes)
        answer = b""
        with contextlib.suppress(OSError):
            while b"\n" not in answer and (more := stream.recv(4096)):
                answer += more
        return answer.split(b"\r\n")[0].decode(errors="replace")


def _tunnel(host, port):
    return _ask(f"CONNECT {host}:{port} HTTP/1.1\r\n\r\n".encode()).removeprefix("HTTP/1.1 ")


def raw_sockets(given):
    tries = [
        (socket.AF_INET, socket.SOCK_RAW, 1),
        (socket.AF_INET, socket.SOCK_RAW, 255),
        (socket.AF_INET6, socket.SOCK_RAW, 58),
        (socket.AF_INET, socket.SOCK_DGRAM, 1),
    ]
    return [attempt(socket.socket, *one) for one in tries]


def packet_sockets(given):
    return [attempt(socket.socket, 17, kind, 0x0300) for kind in (socket.SOCK_RAW, socket.SOCK_DGRAM, 10)]


def netlink_sockets(given):
    return [attempt(socket.socket, 16, socket.SOCK_RAW, protocol) for protocol in (0, 4, 9, 12, 15, 16)] + [
        attempt(socket.if_nameindex)
    ]


def sockets_to_the_hypervisor(given):
    return [attempt(socket.socket, 40, socket.SOCK_STREAM, 0), attempt(socket.socket, 40, socket.SOCK_DGRAM, 0)]


def sockets_of_other_families(given):
    """Bluetooth, CAN, TIPC, AF_ALG, RDS, XDP, NFC, and every other number; protocols that come as modules."""
    told = [attempt(socket.socket, family, socket.SOCK_SEQPACKET, 0) for family in range(3, 48) if family != 10]
    for protocol in (33, 132, 136, 262):
        told += [
            attempt(socket.socket, socket.AF_INET, kind, protocol)
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)
        ]
    return told


def protocols_above_tcp(given):
    with socket.socket() as stream:
        return attempt(stream.setsockopt, socket.SOL_TCP, 31, b"tls")


def loopback_of_the_host(given):
    return [
        attempt(_connect, (host, port)) for port in given["ports"] for host in ("127.0.0.1", "127.1.2.3", "localhost")
    ]


def loopback_of_the_host_by_six(given):
    return [attempt(_connect, ("::1", port), socket.AF_INET6) for port in given["ports"]] + [
        attempt(_connect, ("::ffff:127.0.0.1", port), socket.AF_INET6) for port in given["ports"]
    ]


def addresses_of_the_host(given):
    families = {True: socket.AF_INET6, False: socket.AF_INET}
    addresses = [(host, families[":" in host]) for host in given["addresses"]]
    return [attempt(_connect, (host, port), family) for host, family in addresses for port in given["ports"]]


def metadata(given):
    return [
        attempt(_connect, (host, 80))
        for host in ("169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16")
    ]


def the_world_directly(given):
    return [attempt(_connect, (host, port)) for host, port in (("1.1.1.1", 443), ("8.8.8.8", 53), ("10.0.0.1", 80))]


def names_without_the_proxy(given):
    told = []
    for name in ("example.org", "metadata.google.internal", "localhost.localdomain"):
        try:
            told.append(f"GOT {socket.getaddrinfo(name, 80)}")
        except socket.gaierror:
            told.append("unknown")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        told.append(attempt(udp.sendto, b"\0" * 32, ("8.8.8.8", 53)))
    return told


def everybody_by_broadcast(given):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        return [attempt(udp.sendto, b"x", ("255.255.255.255", 9)), attempt(udp.sendto, b"x", ("224.0.0.1", 9))]


def abstract_sockets(given):
    return [attempt(_connect, "\0" + given["abstract"], socket.AF_UNIX)]


def sockets_in_files(given):
    paths = [
        *given["unix_sockets"],
        "/run/docker.sock",
        "/var/run/docker.sock",
        "/run/systemd/private",
        "/run/dbus/system_bus_socket",
    ]
    return [attempt(_connect, path, socket.AF_UNIX) for path in paths]


def loopback_through_the_proxy(given):
    """The gateway, the database, the bus and whatever listens, in every spelling of this host that a resolver takes."""
    hosts = [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "localhost",
        "LOCALHOST.",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "0",
        "[::]",
    ]
    return [_tunnel(host, port) for host in hosts for port in given["ports"][:2]]


def addresses_of_the_host_through_the_proxy(given):
    return [
        _tunnel(f"[{host}]" if ":" in host else host, port)
        for host in given["addresses"]
        for port in given["ports"][:2]
    ]


def metadata_through_the_proxy(given):
    hosts = [
        "169.254.169.254",
        "2852039166",
        "0xa9.0xfe.0xa9.0xfe",
        "0251.0376.0251.0376",
        "[::ffff:169.254.169.254]",
        "[fd00:ec2::254]",
        "100.100.100.200",
        "168.63.129.16",
    ]
    told = [_tunnel(host, 80) for host in hosts]
    for host in hosts[:2]:
        told.append(
            _ask(f"GET http://{host}/latest/meta-data/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()).removeprefix(
                "HTTP/1.1 "
            )
        )
    return told


def private_networks_through_the_proxy(given):
    return [
        _tunnel(host, 5432)
        for host in (
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "198.18.0.1",
            "[fc00::1]",
            "[fe80::1]",
            "[64:ff9b::a00:1]",
            "[2002:a00:1::]",
        )
    ]


def requests_that_two_readers_read_differently(given):
    port = given["ports"][0]
    return [
        _ask(request.encode()).removeprefix("HTTP/1.1 ")
        for request in (
            f"GET http://a@127.0.0.1:{port}/ HTTP/1.1\r\n\r\n",
            f"GET http://example.org\\@127.0.0.1:{port}/ HTTP/1.1\r\n\r\n",
            f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n",
            f"CONNECT 127.0.0.1:{port}\r\n\r\n",
            f"CONNECT 1.1.1.1:443@127.0.0.1:{port} HTTP/1.1\r\n\r\n",
            f"GET http://127.0.0.1:{port}/ HTTP/1.1\nHost: a\n\n\r\n\r\n",
            "POST http://10.0.0.1/ HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            f"GET ftp://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n",
            f"GET http://127.0.0.1%00.example.org:{port}/ HTTP/1.1\r\n\r\n",
        )
    ]


def the_proxy_by_its_variables(given):
    """Whatever the variables say, urllib takes them; the answer is the proxy's."""
    try:
        return f"GOT {urllib.request.urlopen('http://169.254.169.254/latest/', timeout=5).status}"
    except urllib.error.HTTPError as error:
        return str(error.code)


def the_place_of_the_proxy(given):
    """Somebody else's listener on its port."""
    with socket.socket() as mine:
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return attempt(mine.bind, PROXY)


def interfaces(given):
    with open("/proc/net/dev") as devices:
        names = [line.split(":")[0].strip() for line in devices if ":" in line]
    return ["lo"] if names == ["lo"] else [f"GOT {names} {os.getpid()}"]
