//! Running a program on one packet, without a device (`BPF_PROG_TEST_RUN`): for tests, benchmarks and `doctor`.

use std::time::Duration;

use aya::Ebpf;
use aya::programs::{ProgramError, ProgramInfo, TestRun as _, TestRunOptions};

use super::attach::{classifier, driver};
use super::{IndexKind, Kernel, KernelError};
use crate::features::Loaded;

/// A kernel program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// In drivers, with our own index.
    Driver,
    /// In drivers, with the kernel's hash map.
    DriverHash,
    /// On the ingress of ports, with our own index.
    Ingress,
    /// On the ingress of ports, with the kernel's hash map.
    IngressHash,
    /// On the ingress of ports whose link has no header, with our own index.
    Headerless,
    /// On the ingress of ports whose link has no header, with the kernel's hash map.
    HeaderlessHash,
    /// On the ingress of the punt device.
    Tap,
    /// On no device: it tells the time.
    Clock,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Driver,
        Self::DriverHash,
        Self::Ingress,
        Self::IngressHash,
        Self::Headerless,
        Self::HeaderlessHash,
        Self::Tap,
        Self::Clock,
    ];

    /// It runs in drivers.
    pub(super) const fn is_driver(self) -> bool {
        matches!(self, Self::Driver | Self::DriverHash)
    }

    /// Its name in the object.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Driver => "flowhop_xdp",
            Self::DriverHash => "flowhop_xdp_hash",
            Self::Ingress => "flowhop_ingress",
            Self::IngressHash => "flowhop_ingress_hash",
            Self::Headerless => "flowhop_ingress_l3",
            Self::HeaderlessHash => "flowhop_ingress_l3_hash",
            Self::Tap => "flowhop_tap",
            Self::Clock => "flowhop_clock",
        }
    }

    /// The program in drivers of a kind of index.
    #[must_use]
    pub const fn driver(index: IndexKind) -> Self {
        match index {
            IndexKind::Lines => Self::Driver,
            IndexKind::KernelHash => Self::DriverHash,
        }
    }

    /// The ingress program for links without a header, of a kind of index.
    #[must_use]
    pub const fn headerless(index: IndexKind) -> Self {
        match index {
            IndexKind::Lines => Self::Headerless,
            IndexKind::KernelHash => Self::HeaderlessHash,
        }
    }

    /// The ingress program of a kind of index.
    #[must_use]
    pub const fn ingress(index: IndexKind) -> Self {
        match index {
            IndexKind::Lines => Self::Ingress,
            IndexKind::KernelHash => Self::IngressHash,
        }
    }
}

/// What a program on the socket buffer is told of a packet beside its bytes; one in a driver is told the interface
/// only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Interface it came in through; it must exist in the caller's network namespace.
    pub ifindex: u32,
    /// Packet mark.
    pub mark: u32,
    /// Payload of each segment of a super-packet, else 0.
    pub gso_size: u32,
}

impl Context {
    /// The context as the kernel takes it: a `struct __sk_buff`, of which it accepts a few fields only.
    fn bytes(self) -> [u8; SK_BUFF] {
        let mut bytes = [0; SK_BUFF];
        for (offset, value) in [(8, self.mark), (40, self.ifindex), (176, self.gso_size)] {
            if let Some(field) = bytes[offset..].first_chunk_mut() {
                *field = value.to_ne_bytes();
            }
        }
        bytes
    }
}

/// `sizeof(struct __sk_buff)`; fixed by the kernel's interface up to the fields used here.
const SK_BUFF: usize = 192;

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// The program's answer: -1 next, 2 drop, 7 redirect; in a driver 1 drop, 2 pass, 4 redirect.
    pub action: i32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// The packet mark afterwards.
    pub mark: u32,
    /// Mean time of one run.
    pub duration: Duration,
}

impl Kernel {
    /// Runs a program `repeat` times in a row on one frame (the second run sees what the first made of it).
    ///
    /// # Errors
    /// What the kernel says, for example that a frame is too short.
    pub fn test_run(
        &mut self,
        program: Program,
        frame: &[u8],
        context: Context,
        repeat: u32,
    ) -> Result<TestRun, KernelError> {
        load_program(&mut self.ebpf, program)?;
        if program.is_driver() {
            return self.run_in_driver(program, frame, context.ifindex, repeat);
        }
        let name = program.name();
        let mut out = vec![0; frame.len() + 256];
        let mut context_out = [0; SK_BUFF];
        let classifier = classifier(&mut self.ebpf, program)?;
        let result = classifier.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context.bytes()),
            ctx_out: Some(&mut context_out),
            repeat,
            ..TestRunOptions::default()
        });
        let result = result.map_err(|error| KernelError::of_program(name, error))?;
        out.truncate(result.data_size_out as usize);
        let mark = context_out[8..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        Ok(TestRun { action: result.return_value as i32, frame: out, mark, duration: result.duration })
    }

    fn run_in_driver(
        &mut self,
        program: Program,
        frame: &[u8],
        ifindex: u32,
        repeat: u32,
    ) -> Result<TestRun, KernelError> {
        let mut out = vec![0; frame.len() + 256];
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let mut context = [0u8; 24];
        for (offset, value) in [(4, frame.len() as u32), (12, ifindex)] {
            if let Some(field) = context[offset..].first_chunk_mut() {
                *field = value.to_ne_bytes();
            }
        }
        let result = driver(&mut self.ebpf, program)?.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::default()
        });
        let result = result.map_err(|error| KernelError::of_program(program.name(), error))?;
        out.truncate(result.data_size_out as usize);
        Ok(TestRun { action: result.return_value as i32, frame: out, mark: 0, duration: result.duration })
    }

    /// What the kernel says of a loaded program: the size of its code, what the verifier saw.
    ///
    /// # Errors
    /// When the program is not loaded.
    pub fn program_info(&mut self, program: Program) -> Result<ProgramInfo, KernelError> {
        load_program(&mut self.ebpf, program)?;
        info(&mut self.ebpf, program)
    }
}

/// Has the kernel take a program of a loaded object, unless it has done so before.
pub(crate) fn load_program(ebpf: &mut Ebpf, program: Program) -> Result<Loaded, KernelError> {
    let name = program.name();
    let loaded = if program.is_driver() { driver(ebpf, program)?.load() } else { classifier(ebpf, program)?.load() };
    match loaded {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
        Err(error) => return Err(KernelError::of_program(name, error)),
    }
    Ok(Loaded { name, verified: info(ebpf, program)?.verified_instruction_count() })
}

fn info(ebpf: &mut Ebpf, program: Program) -> Result<ProgramInfo, KernelError> {
    let info = if program.is_driver() { driver(ebpf, program)?.info() } else { classifier(ebpf, program)?.info() };
    info.map_err(|error| KernelError::of_program(program.name(), error))
}
