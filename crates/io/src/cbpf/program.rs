//! The filter's program.
//!
//! Jumps that depend on something reach 255 instructions and only forward, so the code is a chain of short tests: a test
//! that fails goes on behind the next few instructions, one that succeeds falls into a verdict or a long jump. Behind the
//! chain comes the code for claims, once for each different set of them, with the address family's header before it.

use std::collections::BTreeMap;

use super::{Addresses4, Addresses6, Claims, DROP, PASS};

/// One instruction of a classic-BPF program (`struct sock_filter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when a test succeeds.
    pub jump_true: u8,
    /// Instructions to skip when a test fails.
    pub jump_false: u8,
    /// Operand.
    pub operand: u32,
}

impl Instruction {
    /// As the kernel takes it.
    #[must_use]
    pub const fn bytes(self) -> [u8; 8] {
        let [a, b] = self.code.to_ne_bytes();
        let [c, d, e, f] = self.operand.to_ne_bytes();
        [a, b, self.jump_true, self.jump_false, c, d, e, f]
    }
}

// Operations as of linux/bpf_common.h: class | size or operation | mode or source.
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF_INDEXED: u16 = 0x48;
const LOAD_BYTE_INDEXED: u16 = 0x50;
const SET_INDEX: u16 = 0x01;
/// Index = 4 × the low four bits of the byte at the operand.
const SET_INDEX_TO_IPV4_HEADER: u16 = 0xb1;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_ABOVE: u16 = 0x25;
const IF_AT_LEAST: u16 = 0x35;
const IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// What the kernel knows beside the bytes is loaded from far behind the packet (`SKF_AD_OFF`).
const VLAN_TAG: u32 = 0xffff_f000 + 44;
const VLAN_TAG_PRESENT: u32 = 0xffff_f000 + 48;
const VLAN_NUMBER: u32 = 0xfff;

const ETHERTYPE: u32 = 12;
const IPV4: u32 = 0x0800;
const IPV6: u32 = 0x86dd;
const DOT1Q: u32 = 0x8100;
const DOT1AD: u32 = 0x88a8;
/// Length of the Ethernet header: what comes first after it is indexed from there.
const L3: u32 = 14;

const V4_FRAGMENT: u32 = L3 + 6;
const V4_FRAGMENT_OFFSET: u32 = 0x1fff;
const V4_PROTOCOL: u32 = L3 + 9;
const V4_DESTINATION: u32 = L3 + 16;
const V6_NEXT_HEADER: u32 = L3 + 6;
const V6_HOP_LIMIT: u32 = L3 + 7;
const V6_DESTINATION: u32 = L3 + 24;
const V6_HEADER: u32 = 40;
/// Behind an IPv6 header: its fields if it is a fragment header, and its length.
const V6_FRAGMENT_NEXT: u32 = L3 + V6_HEADER;
const V6_FRAGMENT: u32 = L3 + V6_HEADER + 2;
const V6_FRAGMENT_OFFSET: u32 = 0xfff8;
const V6_FRAGMENT_HEADER: u32 = 8;
const ICMPV6_TYPE: u32 = L3 + V6_HEADER;

const ICMP: u32 = 1;
const TCP: u32 = 6;
const UDP: u32 = 17;
const FRAGMENT: u32 = 44;
const ICMPV6: u32 = 58;
const ECHO_REPLY: u32 = 0;
const ECHO_REPLY_V6: u32 = 129;
const ECHO_REQUEST: u32 = 8;
const ECHO_REQUEST_V6: u32 = 128;
const ROUTER_SOLICITATION: u32 = 133;
const REDIRECT: u32 = 137;
/// From the IP header's end, plus the Ethernet header, as indexed by the IP header's length.
const DESTINATION_PORT: u32 = L3 + 2;
const ICMP_TYPE: u32 = L3;
const ICMP_IDENTIFIER: u32 = L3 + 4;

/// The program for these addresses, however long.
pub(super) fn generate(v4: &Addresses4, v6: &Addresses6) -> Vec<Instruction> {
    let mut program = Program::default();
    let (to_v4, to_v6) = (program.label(), program.label());
    program.link_layer(to_v4, to_v6);
    let mut bodies = Bodies::new();

    program.here(to_v4);
    program.put(LOAD_WORD, V4_DESTINATION);
    for (address, claims) in v4 {
        let body = program.body(&mut bodies, Family::V4, claims);
        program.only_if(IF_EQUAL, address.to_bits(), 1);
        program.jump(body);
    }
    program.put(RETURN, DROP);

    program.here(to_v6);
    for (address, claims) in v6 {
        let body = program.body(&mut bodies, Family::V6, claims);
        // The last word first: it differs most. What is skipped are the loads and tests left, and the jump.
        let words = address.octets();
        for (left, (word, offset)) in words.as_chunks::<4>().0.iter().zip([0, 4, 8, 12]).enumerate().rev() {
            program.put(LOAD_WORD, V6_DESTINATION + offset);
            program.only_if(IF_EQUAL, u32::from_be_bytes(*word), 2 * left as u8 + 1);
        }
        program.jump(body);
    }
    program.neighbour_discovery();

    for ((family, claims), label) in bodies {
        program.here(label);
        program.claims(family, claims);
    }
    program.finish()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    V4,
    V6,
}

type Bodies<'a> = BTreeMap<(Family, &'a Claims), Label>;

#[derive(Clone, Copy)]
struct Label(usize);

#[derive(Default)]
struct Program {
    code: Vec<Instruction>,
    /// Where each label is.
    labels: Vec<usize>,
    /// Long jumps: where they are and what to.
    jumps: Vec<(usize, Label)>,
}

impl Program {
    fn put(&mut self, code: u16, operand: u32) {
        self.code.push(Instruction { code, jump_true: 0, jump_false: 0, operand });
    }

    /// The next `count` instructions are for when the test succeeds.
    fn only_if(&mut self, test: u16, operand: u32, count: u8) {
        self.code.push(Instruction { code: test, jump_true: 0, jump_false: count, operand });
    }

    /// The next `count` instructions are for when the test fails.
    fn unless(&mut self, test: u16, operand: u32, count: u8) {
        self.code.push(Instruction { code: test, jump_true: count, jump_false: 0, operand });
    }

    fn label(&mut self) -> Label {
        self.labels.push(0);
        Label(self.labels.len() - 1)
    }

    fn here(&mut self, label: Label) {
        self.labels[label.0] = self.code.len();
    }

    fn jump(&mut self, label: Label) {
        self.jumps.push((self.code.len(), label));
        self.put(JUMP, 0);
    }

    fn body<'a>(&mut self, bodies: &mut Bodies<'a>, family: Family, claims: &'a Claims) -> Label {
        // Without claims the families do not differ either.
        let family = if claims.is_empty() { Family::V4 } else { family };
        *bodies.entry((family, claims)).or_insert_with(|| self.label())
    }

    fn finish(mut self) -> Vec<Instruction> {
        for (at, label) in self.jumps {
            self.code[at].operand = (self.labels[label.0] - at - 1) as u32;
        }
        self.code
    }

    /// Sorts out what is not for the rest to judge.
    fn link_layer(&mut self, to_v4: Label, to_v6: Label) {
        self.put(LOAD_WORD, VLAN_TAG_PRESENT);
        self.unless(IF_EQUAL, 0, 8);
        self.put(LOAD_WORD, VLAN_TAG);
        self.put(AND, VLAN_NUMBER);
        self.unless(IF_EQUAL, 0, 1);
        self.put(RETURN, PASS);
        // The kernel ignores a tag with number 0 and takes off the next one, of which nothing is known here.
        self.put(LOAD_HALF, ETHERTYPE);
        self.unless(IF_EQUAL, DOT1Q, 1);
        self.only_if(IF_EQUAL, DOT1AD, 1);
        self.put(RETURN, DROP);

        self.put(LOAD_BYTE, 0);
        self.only_if(IF_ANY_BIT, 1, 1);
        self.put(RETURN, PASS);
        self.put(LOAD_HALF, ETHERTYPE);
        self.only_if(IF_EQUAL, IPV4, 1);
        self.jump(to_v4);
        self.only_if(IF_EQUAL, IPV6, 1);
        self.jump(to_v6);
        self.put(RETURN, PASS);
    }

    /// What is left is not to an own address.
    fn neighbour_discovery(&mut self) {
        self.put(LOAD_HALF, V6_DESTINATION);
        self.put(AND, 0xffc0);
        self.only_if(IF_EQUAL, 0xfe80, 6);
        self.put(LOAD_HALF, V6_NEXT_HEADER);
        // Next header and hop limit are neighbours.
        const { assert!(V6_HOP_LIMIT == V6_NEXT_HEADER + 1) };
        self.only_if(IF_EQUAL, ICMPV6 << 8 | 255, 4);
        self.put(LOAD_BYTE, ICMPV6_TYPE);
        self.only_if(IF_AT_LEAST, ROUTER_SOLICITATION, 2);
        self.unless(IF_ABOVE, REDIRECT, 1);
        self.put(RETURN, PASS);
        self.put(RETURN, DROP);
    }

    /// Judges a packet to an own address.
    fn claims(&mut self, family: Family, claims: &Claims) {
        if claims.is_empty() {
            return self.put(RETURN, PASS);
        }
        match family {
            Family::V4 => {
                self.put(LOAD_HALF, V4_FRAGMENT);
                self.only_if(IF_ANY_BIT, V4_FRAGMENT_OFFSET, 1);
                self.put(RETURN, PASS);
                self.put(SET_INDEX_TO_IPV4_HEADER, L3);
                self.put(LOAD_BYTE, V4_PROTOCOL);
            }
            Family::V6 => {
                self.put(SET_INDEX, V6_HEADER);
                self.put(LOAD_BYTE, V6_NEXT_HEADER);
                self.only_if(IF_EQUAL, FRAGMENT, 5);
                self.put(LOAD_HALF, V6_FRAGMENT);
                self.only_if(IF_ANY_BIT, V6_FRAGMENT_OFFSET, 1);
                self.put(RETURN, PASS);
                self.put(SET_INDEX, V6_HEADER + V6_FRAGMENT_HEADER);
                self.put(LOAD_BYTE, V6_FRAGMENT_NEXT);
            }
        }
        for protocol in &claims.protocols {
            self.only_if(IF_EQUAL, u32::from(*protocol), 1);
            self.put(RETURN, DROP);
        }
        let (icmp, reply, request) = match family {
            Family::V4 => (ICMP, ECHO_REPLY, ECHO_REQUEST),
            Family::V6 => (ICMPV6, ECHO_REPLY_V6, ECHO_REQUEST_V6),
        };
        let wanted = [!claims.tcp.is_empty(), !claims.udp.is_empty(), !claims.echo.is_empty() || claims.echo_request];
        let parts = [(TCP, &claims.tcp), (UDP, &claims.udp), (icmp, &claims.echo)].into_iter().zip(wanted);
        let parts: Vec<_> = parts.filter(|(_, wanted)| *wanted).map(|(part, _)| (part, self.label())).collect();
        for ((protocol, _), label) in &parts {
            self.only_if(IF_EQUAL, *protocol, 1);
            self.jump(*label);
        }
        self.put(RETURN, PASS);
        for ((protocol, ranges), label) in parts {
            self.here(label);
            if protocol == icmp {
                self.put(LOAD_BYTE_INDEXED, ICMP_TYPE);
                if claims.echo_request {
                    self.only_if(IF_EQUAL, request, 1);
                    self.put(RETURN, DROP);
                }
                self.unless(IF_EQUAL, reply, 1);
                self.put(RETURN, PASS);
                self.put(LOAD_HALF_INDEXED, ICMP_IDENTIFIER);
            } else {
                self.put(LOAD_HALF_INDEXED, DESTINATION_PORT);
            }
            for (low, high) in ranges {
                self.only_if(IF_AT_LEAST, u32::from(*low), 2);
                self.unless(IF_ABOVE, u32::from(*high), 1);
                self.put(RETURN, DROP);
            }
            self.put(RETURN, PASS);
        }
    }
}
