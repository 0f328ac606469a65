//! What can go wrong with the kernel programs, in words for operators.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::pin::PinError;
use aya::programs::ProgramError;
use aya::programs::links::LinkError;
use thiserror::Error;

/// Why the kernel programs are not there or not as wanted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KernelError {
    /// Without the rights.
    #[error("kernel programs need root (CAP_BPF, CAP_NET_ADMIN, and CAP_SYS_ADMIN to mount a bpffs)")]
    NotPermitted,
    /// A kernel without BPF.
    #[error("this kernel has no bpf system call (CONFIG_BPF_SYSCALL)")]
    NoBpf,
    /// A kernel without tcx.
    #[error("this kernel cannot attach programs to interfaces by tcx; Linux 6.6 or later is needed: {0}")]
    NoTcx(#[source] ProgramError),
    /// The directory of pins cannot be made.
    #[error("cannot mount a bpffs at {path}: {error}")]
    Mount {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// What is pinned is not flowhop's.
    #[error("{0} is pinned there, but is not a map of flowhop's; nothing was changed")]
    Foreign(PathBuf),
    /// What is pinned was made by a build with other records.
    #[error(
        "the tables in {path} have layout {found}, this build has layout {expected}; nothing was changed. \
         `flowhop down` removes them, and with them all connections"
    )]
    OtherLayout {
        /// Where.
        path: PathBuf,
        /// Layout version of what is there.
        found: u32,
        /// Layout version of this build.
        expected: u32,
    },
    /// What is pinned has another size or kind of index.
    #[error(
        "the tables in {path} were made as {found}, wanted are {wanted}; nothing was changed. \
         `flowhop down` removes them, and with them all connections"
    )]
    OtherGeometry {
        /// Where.
        path: PathBuf,
        /// What is there.
        found: super::Geometry,
        /// What was asked for.
        wanted: super::Geometry,
    },
    /// More connections or lines than places can name.
    #[error("{0} is outside what the table can address")]
    BadGeometry(super::Geometry),
    /// The object or its maps could not be loaded.
    #[error("cannot load the kernel programs: {0}")]
    Load(#[from] EbpfError),
    /// The verifier refused a program, or it could not be attached.
    #[error("kernel program {name}: {error}")]
    Program {
        /// Which.
        name: &'static str,
        /// Why, with the verifier's words.
        error: ProgramError,
    },
    /// The object lacks something that this build expects.
    #[error("the compiled kernel object has no {0}; rebuild it with `cargo xtask bpf`")]
    Absent(&'static str),
    /// A map could not be read or written.
    #[error("map {name}: {error}")]
    Map {
        /// Which.
        name: &'static str,
        /// Why.
        error: MapError,
    },
    /// A map could not be mapped into memory.
    #[error("cannot map {name} into memory: {error}")]
    Mmap {
        /// Which.
        name: &'static str,
        /// Why.
        error: io::Error,
    },
    /// The driver of a device takes no program.
    #[error("no program can be put into the driver of interface {ifindex}: {error}")]
    Driver {
        /// Which device.
        ifindex: u32,
        /// Why.
        error: Box<KernelError>,
    },
    /// A link to an interface could not be pinned or read back.
    #[error("link to interface {ifindex}: {error}")]
    Link {
        /// Which interface.
        ifindex: u32,
        /// Why.
        error: LinkError,
    },
    /// A link could not be pinned.
    #[error("cannot pin the link to interface {ifindex}: {error}")]
    Pin {
        /// Which interface.
        ifindex: u32,
        /// Why.
        error: PinError,
    },
    /// There is no such interface here.
    #[error("no interface with index {0} in this network namespace")]
    NoInterface(u32),
    /// Too many interfaces whose indices share their low bits.
    #[error("no room for interface {0} in the map of ports")]
    PortsFull(u32),
    /// A file below the state directory.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A system call of no special meaning here.
    #[error("{call}: {error}")]
    System {
        /// Which.
        call: &'static str,
        /// Why.
        error: io::Error,
    },
}

impl KernelError {
    /// Whether it is for want of rights, so that another way in may be open.
    #[must_use]
    pub const fn is_denied(&self) -> bool {
        matches!(self, Self::NotPermitted)
    }

    /// An error of the loader, with the common causes told apart.
    pub(crate) fn of_load(error: EbpfError) -> Self {
        match io_of(&error).and_then(io::Error::raw_os_error) {
            Some(libc::EPERM | libc::EACCES) if !is_root() => Self::NotPermitted,
            Some(libc::ENOSYS) => Self::NoBpf,
            _ => Self::Load(error),
        }
    }

    /// An error of a program: loading, attaching.
    pub(crate) fn of_program(name: &'static str, error: ProgramError) -> Self {
        match io_of(&error).and_then(io::Error::raw_os_error) {
            Some(libc::EPERM) => Self::NotPermitted,
            Some(libc::ENOSYS) => Self::NoBpf,
            _ => Self::Program { name, error },
        }
    }
}

/// The system's error at the bottom of a chain of causes.
fn io_of<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<io::Error>() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

fn is_root() -> bool {
    // SAFETY: no preconditions.
    unsafe { libc::geteuid() == 0 }
}
