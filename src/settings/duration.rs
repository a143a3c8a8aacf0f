//! Durations as text.

use std::time::Duration;

/// What a duration is, for errors.
pub(crate) const EXPECTED: &str = "a duration such as 30s or 100ms";

/// Parses `30s`, `100ms`, `1m 30s` and the like, and also `1.5s`, which humantime rejects.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    if text.contains('.') { fraction(text) } else { humantime::parse_duration(text).ok() }
}

/// Parses one number with a fraction, and one unit.
fn fraction(text: &str) -> Option<Duration> {
    let (whole, rest) = text.split_once('.')?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (part, unit) = rest.split_at(digits);
    // Nine digits are nanoseconds of a second; more are a mistake.
    let unit = unit.trim_start();
    if !unit.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return None;
    }
    if whole.is_empty() || !whole.bytes().all(|byte| byte.is_ascii_digit()) || !(1..=9).contains(&digits) {
        return None;
    }
    // humantime has the names of the units: parse one of the unit, in nanoseconds.
    let unit = humantime::parse_duration(&format!("1{unit}")).ok()?.as_nanos();
    let whole = whole.parse::<u64>().ok()?;
    let part = part.parse::<u128>().ok()? * unit / 10_u128.pow(digits as u32);
    let nanos = u128::from(whole).checked_mul(unit)?.checked_add(part)?;
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_with_and_without_fractions() {
        for (text, nanos) in [
            ("30s", 30_000_000_000),
            ("100ms", 100_000_000),
            ("1m 30s", 90_000_000_000),
            ("1.5s", 1_500_000_000),
            ("0.25ms", 250_000),
            ("1.50min", 90_000_000_000),
            ("0.5 h", 1_800_000_000_000),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
        for text in [
            "",
            "30",
            "1.5",
            "s",
            ".5s",
            "1.s",
            "-1s",
            "+1s",
            "1.5s 3s",
            "1.5.5s",
            "1,5s",
            "1e3s",
            "1.0000000001s",
            "99999999999999999999s",
            "99999999999999999999.5s",
            "18446744073709551615.5y",
            "30 lightyears",
            "1.5s2m",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
