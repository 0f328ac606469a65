//! Rates of new connections: of a rule, and of each source under a rule.

use std::collections::HashMap;

use flowhop_engine::sources::source_of;
use flowhop_flow::Key;
use flowhop_flow::key::Address;
use flowhop_flow::record::{TICK_SHIFT, Tick};
use flowhop_policy::RateLimit;
use rand_core::RngCore;

/// Sources that are known at once. Who is forgotten has its whole limit again, so this is many times what can be of
/// use: a forgotten source is one that did not try for longer than all others on its place.
const SOURCES: usize = 16_384;
/// Places that a source may be at.
const WAYS: usize = 4;

/// What a limit has left: nanoseconds times the count of its period, so that nothing is lost however often it is asked.
/// A connection costs one period; a bucket holds as many as the count.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    credit: u128,
    at: Tick,
}

impl Bucket {
    fn full(limit: RateLimit, now: Tick) -> Self {
        Self { credit: u128::from(limit.count) * limit.per.as_nanos(), at: now }
    }

    /// Takes one connection's worth if it is there.
    fn take(&mut self, limit: RateLimit, now: Tick) -> bool {
        let (count, period) = (u128::from(limit.count), limit.per.as_nanos());
        let elapsed = u128::from(now.wrapping_sub(self.at)) << TICK_SHIFT;
        self.credit = (self.credit + elapsed * count).min(count * period);
        self.at = now;
        let allowed = self.credit >= period;
        if allowed {
            self.credit -= period;
        }
        allowed
    }
}

/// Limits of rules.
#[derive(Debug, Default)]
pub(crate) struct RuleRates(HashMap<u16, (RateLimit, Bucket)>);

impl RuleRates {
    /// Whether a rule may have another connection.
    pub(crate) fn take(&mut self, rule: u16, limit: RateLimit, now: Tick) -> bool {
        let fresh = (limit, Bucket::full(limit, now));
        let entry = self.0.entry(rule).or_insert(fresh);
        if entry.0 != limit {
            *entry = fresh;
        }
        entry.1.take(limit, now)
    }
}

#[derive(Clone, Copy, Debug)]
struct Place {
    source: Address,
    rule: u16,
    limit: RateLimit,
    bucket: Bucket,
    /// When it was last asked about, in questions.
    asked: u64,
}

/// Limits of sources under rules, in memory that is taken with the first use.
#[derive(Debug, Default)]
pub(crate) struct SourceRates {
    places: Vec<Option<Place>>,
    secret: [u32; 10],
    questions: u64,
}

impl SourceRates {
    /// Whether a source may have another connection by a rule.
    pub(crate) fn take(
        &mut self,
        rule: u16,
        source: &Address,
        limit: RateLimit,
        now: Tick,
        random: &mut impl RngCore,
    ) -> bool {
        if self.places.is_empty() {
            self.places = vec![None; SOURCES];
            self.secret.fill_with(|| random.next_u32());
        }
        let source = source_of(source);
        let key = Key { source, ports: u32::from(rule), identity: 1, ..Key::default() };
        let first = key.hash(&self.secret) as usize % (SOURCES / WAYS) * WAYS;
        let places = &mut self.places[first..first + WAYS];
        let is_its = |place: &Option<Place>| {
            place.is_some_and(|place| (place.rule, place.source, place.limit) == (rule, source, limit))
        };
        let way = places.iter().position(is_its).unwrap_or_else(|| {
            // The one that was not asked about for longest; an empty one before all.
            let asked = |way: &usize| places[*way].map_or(0, |place| place.asked);
            let way = (0..WAYS).min_by_key(asked).unwrap_or(0);
            places[way] = Some(Place { source, rule, limit, bucket: Bucket::full(limit, now), asked: 0 });
            way
        });
        self.questions += 1;
        places[way].as_mut().is_some_and(|place| {
            place.asked = self.questions;
            place.bucket.take(limit, now)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use flowhop_flow::key::mapped;

    struct Counting(u64);

    impl RngCore for Counting {
        fn next_u32(&mut self) -> u32 {
            self.next_u64() as u32
        }
        fn next_u64(&mut self) -> u64 {
            self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            self.0 >> 13
        }
        fn fill_bytes(&mut self, bytes: &mut [u8]) {
            bytes.fill_with(|| self.next_u32() as u8);
        }
    }

    const TEN: RateLimit = RateLimit { count: 10, per: Duration::from_secs(1) };

    #[test]
    fn a_limit_holds_over_its_period_and_refills() {
        let mut rates = RuleRates::default();
        assert_eq!((0..100).filter(|_| rates.take(1, TEN, 0)).count(), 10);
        assert_eq!((0..100).filter(|_| rates.take(2, TEN, 0)).count(), 10);
        // Half a second later, half of them again.
        assert_eq!((0..100).filter(|_| rates.take(1, TEN, 477)).count(), 5);
        assert_eq!((0..100).filter(|_| rates.take(1, TEN, 100_000)).count(), 10);
        let more = RateLimit { count: 20, ..TEN };
        assert_eq!((0..100).filter(|_| rates.take(1, more, 100_000)).count(), 20);
    }

    // However often it is asked, a limit earns what it says.
    #[test]
    fn fractions_are_not_lost() {
        let hundred = RateLimit { count: 100, per: Duration::from_secs(60) };
        let mut rates = RuleRates::default();
        let minutes = 10;
        let ticks = ((u64::from(minutes) * 60_000_000_000) >> TICK_SHIFT) as Tick;
        let allowed = (0..ticks).filter(|now| rates.take(1, hundred, *now)).count() as u32;
        assert!((100 * minutes..=100 * (minutes + 1)).contains(&allowed), "{allowed}");
    }

    #[test]
    fn each_source_has_its_own_limit_in_bounded_memory() {
        let mut rates = SourceRates::default();
        let mut random = Counting(7);
        for last in 0..200 {
            let source = mapped([10, 0, 0, last]);
            let allowed = (0..30).filter(|_| rates.take(1, &source, TEN, 0, &mut random)).count();
            assert_eq!(allowed, 10, "{last}");
        }
        // A flood from a hundred thousand sources leaves one that keeps trying where it is.
        let honest = mapped([10, 0, 0, 7]);
        for number in 0..100_000_u32 {
            let source = mapped((0x0b00_0000 + number).to_be_bytes());
            rates.take(1, &source, TEN, 1, &mut random);
            assert!(
                !rates.take(1, &honest, RateLimit { count: 1, per: Duration::from_secs(86_400) }, 1, &mut random)
                    || number == 0
            );
        }
        assert_eq!(rates.places.len(), SOURCES);
    }
}
