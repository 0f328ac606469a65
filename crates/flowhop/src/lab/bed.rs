//! Inside host, router, outside host.
//!
//! ```text
//!  inside                    router                       outside
//!  eth0 10.1.0.2      lan0 10.1.0.1   wan0 198.51.100.1   eth0 198.51.100.2
//!  fd00:0:0:1::2      fd00:0:0:1::1   2001:db8:0:2::1     2001:db8:0:2::2
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use nix::net::if_::if_nametoindex;

use super::namespace::{find, run};
use super::{LabError, Namespace, Tried};

/// Which internet protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    const fn pick(self, v4: [u8; 4], v6: [u16; 8]) -> IpAddr {
        let ([a, b, c, d], [e, f, g, h, i, j, k, l]) = (v4, v6);
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(e, f, g, h, i, j, k, l)),
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The inside host.
    #[must_use]
    pub const fn inside_host(self) -> IpAddr {
        self.pick([10, 1, 0, 2], [0xfd00, 0, 0, 1, 0, 0, 0, 2])
    }

    /// The router's inside address.
    #[must_use]
    pub const fn inside_router(self) -> IpAddr {
        self.pick([10, 1, 0, 1], [0xfd00, 0, 0, 1, 0, 0, 0, 1])
    }

    /// The outside host.
    #[must_use]
    pub const fn outside_host(self) -> IpAddr {
        self.pick([198, 51, 100, 2], [0x2001, 0xdb8, 0, 2, 0, 0, 0, 2])
    }

    /// The router's outside address.
    #[must_use]
    pub const fn outside_router(self) -> IpAddr {
        self.pick([198, 51, 100, 1], [0x2001, 0xdb8, 0, 2, 0, 0, 0, 1])
    }
}

/// Two hosts and the router between them.
#[derive(Debug)]
pub struct Bed {
    /// The host whose connections the router serves; its device is `eth0`.
    pub inside: Arc<Namespace>,
    /// The router: `lan0` and `wan0`. Its kernel does not forward.
    pub router: Arc<Namespace>,
    /// The host on the far side; its device is `eth0`.
    pub outside: Arc<Namespace>,
}

impl Bed {
    /// Builds one.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new() -> Result<Self, LabError> {
        let bed = Self { inside: Namespace::new()?, router: Namespace::new()?, outside: Namespace::new()? };
        let [v4, v6] = Family::BOTH;
        let hosts = [
            (&bed.inside, "lan0", Family::inside_router as Address, Family::inside_host as Address),
            (&bed.outside, "wan0", Family::outside_router, Family::outside_host),
        ];
        for (host, device, ours, theirs) in hosts {
            bed.router.ip(
                &[host],
                &format!(
                    "link add {device} type veth peer name eth0 netns {}\naddr add {}/24 dev {device}\n\
                     addr add {}/64 dev {device} nodad\nlink set {device} up\n",
                    host.place(),
                    ours(v4),
                    ours(v6),
                ),
            )?;
            host.ip(
                &[],
                &format!(
                    "addr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\nlink set eth0 up\n\
                     route add default via {}\nroute add default via {}\n",
                    theirs(v4),
                    theirs(v6),
                    ours(v4),
                    ours(v6),
                ),
            )?;
        }
        // A new namespace may take this over from the machine, and then two would forward.
        bed.kernel_forwards(false)?;
        Ok(bed)
    }

    /// Makes both hosts' devices take frames from programs in drivers, which needs NAPI at the other end of a veth.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn take_frames(&self) -> Result<(), LabError> {
        for host in [&self.inside, &self.outside] {
            host.enter(|| receive_offload("eth0"))?.tried("generic receive offload of eth0")?;
        }
        Ok(())
    }

    /// Makes `lan0` receive by NAPI, as network cards do; veth has that with receive offload only.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn receive_by_polling(&self) -> Result<(), LabError> {
        self.router.enter(|| receive_offload("lan0"))?.tried("generic receive offload of lan0")
    }

    /// Makes the kernel itself the router, or ends that.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kernel_forwards(&self, on: bool) -> Result<(), LabError> {
        let value = if on { "1" } else { "0" };
        self.router.sysctl("net/ipv4/ip_forward", value)?;
        self.router.sysctl("net/ipv6/conf/all/forwarding", value)
    }

    /// Makes the kernel the router, with a stateful filter and the translation that `statement` names, by nftables; false
    /// when `nft` is not installed.
    ///
    /// # Errors
    /// When the system or `nft` refuses.
    pub fn kernel_translates(&self, statement: &str) -> Result<bool, LabError> {
        let Some(nft) = find("nft") else { return Ok(false) };
        self.kernel_forwards(true)?;
        let mut command = self.router.command(nft, &[]);
        command.args(["-f", "-"]);
        let rules = format!(
            "table inet lab {{\n chain forward {{ type filter hook forward priority filter; policy drop;\n  \
             ct state established,related accept\n  iifname lan0 oifname wan0 accept\n }}\n chain out {{ \
             type nat hook postrouting priority srcnat;\n  meta nfproto ipv4 oifname wan0 {statement}\n }}\n}}\n"
        );
        run(command, "nft", &rules)?;
        Ok(true)
    }
}

/// One of the addresses of [`Family`].
type Address = fn(Family) -> IpAddr;

/// Index and address of a device.
///
/// # Errors
/// When there is none.
pub fn device(namespace: &Namespace, name: &str) -> Result<(u32, [u8; 6]), LabError> {
    let ask = || -> io::Result<(u32, [u8; 6])> {
        let ifindex = if_nametoindex(name)?;
        let mut mac = [0; 6];
        for address in nix::ifaddrs::getifaddrs()?.filter(|address| address.interface_name == name) {
            let link = address.address.as_ref().and_then(|address| address.as_link_addr()?.addr());
            mac = link.unwrap_or(mac);
        }
        Ok((ifindex, mac))
    };
    namespace.enter(ask)?.tried(name)
}

/// `ethtool -K device gro on`, by the system call that it makes.
fn receive_offload(device: &str) -> io::Result<()> {
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        value: *mut Value,
        // The kernel's `struct ifreq` has a union of 24 bytes here.
        rest: [u64; 2],
    }
    /// `ETHTOOL_SGRO` and `SIOCETHTOOL`.
    const SET: u32 = 0x2c;
    const ETHTOOL: libc::c_ulong = 0x8946;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    let mut value = Value { command: SET, data: 1 };
    let mut request = Request { name: [0; libc::IFNAMSIZ], value: &raw mut value, rest: [0; 2] };
    for (to, from) in request.name.iter_mut().zip(device.bytes()) {
        *to = from;
    }
    // SAFETY: `request` is an ifreq in layout and size, and points to a value of the form that this command takes.
    if unsafe { libc::ioctl(socket.as_raw_fd(), ETHTOOL as _, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
