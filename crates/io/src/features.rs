//! What the kernel here has of what flowhop needs: for `doctor`, which tells before it is missed.

use std::fs;
use std::io;

use aya::EbpfLoader;
use aya::util::KernelVersion;

use crate::bpf::{self, KernelError, Program};
use crate::tap;

/// The oldest kernel with everything: tcx, memory-mapped arrays, the fourth instruction set.
pub const OLDEST: (u8, u8) = (6, 6);

/// Release of the running kernel, major and minor; `None` when it does not say.
#[must_use]
pub fn kernel_version() -> Option<(u32, u32)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Whether the kernel is new enough.
#[must_use]
pub fn is_new_enough() -> bool {
    let (major, minor) = OLDEST;
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(major, minor, 0))
}

/// A program as the kernel here took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its name.
    pub name: &'static str,
    /// Instructions that the verifier looked at; one million is the kernel's limit. `None` if it does not tell.
    pub verified: Option<u32>,
}

/// Has the kernel take maps and programs, and lets them go again. Nothing is attached or pinned.
///
/// # Errors
/// The first that was refused.
pub fn load_programs() -> Result<Vec<Loaded>, KernelError> {
    let mut loader = EbpfLoader::new();
    // The smallest tables; the size is no question of what the kernel can do.
    let mut ebpf = loader.load(bpf::object()).map_err(KernelError::of_load)?;
    Program::ALL.iter().map(|program| bpf::load_program(&mut ebpf, *program)).collect()
}

/// Whether programs run as machine code. `None` where the kernel does not say.
#[must_use]
pub fn is_jit_on() -> Option<bool> {
    let text = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").ok()?;
    Some(text.trim() != "0")
}

/// Whether the kernel has AF_XDP sockets.
///
/// # Errors
/// What it says.
pub fn af_xdp() -> io::Result<()> {
    tap::socket(libc::AF_XDP, libc::SOCK_RAW, 0).map(drop)
}

/// Whether the TUN driver is there, for the punt device.
///
/// # Errors
/// What is missing.
pub fn tun() -> io::Result<()> {
    fs::File::options().read(true).write(true).open("/dev/net/tun").map(drop)
}

/// Whether the kernel forwards by itself what no program takes, by family (4, 6). `None` where it does not say.
#[must_use]
pub fn forwards_by_itself(family: u8) -> Option<bool> {
    let name = if family == 4 { "ipv4/ip_forward" } else { "ipv6/conf/all/forwarding" };
    let text = fs::read_to_string(format!("/proc/sys/net/{name}")).ok()?;
    Some(text.trim() != "0")
}
