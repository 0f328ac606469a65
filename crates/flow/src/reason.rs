//! Why a packet was forwarded, handed down, dropped, held, consumed or left to the kernel.
//!
//! The list is closed and append-only: numbers are part of the shared-memory layout and of what operators
//! script against. Every packet that a path receives moves exactly one counter of that path.

/// What became of a packet on the path that judged it.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Sent on by the flow's entry.
    Forward = 0,
    /// Passed to the next slower path.
    HandDown = 1,
    /// Discarded.
    Drop = 2,
    /// Left to the kernel's own IP stack.
    Stack = 3,
    /// Kept until something is known (neighbour, other fragments); it moves to another kind afterwards.
    Hold = 4,
    /// Taken in by flowhop itself (answered, or its information used up).
    Consume = 5,
    /// Passed on by a program in a driver; the path of the socket buffer judges and counts it.
    Pass = 6,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal, $fast:ident, $slow:ident;)*) => {
        /// The reason for a packet's fate. See the module.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($(#[$doc])* $name = $number,)* }

        impl Reason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &[Reason] = &[$(Reason::$name),*];

            /// The name that operators see.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }

            /// What the reason means on a path in the kernel (`driver`, `skb`).
            #[inline(always)]
            #[must_use]
            pub const fn fast_kind(self) -> Kind {
                match self { $(Reason::$name => Kind::$fast,)* }
            }

            /// What the reason means on the user-level path, which has no slower one to hand down to.
            #[inline(always)]
            #[must_use]
            pub const fn slow_kind(self) -> Kind {
                match self { $(Reason::$name => Kind::$slow,)* }
            }

            /// The reason with this number.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Reason::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    /// Forwarded by the entry of its flow.
    Forwarded = 0, "forwarded", Forward, Forward;
    /// No entry has this key: the first packet of a connection, or nobody's.
    Miss = 1, "miss", HandDown, Drop;
    /// The flow's entry waits until packets of it have left user space.
    Pending = 2, "pending", HandDown, Drop;
    /// The entry sends this flow to the user-level path.
    SlowPath = 3, "slow_path", HandDown, Drop;
    /// Came in through another interface than the flow's.
    WrongInterface = 4, "wrong_interface", HandDown, Drop;
    /// The entry was made under another policy.
    StalePolicy = 5, "stale_policy", HandDown, Drop;
    /// The entry's adjacency was given to another neighbour or lost its output.
    StaleAdjacency = 6, "stale_adjacency", HandDown, Drop;
    /// The next hop's link-layer address is not known.
    NeighbourUnresolved = 7, "neighbour_unresolved", HandDown, Drop;
    /// TTL or hop limit would reach 0 (RFC 1812 section 5.3.1, RFC 8200 section 3).
    TtlExceeded = 8, "ttl_exceeded", HandDown, Drop;
    /// Larger than the output's MTU (RFC 1191, RFC 8201).
    TooBig = 9, "too_big", HandDown, Drop;
    /// A fragment.
    Fragment = 10, "fragment", HandDown, Drop;
    /// IPv4 options; on the user-level path those that policy drops (RFC 7126).
    Options = 11, "ip_options", HandDown, Drop;
    /// IPv6 extension headers; on the user-level path those that policy drops.
    ExtensionHeader = 12, "extension_header", HandDown, Drop;
    /// An ICMP or ICMPv6 message that is no echo.
    Icmp = 13, "icmp_other", HandDown, Drop;
    /// Shorter than its headers say.
    Truncated = 14, "truncated", HandDown, Drop;
    /// Version or header length make no sense (RFC 1812 section 5.2.2).
    BadHeader = 15, "bad_header", HandDown, Drop;
    /// The IPv4 header checksum is wrong.
    BadIpChecksum = 16, "bad_ip_checksum", HandDown, Drop;
    /// A TCP SYN, or flags that start or restart a connection.
    TcpSyn = 17, "tcp_syn", HandDown, Drop;
    /// TCP flags that no valid segment carries.
    TcpFlags = 18, "tcp_flags", HandDown, Drop;
    /// Sequence or acknowledgment number outside the windows.
    TcpWindow = 19, "tcp_window", HandDown, Drop;
    /// A TCP segment that does not fit the connection's state.
    TcpState = 20, "tcp_state", HandDown, Drop;
    /// Other cores kept changing the TCP context.
    Contention = 21, "contention", HandDown, Drop;
    /// A shared record changed while it was read.
    Torn = 22, "torn", HandDown, Drop;
    /// The table or an index in it is not as it should be.
    BadRecord = 23, "bad_record", HandDown, Drop;
    /// The daemon has been gone for longer than the grace that policy gives (`orphan_grace`).
    Orphaned = 24, "orphaned", Drop, Drop;
    /// Would have been handed down, but no daemon is there.
    NoDaemon = 25, "no_daemon", Drop, Drop;
    /// The entry says to drop this flow.
    FlowDropped = 26, "flow_dropped", Drop, Drop;
    /// Addressed to the box itself.
    Local = 27, "local", Stack, Stack;
    /// Not IP: ARP and other link-local business.
    NotIp = 28, "not_ip", Stack, Stack;
    /// Multicast, broadcast, or link-local: never forwarded.
    LinkLocal = 29, "link_local", Stack, Stack;
    /// Neighbour discovery and router discovery (RFC 4861).
    NeighbourDiscovery = 30, "neighbour_discovery", Stack, Stack;
    /// A frame for another station's address.
    OtherHost = 31, "other_host", Stack, Stack;
    /// The interface is not one of policy's.
    NoInterface = 32, "no_interface", Stack, Stack;
    /// The entry leaves this flow to the kernel's stack.
    StackFlow = 33, "stack_flow", Stack, Stack;
    /// VLAN-tagged for an interface of its own.
    Tagged = 34, "tagged", Stack, Stack;
    /// Passed to the stack by the user-level path.
    Reinjected = 35, "reinjected", Stack, Stack;
    /// No rule allows the connection.
    NoRule = 36, "no_rule", Drop, Drop;
    /// A rule says drop.
    RuleDrop = 37, "rule_drop", Drop, Drop;
    /// A rule says reject; the sender was told.
    RuleReject = 38, "rule_reject", Drop, Drop;
    /// A rule's limit of new connections was reached.
    RuleLimit = 39, "rule_limit", Drop, Drop;
    /// No free place in the decision table.
    TableFull = 40, "table_full", Drop, Drop;
    /// No external port or address left for a translation.
    NatExhausted = 41, "nat_exhausted", Drop, Drop;
    /// The translation cannot be made for this protocol or family.
    NatUnsupported = 42, "nat_unsupported", Drop, Drop;
    /// Inbound to a translation that its filtering does not admit.
    NatFiltered = 43, "nat_filtered", Drop, Drop;
    /// No route to the destination.
    NoRoute = 44, "no_route", Drop, Drop;
    /// A blackhole or prohibit route.
    RouteRefused = 45, "route_refused", Drop, Drop;
    /// The output interface is down.
    LinkDown = 46, "link_down", Drop, Drop;
    /// The output is not an interface of policy's.
    NoZone = 47, "no_zone", Drop, Drop;
    /// The transport checksum is wrong.
    BadChecksum = 48, "bad_checksum", Drop, Drop;
    /// Source address that must not be forwarded (RFC 1812 section 5.3.7, RFC 6890).
    MartianSource = 49, "martian_source", Drop, Drop;
    /// Destination address that must not be forwarded.
    MartianDestination = 50, "martian_destination", Drop, Drop;
    /// The source is one of the box's own addresses.
    SpoofedSource = 51, "spoofed_source", Drop, Drop;
    /// Source route options (RFC 7126 sections 4.3, 4.4).
    SourceRoute = 52, "source_route", Drop, Drop;
    /// A fragment whose place in its datagram cannot be, or one of what must not be in fragments.
    BadFragment = 53, "bad_fragment", Drop, Drop;
    /// No room to keep a packet that waits for its neighbour.
    HoldFull = 54, "hold_full", Drop, Drop;
    /// ICMP error that belongs to no connection.
    IcmpUnrelated = 55, "icmp_unrelated", Drop, Drop;
    /// What an output device refused after the fact.
    Device = 56, "device", Drop, Drop;
    /// Waits for the neighbour's link-layer address.
    HeldNeighbour = 57, "held_neighbour", Hold, Hold;
    /// Waits for the other fragments of its datagram.
    HeldFragment = 58, "held_fragment", Hold, Hold;
    /// Split into fragments, or a segment that had grown into two, which were forwarded in its place.
    Fragmented = 59, "fragmented", Consume, Consume;
    /// Directed broadcast (RFC 2644).
    DirectedBroadcast = 60, "directed_broadcast", Drop, Drop;
    /// Nothing is known of this connection and the segment does not start one.
    NotNew = 61, "not_new", Drop, Drop;
    /// The path to user space refused the packet.
    PuntFailed = 62, "punt_failed", Drop, Drop;
    /// An IP version or protocol suite that is switched off or unknown.
    UnknownProtocol = 63, "unknown_protocol", HandDown, Drop;
    /// More than one VLAN tag that names no VLAN (IEEE 802.1Q priority tags).
    PriorityTag = 64, "priority_tag", Drop, Drop;
    /// The output takes no packets from programs in drivers any more.
    OutputLevel = 65, "output_level", HandDown, Drop;
    /// A partial checksum came through a driver's program, which loses what would complete it; it was completed.
    PartialChecksum = 66, "partial_checksum", Forward, Forward;
    /// Waits until packets of its flow on the path that it had before have left.
    HeldMove = 67, "held_move", Hold, Hold;
    /// Its source makes new connections faster, or has more of them, than a rule allows one source.
    SourceLimit = 68, "source_limit", Drop, Drop;
    /// The inside address has as many mappings, or connections, as its translation allows it.
    NatLimit = 69, "nat_limit", Drop, Drop;
    /// A SYN to a mapping that does not admit its sender, before it is answered (RFC 5382 REQ-4).
    HeldSyn = 70, "held_syn", Hold, Hold;
    /// Source and destination are the same (land attack).
    LandAttack = 71, "land_attack", Drop, Drop;
    /// The source is directly connected to another interface than the one the packet came in through.
    SpoofedConnected = 72, "spoofed_connected", Drop, Drop;
    /// No route back to the source through the interface, as its `rpf` demands (RFC 3704).
    ReversePath = 73, "reverse_path", Drop, Drop;
    /// A loopback address on the wire (RFC 1122 section 3.2.1.3 g, RFC 4291 section 2.5.3).
    LoopbackAddress = 74, "loopback_address", Drop, Drop;
    /// A multicast or broadcast address as a source (RFC 1812 section 5.3.7, RFC 4291 section 2.7).
    MulticastSource = 75, "multicast_source", Drop, Drop;
    /// The unspecified address, to be forwarded (RFC 4291 section 2.5.2).
    UnspecifiedAddress = 76, "unspecified_address", Drop, Drop;
    /// A link-local address, to be forwarded (RFC 4291 section 2.5.6).
    LinkLocalTransit = 77, "link_local_transit", Drop, Drop;
    /// An IPv4-mapped or IPv4-compatible IPv6 address on the wire (RFC 4291 section 2.5.5).
    MappedAddress = 78, "mapped_address", Drop, Drop;
    /// The length in the IP header does not even cover the header (RFC 1812 section 5.2.2).
    BadLength = 79, "bad_length", Drop, Drop;
    /// A UDP length or TCP data offset that the packet does not hold (RFC 768, RFC 9293 section 3.1).
    TransportLength = 80, "transport_length", Drop, Drop;
    /// A jumbo payload option (RFC 2675): no link here carries such packets.
    Jumbogram = 81, "jumbogram", Drop, Drop;
    /// An IP or hop-by-hop option whose length cannot be (RFC 791 section 3.1, RFC 8200 section 4.2).
    BadOption = 82, "bad_option", Drop, Drop;
    /// A hop-by-hop option of unknown type that says to discard the packet (RFC 8200 section 4.2).
    UnknownOption = 83, "unknown_option", Drop, Drop;
    /// A routing header of type 0 (RFC 5095).
    RoutingHeader0 = 84, "routing_header_0", Drop, Drop;
    /// Hop-by-hop options elsewhere than directly behind the IPv6 header (RFC 8200 section 4.1).
    HopByHopOrder = 85, "hop_by_hop_order", Drop, Drop;
    /// A chain of extension headers that is cut off, too long, or has two fragment headers.
    BadExtensionHeader = 86, "bad_extension_header", Drop, Drop;
    /// A first fragment without the whole transport header and chain of extension headers (RFC 1858, RFC 7112), or one
    /// that reaches into the TCP header (RFC 3128).
    TinyFragment = 87, "tiny_fragment", Drop, Drop;
    /// A fragment of a datagram that overlaps itself (RFC 5722).
    OverlappingFragment = 88, "overlapping_fragment", Drop, Drop;
    /// A fragment that is there already.
    RepeatedFragment = 89, "repeated_fragment", Drop, Drop;
    /// A fragment whose datagram was not complete in time (RFC 791 section 3.2, RFC 8200 section 4.5).
    FragmentTimeout = 90, "fragment_timeout", Drop, Drop;
    /// A fragment that made room for others, or one of too many.
    FragmentLimit = 91, "fragment_limit", Drop, Drop;
    /// A fragment of an ICMP error that was put together to be translated as a whole.
    Reassembled = 92, "reassembled", Consume, Consume;
    /// What an ICMP error says of the packet that it quotes cannot be: a wrong header checksum (RFC 5508 REQ-3 a), an MTU
    /// that it would have fit or that no link has (RFC 5927 section 7, RFC 8201 section 4).
    IcmpQuote = 93, "icmp_quote", Drop, Drop;
    /// A command that a helper looked at names an address that is not its sender's, or a port that is not for data
    /// (RFC 2577 section 3).
    HelperRefused = 94, "helper_refused", Drop, Drop;
    /// What a helper looked at announces one connection, or changes one text, more than there is room for.
    HelperLimit = 95, "helper_limit", Drop, Drop;
    /// Payload that a helper cannot look at in order: a segment behind one that has not come, or a fragment.
    HelperIncomplete = 96, "helper_incomplete", Drop, Drop;
    /// Forwarded as it came, and the connection that it announces is not expected: the address is not its sender's, or the
    /// text has left in part.
    HelperDeclined = 97, "helper_declined", Forward, Forward;
    /// The interface whose address is to be the source is in a network that has addresses in common with the one that the
    /// connection comes from (RFC 4787 REQ-7).
    AddressConflict = 98, "address_conflict", Drop, Drop;
    /// A SYN to a published service, answered with a cookie (RFC 4987 section 3.6).
    SynCookie = 99, "syn_cookie", Consume, Consume;
    /// A segment to a published service, of no connection, that acknowledges no cookie.
    CookieRefused = 100, "syn_cookie_refused", Drop, Drop;
    /// The acknowledgment of a cookie: its connection is opened.
    CookieAccepted = 101, "syn_cookie_accepted", HandDown, Consume;
    /// Waits for the server to answer, whose client was answered with a cookie.
    HeldServer = 102, "held_server", Hold, Hold;
    /// The server, whose client was answered with a cookie, has not answered.
    ServerSilent = 103, "server_silent", Drop, Drop;
    /// The SYN|ACK of a server whose client was answered with a cookie; it is acknowledged in the client's name.
    ServerAnswered = 104, "server_answered", Consume, Consume;
    /// A request for port control (RFC 6887) that was granted, or one that asks for nothing.
    PcpAnswered = 105, "pcp_answered", Consume, Consume;
    /// A request for port control that was refused; the answer says why.
    PcpRefused = 106, "pcp_refused", Consume, Consume;
    /// What came to the port control server is no request, or nobody can be answered.
    PcpInvalid = 107, "pcp_invalid", Drop, Drop;
    /// More requests for port control than are answered, of one source or of all.
    PcpLimit = 108, "pcp_limit", Drop, Drop;
}

/// Places for reasons in shared counters; the list may grow up to it without a new layout.
pub const REASON_SLOTS: usize = 128;

impl Reason {
    /// The number, as counted and as carried in metadata.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places_and_fit_the_counters() {
        for (place, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.number() as usize, place, "{}", reason.name());
            assert_eq!(Reason::from_number(reason.number()), Some(*reason));
        }
        assert!(Reason::ALL.len() <= REASON_SLOTS);
    }

    #[test]
    fn names_are_unique_and_the_slow_path_never_hands_down() {
        for (place, reason) in Reason::ALL.iter().enumerate() {
            assert!(Reason::ALL[..place].iter().all(|other| other.name() != reason.name()));
            assert_ne!(reason.slow_kind(), Kind::HandDown);
        }
    }
}
