//! Times, durations, ids and text of guests, as people read and write them.
//!
//! Text of a guest or a peer passes through [`line()`] or [`block()`] before a person sees it, so that a name
//! cannot move the cursor, clear the screen or reverse the line.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY_MS: u64 = 86_400_000;

/// How many digits of an id a table shows: enough to name it in a command.
pub(crate) const SHORT_DIGITS: usize = 12;

/// The hexadecimal digits of an id; `-` for none.
pub(crate) fn id(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        "-".to_owned()
    } else {
        hex::encode(bytes)
    }
}

/// An id as JSON: its digits, or null for none.
pub(crate) fn id_json(bytes: &[u8]) -> serde_json::Value {
    if bytes.is_empty() {
        serde_json::Value::Null
    } else {
        hex::encode(bytes).into()
    }
}

/// The first digits of an id, for tables; `-` for none.
pub(crate) fn short(bytes: &[u8]) -> String {
    let mut digits = id(bytes);
    digits.truncate(SHORT_DIGITS);
    digits
}

/// Makes text safe for a terminal and keeps it on one line: control characters, line ends among them, and
/// characters that change the direction of writing are escaped.
pub(crate) fn line(text: &str) -> String {
    escape(text, |_| false)
}

/// Makes text of several lines safe for a terminal, like [`line()`], but keeps its line ends.
pub(crate) fn block(text: &str) -> String {
    escape(text, |c| c == '\n')
}

fn escape(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            _ if !is_unsafe(c) || keep(c) => safe.push(c),
            '\n' => safe.push_str("\\n"),
            '\r' => safe.push_str("\\r"),
            '\t' => safe.push_str("\\t"),
            _ => safe.extend(c.escape_unicode()),
        }
    }
    safe
}

/// Whether a terminal may do something else with this character than draw it.
pub(crate) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}')
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Cuts text to at most `chars_max` characters. The last of them is an ellipsis if text was cut off.
pub(crate) fn shorten(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        None => text.to_owned(),
        Some(_) => text
            .chars()
            .take(chars_max.saturating_sub(1))
            .chain(['…'])
            .collect(),
    }
}

/// A time, given in milliseconds since 1970, in UTC as RFC 3339 with milliseconds; `-` for 0, which is no time.
pub(crate) fn time(ms: u64) -> String {
    if ms == 0 {
        return "-".to_owned();
    }
    match UNIX_EPOCH.checked_add(Duration::from_millis(ms)) {
        // RFC 3339 has no years after 9999.
        Some(at) if ms < 253_402_300_800_000 => humantime::format_rfc3339_millis(at).to_string(),
        _ => format!("{ms} ms"),
    }
}

/// How long ago a time was, in its one or two largest units; `never` for 0, which is no time.
pub(crate) fn ago(ms: u64, now_ms: u64) -> String {
    if ms == 0 {
        return "never".to_owned();
    }
    let seconds = now_ms.saturating_sub(ms) / 1000;
    if seconds == 0 {
        return "now".to_owned();
    }
    format!("{} ago", duration(seconds))
}

/// A duration of so many seconds, in its one or two largest units.
pub(crate) fn duration(seconds: u64) -> String {
    let formatted = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    let mut units = formatted.split(' ');
    match (units.next(), units.next()) {
        (Some(first), Some(second)) => format!("{first} {second}"),
        _ => formatted,
    }
}

/// A number of bytes with a binary unit.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut scaled = bytes as f64;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{scaled:.1} {}", UNITS[unit])
    }
}

/// A number with its noun in the singular or plural.
pub(crate) fn count(number: u64, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ if noun.ends_with('y') => format!("{number} {}ies", &noun[..noun.len() - 1]),
        _ => format!("{number} {noun}s"),
    }
}

/// The wall clock, in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Reads a duration such as `90s`, `24h` or `7days`. Returns milliseconds.
pub(crate) fn parse_duration_ms(text: &str) -> Result<u64, String> {
    let read = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write it like 90s, 24h or 7days"))?;
    u64::try_from(read.as_millis()).map_err(|_| {
        let days_max = u64::MAX / DAY_MS;
        format!("{text} is more than {days_max} days; write a shorter one")
    })
}

fn has_year_before_1970(text: &str) -> bool {
    let year = text.get(..4).and_then(|year| year.parse::<u16>().ok());
    year.is_some_and(|year| year < 1970)
}

fn before_1970(text: &str) -> String {
    format!("{text} is before 1970; write a later time")
}

/// Reads a point in time: RFC 3339 (`2026-05-01T12:00:00Z`), a date, a date with a time in UTC, or how long ago it
/// was (`90min`). Returns milliseconds since 1970.
pub(crate) fn parse_time_ms(text: &str) -> Result<u64, String> {
    let midnight = format!("{text}T00:00:00Z");
    let at = humantime::parse_rfc3339_weak(text).or_else(|_| humantime::parse_rfc3339(&midnight));
    let at = match (at, humantime::parse_duration(text)) {
        (Ok(at), _) => at,
        (Err(_), Ok(ago)) => SystemTime::now()
            .checked_sub(ago)
            .ok_or_else(|| before_1970(text))?,
        (Err(humantime::TimestampError::OutOfRange), Err(_)) if has_year_before_1970(text) => {
            return Err(before_1970(text));
        }
        (Err(_), Err(_)) => {
            return Err(
                "write a time like 2026-05-01T12:00:00Z, a date like 2026-05-01, \
                        or how long ago, like 90min"
                    .to_owned(),
            );
        }
    };
    let since = at
        .duration_since(UNIX_EPOCH)
        .map_err(|_| before_1970(text))?;
    u64::try_from(since.as_millis())
        .map_err(|_| format!("{text} is after the year 9999; write an earlier one"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_text_cannot_reach_the_terminal() {
        assert_eq!(
            line("a\x1b[2Jb\nc\u{9b}\u{202e}d"),
            r"a\u{1b}[2Jb\nc\u{9b}\u{202e}d"
        );
        assert_eq!(block("a\nb\x07"), "a\nb\\u{7}");
        assert_eq!(line("größer 😀"), "größer 😀");
    }

    #[test]
    fn times_are_read_in_every_documented_form() {
        let noon = 1_777_636_800_000;
        assert_eq!(parse_time_ms("2026-05-01T12:00:00Z"), Ok(noon));
        assert_eq!(parse_time_ms("2026-05-01 12:00:00"), Ok(noon));
        assert_eq!(parse_time_ms("2026-05-01"), Ok(noon - 12 * 3_600_000));
        let hour_ago = parse_time_ms("1h").expect("a duration is a time");
        assert!(now_ms() - hour_ago - 3_600_000 < 10_000);
        assert!(parse_time_ms("yesterday").is_err());
        for early in ["1960-01-01", "100years"] {
            let said = parse_time_ms(early).expect_err("it is before 1970");
            assert!(said.contains(early) && said.contains("1970"), "{said}");
        }
    }

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(time(1_777_636_800_123), "2026-05-01T12:00:00.123Z");
        assert_eq!(time(0), "-");
        assert_eq!(time(u64::MAX), format!("{} ms", u64::MAX));
        assert_eq!(ago(0, 5), "never");
        assert_eq!(ago(1_000, 3_725_000), "1h 2m ago");
    }

    #[test]
    fn durations_name_what_is_expected() {
        assert_eq!(parse_duration_ms("24h"), Ok(86_400_000));
        assert!(parse_duration_ms("soon").is_err_and(|e| e.contains("24h")));
        let longest = format!("{}days", u64::MAX / DAY_MS);
        parse_duration_ms(&longest).expect("it is not too long");
        let longer = format!("{}days", u64::MAX / DAY_MS + 1);
        let said = parse_duration_ms(&longer).expect_err("it is too long");
        assert!(
            said.contains(&longer) && said.contains("213503982334 days"),
            "{said}"
        );
    }

    #[test]
    fn sizes_and_counts_read_well() {
        assert_eq!(size(512), "512 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(32 << 20), "32.0 MiB");
        assert_eq!(count(1, "entry"), "1 entry");
        assert_eq!(count(2, "entry"), "2 entries");
        assert_eq!(count(0, "store"), "0 stores");
        assert_eq!(shorten("abcdef", 4), "abc…");
        assert_eq!(shorten("abcd", 4), "abcd");
    }
}
