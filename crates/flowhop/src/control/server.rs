//! The daemon's side of the control socket.
//!
//! # What
//! One thread accepts, one thread for each client reads its request and writes its answer; both may wait as long as
//! they like. The daemon's own thread polls one file descriptor ([`Server`] is [`AsFd`]) and then calls
//! [`Server::serve`], which only takes requests from a queue and hands answers back. It never reads from or writes to
//! a client.
//!
//! # Rules
//! Clients, their requests and the time they take are bounded. An answer that takes long to make is
//! [`Answer::Later`] and is made on the client's thread.

use std::fs;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Group, geteuid};
use serde_json::{Value, json};

use crate::control::{LONGEST_REQUEST, RefusalKind, Request};

/// Members of this group may look.
pub const GROUP: &str = "flowhop";
/// Clients at the same time.
const CLIENTS: usize = 32;
/// How long a client may take to send its request.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// How long a client may take to read some more of its answer.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// Memory for a client's thread; answers are streamed.
const STACK: usize = 512 << 10;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// User of the process.
    pub uid: u32,
    /// The process.
    pub pid: i32,
}

impl Peer {
    /// Whether it may change things: root and the daemon's own user.
    #[must_use]
    pub fn may_change(&self) -> bool {
        self.uid == 0 || self.uid == geteuid().as_raw()
    }
}

/// Writes the value behind `{"ok": `, on the client's thread.
pub type Body = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// What the daemon answers.
pub enum Answer {
    /// This.
    Now(Value),
    /// Something that takes long to make.
    Later(Body),
    /// It cannot be done; says why.
    Refused(String),
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Now(value) => f.debug_tuple("Now").field(value).finish(),
            Self::Later(_) => f.write_str("Later"),
            Self::Refused(why) => f.debug_tuple("Refused").field(why).finish(),
        }
    }
}

/// Answers requests.
pub trait Handler {
    /// Answers a request that its sender may make. Must be quick.
    fn answer(&mut self, request: Request, peer: Peer) -> Answer;
}

struct Asked {
    request: Request,
    peer: Peer,
    reply: SyncSender<Answer>,
}

/// What the threads share.
struct Door {
    queue: SyncSender<Asked>,
    bell: EventFd,
    clients: AtomicUsize,
    closed: AtomicBool,
}

/// A control socket that is being listened on. Dropping it closes and removes it.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    door: Arc<Door>,
    asked: Receiver<Asked>,
    accepting: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}

impl Server {
    /// Listens at `path`. A socket that is there already is replaced: whoever calls this must know that no other
    /// daemon listens on it.
    ///
    /// # Errors
    /// What the system says to the socket, its rights, or the thread.
    pub fn listen(path: &Path) -> io::Result<Self> {
        let listener = bind(path)?;
        let bell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let (queue, asked) = sync_channel(CLIENTS);
        let door = Arc::new(Door { queue, bell, clients: AtomicUsize::new(0), closed: AtomicBool::new(false) });
        let inside = Arc::clone(&door);
        let accepting = thread::Builder::new()
            .name("control".to_owned())
            .stack_size(STACK)
            .spawn(move || accept(&listener, &inside))?;
        Ok(Self { path: path.to_owned(), door, asked, accepting: Some(accepting) })
    }

    /// Answers what was asked since the last call.
    pub fn serve(&self, handler: &mut dyn Handler) {
        // The bell is only ever rung after something was put into the queue.
        let _rung = self.door.bell.read();
        while let Ok(Asked { request, peer, reply }) = self.asked.try_recv() {
            let answer = handler.answer(request, peer);
            // There is room for the one answer; a client that has gone away does not need it.
            let _gone = reply.try_send(answer);
        }
    }
}

impl AsFd for Server {
    /// Readable when [`Server::serve`] has something to do.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.door.bell.as_fd()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.door.closed.store(true, Ordering::Release);
        // Wakes the accepting thread; without it, it would wait for the next client.
        let woken = UnixStream::connect(&self.path).is_ok();
        let _gone = fs::remove_file(&self.path);
        if woken && let Some(accepting) = self.accepting.take() {
            let _ended = accepting.join();
        }
    }
}

/// Binds under another name and moves it into place when its rights are right.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    // Closed to all but the owner until the group is known.
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    if let Ok(Some(group)) = Group::from_name(GROUP)
        && chown(&new, None, Some(group.gid.as_raw())).is_ok()
    {
        fs::set_permissions(&new, fs::Permissions::from_mode(0o660))?;
    }
    fs::rename(&new, path)?;
    Ok(listener)
}

fn accept(listener: &UnixListener, door: &Arc<Door>) {
    loop {
        let stream = listener.accept();
        if door.closed.load(Ordering::Acquire) {
            return;
        }
        let Ok((stream, _)) = stream else {
            // Out of descriptors or memory: others have to end first.
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        if door.clients.fetch_add(1, Ordering::AcqRel) >= CLIENTS {
            door.clients.fetch_sub(1, Ordering::AcqRel);
            let _gone = refuse(&stream, RefusalKind::Refused, "too many clients at the same time");
            continue;
        }
        let guest = Arc::clone(door);
        let started = thread::Builder::new().name("client".to_owned()).stack_size(STACK).spawn(move || {
            // A client that breaks off or is too slow concerns nobody else.
            let _broken_off = attend(&stream, &guest);
            guest.clients.fetch_sub(1, Ordering::AcqRel);
        });
        if started.is_err() {
            door.clients.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// One client from request to answer.
fn attend(stream: &UnixStream, door: &Door) -> io::Result<()> {
    stream.set_read_timeout(Some(REQUEST_TIME))?;
    stream.set_write_timeout(Some(ANSWER_TIME))?;
    let credentials = getsockopt(stream, PeerCredentials)?;
    let peer = Peer { uid: credentials.uid(), pid: credentials.pid() };
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST_REQUEST)).read_line(&mut line)?;
    let request = match Request::read(&line) {
        Ok(request) => request,
        Err(error) => return refuse(stream, RefusalKind::Refused, &error),
    };
    if request.changes() && !peer.may_change() {
        return refuse(stream, RefusalKind::NotPermitted, "only root may change things");
    }
    let (reply, answer) = sync_channel(1);
    match door.queue.try_send(Asked { request, peer, reply }) {
        Ok(()) => {}
        Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
            return refuse(stream, RefusalKind::Refused, "the daemon is busy or ending");
        }
    }
    door.bell.write(1)?;
    match answer.recv() {
        Ok(Answer::Now(value)) => {
            let mut out = BufWriter::new(stream);
            serde_json::to_writer(&mut out, &json!({ "ok": value }))?;
            out.write_all(b"\n")?;
            out.flush()
        }
        Ok(Answer::Later(body)) => {
            let mut out = BufWriter::with_capacity(64 << 10, stream);
            out.write_all(b"{\"ok\":")?;
            body(&mut out)?;
            out.write_all(b"}\n")?;
            out.flush()
        }
        Ok(Answer::Refused(why)) => refuse(stream, RefusalKind::Refused, &why),
        Err(_) => refuse(stream, RefusalKind::Refused, "the daemon is ending"),
    }
}

fn refuse(mut stream: &UnixStream, kind: RefusalKind, why: &str) -> io::Result<()> {
    let mut line = json!({ "error": why, "kind": kind }).to_string();
    line.push('\n');
    stream.write_all(line.as_bytes())
}
