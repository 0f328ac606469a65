//! Everyday tools in the namespaces: ping, HTTP and curl, bulk TCP, and counting system calls.
//!
//! The real tool is used where it is installed. Where `ping` or `iperf3` is not, a plain stand-in sends
//! the same kind of traffic, and the result says which one it was.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::bed::endpoint;
use crate::namespace::{Namespace, Process, unique};
use crate::raw::checksum;
use crate::wait::{readable, until};

const LIMIT: Duration = Duration::from_secs(30);

/// Where a program is on the `PATH`. `FLOWHOP_TESTS_WITHOUT=ping,iperf3` hides programs, to try what
/// a machine without them does.
pub fn find(program: &str) -> Option<PathBuf> {
    let hidden = std::env::var("FLOWHOP_TESTS_WITHOUT").unwrap_or_default();
    if hidden.split(',').any(|name| name == program) {
        return None;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// What a ping came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping {
    /// Requests.
    pub sent: u32,
    /// Replies.
    pub received: u32,
}

impl Ping {
    /// Every request was answered.
    pub fn is_clean(self) -> bool {
        self.sent > 0 && self.sent == self.received
    }
}

/// Sends `count` echo requests, 10 ms apart.
pub fn ping(namespace: &Namespace, to: IpAddr, count: u32) -> Ping {
    if find("ping").is_none() {
        return ping_by_hand(namespace, to, count);
    }
    let (address, count_text) = (to.to_string(), count.to_string());
    let options = ["-n", "-q", "-i", "0.01", "-W", "1", "-c", &count_text, &address];
    let output = namespace.run("ping", &options);
    let line = output.stdout.lines().find(|line| line.contains("packets transmitted"));
    let numbers: Vec<u32> =
        line.unwrap_or_else(|| panic!("{output:?}")).split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        [sent, received, ..] => Ping { sent, received },
        _ => panic!("{output:?}"),
    }
}

/// Echo requests from a raw socket.
fn ping_by_hand(namespace: &Namespace, to: IpAddr, count: u32) -> Ping {
    let (family, protocol, request, reply) = match to {
        IpAddr::V4(_) => (libc::AF_INET, libc::IPPROTO_ICMP, 8, 0),
        IpAddr::V6(_) => (libc::AF_INET6, libc::IPPROTO_ICMPV6, 128, 129),
    };
    let socket = namespace.enter(|| {
        // SAFETY: a plain system call.
        let fd = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
        assert!(fd >= 0, "raw socket: {}", std::io::Error::last_os_error());
        // SAFETY: just opened, no other owner. A UdpSocket is a descriptor with datagram calls.
        unsafe { std::net::UdpSocket::from(OwnedFd::from_raw_fd(fd)) }
    });
    socket.connect((to, 0)).expect("connect a raw socket");
    let id = (std::process::id() as u16).to_be_bytes();
    let mut received = 0;
    for number in 0..count {
        let sequence = (number as u16).to_be_bytes();
        // ICMPv6 checksums are the kernel's business on raw sockets.
        let mut message = vec![request, 0, 0, 0, id[0], id[1], sequence[0], sequence[1]];
        message.extend_from_slice(&[0x5a; 48]);
        if to.is_ipv4() {
            let sum = checksum(&[&message]);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        let _ = socket.send(&message);
        let end = Instant::now() + Duration::from_secs(1);
        let mut buffer = [0; 2048];
        while readable(&socket, end.saturating_duration_since(Instant::now())) {
            let Ok(length) = socket.recv(&mut buffer) else { continue };
            let header = if to.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
            let answer = buffer.get(header..length).unwrap_or_default();
            if answer.first() == Some(&reply) && answer.get(4..8) == message.get(4..8) {
                received += 1;
                break;
            }
        }
    }
    Ping { sent: count, received }
}

/// Ten megabytes that are the same every time and nowhere repeat.
pub fn body() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(10_000_000);
    while bytes.len() < 10_000_000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// A small HTTP server that serves [`body`] for every path, until dropped.
#[derive(Debug)]
pub struct HttpServer {
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
    url: String,
}

impl HttpServer {
    /// Listens on a free port of that address.
    pub fn start(namespace: &Arc<Namespace>, address: IpAddr) -> Self {
        let listener = namespace.enter(|| TcpListener::bind((address, 0)).expect("listen"));
        let port = listener.local_addr().expect("a bound socket").port();
        let listener = Arc::new(listener);
        let ours = Arc::clone(&listener);
        let thread = namespace.thread(move || {
            let bytes = body();
            // Ends when the guard shuts the listener down.
            while let Ok((stream, _)) = ours.accept() {
                if let Err(error) = serve(stream, &bytes) {
                    eprintln!("HTTP server: {error}");
                }
            }
        });
        let url = format!("http://{}/body", endpoint(address, port));
        Self { listener, thread: Some(thread), url }
    }

    /// Where the body is.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        // SAFETY: a plain system call on a descriptor that is open; it wakes `accept`.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) };
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(mut stream: TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            length => request.extend_from_slice(&buffer[..length]),
        }
    }
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", bytes.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(bytes)
}

/// Fetches a URL with curl and returns the bytes.
pub fn curl(namespace: &Namespace, url: &str) -> Vec<u8> {
    let file = std::env::temp_dir().join(unique("curl"));
    let name = file.to_str().expect("a temporary file has a plain name");
    let output = namespace.run("curl", &["-gsS", "--noproxy", "*", "--max-time", "30", "-o", name, url]);
    let bytes = fs::read(&file);
    let _ = fs::remove_file(&file);
    output.ok();
    bytes.expect("curl has written a file")
}

/// Fetches the body of a server and panics unless every byte is right.
#[track_caller]
pub fn assert_download(namespace: &Namespace, server: &HttpServer) {
    let (got, right) = (curl(namespace, server.url()), body());
    let differs = got.iter().zip(&right).position(|(a, b)| a != b);
    assert!(
        got.len() == right.len() && differs.is_none(),
        "{}: {} bytes of {}, first difference at {differs:?}",
        server.url(),
        got.len(),
        right.len()
    );
}

/// What a bulk transfer came to.
#[derive(Debug, Clone, Copy)]
pub struct Bulk {
    /// `iperf3`, or `plain` for the stand-in.
    pub tool: &'static str,
    /// Bits a second that arrived.
    pub bits_per_second: f64,
    /// Segments sent again; only iperf3 knows.
    pub retransmits: Option<u64>,
}

/// A TCP transfer in the background; see [`iperf3`].
#[derive(Debug)]
pub enum Transfer {
    /// iperf3, server and client.
    Iperf3(Process, Process),
    /// The stand-in.
    Plain(JoinHandle<f64>, JoinHandle<()>),
}

/// One TCP stream from `from` to `to` for that many seconds.
pub fn iperf3(from: &Arc<Namespace>, to: &Arc<Namespace>, address: IpAddr, seconds: u32) -> Bulk {
    start_iperf3(from, to, address, seconds).finish(seconds)
}

/// Starts a TCP stream and returns when both ends have started.
pub fn start_iperf3(from: &Arc<Namespace>, to: &Arc<Namespace>, address: IpAddr, seconds: u32) -> Transfer {
    if find("iperf3").is_none() {
        return start_plain(from, to, address, seconds);
    }
    let (address_text, seconds) = (address.to_string(), seconds.to_string());
    let server = to.spawn("iperf3", &["-s", "-1", "-p", "5201", "-B", &address_text]);
    // iperf3 says so in a buffered stream; the kernel knows at once.
    let listening = format!(" {} ", endpoint(address, 5201));
    until("iperf3 to listen", LIMIT, || {
        let sockets = to.run("ss", &["-ltnH"]).stdout;
        sockets.lines().any(|line| format!("{line} ").contains(&listening)).then_some(())
    });
    let client = from.spawn("iperf3", &["-c", &address_text, "-p", "5201", "-t", &seconds, "-J"]);
    Transfer::Iperf3(server, client)
}

impl Transfer {
    /// Waits for the end; panics unless the transfer went well.
    #[track_caller]
    pub fn finish(self, seconds: u32) -> Bulk {
        match self {
            Self::Iperf3(server, client) => {
                let output = client.finish(LIMIT + Duration::from_secs(u64::from(seconds))).ok();
                server.finish(LIMIT).ok();
                let json = output.json();
                let end = &json["end"];
                let bits_per_second = end["sum_received"]["bits_per_second"].as_f64();
                Bulk {
                    tool: "iperf3",
                    bits_per_second: bits_per_second.unwrap_or_else(|| panic!("{json}")),
                    retransmits: end["sum_sent"]["retransmits"].as_u64(),
                }
            }
            Self::Plain(sink, source) => {
                source.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                let bits_per_second = sink.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                Bulk { tool: "plain", bits_per_second, retransmits: None }
            }
        }
    }
}

fn start_plain(from: &Arc<Namespace>, to: &Arc<Namespace>, address: IpAddr, seconds: u32) -> Transfer {
    let listener = to.enter(|| TcpListener::bind((address, 5201)).expect("listen"));
    let sink = to.thread(move || {
        assert!(readable(&listener, LIMIT), "no connection came");
        let (mut stream, _) = listener.accept().expect("accept");
        stream.set_read_timeout(Some(LIMIT)).expect("a read timeout");
        let (mut buffer, mut bytes, start) = (vec![0; 1 << 17], 0, Instant::now());
        loop {
            match stream.read(&mut buffer).expect("receive") {
                0 => break 8.0 * bytes as f64 / start.elapsed().as_secs_f64(),
                length => bytes += length,
            }
        }
    });
    let source = from.thread(move || {
        let to = SocketAddr::new(address, 5201);
        let mut stream = TcpStream::connect_timeout(&to, LIMIT).expect("connect");
        stream.set_write_timeout(Some(LIMIT)).expect("a write timeout");
        let (buffer, end) = (vec![0x5a; 1 << 17], Instant::now() + Duration::from_secs(u64::from(seconds)));
        while Instant::now() < end {
            stream.write_all(&buffer).expect("send");
        }
    });
    Transfer::Plain(sink, source)
}

/// What a process did while something else happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activity {
    /// All system calls of all threads, if `strace` is installed.
    pub system_calls: Option<u64>,
    /// Calls that read or write, as the kernel counts them for every process.
    pub reads_and_writes: u64,
    /// Processor time, in ticks of 10 ms.
    pub ticks: u64,
}

/// Counts what a process does while `work` runs.
pub fn activity<T>(process: u32, work: impl FnOnce() -> T) -> (Activity, T) {
    let trace = find("strace").map(|_| start_strace(process));
    let before = (reads_and_writes(process), ticks(process));
    let result = work();
    let after = (reads_and_writes(process), ticks(process));
    let activity = Activity {
        system_calls: trace.map(finish_strace),
        reads_and_writes: after.0 - before.0,
        ticks: after.1 - before.1,
    };
    (activity, result)
}

fn start_strace(process: u32) -> (Process, PathBuf) {
    let file = std::env::temp_dir().join(unique("strace"));
    let name = file.to_str().expect("a temporary file has a plain name").to_owned();
    let id = process.to_string();
    let command = ["-c", "-f", "-p", &id, "-o", &name];
    let trace = Process::start_plain("strace", &command);
    // Attached when every thread names a tracer.
    until("strace to attach", LIMIT, || {
        let tasks = fs::read_dir(format!("/proc/{process}/task")).ok()?;
        let traced = tasks.flatten().all(|task| {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            status.lines().any(|line| line.split_whitespace().eq(["TracerPid:", &trace.id().to_string()]))
        });
        traced.then_some(())
    });
    (trace, file)
}

fn finish_strace((trace, file): (Process, PathBuf)) -> u64 {
    trace.signal(libc::SIGINT);
    trace.finish(LIMIT);
    let summary = fs::read_to_string(&file).unwrap_or_default();
    let _ = fs::remove_file(&file);
    // "100.00  0.001234  5  230  12 total", the errors are optional; no calls, no summary.
    let total = summary.lines().find(|line| line.trim_end().ends_with(" total"));
    total.map_or(0, |line| {
        let calls = line.split_whitespace().nth(3).and_then(|calls| calls.parse().ok());
        calls.unwrap_or_else(|| panic!("strace printed {summary}"))
    })
}

fn reads_and_writes(process: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/io")).expect("the process lives");
    let of = |key| text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok());
    of("syscr:").unwrap_or(0) + of("syscw:").unwrap_or(0)
}

fn ticks(process: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).expect("the process lives");
    // utime and stime are fields 14 and 15; the name in parentheses is the second.
    let rest = text.rsplit(')').next().unwrap_or_default();
    rest.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum()
}
