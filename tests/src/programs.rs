//! The programs in the kernel, run on single packets, with the tables that they share with user space.

use std::path::PathBuf;
use std::process::Command;

use flowhop_differential::judged::first_socket;
use flowhop_flow::Level;
use flowhop_flow::record::{PortKey, PortSlot, index_kind};
use flowhop_io::bpf::{Context, IndexKind, Kernel, KernelError, Program, TestRun};
use flowhop_io::xsk::Sockets;
use flowhop_table::{AdoptError, Geometry, KernelHashSync, Table};

/// A program of one level, loaded, and everything that it needs.
pub struct Programs {
    kernel: Kernel,
    program: Program,
    sockets: Sockets,
    state: PathBuf,
}

impl Drop for Programs {
    fn drop(&mut self) {
        let _removed = Kernel::take_down(&self.state);
        let _removed = std::fs::remove_dir_all(&self.state);
    }
}

impl Programs {
    /// Loads the program of a level; `name` is for nobody else at this moment.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn load(level: Level, index: IndexKind, geometry: Geometry, name: &str) -> Result<Self, KernelError> {
        let state = std::env::temp_dir().join(format!("flowhop-programs-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&state).expect("a directory in the temporary directory");
        let kernel = Kernel::load(&state, geometry.into())?;
        let program = if level == Level::Driver { Program::driver(index) } else { Program::ingress(index) };
        Ok(Self { kernel, program, sockets: Sockets::default(), state })
    }

    /// Sizes of a table for so many connections.
    #[must_use]
    pub fn geometry(connections: u32, index: IndexKind) -> Geometry {
        let kind = if index == IndexKind::Lines { index_kind::LINES } else { index_kind::KERNEL_HASH };
        Geometry::for_connections(connections, kind)
    }

    /// A new table in the memory that the program reads.
    #[must_use]
    pub fn table(&self, geometry: Geometry, secret: [u32; 10]) -> Table {
        Table::create(self.kernel.regions(), geometry, secret, self.index_sync())
    }

    /// The table in the memory that the program reads, as another process takes it over.
    ///
    /// # Errors
    /// When there is none like that.
    pub fn adopted(&self, geometry: Geometry) -> Result<Table, AdoptError> {
        Table::adopt(self.kernel.regions(), geometry, self.index_sync())
    }

    fn index_sync(&self) -> Option<Box<dyn KernelHashSync>> {
        self.kernel.index_sync().expect("the pinned hash map")
    }

    /// The loaded objects.
    pub fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    /// Which program it is.
    #[must_use]
    pub fn program(&self) -> Program {
        self.program
    }

    /// Has frames of this key belong to the port.
    pub fn name_port(&self, key: PortKey, port: u8) {
        self.kernel.shared().port_slots[key.slot(0) as usize].0.store(PortSlot::word(key, port));
    }

    /// Gives the first queue of a device a socket that packets are handed down to. Needs the device.
    pub fn bind(&mut self, ifindex: u32) {
        self.sockets.bind(ifindex, 0).expect("a socket for the device");
        let socket = self.sockets.fd(ifindex, 0).expect("the socket");
        self.kernel.set_socket(first_socket(ifindex), socket).expect("a place in the map of sockets");
    }

    /// Runs the program on one packet.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn run(&mut self, frame: &[u8], context: Context) -> Result<TestRun, KernelError> {
        self.kernel.test_run(self.program, frame, context, 1)
    }
}

/// Runs something in network and mount namespaces of its own, with pairs of devices of these indexes in them.
pub fn apart<T: Send>(pairs: &[[u32; 2]], work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: no memory is passed; only this thread is moved.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) }, 0, "unshare");
            let private = libc::MS_REC | libc::MS_PRIVATE;
            // SAFETY: the strings are constant and ended by zeros, and the other pointers may be null.
            let done =
                unsafe { libc::mount(c"none".as_ptr(), c"/".as_ptr(), std::ptr::null(), private, std::ptr::null()) };
            assert_eq!(done, 0, "mounts of its own");
            for pair in pairs {
                let [one, two] = pair.map(|ifindex| (format!("d{ifindex}"), ifindex.to_string()));
                let arguments =
                    ["link", "add", &one.0, "index", &one.1, "type", "veth", "peer", "name", &two.0, "index", &two.1];
                let status = Command::new("ip").args(arguments).status().expect("ip");
                assert!(status.success(), "ip {arguments:?}");
            }
            work()
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
