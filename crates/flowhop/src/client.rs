//! Commands that ask the daemon.

use std::fmt;
use std::io::{self, BufWriter, Write};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, json};

use crate::cli::{DeleteFlowArgs, MoveFlowArgs, ShowArgs, Target, Which};
use crate::control::Request;
use crate::control::client::{ClientError, ask};
use crate::exit::{Exit, Failure};
use crate::show::text::{self, Table};
use crate::show::{JSON_VERSION, What};
use crate::state;

/// `flowhop show`: prints what the daemon has, as it comes in.
///
/// # Errors
/// When the daemon cannot be asked or refuses, or `out` cannot be written.
pub fn show(args: &ShowArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let what = args.what;
    let socket = state::socket(args.target.socket.as_deref(), args.target.state.as_deref());
    let mut answer = ask(&socket, &Request::Show { what })?;
    let out = &mut BufWriter::new(out);
    if args.json {
        answer.copy_to(out)?;
        return Ok(Exit::Done);
    }
    if what == What::Status {
        text::status(&answer.value()?["status"], out).map_err(Failure::Output)?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(what, out);
    let mut failed = None;
    let elements = Elements {
        key: what.name(),
        push: &mut |element| match table.push(element) {
            Ok(()) => true,
            Err(error) => {
                failed = Some(error);
                false
            }
        },
    };
    let read = elements.deserialize(&mut serde_json::Deserializer::from_reader(answer.reader()));
    if let Some(error) = failed {
        return Err(Failure::Output(error));
    }
    read.map_err(|error| ClientError::Answer(error.to_string()))?;
    table.finish().map_err(Failure::Output)?;
    Ok(Exit::Done)
}

/// A command that is only done or refused.
///
/// # Errors
/// When the daemon cannot be asked or refuses.
pub fn command(target: &Target, request: &Request) -> Result<Exit, Failure> {
    let socket = state::socket(target.socket.as_deref(), target.state.as_deref());
    ask(&socket, request)?.copy_to(&mut io::sink())?;
    Ok(Exit::Done)
}

/// `flowhop delete flow`.
///
/// # Errors
/// When the daemon cannot be asked or refuses, or `out` cannot be written.
pub fn delete_flow(args: &DeleteFlowArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let exit = command(&args.target, &Request::DeleteFlow { id: args.id })?;
    if args.json {
        writeln!(out, "{}", json!({ "version": JSON_VERSION, "deleted": args.id })).map_err(Failure::Output)?;
    }
    Ok(exit)
}

/// `flowhop move flow`.
///
/// # Errors
/// When the daemon cannot be asked or refuses, or `out` cannot be written.
pub fn move_flow(args: &MoveFlowArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let request = match args.which {
        Which::All => Request::MoveFlows { path: args.path },
        Which::One(id) => Request::MoveFlow { id, path: args.path },
    };
    let socket = state::socket(args.target.socket.as_deref(), args.target.state.as_deref());
    let answer = ask(&socket, &request)?;
    if args.json {
        answer.copy_to(out)?;
        return Ok(Exit::Done);
    }
    let answer = answer.value()?;
    let written = match (args.which, answer["paths"].as_array().map(Vec::as_slice)) {
        (Which::One(id), Some([forward, reverse])) => {
            let name = |path: &Value| path.as_str().unwrap_or("?").to_owned();
            writeln!(out, "flow {id}: forward {}, reverse {}", name(forward), name(reverse))
        }
        _ => writeln!(out, "{} flows moved", answer["moved"]),
    };
    written.map_err(Failure::Output)?;
    Ok(Exit::Done)
}

/// Reads `{"version": …, KEY: [element, …]}` and hands over the elements one by one: a million flows fit on the
/// wire, but not always in memory.
struct Elements<'a> {
    key: &'static str,
    /// `false`: enough.
    push: &'a mut dyn FnMut(&Value) -> bool,
}

impl<'de> DeserializeSeed<'de> for Elements<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with the list {:?}", self.key)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == self.key {
                map.next_value_seed(List { push: &mut *self.push })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

struct List<'a> {
    push: &'a mut dyn FnMut(&Value) -> bool,
}

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(element) = list.next_element::<Value>()? {
            if !(self.push)(&element) {
                return Err(serde::de::Error::custom("the output is closed"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_handed_over_one_by_one() {
        let mut seen = Vec::new();
        let elements = Elements {
            key: "flows",
            push: &mut |element| {
                seen.push(element.clone());
                true
            },
        };
        let text = r#"{"version":1,"flows":[{"id":1},{"id":2}],"more":{}}"#;
        elements.deserialize(&mut serde_json::Deserializer::from_str(text)).unwrap();
        assert_eq!(seen, [serde_json::json!({"id": 1}), serde_json::json!({"id": 2})]);
    }
}
