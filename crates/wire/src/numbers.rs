//! Assigned numbers, as far as flowhop knows what they mean.

/// What an Ethernet frame carries (IANA "IEEE 802 numbers").
pub mod ethertype {
    /// IPv4 (RFC 894).
    pub const IPV4: u16 = 0x0800;
    /// ARP (RFC 826).
    pub const ARP: u16 = 0x0806;
    /// Customer VLAN tag (IEEE 802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// IPv6 (RFC 2464).
    pub const IPV6: u16 = 0x86dd;
    /// MPLS unicast (RFC 3032).
    pub const MPLS: u16 = 0x8847;
    /// `PPPoE` session (RFC 2516).
    pub const PPPOE: u16 = 0x8864;
    /// Service VLAN tag (IEEE 802.1Q, formerly 802.1ad).
    pub const QINQ: u16 = 0x88a8;
    /// Link layer discovery protocol (IEEE 802.1AB).
    pub const LLDP: u16 = 0x88cc;
}

/// Protocols above IP and IPv6 extension headers (IANA "protocol numbers").
pub mod protocol {
    /// IPv6 hop-by-hop options (RFC 8200 section 4.3).
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP (RFC 792).
    pub const ICMP: u8 = 1;
    /// IGMP (RFC 3376).
    pub const IGMP: u8 = 2;
    /// IPv4 in IP (RFC 2003).
    pub const IPV4: u8 = 4;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// DCCP (RFC 4340).
    pub const DCCP: u8 = 33;
    /// IPv6 in IP (RFC 2473).
    pub const IPV6: u8 = 41;
    /// IPv6 routing header (RFC 8200 section 4.4).
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header (RFC 8200 section 4.5).
    pub const FRAGMENT: u8 = 44;
    /// RSVP (RFC 2205).
    pub const RSVP: u8 = 46;
    /// GRE (RFC 2784).
    pub const GRE: u8 = 47;
    /// IPsec encapsulating security payload (RFC 4303).
    pub const ESP: u8 = 50;
    /// IPsec authentication header (RFC 4302).
    pub const AH: u8 = 51;
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// Nothing follows the IPv6 header (RFC 8200 section 4.7).
    pub const NO_NEXT: u8 = 59;
    /// IPv6 destination options (RFC 8200 section 4.6).
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// OSPF (RFC 2328).
    pub const OSPF: u8 = 89;
    /// PIM (RFC 7761).
    pub const PIM: u8 = 103;
    /// VRRP (RFC 9568).
    pub const VRRP: u8 = 112;
    /// SCTP (RFC 9260).
    pub const SCTP: u8 = 132;
    /// IPv6 mobility header (RFC 6275).
    pub const MOBILITY: u8 = 135;
    /// UDP-Lite (RFC 3828).
    pub const UDP_LITE: u8 = 136;
    /// Host identity protocol (RFC 7401).
    pub const HIP: u8 = 139;
    /// Shim6 (RFC 5533).
    pub const SHIM6: u8 = 140;
}

/// Numbers of ARP (RFC 826).
pub mod arp {
    /// Hardware type Ethernet.
    pub const HARDWARE_ETHERNET: u16 = 1;
    /// Who has this address?
    pub const REQUEST: u16 = 1;
    /// This station has it.
    pub const REPLY: u16 = 2;
}

/// Types and codes of ICMP (RFC 792 where nothing else is said).
pub mod icmp4 {
    /// Type: echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Type: destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Type: source quench; deprecated, must not be sent (RFC 6633).
    pub const SOURCE_QUENCH: u8 = 4;
    /// Type: redirect.
    pub const REDIRECT: u8 = 5;
    /// Code of [`REDIRECT`]: for the host.
    pub const REDIRECT_HOST: u8 = 1;
    /// Type: echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// Type: router advertisement (RFC 1256).
    pub const ROUTER_ADVERTISEMENT: u8 = 9;
    /// Type: router solicitation (RFC 1256).
    pub const ROUTER_SOLICITATION: u8 = 10;
    /// Type: time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Type: parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
    /// Type: timestamp request.
    pub const TIMESTAMP_REQUEST: u8 = 13;
    /// Type: timestamp reply.
    pub const TIMESTAMP_REPLY: u8 = 14;

    /// Code of [`UNREACHABLE`]: network.
    pub const NET_UNREACHABLE: u8 = 0;
    /// Code of [`UNREACHABLE`]: host.
    pub const HOST_UNREACHABLE: u8 = 1;
    /// Code of [`UNREACHABLE`]: protocol.
    pub const PROTOCOL_UNREACHABLE: u8 = 2;
    /// Code of [`UNREACHABLE`]: port.
    pub const PORT_UNREACHABLE: u8 = 3;
    /// Code of [`UNREACHABLE`]: too big and "don't fragment" set (RFC 1191).
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// Code of [`UNREACHABLE`]: source route failed.
    pub const SOURCE_ROUTE_FAILED: u8 = 5;
    /// Code of [`UNREACHABLE`]: network administratively prohibited (RFC 1122 section 3.2.2.1).
    pub const NET_PROHIBITED: u8 = 9;
    /// Code of [`UNREACHABLE`]: host administratively prohibited (RFC 1122 section 3.2.2.1).
    pub const HOST_PROHIBITED: u8 = 10;
    /// Code of [`UNREACHABLE`]: communication administratively prohibited (RFC 1812 section 5.2.7.1).
    pub const ADMINISTRATIVELY_PROHIBITED: u8 = 13;

    /// Code of [`TIME_EXCEEDED`]: in transit.
    pub const TTL_EXCEEDED: u8 = 0;
    /// Code of [`TIME_EXCEEDED`]: during reassembly.
    pub const REASSEMBLY_EXCEEDED: u8 = 1;

    /// True for a type that reports an error and quotes the packet it is about (RFC 1812 section 4.3.1).
    #[inline]
    pub const fn is_error(kind: u8) -> bool {
        matches!(kind, UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM)
    }
}

/// Types and codes of ICMPv6 (RFC 4443 where nothing else is said).
pub mod icmp6 {
    /// Type: destination unreachable.
    pub const UNREACHABLE: u8 = 1;
    /// Type: packet too big.
    pub const PACKET_TOO_BIG: u8 = 2;
    /// Type: time exceeded.
    pub const TIME_EXCEEDED: u8 = 3;
    /// Type: parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// Type: echo request.
    pub const ECHO_REQUEST: u8 = 128;
    /// Type: echo reply.
    pub const ECHO_REPLY: u8 = 129;
    /// Type: multicast listener query (RFC 2710, RFC 3810).
    pub const MLD_QUERY: u8 = 130;
    /// Type: multicast listener report, version 1 (RFC 2710).
    pub const MLD_REPORT: u8 = 131;
    /// Type: multicast listener done (RFC 2710).
    pub const MLD_DONE: u8 = 132;
    /// Type: router solicitation (RFC 4861 section 4.1).
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Type: router advertisement (RFC 4861 section 4.2).
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    /// Type: neighbour solicitation (RFC 4861 section 4.3).
    pub const NEIGHBOR_SOLICITATION: u8 = 135;
    /// Type: neighbour advertisement (RFC 4861 section 4.4).
    pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;
    /// Type: redirect (RFC 4861 section 4.5).
    pub const REDIRECT: u8 = 137;
    /// Type: multicast listener report, version 2 (RFC 3810).
    pub const MLD2_REPORT: u8 = 143;

    /// Code of [`UNREACHABLE`]: no route.
    pub const NO_ROUTE: u8 = 0;
    /// Code of [`UNREACHABLE`]: administratively prohibited.
    pub const ADMINISTRATIVELY_PROHIBITED: u8 = 1;
    /// Code of [`UNREACHABLE`]: beyond the scope of the source address.
    pub const BEYOND_SCOPE: u8 = 2;
    /// Code of [`UNREACHABLE`]: address.
    pub const ADDRESS_UNREACHABLE: u8 = 3;
    /// Code of [`UNREACHABLE`]: port.
    pub const PORT_UNREACHABLE: u8 = 4;
    /// Code of [`UNREACHABLE`]: source address failed the ingress or egress policy.
    pub const SOURCE_POLICY: u8 = 5;
    /// Code of [`UNREACHABLE`]: reject route.
    pub const REJECT_ROUTE: u8 = 6;

    /// Code of [`TIME_EXCEEDED`]: hop limit, in transit.
    pub const HOP_LIMIT_EXCEEDED: u8 = 0;
    /// Code of [`TIME_EXCEEDED`]: during reassembly.
    pub const REASSEMBLY_EXCEEDED: u8 = 1;

    /// Code of [`PARAMETER_PROBLEM`]: erroneous header field.
    pub const ERRONEOUS_FIELD: u8 = 0;
    /// Code of [`PARAMETER_PROBLEM`]: unrecognised next header.
    pub const UNKNOWN_NEXT_HEADER: u8 = 1;
    /// Code of [`PARAMETER_PROBLEM`]: unrecognised option.
    pub const UNKNOWN_OPTION: u8 = 2;
    /// Code of [`PARAMETER_PROBLEM`]: first fragment without the whole header chain (RFC 7112 section 5).
    pub const INCOMPLETE_CHAIN: u8 = 3;

    /// True for a type that reports an error and quotes the packet it is about: the types below 128 (section 2.1).
    #[inline]
    pub const fn is_error(kind: u8) -> bool {
        kind < 128
    }

    /// True for neighbour discovery, which is valid with hop limit 255 only and never forwarded (RFC 4861 section 6.1).
    #[inline]
    pub const fn is_neighbor_discovery(kind: u8) -> bool {
        matches!(kind, ROUTER_SOLICITATION..=REDIRECT)
    }
}
