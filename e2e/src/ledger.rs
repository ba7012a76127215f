//! What was published and what arrived, compared.
//!
//! Owns the counting only. Numbers are a publisher's own, from 0; a session is one connection of a subscriber.

use std::collections::{BTreeMap, BTreeSet};

/// Numbers that the publisher's server had taken (a PONG came after them) and that never arrived.
#[must_use]
pub fn lost(taken: &BTreeSet<u64>, arrived: &[(usize, u64)]) -> Vec<u64> {
    let arrived: BTreeSet<u64> = arrived.iter().map(|(_, number)| *number).collect();
    taken.difference(&arrived).copied().collect()
}

/// Numbers that came twice over one session.
#[must_use]
pub fn doubled(arrived: &[(usize, u64)]) -> Vec<u64> {
    let mut seen = BTreeSet::new();
    arrived.iter().filter(|pair| !seen.insert(**pair)).map(|(_, number)| *number).collect()
}

/// Numbers that were taken and did not arrive although a session had others from before and from after: what was
/// lost between clients that were both connected. What lies between two sessions is no loss in core NATS.
#[must_use]
pub fn gaps(taken: &BTreeSet<u64>, arrived: &[(usize, u64)]) -> Vec<u64> {
    let mut sessions: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
    for (session, number) in arrived {
        sessions.entry(*session).or_default().insert(*number);
    }
    let mut missing = BTreeSet::new();
    for numbers in sessions.values() {
        if let (Some(first), Some(last)) = (numbers.first(), numbers.last()) {
            missing.extend(taken.range(first..=last).filter(|number| !numbers.contains(number)));
        }
    }
    missing.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_inside_a_session_is_a_gap_and_between_two_it_is_not() {
        let taken: BTreeSet<u64> = (0..10).collect();
        let arrived = [(0, 0), (0, 1), (0, 3), (1, 6), (1, 7), (1, 8), (1, 9)];
        assert_eq!(gaps(&taken, &arrived), [2]);
        assert_eq!(lost(&taken, &arrived), [2, 4, 5]);
    }

    #[test]
    fn a_number_that_no_server_took_is_not_missed() {
        let taken = BTreeSet::from([0, 1, 4]);
        assert!(gaps(&taken, &[(0, 0), (0, 1), (0, 4)]).is_empty());
    }

    #[test]
    fn the_same_number_over_two_sessions_is_no_double() {
        assert_eq!(doubled(&[(0, 5), (1, 5), (1, 6), (1, 6)]), [6]);
    }
}
