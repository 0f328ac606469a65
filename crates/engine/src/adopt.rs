//! Taking over what an earlier daemon left: its connections go on under this one.

use flowhop_flow::record::{Steer, Tick};
use flowhop_table::{BlockIndex, Removal};

use crate::engine::Engine;
use crate::proxied::is_without_server;
use crate::refusals::is_refusal;
use crate::views::view_of;

impl Engine {
    /// Takes over the connections of an adopted table: modules get their state back, timers are armed.
    /// Returns how many go on and how many had to end.
    pub fn adopt(&mut self, now: Tick) -> (u32, u32) {
        let live: Vec<BlockIndex> = self.table.live_blocks().collect();
        let (mut kept, mut ended) = (0, 0);
        for number in live {
            let Some(block) = self.table.block(number) else { continue };
            if is_refusal(block) || is_without_server(block) {
                self.remove(number, Removal::Final);
                continue;
            }
            for hot in &block.hot {
                let steer = Steer::unpack(hot.steer.load());
                if steer.pending {
                    hot.steer.store(Steer { pending: false, ..steer }.pack());
                }
            }
            let view = view_of(block);
            self.sources.opened(&view.keys[0].source);
            if self.modules.iter_mut().all(|module| module.adopt(&view)) {
                kept += 1;
                self.arm(number, now);
                self.note_half_open(number);
            } else {
                ended += 1;
                self.remove(number, Removal::Final);
            }
        }
        let orphans = self.adopt_related();
        (kept - orphans, ended + orphans)
    }
}
