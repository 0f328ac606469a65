//! The `flowhop` program: commands, control protocol, views of what is there, replay.
//!
//! [`main`] reads the command line ([`cli`]) and dispatches. Data goes to standard output, messages for people to
//! standard error, and every way to end is an [`exit::Exit`].

pub mod bench;
/// Says something to people, on standard error. One that nobody reads, or that is closed, is no reason to end.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _unread = writeln!(std::io::stderr(), $($words)*);
    }};
}

pub mod check;
pub mod cli;
pub mod client;
pub mod control;
pub mod convert;
pub mod daemon;
pub mod demo;
pub mod doctor;
pub mod down;
pub mod exit;
pub mod lab;
pub mod lease;
pub mod paths;
pub mod replay;
pub mod selftest;
pub mod show;
pub mod state;
pub mod whose;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command, Delete, Move};
use crate::exit::{Exit, Failure};

/// Runs the program with the arguments of the process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output and is no error; a closed pipe there concerns nobody.
            let _closed = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    match dispatch(cli.command) {
        Ok(exit) => exit.into(),
        Err(failure) if failure.is_closed_pipe() => Exit::Done.into(),
        Err(failure) => {
            let _closed = writeln!(std::io::stderr(), "flowhop: {failure}");
            failure.exit().into()
        }
    }
}

fn dispatch(command: Command) -> Result<Exit, Failure> {
    let mut out = std::io::stdout().lock();
    match command {
        Command::Check(args) => check::check(&args.file, &mut out),
        Command::Show(args) => client::show(&args, &mut out),
        Command::Delete(Delete::Flow(args)) => client::delete_flow(&args, &mut out),
        Command::Move(Move::Flow(args)) => client::move_flow(&args, &mut out),
        Command::Doctor(args) => doctor::doctor(args.config.as_deref(), args.json, &mut out),
        Command::Demo(_) => demo::demo(&mut out),
        Command::Bench(args) => {
            let cli::BenchArgs { quick, json, markdown, only, flows } = args;
            let options = bench::Options { quick, json, markdown, only, flows };
            bench::bench(&options, &mut out)
        }
        Command::Selftest(args) => {
            let cli::SelftestArgs { rfc, json, markdown } = args;
            selftest::selftest(&selftest::Options { rfc, json, markdown }, &mut out)
        }
        Command::Run(args) => down::run(&args),
        Command::Down(args) => down::down(&args),
        Command::Whose(args) => whose::whose(&args, &mut out),
        Command::Replay(args) => replay::run(&args, &mut out),
    }
}
