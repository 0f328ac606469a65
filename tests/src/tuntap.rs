//! Wires of tun or tap devices: what one of two devices sends, a thread of the test hands to the other one.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::thread::{self, JoinHandle};

use crate::namespace::Namespace;

/// Packets without a link-layer header, or Ethernet frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tun,
    Tap,
}

/// Two devices and the thread between them. They are gone with it.
#[derive(Debug)]
pub(crate) struct Pump {
    /// Closing it ends the thread.
    stop: Option<std::io::PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Pump {
    /// Makes a device in each namespace.
    pub(crate) fn between(kind: Kind, ends: [(&Namespace, &str); 2]) -> Self {
        let mut devices = ends.map(|(namespace, name)| open(kind, namespace, name));
        let (stopped, stop) = std::io::pipe().expect("a pipe");
        let thread = thread::spawn(move || {
            let poll = |fd: i32| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            let mut polls = [poll(devices[0].as_raw_fd()), poll(devices[1].as_raw_fd()), poll(stopped.as_raw_fd())];
            let mut packet = vec![0; 1 << 17];
            loop {
                // SAFETY: three valid entries, and the count says so.
                unsafe { libc::poll(polls.as_mut_ptr(), 3, -1) };
                if polls[2].revents != 0 {
                    return;
                }
                for from in 0..2 {
                    // Some at a time, so that both directions go on.
                    for _ in 0..64 {
                        let Ok(length) = devices[from].read(&mut packet) else { break };
                        // A device that is down takes nothing.
                        let _ = devices[from ^ 1].write(&packet[..length]);
                    }
                }
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn open(kind: Kind, namespace: &Namespace, name: &str) -> File {
    let flags = if kind == Kind::Tun { libc::IFF_TUN } else { libc::IFF_TAP } | libc::IFF_NO_PI;
    // The device is made where the file was opened.
    let (device, made) = namespace.enter(|| {
        let device = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
        let device = device.expect("open /dev/net/tun");
        // SAFETY: zeros are a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = byte as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: an ifreq with a name that ends in a zero, as TUNSETIFF wants it.
        let made = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF as _, std::ptr::from_ref(&request)) };
        (device, made)
    });
    assert!(made == 0, "[{}] {name}: {}", namespace.name(), std::io::Error::last_os_error());
    namespace.ip(&format!("link set {name} txqueuelen 10000"));
    device
}
