//! `flowhop whose`: what a policy with deterministic translations says about an address, there and back. No daemon is
//! asked: it is as true of an old policy file.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use flowhop_policy::{Allocation, load};
use serde_json::{Value, json};

use crate::check;
use crate::cli::WhoseArgs;
use crate::exit::{Exit, Failure};
use crate::show::JSON_VERSION;

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Which external address and ports an inside address has.
    Inside(IpAddr),
    /// Which inside address has a port of an external one.
    External(SocketAddr),
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected an external address and port, 198.51.100.7:2048, or an inside address";
        let endpoint = text.parse().map(Self::External);
        endpoint.or_else(|_| text.parse().map(Self::Inside)).map_err(|_| expected.to_owned())
    }
}

/// Prints whose the address is under each translation that knows; exit code 1 if none does.
///
/// # Errors
/// When `out` cannot be written.
pub fn whose(args: &WhoseArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let nats = match load(&args.config).outcome {
        Ok(checked) => checked.policy.nats,
        Err(faults) => {
            check::report(&faults);
            return Ok(Exit::Refused);
        }
    };
    let mut found = Vec::new();
    for nat in &nats {
        let Allocation::Deterministic(lots) = &nat.pool.allocation else { continue };
        let inside = match args.subject {
            Subject::Inside(address) => Some(address),
            Subject::External(endpoint) => lots.inside_of(endpoint.ip(), endpoint.port()),
        };
        if let Some((inside, (external, ports))) = inside.and_then(|inside| Some((inside, lots.external_of(inside)?))) {
            found.push(Lot { nat: &nat.name, inside, external, ports });
        }
    }
    if args.json {
        writeln!(out, "{}", answer(&found)).map_err(Failure::Output)?;
    } else {
        for Lot { nat, inside, external, ports: (first, last) } in &found {
            writeln!(out, "{inside} has ports {first}-{last} of {external} ({nat})").map_err(Failure::Output)?;
        }
    }
    if found.is_empty() {
        say!("flowhop: no deterministic translation of this policy knows the address");
        return Ok(Exit::Refused);
    }
    Ok(Exit::Done)
}

/// The ports of an inside address under a translation.
#[derive(Clone, Copy, Debug)]
pub struct Lot<'a> {
    /// Name of the translation.
    pub nat: &'a str,
    /// The inside address.
    pub inside: IpAddr,
    /// The external address.
    pub external: IpAddr,
    /// First and last port.
    pub ports: (u16, u16),
}

/// The JSON object.
#[must_use]
pub fn answer(found: &[Lot<'_>]) -> Value {
    let entry = |Lot { nat, inside, external, ports: (first, last) }: &Lot<'_>| -> Value {
        json!({ "nat": nat, "inside": inside, "external": external, "first_port": first, "last_port": last })
    };
    json!({ "version": JSON_VERSION, "whose": found.iter().map(entry).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(subject: &str, json: bool) -> (Exit, String) {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("p.toml");
        let text = "interfaces.lan = { device = \"lan0\", zone = \"inside\" }\n[[nat]]\nname = \"carrier\"\nsource = \"100.64.0.0/22\"\ntranslate.source = \"198.51.100.0/28\"\nallocation = \"deterministic\"\n";
        std::fs::write(&config, text).unwrap();
        let args = WhoseArgs { subject: subject.parse().unwrap(), config, json };
        let mut out = Vec::new();
        let exit = whose(&args, &mut out).unwrap();
        (exit, String::from_utf8(out).unwrap())
    }

    // RFC 7422: 1024 addresses on 16, so 64 share one, 1008 ports each.
    #[test]
    fn an_address_is_found_there_and_back() {
        let line = "100.64.0.65 has ports 2032-3039 of 198.51.100.1 (carrier)\n".to_owned();
        assert_eq!(ask("100.64.0.65", false), (Exit::Done, line.clone()));
        assert_eq!(ask("198.51.100.1:3039", false), (Exit::Done, line));
        assert_eq!(ask("198.51.100.1:80", false), (Exit::Refused, String::new()));
        let (exit, text) = ask("198.51.100.1:2032", true);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((exit, &value["whose"][0]["inside"]), (Exit::Done, &json!("100.64.0.65")));
        assert!("198.51.100".parse::<Subject>().is_err());
    }
}
