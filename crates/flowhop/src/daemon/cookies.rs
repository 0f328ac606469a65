//! Tells engine and kernel programs which services SYNs may be answered for with cookies.

use flowhop_flow::key::{self, Address};
use flowhop_flow::record::Tick;
use flowhop_io::clock::Clock;

use super::Daemon;
use super::plane::Plane;

impl Daemon {
    /// Policy or interfaces changed.
    pub(super) fn sync_services(&mut self) {
        self.services = flowhop_modules::cookie_services(&self.shared.current(), self.engine.interfaces());
        self.tell_of_services(Clock::now());
    }

    /// Routes or addresses may have changed.
    pub(super) fn tell_of_services(&mut self, now: Tick) {
        self.engine.set_services(&self.services, now);
        let Plane::Kernel(kernel) = &mut self.outside.plane else { return };
        let told = if self.services.is_empty() {
            flowhop_engine::Told::default()
        } else {
            self.engine.told(&nobodys(&self.shared.current().policy))
        };
        if let Err(error) = kernel.tell(told) {
            say!("flowhop: SYN cookies are given by the daemon alone: {error}");
        }
    }
}

/// Prefixes that stand for IPv4 addresses: nobody sends from there.
fn nobodys(policy: &flowhop_policy::Policy) -> Vec<(Address, u32)> {
    let prefixes = policy.nats.iter().filter_map(|nat| nat.prefix64.as_ref());
    prefixes
        .map(flowhop_policy::Prefix64::parts)
        .map(|(address, length)| (key::words(&address.octets()), u32::from(length)))
        .collect()
}
