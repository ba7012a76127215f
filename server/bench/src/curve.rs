//! Owns the cost curves: one quantity grows, everything else stays, and a cliff would show.

use std::fmt::Write as _;

use crate::Error;
use crate::block::Block;
use crate::report::count;
use crate::scenario::{Bench, crowded, pairs};
use crate::traffic::{Delivery, Party, Traffic};

/// What grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// Active connections, each publishing to itself.
    Connections,
    /// Subjects that one publisher cycles over.
    Subjects,
    /// Subscriptions, of which up to 100,000 are published to.
    Subscriptions,
    /// Bytes of payload.
    Payload,
}

impl Quantity {
    /// Its name on axes and in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Subjects => "subjects",
            Self::Subscriptions => "subscriptions",
            Self::Payload => "payload",
        }
    }

    /// The values measured; `largest` cuts them short.
    #[must_use]
    pub fn values(self, largest: usize) -> Vec<usize> {
        let last = match self {
            // Client and server need a file each, and a process may have 20,000 here.
            Self::Connections => 10_000,
            Self::Subjects => 10_000_000,
            Self::Subscriptions | Self::Payload => 1_000_000,
        };
        let mut values = Vec::new();
        let mut power = 1;
        while power <= last {
            values.push(power);
            if self == Self::Payload && power < last {
                values.push(power * 4);
            }
            power *= 10;
        }
        values.retain(|value| *value <= largest);
        values
    }

    fn traffic(self, value: usize) -> Traffic {
        match self {
            Self::Connections => echoes(value),
            Self::Subjects => subjects(value),
            Self::Subscriptions => crowded(value, value.clamp(1, 10), 100_000.min(value)),
            Self::Payload => pairs(1, value),
        }
    }
}

/// One point of one server.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Point {
    /// The quantity.
    pub value: usize,
    /// Messages per second.
    pub rate: f64,
    /// Server processor time per message, nanoseconds; 0 when it cannot be seen.
    pub cpu_nanoseconds: f64,
    /// Highest resident memory, bytes.
    pub resident_peak_bytes: u64,
    /// Why there is no rate.
    pub failure: Option<String>,
}

/// Measures one point.
///
/// # Errors
/// When the load fails or loses messages.
pub fn measure(bench: &Bench<'_>, quantity: Quantity, value: usize) -> Result<Point, Error> {
    let servers = bench.server()?;
    let flow = servers.stream(&quantity.traffic(value), bench.timing)?;
    Ok(Point {
        value,
        rate: flow.spent.rate(),
        cpu_nanoseconds: if servers.inspected() { flow.spent.cpu_nanoseconds() } else { 0.0 },
        resident_peak_bytes: flow.spent.usage.resident_peak_bytes,
        failure: None,
    })
}

/// A line of the table printed while measuring.
#[must_use]
pub fn line(server: &str, quantity: Quantity, point: &Point) -> String {
    let name = quantity.name();
    match &point.failure {
        Some(why) => format!("{name} {:>9} {server:<12} FAILED: {why}", point.value),
        None => format!(
            "{name} {:>9} {server:<12} {:>8} msg/s {:>8.0} ns CPU {:>8.1} MB",
            point.value,
            count(point.rate),
            point.cpu_nanoseconds,
            point.resident_peak_bytes as f64 / 1_048_576.0
        ),
    }
}

/// Each connection publishes to itself on a subject of its own.
fn echoes(connections: usize) -> Traffic {
    let parties = (0..connections)
        .map(|index| {
            let subject = format!("echo.{index:05}");
            let mut party = Party::subscriber(index, &subject, 1);
            // Small blocks: ten thousand of them are held.
            party.publishes = Some(Block::of(64, |_, out| {
                crate::block::publish(out, &subject, 128);
            }));
            party
        })
        .collect();
    Traffic { parties, spread: true, ..Traffic::default() }
}

/// One publisher over many subjects, one subscriber of all.
fn subjects(count: usize) -> Traffic {
    let block = Block::many_subjects(count, 16, |index, out| {
        let _ = write!(out, "subject.{index:08}");
    });
    Traffic {
        parties: vec![Party::subscriber(0, "subject.*", 1), Party::publisher(0, block)],
        deliveries: vec![Delivery::Each],
        ..Traffic::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_span_what_is_asked_of_them() {
        assert_eq!(Quantity::Connections.values(usize::MAX).last(), Some(&10_000));
        assert_eq!(Quantity::Subjects.values(usize::MAX).last(), Some(&10_000_000));
        assert_eq!(Quantity::Subscriptions.values(1_000), [1, 10, 100, 1_000]);
        let payload = Quantity::Payload.values(usize::MAX);
        assert!(payload.is_sorted() && payload.last() == Some(&1_000_000));
    }
}
