//! `flowhop demo`: the firewall in a small network of its own, on real traffic.
//!
//! Everything that it shows, it checks as well; what did not hold is named at the end, and then it ends with 1.

mod account;
mod attack;
mod compare;

use std::io::Write;
use std::time::Duration;

use crate::exit::{Exit, Failure};
use crate::lab::daemon::Policy;
use crate::lab::traffic::{Numbered, echo, stream};
use crate::lab::{Bed, Daemon, Family, LabError, Sandbox};

/// Echo requests of each family.
const ECHOES: u16 = 20;
/// Numbered datagrams a second.
const RATE: u32 = 20_000;
/// How long they are sent.
const SECONDS: u32 = 2;
/// How long the TCP stream lasts.
const STREAM: Duration = Duration::from_secs(2);
/// Without privileges the buffers of all sockets are small, those of the firewall too; one datagram in this many may
/// be lost when the machine is busy otherwise.
const UNPRIVILEGED_LOSS: u64 = 100;

impl From<LabError> for Failure {
    fn from(error: LabError) -> Self {
        match error {
            LabError::Output(error) => Self::Output(error),
            LabError::NotAllowed(message) => Self::Other { message, exit: Exit::NotPermitted },
            other => Self::Other { message: other.to_string(), exit: Exit::Refused },
        }
    }
}

/// Prints lines, and remembers what did not hold.
pub(crate) struct Story<'a> {
    out: &'a mut dyn Write,
    faults: Vec<String>,
}

impl Story<'_> {
    /// Prints a line, now.
    fn say(&mut self, line: impl AsRef<str>) -> Result<(), LabError> {
        writeln!(self.out, "{}", line.as_ref()).and_then(|()| self.out.flush()).map_err(LabError::Output)
    }

    /// Notes what did not hold.
    fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.faults.push(what());
        }
    }
}

/// Runs the demonstration.
///
/// # Errors
/// When it cannot be run on this machine, or standard output cannot be written.
pub fn demo(out: &mut dyn Write) -> Result<Exit, Failure> {
    let mut story = Story { out, faults: Vec::new() };
    story.say(INTRODUCTION)?;
    // Before the first thread is started.
    let sandbox = Sandbox::enter()?;
    let root = sandbox.is_root();
    let bed = Bed::new()?;
    let mut daemon = Daemon::start(&bed, &sandbox.folder().join("chosen"), &Policy::default())?;
    story.say(if root { AS_ROOT } else { AS_USER })?;

    pings(&mut story, &bed)?;
    let numbered = datagrams(&mut story, &bed, root)?;
    bulk(&mut story, &bed)?;
    attack::attack(&mut story, &bed, &daemon)?;
    account::account(&mut story, &bed, &daemon, root)?;
    drop(numbered);
    if root {
        compare::compare(&mut story, &sandbox, &bed)?;
    }

    let said = daemon.said().join("\n   ");
    // To others it says that it may not load programs, as this did.
    story.expect(!root || said.is_empty(), || format!("the firewall complained:\n   {said}"));
    daemon.stop()?;
    story.say("")?;
    if story.faults.is_empty() {
        story.say("Everything held. The network and all that was in it is gone.")?;
        return Ok(Exit::Done);
    }
    story.out.flush().map_err(Failure::Output)?;
    let mut message = "this did not hold:".to_owned();
    for fault in &story.faults {
        message += "\n - ";
        message += fault;
    }
    Err(Failure::Other { message, exit: Exit::Refused })
}

const INTRODUCTION: &str = "\
A small network in namespaces of its own; this machine's network is not touched.

   inside host                    flowhop                      outside host
   10.1.0.2       --- lan0  10.1.0.1 | 198.51.100.1  wan0 ---  198.51.100.2
   fd00:0:0:1::2      fd00:0:0:1::1  |  2001:db8:0:2::1        2001:db8:0:2::2

Policy: the inside may go out, its IPv4 addresses are hidden behind 198.51.100.1; nothing comes in uninvited.";

const AS_ROOT: &str = "\
You are root: the first packet of a connection is judged in user space, the others pass in the kernel (path `skb`).";

const AS_USER: &str = "\
You are not root, so no programs can be loaded into the kernel: everything goes through user space (path `user`).
Run it as root to see the fast paths.";

fn pings(story: &mut Story<'_>, bed: &Bed) -> Result<(), LabError> {
    story.say(format!("\n1. Echo requests from the inside to the outside, {ECHOES} each"))?;
    for family in Family::BOTH {
        let echo = echo(&bed.inside, family.outside_host(), ECHOES)?;
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        story.say(format!(
            "   {}  {} of {} answered; the first after {:.2} ms, the others after {:.2} ms",
            family.name(),
            echo.answered,
            echo.sent,
            milliseconds(echo.first),
            milliseconds(echo.later),
        ))?;
        story.expect(echo.answered == echo.sent, || format!("an {} echo request was not answered", family.name()));
    }
    Ok(())
}

fn datagrams(story: &mut Story<'_>, bed: &Bed, root: bool) -> Result<Numbered, LabError> {
    story.say(format!("\n2. Numbered datagrams, {RATE} a second for {SECONDS} s"))?;
    let numbered = Numbered::open(bed, Family::V4.outside_host())?;
    let tally = numbered.run(u64::from(RATE * SECONDS), RATE)?;
    story.say(format!(
        "   {} sent, {} came, {} lost, {} twice, {} out of order",
        tally.sent,
        tally.received,
        tally.missing(),
        tally.twice,
        tally.late
    ))?;
    if tally.overrun > 0 {
        story.say(format!("   ({} more arrived, but the receiver was too slow for them)", tally.overrun))?;
    }
    if let (Ok(inside), Some(outside)) = (numbered.sender.local_addr(), tally.source) {
        story.say(format!("   the inside sent from port {} of 10.1.0.2, the outside saw {outside}", inside.port()))?;
        story.expect(outside.ip() == Family::V4.outside_router(), || "the inside was not hidden".to_owned());
    }
    let allowed = if root { 0 } else { tally.sent / UNPRIVILEGED_LOSS };
    story.expect(tally.missing() <= allowed, || format!("{} datagrams were lost", tally.missing()));
    story.expect(tally.twice + tally.late == 0, || "datagrams came twice or out of order".to_owned());
    Ok(numbered)
}

fn bulk(story: &mut Story<'_>, bed: &Bed) -> Result<(), LabError> {
    story.say(format!("\n3. One TCP connection each, as fast as it goes, for {} s", STREAM.as_secs()))?;
    for family in Family::BOTH {
        let stream = stream(bed, family.outside_host(), STREAM)?;
        story.say(format!(
            "   {}  {:.1} Gbit/s; {} MB came, {}",
            family.name(),
            stream.gigabits(),
            stream.bytes / 1_000_000,
            if stream.whole { "every byte that was sent" } else { "not all that was sent" }
        ))?;
        story.expect(stream.whole, || format!("the {} stream lost bytes", family.name()));
    }
    Ok(())
}
