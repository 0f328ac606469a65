//! Requests to the kernel and their answers, on a socket of their own.
//!
//! A request whose acknowledgement falls into an overflow of announcements would never complete, so nothing is
//! announced on this socket; and every wait for an answer ends.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use flowhop_routing::{Event, Link};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REPLACE, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::NetlinkError;
use super::decode::decode;
use super::socket::{Message, NetlinkSocket, Received, messages};

/// How often a dump that the kernel calls inconsistent is started over.
const DUMP_ATTEMPTS: usize = 8;

/// What a dump is of, in the order in which a full one asks: routes name links, neighbours complete adjacencies.
const DUMPS: [Dump; 6] = [
    Dump::Links,
    Dump::Addresses,
    Dump::Routes(AddressFamily::Inet),
    Dump::Routes(AddressFamily::Inet6),
    Dump::Neighbours(AddressFamily::Inet),
    Dump::Neighbours(AddressFamily::Inet6),
];

#[derive(Debug, Clone, Copy)]
enum Dump {
    Links,
    Addresses,
    Routes(AddressFamily),
    Neighbours(AddressFamily),
}

/// The socket for requests; one request at a time.
pub(crate) struct Requests {
    socket: NetlinkSocket,
    timeout: Duration,
    sequence: u32,
}

/// How an answer went on.
enum Step {
    More,
    Complete,
    Interrupted,
}

impl Requests {
    /// For requests of a protocol (`NETLINK_*`) in the current network namespace.
    pub(crate) fn open(protocol: isize, timeout: Duration) -> io::Result<Requests> {
        let socket = NetlinkSocket::open(protocol, &[])?;
        socket.set_timeout(timeout)?;
        Ok(Requests { socket, timeout, sequence: 0 })
    }

    /// Everything, pushed to `events`; returns how many messages were not understood.
    pub(super) fn dump_all(&mut self, events: &mut Vec<Event>) -> Result<u64, NetlinkError> {
        let mut undecodable = 0;
        for dump in DUMPS {
            undecodable += self.dump(dump, events)?;
        }
        Ok(undecodable)
    }

    fn dump(&mut self, dump: Dump, events: &mut Vec<Event>) -> Result<u64, NetlinkError> {
        let start = events.len();
        for _ in 0..DUMP_ATTEMPTS {
            let mut undecodable = 0;
            let complete = self.exchange(dump.name(), dump.message(), NLM_F_DUMP, |message| match decode(message) {
                Ok(event) => events.extend(event),
                Err(_) => undecodable += 1,
            })?;
            if complete {
                return Ok(undecodable);
            }
            events.truncate(start);
        }
        Err(NetlinkError::DumpInterrupted { request: dump.name(), attempts: DUMP_ATTEMPTS })
    }

    /// The link with this name, or `None`.
    pub(super) fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        let attributes = &mut message.attributes;
        attributes.push(LinkAttribute::IfName(name.to_owned()));
        attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let request = RouteNetlinkMessage::GetLink(message);
        let mut found = None;
        let answer = self.exchange("get link", request, NLM_F_ACK, |message| {
            if let Ok(Some(Event::LinkUpsert(link))) = decode(message) {
                found = Some(link);
            }
        });
        match answer {
            Ok(_) => Ok(found),
            // ENODEV is the answer for unknown names; ERANGE and EINVAL for such that no device can have.
            Err(NetlinkError::Refused { errno: libc::ENODEV | libc::ERANGE | libc::EINVAL, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn set_link_up(&mut self, ifindex: u32, up: bool) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        message.header.change_mask = LinkFlags::Up;
        if up {
            message.header.flags = LinkFlags::Up;
        }
        let request = RouteNetlinkMessage::SetLink(message);
        self.exchange("set link", request, NLM_F_ACK, |_| {})?;
        Ok(())
    }

    /// Marks a neighbour entry as used, creating it where there is none: the kernel then resolves or confirms it. With
    /// an existing entry, creating exclusively would be refused; replacing leaves its state alone.
    pub(super) fn use_neighbour(&mut self, ifindex: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = match address {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        message.header.ifindex = ifindex;
        message.header.state = NeighbourState::None;
        message.header.flags = NeighbourFlags::Use;
        let destination = NeighbourAttribute::Destination(NeighbourAddress::from(address));
        message.attributes.push(destination);
        let request = RouteNetlinkMessage::NewNeighbour(message);
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.exchange("use neighbour", request, flags, |_| {})?;
        Ok(())
    }

    /// Sends a request and hands what comes back to `answer` until it is complete. Returns `false` when the kernel
    /// says that a dump is inconsistent.
    pub(crate) fn exchange(
        &mut self,
        request: &'static str,
        message: impl NetlinkSerializable,
        flags: u16,
        mut answer: impl FnMut(&Message<'_>),
    ) -> Result<bool, NetlinkError> {
        let failed = |source| NetlinkError::Request { request, source };
        // An answer to a request that was given up on carries another number and is passed over.
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = serialize(message, flags, self.sequence);
        self.socket.send(&bytes).map_err(failed)?;
        let mut consistent = true;
        loop {
            let datagram = match self.socket.receive().map_err(failed)? {
                Received::Datagram(datagram) => datagram,
                Received::Lost => return Err(NetlinkError::AnswerLost { request }),
                Received::Nothing => {
                    return Err(NetlinkError::Timeout { request, after: self.timeout });
                }
            };
            for message in messages(datagram).filter(|m| m.sequence == self.sequence) {
                match step(request, &message)? {
                    Step::More => answer(&message),
                    Step::Interrupted => consistent = false,
                    Step::Complete => {
                        return Ok(consistent && message.flags & NLM_F_DUMP_INTR == 0);
                    }
                }
            }
        }
    }
}

impl Dump {
    fn name(self) -> &'static str {
        match self {
            Dump::Links => "dump links",
            Dump::Addresses => "dump addresses",
            Dump::Routes(_) => "dump routes",
            Dump::Neighbours(_) => "dump neighbours",
        }
    }

    fn message(self) -> RouteNetlinkMessage {
        match self {
            Dump::Links => {
                let mut message = LinkMessage::default();
                let skip_statistics = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
                message.attributes.push(skip_statistics);
                RouteNetlinkMessage::GetLink(message)
            }
            Dump::Addresses => RouteNetlinkMessage::GetAddress(AddressMessage::default()),
            Dump::Routes(family) => {
                let mut message = RouteMessage::default();
                message.header.address_family = family;
                RouteNetlinkMessage::GetRoute(message)
            }
            Dump::Neighbours(family) => {
                let mut message = NeighbourMessage::default();
                message.header.family = family;
                RouteNetlinkMessage::GetNeighbour(message)
            }
        }
    }
}

fn step(request: &'static str, message: &Message<'_>) -> Result<Step, NetlinkError> {
    match message.kind {
        // Both begin with a negative error number, or 0.
        NLMSG_ERROR | NLMSG_DONE => {
            let code = message.payload.first_chunk::<4>();
            match code.map_or(0, |code| i32::from_ne_bytes(*code)) {
                0 => Ok(Step::Complete),
                code => Err(NetlinkError::Refused { request, errno: code.saturating_neg() }),
            }
        }
        _ if message.flags & NLM_F_DUMP_INTR != 0 => Ok(Step::Interrupted),
        _ => Ok(Step::More),
    }
}

fn serialize(message: impl NetlinkSerializable, flags: u16, sequence: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}
