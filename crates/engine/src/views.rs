//! Connections as modules see them.

use flowhop_flow::Key;
use flowhop_flow::record::{Block, Steer};
use flowhop_table::{Freed, key_of};

use crate::module::{MAX_NAT, SessionView};

/// A connection as modules see it.
#[must_use]
pub fn view_of(block: &Block) -> SessionView {
    view(
        [key_of(block, 0), key_of(block, 1)],
        [0, 1].map(|direction| Steer::unpack(block.hot[direction].steer.load()).ingress),
        [block.owner.serial.load(), block.tcp[0].parent.load()],
        block.owner.rules.load(),
        block.owner.flags.load(),
        !block.hot[1].traffic.is_none(),
    )
}

pub(crate) const fn freed_view(freed: &Freed) -> SessionView {
    view(freed.keys, freed.ports, [freed.serial, freed.parent], freed.rules, freed.flags, false)
}

const fn view(
    keys: [Key; 2],
    ports: [u8; 2],
    [serial, parent]: [u32; 2],
    rules: u32,
    flags: u32,
    answered: bool,
) -> SessionView {
    SessionView {
        serial,
        parent,
        keys,
        ports,
        rule: rules as u16,
        nat: (rules >> 16) as u16,
        destination_nat: (flags >> 16) as u16 & MAX_NAT,
        inbound: flags >> 31 != 0,
        answered,
    }
}
