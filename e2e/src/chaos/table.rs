//! The result: a line for each fault and broker, as Markdown.

use std::fmt::Write as _;
use std::time::Duration;

use e2e::checker::Tally;

/// One fault's injections into one cluster, added up.
#[derive(Debug, Clone)]
pub struct Row {
    pub fault: String,
    pub broker: String,
    pub times: u32,
    pub gap: Duration,
    pub tally: Tally,
    /// The longest.
    pub recovery: Duration,
    /// How long it may take.
    pub recovery_max: Duration,
}

impl Row {
    /// Adds another injection of the same fault.
    pub fn add(&mut self, other: &Self) {
        self.times += other.times;
        self.gap = self.gap.max(other.gap);
        self.recovery = self.recovery.max(other.recovery);
        let (sum, more) = (&mut self.tally, &other.tally);
        sum.published += more.published;
        sum.lost += more.lost;
        sum.lost_allowed += more.lost_allowed;
        sum.duplicated += more.duplicated;
        sum.reordered += more.reordered;
        sum.reordered_allowed += more.reordered_allowed;
        sum.requests_failed += more.requests_failed;
        sum.requests_allowed += more.requests_allowed;
        sum.lists_wrong += more.lists_wrong;
        sum.reconnects_slow += more.reconnects_slow;
        sum.unknown += more.unknown;
        sum.reconnects += more.reconnects;
        sum.reconnect_worst = sum.reconnect_worst.max(more.reconnect_worst);
    }
}

/// The table. "Lost" and "requests" are what no rule allows, and after `+` what went with a
/// connection or a cut network.
pub fn markdown(rows: &[Row]) -> String {
    let mut text =
        "| fault | broker | times | published | worst gap | lost | duplicated | reordered | requests failed \
                    | reconnects, worst | list wrong | recovery | verdict |\n\
                    |---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|\n"
            .to_owned();
    for Row { fault, broker, times, gap, tally, recovery, recovery_max } in rows {
        let verdict = match tally.violations() {
            0 if recovery > recovery_max => "**too late**".to_owned(),
            0 => "ok".to_owned(),
            count => format!("**{count} violations**"),
        };
        let seconds = |duration: Duration| format!("{:.1} s", duration.as_secs_f64());
        let _ = writeln!(
            text,
            "| {fault} | {broker} | {times} | {} | {} | {} + {} | {} | {} + {} | {} + {} | {}, {} | {} | {} | {verdict} |",
            tally.published,
            seconds(*gap),
            tally.lost,
            tally.lost_allowed,
            tally.duplicated,
            tally.reordered,
            tally.reordered_allowed,
            tally.requests_failed,
            tally.requests_allowed,
            tally.reconnects,
            seconds(Duration::from_micros(tally.reconnect_worst)),
            tally.lists_wrong,
            seconds(*recovery),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_what_no_rule_allows_and_injections_add_up() {
        let mut row = Row {
            fault: "pod-kill".into(),
            broker: "starling".into(),
            times: 1,
            gap: Duration::from_millis(300),
            tally: Tally { published: 10, lost_allowed: 2, ..Tally::default() },
            recovery: Duration::from_secs(2),
            recovery_max: Duration::from_secs(2),
        };
        assert!(
            markdown(std::slice::from_ref(&row))
                .contains("| 0 + 2 | 0 | 0 + 0 | 0 + 0 | 0, 0.0 s | 0 | 2.0 s | ok |")
        );
        row.recovery = Duration::from_secs(3);
        assert!(markdown(std::slice::from_ref(&row)).contains("| 3.0 s | **too late** |"));
        row.recovery = Duration::from_secs(2);
        let mut worse = row.clone();
        worse.tally.lost = 1;
        worse.recovery = Duration::from_secs(3);
        row.add(&worse);
        let table = markdown(&[row]);
        assert!(table.contains("| pod-kill | starling | 2 | 20 | 0.3 s | 1 + 4 |"), "{table}");
        assert!(table.contains("| 3.0 s | **1 violations** |"), "{table}");
    }
}
