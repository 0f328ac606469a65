//! What the model is compared with.

use flowhop_flow::record::{QUEUES, Tick, port_flags};
use flowhop_flow::{Level, Verdict};
use flowhop_table::{AdoptError, Table};

use crate::history::{
    ALIVE_FOR, NOT_IN_DRIVER, ORPHAN_GRACE, POLICY, PORTS, Packet, VLAN, neighbours, port_mac, port_number,
};
use crate::reference::Outcome;

/// Connections that a table has room for.
pub const CONNECTIONS: u32 = 256;
/// Lines that their index begins with: it grows and shrinks all the time.
pub const LEAST_LINES: u32 = 3;

/// What the real function made of a packet.
pub struct Seen {
    /// The verdict; of the next hop the output alone.
    pub verdict: Verdict,
    /// The packet as it leaves.
    pub bytes: Vec<u8>,
}

/// The real function with its tables, wherever it runs.
pub trait Judged {
    /// Its table.
    fn table(&self) -> &Table;
    /// Its table.
    fn table_mut(&mut self) -> &mut Table;
    /// Has another process take the table over.
    ///
    /// # Errors
    /// When it cannot.
    fn adopt(&mut self) -> Result<(), AdoptError>;
    /// Where it is, or plays to be.
    fn level(&self) -> Level;
    /// Its own clock, if the history's is not its.
    fn clock(&self) -> Option<Tick> {
        None
    }
    /// Whether hand-downs from a driver have somebody to go to.
    fn has_socket(&self) -> bool {
        true
    }
    /// Judges a packet of which this is expected.
    ///
    /// # Errors
    /// What it did that cannot be said as a verdict.
    fn run(&mut self, packet: &Packet, expected: &Outcome, now: Tick) -> Result<Seen, String>;
}

/// Makes the settings that an episode starts with.
pub fn settle(table: &Table) {
    let config = table.config();
    config.policy_generation.store(u32::from(POLICY));
    config.alive_for.store(ALIVE_FOR);
    config.orphan_grace.store(ORPHAN_GRACE);
    for ifindex in PORTS {
        let port = &table.regions().ports[usize::from(port_number(ifindex))];
        port.ifindex.store(ifindex);
        port.set_mac(port_mac(ifindex));
        // Frames of a VLAN come through the device below, and its queues are what has sockets.
        let device = if ifindex == PORTS[3] { VLAN.0 } else { ifindex };
        port.driver.store(driver_word(ifindex != NOT_IN_DRIVER, device));
    }
    for (index, hop) in neighbours().iter().enumerate() {
        table.regions().adjacencies[index].write(hop);
    }
}

/// Where the sockets of a device begin.
#[must_use]
pub fn first_socket(ifindex: u32) -> u16 {
    ifindex as u16 * QUEUES as u16
}

/// The word of a port's record that says what its driver can do.
#[must_use]
pub fn driver_word(takes_frames: bool, device: u32) -> u32 {
    (if takes_frames { port_flags::DRIVER } else { 0 }) | u32::from(first_socket(device)) << 16
}
