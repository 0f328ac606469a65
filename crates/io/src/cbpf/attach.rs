//! Putting the filter on an interface and taking it off, by rtnetlink.

use std::time::Duration;

use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator, parse_string,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcMessage, TcOption};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt;

use super::{FilterError, Instruction};

/// Ours among the filters of the same priority: "flow".
const HANDLE: u32 = 0x666c_6f77;
/// First of all.
const PRIORITY: u32 = 1;
const ETH_P_ALL: u32 = (libc::ETH_P_ALL as u16).to_be() as u32;
const INGRESS: TcHandle = TcHandle { major: u16::MAX, minor: TcHandle::MIN_INGRESS };
const EGRESS: TcHandle = TcHandle { major: u16::MAX, minor: TcHandle::MIN_EGRESS };
const TCA_BPF_OPS_LEN: u16 = 4;
const TCA_BPF_OPS: u16 = 5;
/// In an acknowledgment: what the kernel says, and that its copy of the request was left out.
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than the kernel writes at once.
const DATAGRAM: usize = 64 * 1024;

pub(super) fn install(ifindex: u32, program: &[Instruction]) -> Result<(), FilterError> {
    let mut kernel = Kernel::open(ifindex)?;
    let qdisc = RouteNetlinkMessage::NewQueueDiscipline(qdisc(ifindex));
    match kernel.ask("add clsact qdisc", qdisc, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, |_| {}) {
        Err(FilterError::Refused { errno: libc::EEXIST, .. }) => {}
        result => result?,
    }
    let mut message = filter(ifindex);
    let count = program.len() as u16; // at most `MAX_INSTRUCTIONS`
    let code = program.iter().flat_map(|instruction| instruction.bytes()).collect();
    message.attributes.push(TcAttribute::Options(vec![
        TcOption::Bpf(TcFilterBpfOption::Other(DefaultNla::new(TCA_BPF_OPS_LEN, count.to_ne_bytes().to_vec()))),
        TcOption::Bpf(TcFilterBpfOption::Other(DefaultNla::new(TCA_BPF_OPS, code))),
        TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
    ]));
    // Without NLM_F_EXCL one with this handle is replaced, in one step.
    kernel.ask("set kernel filter", RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_ACK | NLM_F_CREATE, |_| {})
}

/// Takes the filter off an interface of the caller's network namespace, and the clsact qdisc if it is then empty. None is
/// fine.
///
/// # Errors
/// All but [`FilterError::TooLarge`].
pub fn remove(ifindex: u32) -> Result<(), FilterError> {
    let mut kernel = Kernel::open(ifindex)?;
    let filter = RouteNetlinkMessage::DelTrafficFilter(filter(ifindex));
    absent_is_fine(kernel.ask("remove kernel filter", filter, NLM_F_ACK, |_| {}))?;
    for parent in [INGRESS, EGRESS] {
        let mut empty = true;
        let mut message = TcMessage::with_index(ifindex as i32);
        message.header.parent = parent;
        let dump = RouteNetlinkMessage::GetTrafficFilter(message);
        absent_is_fine(kernel.ask("list filters", dump, NLM_F_DUMP, |kind| {
            empty &= kind != libc::RTM_NEWTFILTER;
        }))?;
        if !empty {
            return Ok(());
        }
    }
    let qdisc = RouteNetlinkMessage::DelQueueDiscipline(qdisc(ifindex));
    absent_is_fine(kernel.ask("remove clsact qdisc", qdisc, NLM_F_ACK, |_| {}))
}

/// What the kernel says when there is no such interface, qdisc (`EINVAL`) or filter.
fn absent_is_fine(result: Result<(), FilterError>) -> Result<(), FilterError> {
    match result {
        Err(FilterError::Refused { errno: libc::ENOENT | libc::ENODEV | libc::EINVAL, .. }) => Ok(()),
        result => result,
    }
}

fn qdisc(ifindex: u32) -> TcMessage {
    let mut message = TcMessage::with_index(ifindex as i32);
    message.header.handle = TcHandle { major: u16::MAX, minor: 0 };
    message.header.parent = TcHandle::CLSACT;
    message.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    message
}

fn filter(ifindex: u32) -> TcMessage {
    let mut message = TcMessage::with_index(ifindex as i32);
    message.header.handle = TcHandle::from(HANDLE);
    message.header.parent = INGRESS;
    message.header.info = PRIORITY << 16 | ETH_P_ALL;
    message.attributes.push(TcAttribute::Kind("bpf".to_owned()));
    message
}

/// A socket for requests about one interface.
struct Kernel {
    socket: Socket,
    ifindex: u32,
    sequence: u32,
}

impl Kernel {
    fn open(ifindex: u32) -> Result<Self, FilterError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
            Ok(Self { socket, ifindex, sequence: 0 })
        };
        open().map_err(|source| FilterError::Netlink { request: "open netlink socket", source })
    }

    /// Sends a request and shows the kinds of the messages that come back until the last of them.
    fn ask(
        &mut self,
        request: &'static str,
        message: RouteNetlinkMessage,
        flags: u16,
        mut show: impl FnMut(u16),
    ) -> Result<(), FilterError> {
        let failed = |source| FilterError::Netlink { request, source };
        self.sequence += 1;
        let bytes = serialize(message, flags, self.sequence);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).map_err(failed)?;
        let mut datagram = vec![0; DATAGRAM];
        loop {
            let (length, sender) = self.socket.recv_from(&mut datagram.as_mut_slice(), 0).map_err(failed)?;
            let mut rest = datagram.get(..length).filter(|_| sender.port_number() == 0).unwrap_or_default();
            while let Ok(answer) = NetlinkBuffer::new_checked(rest) {
                if answer.sequence_number() == self.sequence {
                    match answer.message_type() {
                        NLMSG_ERROR | NLMSG_DONE => return self.verdict(request, &answer),
                        kind => show(kind),
                    }
                }
                let length = usize::try_from(answer.length()).unwrap_or(usize::MAX);
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }

    /// What the last message of an answer says: a negative error number, or 0, and perhaps why.
    fn verdict(&self, request: &'static str, answer: &NetlinkBuffer<&[u8]>) -> Result<(), FilterError> {
        let payload = answer.payload();
        let errno = payload.first_chunk().map_or(-libc::EPROTO, |code| i32::from_ne_bytes(*code)).saturating_neg();
        if errno == 0 {
            return Ok(());
        }
        let explained = answer.flags() & NLM_F_ACK_TLVS != 0 && answer.flags() & NLM_F_CAPPED != 0;
        // Behind the error number stands the header of the request.
        let attributes = payload.get(20..).filter(|_| explained).unwrap_or_default();
        let message = NlasIterator::new(attributes)
            .map_while(Result::ok)
            .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
            .and_then(|attribute| parse_string(attribute.value()).ok());
        Err(FilterError::Refused { request, ifindex: self.ifindex, errno, message: message.unwrap_or_default() })
    }
}

fn serialize(message: RouteNetlinkMessage, flags: u16, sequence: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}
