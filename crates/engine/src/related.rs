//! Connections that others have announced: they go on as long as those do, and are judged as those are.
//!
//! The record of a related connection has the serial number of its parent. A parent does not end by being idle while one
//! of them lives; when it has ended for another reason, and when a policy ends it, or takes its helper away, they end too.

use std::collections::HashMap;

use flowhop_flow::record::{Block, Tick};
use flowhop_flow::tcp::Phase;
use flowhop_table::{BlockIndex, Freed, Removal, key_of};
use flowhop_wire::protocol;

use crate::engine::Engine;
use crate::helper::Dialogue;
use crate::module::{Kept, SessionView};
use crate::views::view_of;

/// How soon a parent is looked at again that is kept for a related connection, in ticks.
const LOOK_AGAIN: Tick = 60_000;

impl Engine {
    /// Whether a connection with this serial number is there for others to be related to.
    pub(crate) fn is_parent(&self, serial: u32) -> bool {
        self.parent_block(serial).is_some()
    }

    fn parent_block(&self, serial: u32) -> Option<BlockIndex> {
        let number = self.dialogues.0.get(&serial)?.block;
        let block = self.table.block(number).filter(|block| flowhop_table::is_live(block))?;
        (block.owner.serial.load() == serial).then_some(number)
    }

    /// Notes a related connection at its parent.
    pub(crate) fn relate(&mut self, parent: u32, child: BlockIndex) {
        let serial = self.table.block(child).map_or(0, |block| block.owner.serial.load());
        if let Some(dialogue) = self.dialogues.0.get_mut(&parent) {
            dialogue.children.push((child, serial));
        }
    }

    /// A connection has ended: those that it announced end with it.
    pub(crate) fn ended(&mut self, freed: &Freed) {
        if let Some(parent) = self.dialogues.0.get_mut(&freed.parent) {
            parent.children.retain(|(_, serial)| *serial != freed.serial);
        }
        let Some(dialogue) = self.dialogues.0.remove(&freed.serial) else { return };
        for (number, serial) in dialogue.children {
            if self.table.block(number).is_some_and(|block| block.owner.serial.load() == serial) {
                self.remove(number, Removal::Final);
            }
        }
    }

    /// Whether a connection has announced others that live.
    pub(crate) fn has_related(&self, block: &Block) -> bool {
        let dialogue = self.dialogues.0.get(&block.owner.serial.load());
        dialogue.is_some_and(|dialogue| !dialogue.children.is_empty())
    }

    /// Whether a connection that has been idle for long is kept, because one that it announced lives. One whose sides have
    /// both finished, or that was reset, is not. It is looked at again then.
    pub(crate) fn is_kept_by_others(&mut self, number: BlockIndex) -> bool {
        let Some(block) = self.table.block(number) else { return false };
        let is_tcp = key_of(block, 0).protocol() == protocol::TCP;
        let lives = !is_tcp || Phase::of(block.tcp[0].flags(), block.tcp[1].flags()) < Phase::Closed;
        let kept = lives && self.has_related(block);
        if kept {
            self.wheel.arm(number, LOOK_AGAIN);
        }
        kept
    }

    /// What a policy says to a related connection: what it says to its parent, as long as that has a helper.
    pub(crate) fn ask_about_parent(&mut self, child: &SessionView) -> Option<Kept> {
        let number = self.parent_block(child.parent)?;
        let parent = self.table.block(number).map(view_of)?;
        let zone = |port: u8| self.interfaces.port(port).map(|interface| interface.zone);
        let [ours, mut theirs] = [child.ports.map(zone), parent.ports.map(zone)];
        if ours != theirs {
            theirs.reverse();
        }
        if ours != theirs {
            return None;
        }
        let kept = self.ask_again(number)?;
        self.helps(kept.rule).then_some(kept)
    }

    /// Finds the parents of the connections of an adopted table; those whose parents are gone end. Returns how many.
    pub(crate) fn adopt_related(&mut self) -> u32 {
        let live: Vec<BlockIndex> = self.table.live_blocks().collect();
        let serial_of = |number: BlockIndex| self.table.block(number).map_or(0, |block| block.owner.serial.load());
        let by_serial: HashMap<u32, BlockIndex> = live.iter().map(|number| (serial_of(*number), *number)).collect();
        let mut ended = 0;
        for number in live {
            let Some(parent) = self.table.block(number).map(view_of).map(|view| view.parent).filter(|of| *of != 0)
            else {
                continue;
            };
            match by_serial.get(&parent).copied().filter(|block| self.has_helper(*block)) {
                Some(block) => {
                    self.dialogues.0.entry(parent).or_insert_with(|| Dialogue::of(block));
                    self.relate(parent, number);
                }
                None => ended += u32::from(self.remove(number, Removal::Final)),
            }
        }
        ended
    }
}
