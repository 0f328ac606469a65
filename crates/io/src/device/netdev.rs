//! The generic netlink family `netdev` (`linux/netdev.h`, since Linux 6.3): what drivers offer to XDP programs.

use std::io;
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NetlinkSerializable};
use netlink_sys::protocols::NETLINK_GENERIC;

use super::XdpFeatures;
use crate::netlink::NetlinkError;
use crate::netlink::request::Requests;
use crate::netlink::socket::attributes;

/// `linux/genetlink.h`; libc does not have all of it.
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

/// `linux/netdev.h`.
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

/// `struct genlmsghdr`: command, version, two bytes reserved.
const HEADER: usize = 4;
/// `struct nlattr`: length, kind.
const ATTRIBUTE_HEADER: usize = 4;
/// The kernel answers at once, inside of the call that asks.
const TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Netdev {
    requests: Requests,
    /// The number that the kernel gave the family; `None` where it has no such family.
    family: Option<u16>,
}

impl Netdev {
    pub(super) fn open() -> io::Result<Self> {
        let mut requests = Requests::open(NETLINK_GENERIC, TIMEOUT)?;
        let name = (CTRL_ATTR_FAMILY_NAME, b"netdev\0".as_slice());
        let question = Question { family: GENL_ID_CTRL, command: CTRL_CMD_GETFAMILY, attribute: name };
        let number = ask(&mut requests, "find the family netdev", question, CTRL_ATTR_FAMILY_ID);
        Ok(Self { requests, family: number.ok().flatten().map(u16::from_ne_bytes) })
    }

    /// What the driver of a device offers; `None` where the kernel does not tell.
    pub(super) fn xdp_features(&mut self, ifindex: u32) -> Option<XdpFeatures> {
        let index = ifindex.to_ne_bytes();
        let attribute = (NETDEV_A_DEV_IFINDEX, index.as_slice());
        let question = Question { family: self.family?, command: NETDEV_CMD_DEV_GET, attribute };
        let features = ask(&mut self.requests, "XDP features", question, NETDEV_A_DEV_XDP_FEATURES).ok()??;
        Some(XdpFeatures(u64::from_ne_bytes(features)))
    }
}

/// Sends a question and looks for an attribute of `N` bytes in the answer.
fn ask<const N: usize>(
    requests: &mut Requests,
    what: &'static str,
    question: Question<'_>,
    wanted: u16,
) -> Result<Option<[u8; N]>, NetlinkError> {
    let mut found = None;
    requests.exchange(what, question, NLM_F_ACK, |message| {
        let fitting = attributes(message.payload, HEADER).map_while(Result::ok).find(|(kind, _)| *kind == wanted);
        found = fitting.and_then(|(_, value)| value.try_into().ok());
    })?;
    Ok(found)
}

/// A generic netlink message with one attribute.
struct Question<'a> {
    family: u16,
    command: u8,
    attribute: (u16, &'a [u8]),
}

impl Question<'_> {
    fn attribute_length(&self) -> usize {
        ATTRIBUTE_HEADER + self.attribute.1.len()
    }
}

impl NetlinkSerializable for Question<'_> {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        HEADER + self.attribute_length().next_multiple_of(4)
    }

    fn serialize(&self, buffer: &mut [u8]) {
        const VERSION: u8 = 1;
        let (kind, value) = self.attribute;
        let [k0, k1] = kind.to_ne_bytes();
        // No name or number that is asked for comes near 64 KiB.
        let [l0, l1] = (self.attribute_length() as u16).to_ne_bytes();
        let bytes = [self.command, VERSION, 0, 0, l0, l1, k0, k1].into_iter().chain(value.iter().copied());
        for (to, from) in buffer.iter_mut().zip(bytes.chain(std::iter::repeat(0))) {
            *to = from;
        }
    }
}
