//! What there is to show: clauses of RFCs, what flowhop does about each, and how that is seen.

use std::fmt;

use super::field::{Fault, Field};
use super::policies::Policy;

/// How much a clause demands (RFC 2119), in its own words or, where it has none of these, by what its prose says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// MUST, REQUIRED, SHALL.
    Must,
    /// SHOULD, RECOMMENDED.
    Should,
    /// MAY, OPTIONAL.
    May,
}

impl Level {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Must => "MUST",
            Self::Should => "SHOULD",
            Self::May => "MAY",
        }
    }
}

/// What sees to it that a clause holds.
#[derive(Clone, Copy)]
pub enum How {
    /// Packets through the firewall under a policy.
    Tried(&'static Policy, fn(&Field) -> Result<(), Fault>),
    /// It does not hold, for this reason.
    Unmet(&'static str),
    /// A later document, or what a firewall is asked for by those who build it, says otherwise: which, and what.
    Overruled(&'static str),
}

impl fmt::Debug for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tried(policy, _) => f.debug_tuple("Tried").field(&policy.name).finish(),
            Self::Unmet(reason) => f.debug_tuple("Unmet").field(reason).finish(),
            Self::Overruled(reason) => f.debug_tuple("Overruled").field(reason).finish(),
        }
    }
}

/// A clause of an RFC.
#[derive(Clone, Copy, Debug)]
pub struct Clause {
    /// Number of the RFC.
    pub rfc: u16,
    /// Section or requirement.
    pub clause: &'static str,
    /// How much it demands.
    pub level: Level,
    /// What flowhop does.
    pub does: &'static str,
    /// How that is seen.
    pub how: How,
}

impl Clause {
    /// Whether it does not hold.
    #[must_use]
    pub const fn is_unmet(&self) -> bool {
        matches!(self.how, How::Unmet(_))
    }

    /// Whether something else is done, as another document says.
    #[must_use]
    pub const fn is_overruled(&self) -> bool {
        matches!(self.how, How::Overruled(_))
    }

    /// Whether it has to hold and does not.
    #[must_use]
    pub const fn is_unmet_must(&self) -> bool {
        self.is_unmet() && matches!(self.level, Level::Must)
    }
}

/// A test of a clause.
type Test = fn(&Field) -> Result<(), Fault>;

/// A clause that has to hold.
pub(super) const fn must(
    rfc: u16,
    clause: &'static str,
    policy: &'static Policy,
    test: Test,
    does: &'static str,
) -> Clause {
    Clause { rfc, clause, level: Level::Must, does, how: How::Tried(policy, test) }
}

/// A clause that should hold, and does.
pub(super) const fn should(
    rfc: u16,
    clause: &'static str,
    policy: &'static Policy,
    test: Test,
    does: &'static str,
) -> Clause {
    Clause { level: Level::Should, ..must(rfc, clause, policy, test, does) }
}

/// A clause that leaves it to us.
pub(super) const fn may(
    rfc: u16,
    clause: &'static str,
    policy: &'static Policy,
    test: Test,
    does: &'static str,
) -> Clause {
    Clause { level: Level::May, ..must(rfc, clause, policy, test, does) }
}

/// A clause that does not hold.
pub(super) const fn unmet(
    rfc: u16,
    clause: &'static str,
    level: Level,
    does: &'static str,
    reason: &'static str,
) -> Clause {
    Clause { rfc, clause, level, does, how: How::Unmet(reason) }
}

/// A clause that another document overrules.
pub(super) const fn overruled(
    rfc: u16,
    clause: &'static str,
    level: Level,
    does: &'static str,
    reason: &'static str,
) -> Clause {
    Clause { rfc, clause, level, does, how: How::Overruled(reason) }
}

/// All clauses, by RFC and in the order of the clauses.
#[must_use]
pub fn all() -> Vec<Clause> {
    let mut all = [
        super::ip::CLAUSES,
        super::headers::CLAUSES,
        super::fragments::CLAUSES,
        super::forwarding::CLAUSES,
        super::sources::CLAUSES,
        super::own_errors::CLAUSES,
        super::mtu::CLAUSES,
        super::checksums::CLAUSES,
        super::icmp::CLAUSES,
        super::tcp::CLAUSES,
        super::syn_cookies::CLAUSES,
        super::tcp_options::CLAUSES,
        super::nat_udp::CLAUSES,
        super::nat_tcp::CLAUSES,
        super::timers::CLAUSES,
        super::carriers::CLAUSES,
        super::nat_prefix::CLAUSES,
        super::nat64::CLAUSES,
        super::pcp::CLAUSES,
        super::unmet::CLAUSES,
    ]
    .concat();
    all.sort_by_key(|clause| clause.rfc);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What has to hold and does not: nothing joins this list unseen.
    const UNMET_MUSTS: &[(u16, &str)] = &[];

    /// What another document overrules: nothing joins this list unseen either.
    const OVERRULED: &[(u16, &str)] = &[
        (1812, "5.3.8, default for links"),
        (1812, "5.3.13.3"),
        (1812, "5.3.13.4"),
        (1812, "5.3.13.5, default"),
        (1812, "5.3.13.6, default"),
        (6888, "REQ-11 D, full table"),
    ];

    #[test]
    fn clauses_are_named_once_and_every_must_is_tried_but_those_that_are_known_not_to_hold() {
        let all = all();
        for (place, clause) in all.iter().enumerate() {
            let same =
                |other: &Clause| (other.rfc, other.clause, other.does) == (clause.rfc, clause.clause, clause.does);
            assert!(!all[..place].iter().any(same), "twice: {clause:?}");
            let known = UNMET_MUSTS.contains(&(clause.rfc, clause.clause));
            assert_eq!(clause.is_unmet_must(), known, "{clause:?}");
            assert_eq!(clause.is_overruled(), OVERRULED.contains(&(clause.rfc, clause.clause)), "{clause:?}");
            assert!(!matches!(clause.how, How::Unmet("") | How::Overruled("")), "{clause:?}");
        }
    }
}
