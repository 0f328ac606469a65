//! Running a program on one packet, without a device (`BPF_PROG_TEST_RUN`): for tests, benchmarks and `doctor`.

use std::time::Duration;

use aya::programs::{ProgramInfo, TestRun as _, TestRunOptions};

use super::{IndexKind, Kernel, KernelError, classifier};

/// A kernel program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// On the ingress of ports, with our own index.
    Ingress,
    /// On the ingress of ports, with the kernel's hash map.
    IngressHash,
    /// On the ingress of the punt device.
    Tap,
}

impl Program {
    /// Its name in the object.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "flowhop_ingress",
            Self::IngressHash => "flowhop_ingress_hash",
            Self::Tap => "flowhop_tap",
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

/// What a program is told of a packet beside its bytes.
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
    /// The program's answer: -1 next, 2 drop, 7 redirect.
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

    /// What the kernel says of a loaded program: the size of its code, what the verifier saw.
    ///
    /// # Errors
    /// When the program is not loaded.
    pub fn program_info(&mut self, program: Program) -> Result<ProgramInfo, KernelError> {
        classifier(&mut self.ebpf, program)?.info().map_err(|error| KernelError::of_program(program.name(), error))
    }
}
