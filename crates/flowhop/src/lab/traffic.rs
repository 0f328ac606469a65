//! Traffic between the hosts of a bed, by threads of this process and the system's own sockets.

mod blast;
mod echo;
mod numbered;
mod stream;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use blast::blast;
pub use echo::{Echo, echo};
pub use numbered::{Numbered, Tally};
pub use stream::{Stream, stream};

/// The address of all of a host's addresses, in the family of `like`.
#[must_use]
pub const fn any(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}
