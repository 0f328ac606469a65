//! The programs in the kernel against the reference model (checklist A3, A14, A17, B12, F11): the same histories as in
//! `flowhop-differential`, by `BPF_PROG_TEST_RUN`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests: a panic is their report")]

use std::collections::HashMap;

use flowhop_differential::history::{NO_PORT, PORTS, Packet, VLAN, locals, port_number};
use flowhop_differential::judged::{CONNECTIONS, Judged, LEAST_LINES, Seen, settle};
use flowhop_differential::reference::{Outcome, packet};
use flowhop_differential::run::{EPISODE, assert_telling, episode, packets, run, seed};
use flowhop_flow::cell::Cell64;
use flowhop_flow::key;
use flowhop_flow::reason::Reason;
use flowhop_flow::record::{NextHop, PortKey, Tick, local_flags};
use flowhop_flow::{Kind, Level, Verdict};
use flowhop_io::bpf::{self, Context, IndexKind, Program};
use flowhop_io::clock::Clock;
use flowhop_io::xsk::METADATA;
use flowhop_table::{AdoptError, Geometry, Table};
use flowhop_tests::programs::{Programs, apart};

/// A program in the kernel with the tables that it shares with this process.
struct InKernel {
    programs: Programs,
    table: Table,
    geometry: Geometry,
    level: Level,
    socket: bool,
    /// What its counters should say.
    expected: HashMap<(u8, Reason), bpf::Tally>,
}

impl InKernel {
    /// The program of a level. With `socket`, the one in the driver has a socket to hand down to.
    fn load(
        level: Level,
        index: IndexKind,
        socket: bool,
        secret: [u32; 10],
        name: &str,
    ) -> Result<Self, bpf::KernelError> {
        let geometry = Programs::geometry(CONNECTIONS, index).growing_from(LEAST_LINES);
        let mut programs = Programs::load(level, index, geometry, name)?;
        let table = programs.table(geometry, secret);
        keys().for_each(|(key, ifindex)| programs.name_port(key, port_number(ifindex)));
        for (number, (address, used)) in locals().into_iter().enumerate() {
            let flags = if used.is_some() { local_flags::TRANSLATED | number as u32 } else { 0 };
            let kernel = programs.kernel();
            kernel.insert_local(&key::address(address), flags).unwrap();
            for (row, port) in used.into_iter().flatten() {
                let word: &Cell64 = &kernel.shared().port_bits[number].0[usize::from(row)][usize::from(port) / 64];
                word.store(word.load() | 1 << (port % 64));
            }
        }
        PORTS.into_iter().filter(|_| socket).for_each(|ifindex| programs.bind(ifindex));
        table.config().punt_ifindex.store(NO_PORT);
        // The program is loaded now, not while the first heartbeat grows old.
        programs.run(&[0; 64], Context { ifindex: NO_PORT, mark: 0, gso_size: 0 })?;
        settle(&table);
        Ok(Self { programs, table, geometry, level, socket, expected: HashMap::new() })
    }

    /// The counters of a port that moved since they were looked at last: reason, packets, bytes.
    fn moved(&mut self, port: u8) -> Result<Vec<(Reason, u64, u64)>, String> {
        let in_driver = matches!(self.programs.program(), Program::Driver | Program::DriverHash);
        let kernel = self.programs.kernel();
        let tallies = if in_driver { kernel.driver_counters(port) } else { kernel.counters(port) };
        let mut moved = Vec::new();
        for (reason, tally) in tallies.map_err(|error| error.to_string())?.moved() {
            let before = self.expected.entry((port, reason)).or_default();
            if tally != *before {
                moved.push((reason, tally.packets - before.packets, tally.bytes - before.bytes));
                *before = tally;
            }
        }
        Ok(moved)
    }
}

impl Judged for InKernel {
    fn table(&self) -> &Table {
        &self.table
    }

    fn table_mut(&mut self) -> &mut Table {
        &mut self.table
    }

    fn adopt(&mut self) -> Result<(), AdoptError> {
        self.table = self.programs.adopted(self.geometry)?;
        Ok(())
    }

    fn level(&self) -> Level {
        self.level
    }

    fn clock(&self) -> Option<Tick> {
        Some(Clock::now())
    }

    fn has_socket(&self) -> bool {
        self.socket
    }

    fn run(&mut self, packet: &Packet, expected: &Outcome, _now: Tick) -> Result<Seen, String> {
        let context = Context { ifindex: packet.arrival.ifindex, mark: 0, gso_size: packet.arrival.segment };
        let run = self.programs.run(&packet.bytes, context).map_err(|error| format!("run: {error}"))?;
        let port = expected.port;
        let moved = self.moved(port)?;
        let tag = if self.level == Level::Driver { packet::untag(&packet.bytes).1 } else { None };
        let length = packet.bytes.len() as u64 - if tag.is_some() { 4 } else { 0 };
        // The reason is the one whose counter moved.
        let reason = match moved[..] {
            [] if self.level == Level::Driver && expected.kind == Kind::Pass => expected.reason,
            [] if port == 0 => Reason::NoInterface,
            [(reason, 1, bytes)] if bytes == length => reason,
            _ => return Err(format!("counters moved: {moved:?}, action {}", run.action)),
        };
        let mut bytes = run.frame;
        let (mut gate, mut ifindex) = (0, 0);
        let kind = match (self.level, run.action, reason.fast_kind()) {
            (Level::Skb, -1, Kind::Stack) => Kind::Stack,
            (Level::Skb, 2, Kind::Drop) | (Level::Driver, 1, Kind::Drop) => Kind::Drop,
            (Level::Driver, 2, _) if moved.is_empty() => Kind::Pass,
            (Level::Skb, 7, Kind::Forward) | (Level::Driver, 4, Kind::Forward) => {
                ifindex = expected.ifindex;
                Kind::Forward
            }
            (Level::Skb, 7, Kind::HandDown) | (Level::Driver, 4, Kind::HandDown) => {
                let [a, b, from, why, high, low] = *bytes.first_chunk::<6>().unwrap();
                if [a, b, from, why] != [0x02, 0x46, port, reason.number()] {
                    return Err(format!("metadata {:02x?} for {reason:?}", &bytes[..6]));
                }
                if self.level == Level::Driver {
                    // In front of the frame.
                    bytes.drain(..METADATA);
                } else {
                    bytes[..6].copy_from_slice(&packet.bytes[..6]);
                }
                gate = u32::from(high) << 8 | u32::from(low);
                Kind::HandDown
            }
            other => return Err(format!("action and reason {other:?} {reason:?}")),
        };
        let hop = NextHop { ifindex, ..NextHop::NONE };
        Ok(Seen { verdict: Verdict { kind, reason, port, hop, gate }, bytes })
    }
}

/// Every key of every port, with the port's own index.
fn keys() -> impl Iterator<Item = (PortKey, u32)> {
    let own = PORTS.into_iter().map(|ifindex| (PortKey::of(ifindex), ifindex));
    own.chain([(PortKey { ifindex: VLAN.0, vid: VLAN.1 }, PORTS[3])])
}

/// The programs in the kernel agree with the model (A14, A17, B12): verdict, reason by counter, bytes, records.
fn in_the_kernel(level: Level, index: IndexKind, socket: bool, seed: u64) {
    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: needs root");
        return;
    }
    let tally = apart(&[[2, 3], [4, 5], [6, 7]], || {
        let mut number = 0;
        // Long episodes, because each loads the programs, which takes the verifier seconds.
        run(packets(50_000), episode(12 * EPISODE), seed, &mut |secret| {
            number += 1;
            let name = format!("{level:?}-{index:?}-{number}");
            let judged = InKernel::load(level, index, socket, secret, &name).unwrap_or_else(|error| panic!("{error}"));
            Box::new(judged)
        })
    });
    assert_telling(&tally, level, if level == Level::Skb { &[Reason::Tagged] } else { &[] });
}

#[test]
fn the_kernel_program_agrees() {
    in_the_kernel(Level::Skb, IndexKind::Lines, false, seed(2));
}

#[test]
fn the_kernel_program_with_a_hash_map_agrees() {
    in_the_kernel(Level::Skb, IndexKind::KernelHash, false, seed(3));
}

// A3, A4: what is handed down goes to a socket, with metadata in front.
#[test]
fn the_kernel_program_in_a_driver_agrees() {
    in_the_kernel(Level::Driver, IndexKind::Lines, true, seed(5));
}

// Without a socket it is passed on, and the gate is as it was.
#[test]
fn the_kernel_program_in_a_driver_with_a_hash_map_and_without_sockets_agrees() {
    in_the_kernel(Level::Driver, IndexKind::KernelHash, false, seed(6));
}
