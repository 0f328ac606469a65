//! Zones: names for groups of interfaces, numbers on the match path.

/// A zone, as an index into [`Policy::zones`](crate::Policy::zones).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ZoneId(pub u16);

impl ZoneId {
    /// The index into [`Policy::zones`](crate::Policy::zones).
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A set of zones: sorted, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ZoneSet(Vec<ZoneId>);

impl ZoneSet {
    /// The set of these zones, in any order.
    #[must_use]
    pub fn of(mut zones: Vec<ZoneId>) -> Self {
        zones.sort_unstable();
        zones.dedup();
        Self(zones)
    }

    /// Whether the zone is in the set.
    #[must_use]
    pub fn contains(&self, zone: ZoneId) -> bool {
        self.0.binary_search(&zone).is_ok()
    }

    /// The zones, sorted.
    #[must_use]
    pub fn as_slice(&self) -> &[ZoneId] {
        &self.0
    }

    fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|zone| self.contains(*zone))
    }
}

/// What a `from`, or the `to` of a translation, names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum ZoneMatch {
    /// `"any"`, or nothing said.
    #[default]
    Any,
    /// These zones.
    Zones(ZoneSet),
}

impl ZoneMatch {
    /// Whether the zone is named.
    #[must_use]
    pub fn contains(&self, zone: ZoneId) -> bool {
        match self {
            Self::Any => true,
            Self::Zones(zones) => zones.contains(zone),
        }
    }

    /// Whether everything in `other` is in this one, in a policy with `zone_count` zones.
    pub(crate) fn covers(&self, other: &Self, zone_count: usize) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Zones(mine), Self::Any) => mine.0.len() == zone_count,
            (Self::Zones(mine), Self::Zones(theirs)) => mine.covers(theirs),
        }
    }
}

/// What the `to` of a rule names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum RuleTarget {
    /// `"any"`, or nothing said: every zone, but not the box itself.
    #[default]
    Any,
    /// These zones.
    Zones(ZoneSet),
    /// `"self"`: the box itself.
    SelfBox,
}

impl RuleTarget {
    /// Whether a new connection that goes there is named.
    #[must_use]
    pub fn contains(&self, destination: Destination) -> bool {
        match (self, destination) {
            (Self::Any, Destination::Zone(_)) | (Self::SelfBox, Destination::SelfBox) => true,
            (Self::Zones(zones), Destination::Zone(zone)) => zones.contains(zone),
            _ => false,
        }
    }

    pub(crate) fn covers(&self, other: &Self, zone_count: usize) -> bool {
        match (self, other) {
            (Self::SelfBox, Self::SelfBox) | (Self::Any, Self::Any | Self::Zones(_)) => true,
            (Self::Zones(mine), Self::Any) => mine.0.len() == zone_count,
            (Self::Zones(mine), Self::Zones(theirs)) => mine.covers(theirs),
            _ => false,
        }
    }
}

/// Where a new connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// Out through an interface of this zone.
    Zone(ZoneId),
    /// To the box itself.
    SelfBox,
}
