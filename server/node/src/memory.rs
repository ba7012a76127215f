//! Giving freed memory back to the system once a burst is over.
//!
//! Owns when that happens. Looks at the process from outside, so that nothing on the path of a message has to count:
//! when the memory held has not changed much for a moment, what is free in the heap is given back; when that
//! brought little, the next try waits twice as long.

use broker::Broker;
use std::sync::Arc;
use std::time::Duration;

/// How often the memory held is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// A process that holds less is left alone.
const WORTHWHILE_BYTES: u64 = 8 << 20;
/// Changes up to this part of what is held are none.
const PART: u64 = 8;
/// Looks without a change before the heap is trimmed after one.
const PAUSE_MIN: u32 = 2;
/// At most so many looks lie between two trims, whatever changed.
const PAUSE_MAX: u32 = 60;

/// Whether it is time to trim.
#[derive(Debug, Default)]
struct Pace {
    /// Bytes held when last something changed.
    level: u64,
    /// Looks since then.
    unchanged: u32,
    /// Looks since the last trim.
    untrimmed: u32,
    /// Looks without a change that are waited for.
    pause: u32,
}

impl Pace {
    /// The process holds so many bytes; `true` to trim.
    fn look(&mut self, held: u64) -> bool {
        self.untrimmed += 1;
        self.unchanged += 1;
        if held.abs_diff(self.level) > self.level / PART {
            (self.level, self.unchanged, self.pause) = (held, 0, PAUSE_MIN);
        }
        held >= WORTHWHILE_BYTES && (self.unchanged >= self.pause || self.untrimmed >= PAUSE_MAX)
    }

    /// It was trimmed.
    fn trimmed(&mut self, before: u64, after: u64) {
        let is_worthwhile = before.saturating_sub(after) > before / PART;
        self.pause = if is_worthwhile { PAUSE_MIN } else { (self.pause * 2).min(PAUSE_MAX) };
        (self.level, self.unchanged, self.untrimmed) = (after, 0, 0);
    }
}

/// Looks after the process's memory for as long as its runtime lives.
pub async fn look_after(broker: Arc<Broker>) {
    let mut pace = Pace::default();
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if broker.is_sparse() {
            let broker = broker.clone();
            let _ = tokio::task::spawn_blocking(move || broker.tidy()).await;
        }
        let Some(before) = held_bytes() else { return };
        if !pace.look(before) {
            continue;
        }
        // Locks each arena for a moment: neither the listeners nor a worker should be the one that does it.
        if tokio::task::spawn_blocking(heap::trim).await.is_err() {
            return;
        }
        let after = held_bytes().unwrap_or(before);
        tracing::debug!("gave freed memory back: {before} bytes before, {after} after");
        pace.trimmed(before, after);
    }
}

/// Resident bytes that are not pages of a file; `None` where the system does not tell.
fn held_bytes() -> Option<u64> {
    anonymous_pages(&std::fs::read_to_string("/proc/self/statm").ok()?).map(|pages| pages * page_bytes())
}

fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

fn anonymous_pages(statm: &str) -> Option<u64> {
    let mut fields = statm.split_ascii_whitespace().skip(1);
    let (resident, shared) = (fields.next()?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?);
    Some(resident.saturating_sub(shared))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks in which `pace` trims while `held` tells the bytes held, and a trim leaves `used`.
    fn trims(pace: &mut Pace, looks: u32, mut held: impl FnMut(u32) -> u64, used: u64) -> Vec<u32> {
        let mut trims = Vec::new();
        for look in 0..looks {
            let before = held(look);
            if pace.look(before) {
                trims.push(look);
                pace.trimmed(before, used.min(before));
            }
        }
        trims
    }

    #[test]
    fn a_small_process_is_left_alone() {
        let trims = trims(&mut Pace::default(), 1_000, |_| WORTHWHILE_BYTES - 1, 0);
        assert!(trims.is_empty(), "{trims:?}");
    }

    #[test]
    fn memory_in_use_is_tried_less_and_less_often() {
        let all = trims(&mut Pace::default(), 600, |_| 100 << 20, 100 << 20);
        assert_eq!(all[..4], [2, 6, 14, 30]);
        assert!(all.len() < 15, "{all:?}");
    }

    #[test]
    fn a_burst_is_given_back_within_seconds_of_its_end() {
        let mut pace = Pace::default();
        trims(&mut pace, 600, |_| 100 << 20, 100 << 20);
        // large tables went by themselves, small pieces are left
        let mut held = 60 << 20;
        let after = trims(
            &mut pace,
            10,
            |look| {
                if look == 3 {
                    held = 10 << 20
                }
                held
            },
            10 << 20,
        );
        assert_eq!(after.first(), Some(&2));
    }

    #[test]
    fn memory_that_swings_for_ever_is_trimmed_once_a_minute() {
        let swing = |look: u32| if look.is_multiple_of(2) { 100 << 20 } else { 50 << 20 };
        assert_eq!(trims(&mut Pace::default(), 200, swing, 50 << 20), [59, 119, 179]);
    }

    #[test]
    fn pages_of_files_are_not_counted() {
        assert_eq!(anonymous_pages("5000 1300 1100 900 0 700 0\n"), Some(200));
        assert_eq!(anonymous_pages(""), None);
        #[cfg(target_os = "linux")]
        assert!(held_bytes().is_some_and(|held| held > 0));
    }
}
