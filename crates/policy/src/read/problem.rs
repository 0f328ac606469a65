//! The closed list of what can be wrong with a policy.

use thiserror::Error;

/// A fault: the policy is refused.
#[derive(Debug, Error)]
pub(crate) enum Problem {
    #[error("{message}")]
    Syntax { message: String, expected: Option<String> },
    #[error("unknown key {key:?} in {place}{}", hint(.near))]
    UnknownKey { key: String, place: &'static str, near: Option<String>, known: Vec<&'static str> },
    #[error("{key:?} stands below the header {place} and so belongs to that table")]
    Misplaced { key: String, place: &'static str },
    #[error("{place} has no {key:?}")]
    MissingKey { key: &'static str, place: &'static str, expected: &'static str },
    #[error("{what:?} is {found}")]
    WrongType { what: String, found: &'static str, expected: String },
    #[error("{value:?} is no {what}{}", hint(.near))]
    BadValue { what: &'static str, value: String, near: Option<String>, expected: String },
    #[error("{what} {value} is out of range")]
    OutOfRange { what: String, value: String, expected: String },
    #[error("{what} is not supported yet by this version")]
    NotSupported { what: String, expected: Option<String> },
    #[error("no interface has the zone {name:?}{}", hint(.near))]
    UndefinedZone { name: String, near: Option<String>, expected: String },
    #[error("no {kind} is named {name:?}{}", hint(.near))]
    UndefinedName { kind: &'static str, name: String, near: Option<String>, expected: &'static str },
    #[error("{kind} {name:?} is already defined at {first}")]
    Duplicate { kind: &'static str, name: String, first: String },
    #[error("{kind} {name:?} contains itself: {}", .chain.join(" > "))]
    Cycle { kind: &'static str, name: String, chain: Vec<String> },
    #[error("{name:?} cannot name {kind}: {why}")]
    ReservedName { kind: &'static str, name: String, why: &'static str },
    #[error("{what:?} is an empty list, which matches nothing")]
    EmptyList { what: String, expected: &'static str },
    #[error("{what}")]
    Contradiction { what: String, expected: &'static str },
    #[error("{what} cannot be included: {why}")]
    Include { what: String, why: String, expected: &'static str },
}

impl Problem {
    pub(crate) fn expected(&self) -> Option<String> {
        match self {
            Self::Syntax { expected, .. } | Self::NotSupported { expected, .. } => expected.clone(),
            Self::UnknownKey { known, .. } => Some(one_of(known)),
            Self::MissingKey { key, expected, .. } => Some(format!("{key} = {expected}")),
            Self::WrongType { expected, .. }
            | Self::BadValue { expected, .. }
            | Self::UndefinedZone { expected, .. }
            | Self::OutOfRange { expected, .. } => Some(expected.clone()),
            Self::UndefinedName { expected, .. }
            | Self::EmptyList { expected, .. }
            | Self::Contradiction { expected, .. }
            | Self::Include { expected, .. } => Some((*expected).to_owned()),
            Self::Duplicate { kind, .. } => Some(format!("each {kind} once")),
            Self::Cycle { kind, .. } => Some(format!("each {kind} to name only others that do not lead back to it")),
            Self::Misplaced { key, .. } => {
                Some(format!("[[{key}]] for each, or `{key} = [ … ]` above the first header of the file"))
            }
            Self::ReservedName { .. } => Some("another name".to_owned()),
        }
    }

    /// The word that is missing, if what is wrong is that a word is missing: a line that the TOML parser could not
    /// read may have had it.
    pub(crate) fn missing_word(&self) -> Option<&str> {
        match self {
            Self::MissingKey { key, .. } => Some(key),
            Self::UndefinedName { name, .. } | Self::UndefinedZone { name, .. } => Some(name),
            _ => None,
        }
    }
}

/// A warning: the policy works, but hardly as it was meant.
#[derive(Debug, Error)]
pub(crate) enum Doubt {
    #[error("{key:?} of {value} is below the {floor} that {rfc} demands")]
    BelowFloor { key: &'static str, value: String, floor: String, rfc: &'static str },
    #[error("{written:?} has bits beyond its prefix; it is read as {read}")]
    HostBits { written: String, read: String },
    #[error("{kind} {name:?} is never reached: {kind} {by:?} at {place} matches all that it matches")]
    Unreachable { kind: &'static str, name: String, by: String, place: String },
    #[error("{kind} {name:?} matches nothing: {why}")]
    MatchesNothing { kind: &'static str, name: String, why: &'static str },
    #[error("this closes SSH to the box from {zones}: rules with to = \"self\" name it, and none allows tcp/22")]
    SshClosed { zones: String },
    #[error("no interface is declared: nothing will be forwarded")]
    NoInterface,
    #[error("nobody comes in by what hosts ask for: rule {rule:?} at {place} forbids all of it")]
    NothingToAskFor { rule: String, place: String },
}

impl Doubt {
    pub(crate) fn expected(&self) -> Option<String> {
        match self {
            Self::BelowFloor { floor, .. } => Some(format!("{floor} or more")),
            Self::HostBits { read, .. } => Some(format!("{read:?}")),
            Self::Unreachable { .. } => Some("the narrower one first".to_owned()),
            Self::SshClosed { .. } => Some(
                "a rule with to = \"self\", service = \"tcp/22\", action = \"allow\", unless that is the intention"
                    .to_owned(),
            ),
            Self::NoInterface => Some("[interfaces] with name = { device = \"…\", zone = \"…\" }".to_owned()),
            Self::NothingToAskFor { .. } => {
                Some("no such rule: what no rule allows, and no host has asked for, is dropped".to_owned())
            }
            Self::MatchesNothing { .. } => None,
        }
    }
}

/// `one of "a", "b"`.
pub(crate) fn one_of<S: AsRef<str>>(words: &[S]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("{:?}", word.as_ref())).collect();
    match words.as_slice() {
        [only] => only.clone(),
        _ => format!("one of {}", words.join(", ")),
    }
}

fn hint(near: &Option<String>) -> String {
    near.as_ref().map(|near| format!("; did you mean {near:?}?")).unwrap_or_default()
}
