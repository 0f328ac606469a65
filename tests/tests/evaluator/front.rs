//! A kernel program in front of the engine.

use flowhop_differential::judged::driver_word;
use flowhop_engine::{Arrived, FastPath};
use flowhop_flow::record::PortKey;
use flowhop_flow::{Level, parse};
use flowhop_io::bpf::{Context, IndexKind};
use flowhop_io::clock::Clock;
use flowhop_io::tap::metadata::Punt;
use flowhop_io::xsk::METADATA;
use flowhop_table::{Table, lookup};
use flowhop_tests::programs::Programs;
use flowhop_wire::SliceFrame;

use crate::bed::{LAN, LAN_MAC, WAN, WAN_MAC, geometry};

const CONNECTIONS: u32 = 4096;
/// How long the daemon may be silent, in ticks: as long as a run takes.
const ALIVE_FOR: u32 = 100_000;

/// The program, and the level that it is of.
pub(crate) struct Front {
    programs: Programs,
    level: Level,
}

/// What the program made of a packet.
pub(crate) enum Verdict {
    /// It goes out as this.
    Forwarded(Vec<u8>),
    /// The engine gets it, with what the program has to say of it.
    HandedDown(Arrived, Vec<u8>),
    /// It is dropped, or the box's own stack has it.
    Refused,
}

/// The device of a port in the bed.
pub(crate) const fn ifindex(port: u8) -> u32 {
    port as u32 + 10
}

impl Front {
    pub(crate) fn load(level: Level, name: &str) -> Self {
        let geometry = geometry(CONNECTIONS);
        let mut programs =
            Programs::load(level, IndexKind::Lines, geometry, name).unwrap_or_else(|error| panic!("{error}"));
        for port in [LAN, WAN] {
            programs.name_port(PortKey::of(ifindex(port)), port);
            if level == Level::Driver {
                programs.bind(ifindex(port));
            }
        }
        Self { programs, level }
    }

    pub(crate) fn fast(&self) -> FastPath {
        if self.level == Level::Driver { FastPath::Driver } else { FastPath::Skb }
    }

    /// The table that the program reads, with the bed's two ports.
    pub(crate) fn table(&self) -> Table {
        let table = self.programs.table(geometry(CONNECTIONS), [7; 10]);
        for (port, mac) in [(LAN, LAN_MAC), (WAN, WAN_MAC)] {
            let record = &table.regions().ports[usize::from(port)];
            record.ifindex.store(ifindex(port));
            record.set_mac(mac);
            record.driver.store(driver_word(true, ifindex(port)));
        }
        table.config().alive_for.store(ALIVE_FOR);
        table.config().punt_ifindex.store(ifindex(WAN));
        table
    }

    /// Runs the program on a packet. Its clock is the machine's; the entry gets the stamp of the bed's.
    pub(crate) fn run(&mut self, table: &Table, port: u8, frame: &[u8], now: u32) -> Verdict {
        let heartbeat = table.config().heartbeat.load();
        table.config().heartbeat.store(Clock::now());
        let context = Context { ifindex: ifindex(port), mark: 0, gso_size: 0 };
        let run = self.programs.run(frame, context).unwrap_or_else(|error| panic!("{error}"));
        table.config().heartbeat.store(heartbeat);
        let redirected = run.action == if self.level == Level::Driver { 4 } else { 7 };
        if !redirected {
            return Verdict::Refused;
        }
        let Some(punt) = run.frame.first_chunk().copied().and_then(Punt::parse) else {
            stamp(table, frame, now);
            return Verdict::Forwarded(run.frame);
        };
        let driver = self.level == Level::Driver;
        let arrived = Arrived { port: punt.port, gate: punt.gate.into(), driver, now };
        let mut bytes = run.frame;
        if driver {
            bytes.drain(..METADATA);
        } else {
            bytes[..6].copy_from_slice(&frame[..6]);
        }
        Verdict::HandedDown(arrived, bytes)
    }
}

fn stamp(table: &Table, frame: &[u8], now: u32) {
    let mut frame = frame.to_vec();
    let is_v4 = frame[12..14] == [8, 0];
    let frame = SliceFrame::new(&mut frame);
    let parsed = if is_v4 { parse::ipv4(&frame, parse::ETHERNET, 0) } else { parse::ipv6(&frame, parse::ETHERNET, 0) };
    let parsed = parsed.expect("a packet that was forwarded");
    let config = table.config();
    let hit = lookup::find(table.regions(), config.span(), &parsed.key, config.hash(&parsed.key));
    let (block, direction) = hit.expect("the entry that it was forwarded by");
    block.hot[direction].last_seen.store(now);
}
