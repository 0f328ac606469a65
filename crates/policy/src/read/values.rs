//! Durations and rates.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::node::Node;
use super::problem::Problem;
use super::report::Report;
use crate::{MssClamp, RateLimit};

/// Shortest and longest duration that any key takes.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(14 * 24 * 3600);

const A_DURATION: &str = "a duration such as \"300s\", \"5m\", \"2h\" or \"1d\"";
const A_RATE: &str = "a number of new connections in a time, such as \"100/s\", \"20/min\" or \"500/h\"";

/// A duration between one second and 14 days.
pub(crate) fn duration(node: Node<'_>, report: &mut Report<'_>) -> Option<Duration> {
    let text = node.string_expecting(A_DURATION, report)?;
    let Some(value) = parse_duration(text) else {
        let problem =
            Problem::BadValue { what: "duration", value: text.to_owned(), near: None, expected: A_DURATION.to_owned() };
        report.error(node.at, &problem);
        return None;
    };
    if !(SHORTEST..=LONGEST).contains(&value) {
        let what = format!("{:?} of", node.key);
        let expected = "between \"1s\" and \"14d\"".to_owned();
        report.error(node.at, &Problem::OutOfRange { what, value: text.to_owned(), expected });
        return None;
    }
    Some(value)
}

/// `mss_clamp`: `true`, what fits, `false`, or a number of bytes. What every host takes is 48 at least: RFC 791 has it
/// take 68 bytes of a packet in one piece.
pub(crate) fn mss_clamp(node: Node<'_>, report: &mut Report<'_>) -> Option<Option<MssClamp>> {
    const A_SIZE: &str = "true, or a number of bytes between 48 and 65495";
    if let DeValue::Boolean(clamps) = node.value {
        return Some(clamps.then_some(MssClamp::Path));
    }
    let DeValue::Integer(written) = node.value else { return node.wrong_type(A_SIZE, report) };
    let size = node.as_integer().and_then(|number| u16::try_from(number).ok());
    let size = size.filter(|size| (48..=65495).contains(size));
    if size.is_none() {
        let (what, value) = (format!("{:?} of", node.key), written.as_str().to_owned());
        report.error(node.at, &Problem::OutOfRange { what, value, expected: A_SIZE.to_owned() });
    }
    Some(Some(MssClamp::Bytes(size?)))
}

/// As people write it: `7440s` as `2h4m`.
pub(crate) fn show_duration(duration: Duration) -> String {
    let mut rest = duration.as_secs();
    let mut text = String::new();
    for (unit, seconds) in [("d", 86400), ("h", 3600), ("m", 60), ("s", 1)] {
        if rest >= seconds {
            text.push_str(&format!("{}{unit}", rest / seconds));
            rest %= seconds;
        }
    }
    text
}

/// A whole number in a range.
pub(crate) fn number(
    key: &'static str,
    range: RangeInclusive<u32>,
    node: Node<'_>,
    report: &mut Report<'_>,
) -> Option<u32> {
    let expected = format!("a number between {} and {}", range.start(), range.end());
    let DeValue::Integer(written) = node.value else { return node.wrong_type(&expected, report) };
    let number = node.as_integer().and_then(|number| u32::try_from(number).ok());
    let number = number.filter(|number| range.contains(number));
    if number.is_none() {
        let what = format!("{key:?} of");
        report.error(node.at, &Problem::OutOfRange { what, value: written.as_str().to_owned(), expected });
    }
    number
}

/// New connections in a time.
pub(crate) fn rate(node: Node<'_>, report: &mut Report<'_>) -> Option<RateLimit> {
    let text = node.string_expecting(A_RATE, report)?;
    let rate = parse_rate(text);
    if rate.is_none() {
        let problem =
            Problem::BadValue { what: "rate", value: text.to_owned(), near: None, expected: A_RATE.to_owned() };
        report.error(node.at, &problem);
    }
    rate
}

/// Numbers with units, one after the other: `300s`, `2h4m`.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = 0_u64;
    while !rest.is_empty() {
        let (number, after) = leading(rest, |c| c.is_ascii_digit())?;
        let (unit, after) = leading(after, |c| c.is_ascii_alphabetic())?;
        let seconds = number.parse::<u64>().ok()?.checked_mul(unit_seconds(unit)?)?;
        total = total.checked_add(seconds)?;
        rest = after.trim_start();
    }
    (!text.trim().is_empty()).then(|| Duration::from_secs(total))
}

fn parse_rate(text: &str) -> Option<RateLimit> {
    let (count, unit) = text.split_once('/')?;
    let count = count.trim();
    if !count.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count = count.parse().ok().filter(|count| *count > 0)?;
    Some(RateLimit { count, per: Duration::from_secs(unit_seconds(unit.trim())?) })
}

fn unit_seconds(unit: &str) -> Option<u64> {
    match unit {
        "s" | "sec" | "second" => Some(1),
        "m" | "min" | "minute" => Some(60),
        "h" | "hour" => Some(3600),
        "d" | "day" => Some(86400),
        _ => None,
    }
}

/// The non-empty beginning of such characters, and the rest.
fn leading(text: &str, of: impl Fn(char) -> bool) -> Option<(&str, &str)> {
    let end = text.find(|c| !of(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in
            [("300s", 300), ("5m", 300), ("2h", 7200), ("2h4m", 7440), ("1d", 86400), ("2h 4min", 7440)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", " ", "300", "s", "5 m", "-5s", "1.5h", "5x", "99999999999999999999s", "9999999999999999999d"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        assert_eq!(show_duration(Duration::from_secs(7440)), "2h4m");
    }

    #[test]
    fn rates() {
        let per = |count, seconds| Some(RateLimit { count, per: Duration::from_secs(seconds) });
        assert_eq!(parse_rate("100/s"), per(100, 1));
        assert_eq!(parse_rate("20 / min"), per(20, 60));
        assert_eq!(parse_rate("500/h"), per(500, 3600));
        for text in ["", "100", "/s", "0/s", "-1/s", "+1/s", "1/", "1/week", "99999999999/s"] {
            assert_eq!(parse_rate(text), None, "{text}");
        }
    }
}
