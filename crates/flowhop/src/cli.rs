//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};

use crate::bench::Part;
use crate::control::PathChoice;
use crate::show::What;
use crate::whose::Subject;

/// Where the policy is unless something else is said.
pub const POLICY: &str = "/etc/flowhop/flowhop.toml";

/// A stateful firewall and NAT router whose second packet never leaves the driver.
#[derive(Debug, Parser)]
#[command(name = "flowhop", version, arg_required_else_help = true, max_term_width = 120)]
#[command(after_help = "Example: flowhop check /etc/flowhop/flowhop.toml\n\n\
    Exit codes: 0 done; 1 refused by the daemon, the kernel or a check; 2 usage; 3 no daemon there; 4 not permitted.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the firewall at work in a small network of its own, and clean up
    Demo(DemoArgs),
    /// Check a policy: say `ok`, or print every fault with its line
    Check(CheckArgs),
    /// The daemon, in the foreground
    Run(RunArgs),
    /// Take everything off the interfaces and forget it, with or without a daemon running
    Down(DownArgs),
    /// Show what is there now
    Show(ShowArgs),
    /// End something at once
    #[command(subcommand, after_help = "Example: flowhop delete flow 4711")]
    Delete(Delete),
    /// Move something to another place
    #[command(subcommand, after_help = "Example: flowhop move flow 4711 user")]
    Move(Move),
    /// Say whose an external address and port are, or which ones an inside address has, by deterministic translation
    Whose(WhoseArgs),
    /// Send the packets of a capture through the very same code: no root, no devices, virtual clock
    Replay(ReplayArgs),
    /// Say what this machine has and lacks, which path each interface takes and why, and what would make it faster
    Doctor(DoctorArgs),
    /// Measure how fast it is on this machine, side by side with the kernel
    Bench(BenchArgs),
    /// Try what the RFCs demand, clause by clause, on the shipped data path in namespaces of its own
    Selftest(SelftestArgs),
}

/// What can be deleted.
#[derive(Debug, Subcommand)]
pub enum Delete {
    /// End a flow at once
    Flow(DeleteFlowArgs),
}

/// What can be moved.
#[derive(Debug, Subcommand)]
pub enum Move {
    /// Move a flow, or all, to another path: no packet is lost, doubled or overtaken
    Flow(MoveFlowArgs),
}

/// `flowhop check`.
#[derive(Args, Debug)]
#[command(after_help = "Example: flowhop check /etc/flowhop/flowhop.toml\n\n\
    Exit code 0: no faults (warnings are printed and do not count); 1: faults, or the file cannot be read.")]
pub struct CheckArgs {
    /// The policy file
    pub file: PathBuf,
}

/// `flowhop run`.
#[derive(Args, Debug)]
#[command(after_help = "Example: flowhop run -c /etc/flowhop/flowhop.toml\n\n\
    Prints `ready` on standard error when it forwards. SIGHUP reloads the policy. SIGTERM ends the process and leaves\n\
    the kernel side forwarding what is cached, for the next start to adopt; `flowhop down` takes that away.")]
pub struct RunArgs {
    /// The policy file
    #[arg(short, long, value_name = "FILE", default_value = POLICY)]
    pub config: PathBuf,
    /// The state directory [default: /run/flowhop, in another network namespace /run/flowhop/NAMESPACE]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
}

/// `flowhop down`.
#[derive(Args, Debug)]
#[command(after_help = "Example: flowhop down\n\nWorks with and without a daemon running.")]
pub struct DownArgs {
    /// The state directory [default: /run/flowhop, in another network namespace /run/flowhop/NAMESPACE]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
}

/// `flowhop demo`.
#[derive(Args, Debug)]
#[command(after_help = "Example: flowhop demo\n\nNeeds no preparation and leaves nothing behind.")]
pub struct DemoArgs {}

/// `flowhop doctor`.
#[derive(Args, Debug)]
#[command(after_help = "Example: flowhop doctor -c /etc/flowhop/flowhop.toml\n\n\
    Changes nothing and asks no daemon. Exit code 0: all that is needed is there; 1: something is missing.")]
pub struct DoctorArgs {
    /// The policy whose interfaces are looked at [default: /etc/flowhop/flowhop.toml if it is there, else all devices]
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one JSON object
    #[arg(short, long)]
    pub json: bool,
}

/// `flowhop bench`.
#[derive(Args, Debug)]
#[command(after_help = "Example: flowhop bench --quick\n\n\
    Needs root. Everything happens in namespaces of its own. Without --quick it takes some twenty minutes and 3 GB.\n\
    Open vSwitch takes part where Debian's openvswitch-switch is installed.")]
pub struct BenchArgs {
    /// Less of everything, in about a minute
    #[arg(long)]
    pub quick: bool,
    /// Print one JSON object
    #[arg(short, long)]
    pub json: bool,
    /// Write the results to a page of documentation: PAGE.md, with PAGE.json, and plots in PAGE/ if gnuplot is installed
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Measure this only
    #[arg(long, value_name = "PART")]
    pub only: Option<Part>,
    /// With so many flows (a power of two from 1024 to 4194304); may be given several times
    #[arg(long, value_name = "NUMBER", value_parser = flows)]
    pub flows: Vec<u32>,
}

/// A number of flows that the benchmark can have.
fn flows(text: &str) -> Result<u32, String> {
    let number =
        text.parse::<u32>().ok().filter(|number| number.is_power_of_two() && (10..=22).contains(&number.ilog2()));
    number.ok_or_else(|| "expected a power of two from 1024 to 4194304".to_owned())
}

/// `flowhop selftest`.
#[derive(Args, Debug)]
#[command(after_help = "Example: flowhop selftest --rfc 4787\n\n\
    Exit code 0: every clause that is tried holds; 1: some do not. As root on all paths; otherwise in a user namespace\n\
    on the `user` path.")]
pub struct SelftestArgs {
    /// Clauses of this RFC only
    #[arg(long, value_name = "NUMBER")]
    pub rfc: Option<u16>,
    /// Print one JSON object
    #[arg(short, long)]
    pub json: bool,
    /// Write the list of clauses as a page of documentation, and try nothing
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}

/// Which daemon is asked.
#[derive(Args, Clone, Debug)]
pub struct Target {
    /// The daemon's control socket [default: control.sock in the state directory]
    #[arg(short = 'S', long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The state directory [default: /run/flowhop, in another network namespace /run/flowhop/NAMESPACE]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
}

/// `flowhop show`.
#[derive(Args, Debug)]
#[command(after_help = "Example: flowhop show flows -j | jq '.flows[] | select(.protocol == \"tcp\")'\n\n\
    The JSON output is described by the schemas in docs/json/.")]
pub struct ShowArgs {
    /// What to show
    pub what: What,
    /// Print one JSON object
    #[arg(short, long)]
    pub json: bool,
    /// Which daemon is asked.
    #[command(flatten)]
    pub target: Target,
}

/// `flowhop whose`.
#[derive(Args, Debug)]
#[command(after_help = "Example: flowhop whose 198.51.100.7:2048 -c /etc/flowhop/flowhop.toml\n\n\
    Asks no daemon: the answer follows from `allocation = \"deterministic\"` in the policy file, which may be an old one.\n\
    Exit code 1: no such translation knows the address.")]
pub struct WhoseArgs {
    /// An external address and port, or an inside address
    #[arg(value_name = "ADDRESS[:PORT]")]
    pub subject: Subject,
    /// The policy file
    #[arg(short, long, value_name = "FILE", default_value = POLICY)]
    pub config: PathBuf,
    /// Print one JSON object
    #[arg(short, long)]
    pub json: bool,
}

/// `flowhop delete flow`.
#[derive(Args, Debug)]
#[command(after_help = "Example: flowhop delete flow 4711\n\nThe identifiers are those of `flowhop show flows`.")]
pub struct DeleteFlowArgs {
    /// Identifier of the flow
    pub id: u32,
    /// Print one JSON object
    #[arg(short, long)]
    pub json: bool,
    /// Which daemon is asked.
    #[command(flatten)]
    pub target: Target,
}

/// Which flows are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All.
    All,
    /// The one with this identifier.
    One(u32),
}

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            id => id.parse().map(Self::One).map_err(|_| "expected `all` or the identifier of a flow".to_owned()),
        }
    }
}

/// `flowhop move flow`.
#[derive(Args, Debug)]
#[command(after_help = "Example: flowhop move flow 4711 user\n\n\
    The identifiers are those of `flowhop show flows`. A direction whose interfaces cannot take the path stays where it\n\
    is; a flow whose rule says `accelerate = false` stays on `user`. A flow keeps the path until it is moved again, or\n\
    its interfaces or the policy no longer have it; `default` gives the choice back. New flows are not concerned.")]
pub struct MoveFlowArgs {
    /// Identifier of the flow, or `all`
    #[arg(value_name = "ID|all")]
    pub which: Which,
    /// Where to
    pub path: PathChoice,
    /// Print one JSON object
    #[arg(short, long)]
    pub json: bool,
    /// Which daemon is asked.
    #[command(flatten)]
    pub target: Target,
}

/// `flowhop replay`.
#[derive(Args, Debug)]
#[command(after_help = REPLAY_HELP)]
pub struct ReplayArgs {
    /// The policy file
    pub file: PathBuf,
    /// The capture: pcap or pcapng, of Ethernet frames or IP packets
    #[arg(value_name = "IN.pcap")]
    pub capture: PathBuf,
    /// Write what is sent out to a capture of Ethernet frames
    #[arg(short, long, value_name = "OUT.pcap")]
    pub output: Option<PathBuf>,
    /// Print one JSON object for each packet, one on a line
    #[arg(short, long)]
    pub json: bool,
    /// The interface that packets come in through where nothing else says so [default: the policy's first]
    #[arg(long = "in", value_name = "NAME")]
    pub input: Option<String>,
}

const REPLAY_HELP: &str = "\
Example: flowhop replay flowhop.toml traffic.pcap -o out.pcap -j

A capture says nothing about interfaces, routes and neighbours, so these are made up, always in the same way:

  Interfaces  Interface N of the policy (from 1) has the link-layer address 02:00:00:00:00:NN, the addresses
              198.51.100.(255-N) and 2001:db8:ffff::NN, and MTU 1500. Behind it is one router, 02:00:00:00:01:NN.
  Input       A packet of a known flow comes in through the interface where that flow expects it; else, in a
              pcapng file with several interfaces, through the one of the same name or device, or the same place in
              the order; else through the interface where its source address was first seen; else through --in.
              Its link-layer destination, unless that is a group address, becomes that interface's own.
  Routes      The default route leads out through the first interface that is not --in. Sources that were seen on
              other interfaces are reached through these. Addresses that translate.destination leads to are behind
              the first interface that the first rule which allows them by its destination leads to, else behind
              the policy's first. Nothing has to be known of the addresses that are published.
  Time        The clock is that of the capture and never goes back.

The same input gives the same output, byte for byte. A packet that is held and sent later is sent with the time of
the packet that released it.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_command_has_an_example() {
        fn visit(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example: flowhop "), "{}", command.get_name());
            command.get_subcommands().for_each(visit);
        }
        Cli::command().debug_assert();
        visit(&Cli::command());
    }

    #[test]
    fn what_this_release_does_not_do_is_refused() {
        for line in [
            "flowhop why",
            "flowhop top",
            "flowhop show routes",
            "flowhop delete rule 1",
            "flowhop move flow 1 fast",
            "flowhop",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).unwrap_err().use_stderr(), "{line}");
        }
        let Command::Show(args) =
            Cli::try_parse_from(["flowhop", "show", "flows", "--state", "/x", "-j"]).unwrap().command
        else {
            panic!()
        };
        assert!(args.json && args.what == What::Flows);
    }
}
