//! Faults that are planted to see that they are found.

use crate::history::{PORTS, Packet, port_mac};
use flowhop_flow::parse::{self, Parsed};
use flowhop_flow::reason::Reason;
use flowhop_flow::record::{PortKey, Steer};
use flowhop_flow::{Arrival, Hit, Kind, Transport, Verdict, forward, judge};
use flowhop_wire::checksum;

use crate::native::{Buffer, Native, Tables};

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The transport checksum does not follow the ports.
    PortChecksum,
    /// Any interface will do.
    AnyInterface,
    /// Bytes are counted one short.
    Count,
    /// The time to live stays.
    TimeToLive,
    /// The TCP windows are not looked at.
    NoWindow,
    /// The policy's generation is not looked at.
    AnyPolicy,
    /// A handed-down packet is not counted at its gate.
    NoGate,
    /// A program in a driver takes what the entry leaves to the socket buffer.
    AnyLevel,
    /// A program in a driver sends to a device that takes nothing from it.
    AnyOutput,
    /// The VLAN of the output is forgotten.
    NoTag,
    /// All packets get the same identification.
    Identification,
}

/// One packet that a function with a fault judges.
pub(crate) struct Case<'a> {
    pub(crate) judged: &'a Native,
    pub(crate) packet: &'a Packet,
    pub(crate) arrival: Arrival,
    pub(crate) now: u32,
}

impl Case<'_> {
    /// Makes the answer what a function with this fault would have answered.
    pub(crate) fn spoil<const DRIVER: bool>(&self, fault: Fault, buffer: &mut Buffer, verdict: &mut Verdict) {
        let forwarded = verdict.kind == Kind::Forward;
        match fault {
            Fault::AnyInterface if verdict.reason == Reason::WrongInterface => {
                self.try_all_ports::<DRIVER>(buffer, verdict);
            }
            Fault::Count if forwarded => {
                if let Some((_, hit)) = self.find(&self.packet.bytes) {
                    let traffic = &hit.block.hot[hit.direction].traffic;
                    let (packets, bytes) = traffic.read();
                    traffic.set(packets, bytes - 1);
                }
            }
            Fault::TimeToLive if forwarded => {
                let network = self.arrival.network;
                let at = if self.packet.bytes[network] >> 4 == 4 { network + 8 } else { network + 7 };
                buffer.bytes[at] = self.packet.bytes[at];
            }
            Fault::NoWindow if verdict.reason == Reason::TcpWindow => self.judge_again::<DRIVER>(buffer, verdict, true),
            Fault::AnyLevel if verdict.kind == Kind::Pass && verdict.reason == Reason::Forwarded => {
                self.judge_again::<DRIVER>(buffer, verdict, false);
            }
            Fault::AnyOutput if verdict.reason == Reason::OutputLevel => {
                self.judge_again::<false>(buffer, verdict, false);
            }
            Fault::NoTag => verdict.hop.vid = 0,
            Fault::Identification if forwarded => {
                let network = self.arrival.network;
                let (was, is) = (&self.packet.bytes, &mut buffer.bytes);
                if was[network] >> 4 == 4 && was[network + 4..network + 6] != is[network + 4..network + 6] {
                    let word = |at: usize| u16::from_be_bytes([is[at], is[at + 1]]);
                    let sum = checksum::update16(word(network + 10), word(network + 4), 0x1234);
                    is[network + 4..network + 6].copy_from_slice(&[0x12, 0x34]);
                    is[network + 10..network + 12].copy_from_slice(&sum.to_be_bytes());
                }
            }
            Fault::AnyPolicy if verdict.reason == Reason::StalePolicy => {
                let Some((_, hit)) = self.find(&buffer.bytes) else { return };
                let steer = Steer::unpack(hit.block.hot[hit.direction].steer.load());
                let generation = &self.judged.table.config().policy_generation;
                let right = generation.load();
                generation.store(u32::from(steer.policy_generation));
                *verdict = forward(&Tables::<DRIVER>(self.judged), buffer, &self.arrival, self.now);
                generation.store(right);
            }
            Fault::NoGate if verdict.gate != 0 => {
                self.judged.table.regions().gates[verdict.gate as usize - 1].leave();
            }
            _ => {}
        }
    }

    /// What the frame says, and its entry.
    fn find(&self, bytes: &[u8]) -> Option<(Parsed, Hit<'_>)> {
        let frame = Buffer::of(bytes);
        let network = self.arrival.network;
        let parsed = match bytes.get(network)? >> 4 {
            4 => parse::ipv4(&frame, network, 0),
            _ => parse::ipv6(&frame, network, 0),
        };
        let parsed = parsed.ok()?;
        let hit = self.judged.find(&parsed.key, self.judged.table.config().hash(&parsed.key))?;
        Some((parsed, hit))
    }

    /// Judges by the entry alone; `vouched`: the TCP context is not asked.
    fn judge_again<const DRIVER: bool>(&self, buffer: &mut Buffer, verdict: &mut Verdict, vouched: bool) {
        let Some((mut parsed, hit)) = self.find(&buffer.bytes) else { return };
        if let Transport::Tcp(segment) = &mut parsed.transport {
            segment.vouched |= vouched;
        }
        let steer = Steer::unpack(hit.block.hot[hit.direction].steer.load());
        let config = self.judged.table.config();
        let tables = Tables::<DRIVER>(self.judged);
        let segment = self.arrival.segment;
        if let Ok(hop) = judge(&tables, config, buffer, &parsed, &hit, steer, verdict.port, segment, self.now) {
            *verdict = Verdict { kind: Kind::Forward, reason: Reason::Forwarded, hop, ..*verdict };
        }
    }

    fn try_all_ports<const DRIVER: bool>(&self, buffer: &mut Buffer, verdict: &mut Verdict) {
        for ifindex in PORTS {
            buffer.bytes[..6].copy_from_slice(&port_mac(ifindex));
            let arrival = Arrival { port: PortKey::of(ifindex), ..self.arrival };
            let other = forward(&Tables::<DRIVER>(self.judged), buffer, &arrival, self.now);
            if other.reason != Reason::WrongInterface {
                *verdict = Verdict { port: verdict.port, ..other };
                return;
            }
        }
    }
}
