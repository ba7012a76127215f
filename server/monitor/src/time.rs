//! Points in time and spans as the monitoring documents spell them.
//!
//! Owns [`Timestamp`] (RFC 3339 with the shortest fraction, in UTC), the uptime form `1d2h3m4s` and Go's duration
//! form `1.5ms`. Never reads a clock: whoever fills a snapshot says what time it is.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time: nanoseconds since the Unix epoch, UTC. Covers the years 1677 to 2262.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// A timestamp from nanoseconds since the Unix epoch.
    pub const fn from_unix_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the Unix epoch.
    pub const fn unix_nanos(self) -> i64 {
        self.0
    }

    /// The span from `earlier` to `self`; zero when the clock went backwards.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl From<SystemTime> for Timestamp {
    /// Saturates outside the years that a [`Timestamp`] can express.
    fn from(time: SystemTime) -> Self {
        Self(match time.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
        })
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_nanosecond(i128::from(self.0)) {
            Ok(timestamp) => timestamp.fmt(formatter),
            // Unreachable: jiff covers more years than 64 bits of nanoseconds.
            Err(_) => formatter.write_str("0001-01-01T00:00:00Z"),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    /// Takes RFC 3339 with any offset. Go's zero time, which lies before 1677, becomes the earliest timestamp.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let time: jiff::Timestamp = text.parse().map_err(D::Error::custom)?;
        Ok(Self(i64::try_from(time.as_nanosecond()).unwrap_or(if time.as_second() < 0 {
            i64::MIN
        } else {
            i64::MAX
        })))
    }
}

/// The form of `uptime` and `idle`: whole seconds, days and years split off, units that are zero at the front left
/// out (`myUptime` in monitor.go).
pub fn uptime(span: Duration) -> String {
    let seconds = span.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let years = days / 365;
    if years > 0 {
        format!("{years}y{}d{}h{}m{}s", days % 365, hours % 24, minutes % 60, seconds % 60)
    } else if days > 0 {
        format!("{days}d{}h{}m{}s", hours % 24, minutes % 60, seconds % 60)
    } else if hours > 0 {
        format!("{hours}h{}m{}s", minutes % 60, seconds % 60)
    } else if minutes > 0 {
        format!("{minutes}m{}s", seconds % 60)
    } else {
        format!("{seconds}s")
    }
}

/// Go's `time.Duration.String`: `0s`, `850ns`, `12.5µs`, `1.25ms`, `1m2.5s`, `3h0m0s`.
pub fn go_duration(span: Duration) -> String {
    let nanos = span.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < 1_000 {
        return format!("{nanos}ns");
    }
    if nanos < 1_000_000 {
        return format!("{}µs", fraction(nanos, 1_000));
    }
    if nanos < 1_000_000_000 {
        return format!("{}ms", fraction(nanos, 1_000_000));
    }
    let minutes = span.as_secs() / 60;
    let seconds = fraction(nanos - u128::from(minutes) * 60_000_000_000, 1_000_000_000);
    if minutes == 0 {
        format!("{seconds}s")
    } else if minutes < 60 {
        format!("{minutes}m{seconds}s")
    } else {
        format!("{}h{}m{seconds}s", minutes / 60, minutes % 60)
    }
}

/// `value / unit` as a decimal without trailing zeros; `unit` is a power of ten.
fn fraction(value: u128, unit: u128) -> String {
    let (whole, rest) = (value / unit, value % unit);
    if rest == 0 {
        return whole.to_string();
    }
    let digits = usize::try_from(unit.ilog10()).unwrap_or(0);
    let rest = format!("{rest:0digits$}");
    format!("{whole}.{}", rest.trim_end_matches('0'))
}

/// The round trip time as `rtt` shows it: nanoseconds dropped between a microsecond and a millisecond.
pub(crate) fn round_trip(rtt: Duration) -> String {
    let shown = if rtt > Duration::from_micros(1) && rtt < Duration::from_millis(1) {
        Duration::from_micros(u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX))
    } else {
        rtt
    };
    go_duration(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_rfc_3339_with_the_shortest_fraction() {
        let at = |nanos| Timestamp::from_unix_nanos(nanos).to_string();
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(1_795_256_733_956_633_234), "2026-11-21T10:25:33.956633234Z");
        assert_eq!(at(1_795_256_734_205_556_000), "2026-11-21T10:25:34.205556Z");
        assert_eq!(at(1_795_256_734_000_000_000), "2026-11-21T10:25:34Z");
    }

    #[test]
    fn timestamps_of_other_servers_are_read_with_any_offset() {
        let read = |text: &str| serde_json::from_str::<Timestamp>(text).map(Timestamp::unix_nanos);
        assert_eq!(read(r#""2026-11-21T12:25:34.205556+02:00""#).unwrap(), 1_795_256_734_205_556_000);
        assert_eq!(read(r#""0001-01-01T00:00:00Z""#).unwrap(), i64::MIN);
        assert!(read(r#""yesterday""#).is_err());
    }

    #[test]
    fn a_clock_that_went_backwards_gives_no_span() {
        let (early, late) = (Timestamp::from_unix_nanos(5), Timestamp::from_unix_nanos(9));
        assert_eq!(late.since(early), Duration::from_nanos(4));
        assert_eq!(early.since(late), Duration::ZERO);
    }

    #[test]
    fn system_time_becomes_a_timestamp_on_both_sides_of_the_epoch() {
        assert_eq!(Timestamp::from(UNIX_EPOCH + Duration::from_nanos(7)).unix_nanos(), 7);
        assert_eq!(Timestamp::from(UNIX_EPOCH - Duration::from_nanos(7)).unix_nanos(), -7);
    }

    #[test]
    fn uptime_drops_leading_units_only() {
        let of = |seconds| uptime(Duration::from_secs(seconds));
        assert_eq!(of(0), "0s");
        assert_eq!(of(61), "1m1s");
        assert_eq!(of(3_600), "1h0m0s");
        assert_eq!(of(90_061), "1d1h1m1s");
        assert_eq!(of(366 * 86_400 + 1), "1y1d0h0m1s");
    }

    #[test]
    fn go_durations() {
        for (nanos, text) in [
            (0, "0s"),
            (850, "850ns"),
            (12_500, "12.5µs"),
            (1_250_000, "1.25ms"),
            (2_000_000_000, "2s"),
            (62_500_000_000, "1m2.5s"),
            (10_800_000_000_000, "3h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_nanos(nanos)), text);
        }
    }

    #[test]
    fn round_trips_below_a_millisecond_show_whole_microseconds() {
        assert_eq!(round_trip(Duration::from_nanos(123_456)), "123µs");
        assert_eq!(round_trip(Duration::from_nanos(1_234_567)), "1.234567ms");
        assert_eq!(round_trip(Duration::from_nanos(900)), "900ns");
    }
}
