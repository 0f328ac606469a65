//! Ports that the box's own sockets use, as the kernel shows them.

use std::collections::HashSet;
use std::fs;
use std::ops::RangeInclusive;

use flowhop_modules::Reserved;
use flowhop_wire::protocol;

/// Reads the range of the kernel's own client ports, and the ports that are bound. `within` is what
/// translations may use on own addresses at all.
#[must_use]
pub(super) fn read(within: RangeInclusive<u16>) -> Reserved {
    let default = Reserved::default();
    let ephemeral = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| {
            let mut numbers = text.split_whitespace().map(str::parse::<u16>);
            Some(numbers.next()?.ok()?..=numbers.next()?.ok()?)
        })
        .unwrap_or(default.ephemeral);
    let mut bound = HashSet::new();
    for (protocol, file) in [
        (protocol::TCP, "/proc/self/net/tcp"),
        (protocol::TCP, "/proc/self/net/tcp6"),
        (protocol::UDP, "/proc/self/net/udp"),
        (protocol::UDP, "/proc/self/net/udp6"),
    ] {
        let text = fs::read_to_string(file).unwrap_or_default();
        bound.extend(text.lines().skip(1).filter_map(local_port).map(|port| (protocol, port)));
    }
    Reserved { ephemeral, within, bound }
}

/// The local port in a line of /proc/net/tcp: `  0: 0100007F:1F90 00000000:0000 0A …`.
fn local_port(line: &str) -> Option<u16> {
    let (_, port) = line.split_whitespace().nth(1)?.rsplit_once(':')?;
    u16::from_str_radix(port, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_port_is_read_from_both_families() {
        assert_eq!(local_port("   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000"), Some(8080));
        assert_eq!(local_port("   1: 00000000000000000000000001000000:0016 0000:0000 0A"), Some(22));
        assert_eq!(local_port("  sl  local_address rem_address"), None);
    }
}
