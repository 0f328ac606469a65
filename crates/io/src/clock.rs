//! Time and randomness: what the rest of the program takes as arguments.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use flowhop_flow::record::{TICK_SHIFT, Tick};

const SECONDS_PER_DAY: i64 = 86_400;

/// The clocks of the system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock;

impl Clock {
    /// Coarse time, by the same clock as the kernel programs'. It stands still while the machine sleeps.
    #[must_use]
    pub fn now() -> Tick {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call fills in a `timespec`. It cannot fail: the clock exists since Linux 2.6.32.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
        let nanoseconds = (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64);
        // The wrap after 52 days is the meaning of a tick.
        (nanoseconds >> TICK_SHIFT) as Tick
    }

    /// The wall clock as of RFC 3339, in UTC and with milliseconds: `2026-11-22T22:17:45.123Z`.
    #[must_use]
    pub fn wall() -> String {
        let since = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX).saturating_neg(),
        };
        format_time(since)
    }
}

/// Milliseconds since the epoch as of RFC 3339.
fn format_time(milliseconds: i64) -> String {
    let (seconds, milliseconds) = (milliseconds.div_euclid(1000), milliseconds.rem_euclid(1000));
    let (day, second) = (seconds.div_euclid(SECONDS_PER_DAY), seconds.rem_euclid(SECONDS_PER_DAY));
    let (year, month, day) = date(day);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z")
}

/// The Gregorian date of a day since the epoch. Years begin in March here, so that the leap day is a year's last; an era
/// is the 400 years after which the calendar repeats.
fn date(days_since_epoch: i64) -> (i64, i64, i64) {
    const DAYS_TO_EPOCH: i64 = 719_468; // from 0000-03-01 to 1970-01-01
    const ERA: i64 = 146_097;
    let days = days_since_epoch + DAYS_TO_EPOCH;
    let (era, day) = (days.div_euclid(ERA), days.rem_euclid(ERA));
    let year = (day - day / 1460 + day / 36_524 - day / (ERA - 1)) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153; // March = 0; five months from March or August on have 153 days
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

/// A seed for a random generator.
///
/// # Errors
/// What the kernel says: in practice, never.
pub fn random_seed() -> io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    fill(&mut seed)?;
    Ok(seed)
}

/// The key of the table's hash.
///
/// # Errors
/// As [`random_seed`].
pub fn random_secret() -> io::Result<[u32; 10]> {
    let mut bytes = [0u8; 40];
    fill(&mut bytes)?;
    let mut secret = [0; 10];
    for (word, bytes) in secret.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    Ok(secret)
}

/// Up to 256 bytes, for which the kernel promises not to stop half way.
fn fill(bytes: &mut [u8]) -> io::Result<()> {
    // SAFETY: the buffer has the length that is passed.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    match usize::try_from(got) {
        Ok(got) if got == bytes.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_795_385_865, "2026-11-22T22:17:45.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(format_time(seconds * 1000), text);
        }
        assert_eq!(format_time(1_795_385_865_123), "2026-11-22T22:17:45.123Z");
    }

    #[test]
    fn each_day_follows_the_one_before() {
        let mut before = date(-800_000);
        for day in -799_999..800_000 {
            let today = date(day);
            let next_day = today == (before.0, before.1, before.2 + 1);
            let next_month = today == (before.0, before.1 + 1, 1) && before.2 >= 28;
            let next_year = today == (before.0 + 1, 1, 1) && (before.1, before.2) == (12, 31);
            assert!(next_day || next_month || next_year, "{before:?} {today:?}");
            before = today;
        }
    }

    #[test]
    fn ticks_are_about_a_millisecond() {
        let before = Clock::now();
        std::thread::sleep(std::time::Duration::from_millis(200));
        let passed = Clock::now().wrapping_sub(before);
        assert!((180..2000).contains(&passed), "{passed}");
    }

    #[test]
    fn randomness_differs() {
        assert_ne!(random_seed().unwrap(), random_seed().unwrap());
        assert_ne!(random_secret().unwrap(), random_secret().unwrap());
    }
}
