//! What the checker flags, and what it must not.

use super::event::Event;
use super::*;

/// A run in lines whose times are milliseconds.
fn run(lines: &str) -> Report {
    let events = lines.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| {
        let mut event = Event::parse(line).unwrap_or_else(|| panic!("{line}"));
        event.time *= 1000;
        event
    });
    check(events.collect(), &Rules::default())
}

fn kinds(report: &Report) -> Vec<Kind> {
    report.violations().map(|finding| finding.kind).collect()
}

/// A publisher, a subscriber and a worker, connected from 0 on; the run lasts 60 s.
const PEACE: &str = "
    0 connected p s0
    0 connected a s1
    0 connected b s2
    1 subscribed a fan.>
    2 subscribed a work.> workers
    2 subscribed b work.> workers
    60000 closed p
    60000 closed a
    60000 closed b";

#[test]
fn messages_that_come_once_and_in_order_are_no_finding() {
    let report = run(&format!(
        "{PEACE}
        20000 published p fan.p 0
        20001 published p fan.p 1
        20002 published p work.p 0
        20005 received a fan.> fan.p p 0
        20005 received a fan.> fan.p p 1
        20006 received b work.> work.p p 0"
    ));
    assert_eq!(report.findings, []);
    assert_eq!((report.received, report.published.len()), (3, 3));
}

#[test]
fn a_message_that_never_comes_is_lost_when_both_connections_held() {
    let report = run(&format!("{PEACE}\n20000 published p fan.p 0"));
    assert_eq!(kinds(&report), [Kind::Lost]);
}

#[test]
fn a_message_may_be_lost_when_either_connection_is_lost_soon_after() {
    for client in ["p", "a"] {
        let report = run(&format!(
            "{PEACE}
            20000 published p fan.p 0
            25000 disconnected {client}
            25500 connected {client} s2"
        ));
        assert_eq!(kinds(&report), [], "{client}");
        assert_eq!(report.tally(0, 60_000_000).lost_allowed, 1);
    }
}

#[test]
fn a_connection_lost_long_before_or_after_excuses_nothing() {
    for at in [10000, 31000] {
        let report = run(&format!(
            "{PEACE}
            20000 published p fan.p 0
            {at} disconnected a
            {} connected a s2",
            at + 100
        ));
        assert_eq!(kinds(&report), [Kind::Lost], "{at}");
    }
}

#[test]
fn interest_may_travel_a_moment_after_a_connection_is_made() {
    let report = run(&format!("{PEACE}\n1500 published p fan.p 0"));
    assert_eq!(kinds(&report), []);
    let report = run(&format!("{PEACE}\n2500 published p fan.p 0"));
    assert_eq!(kinds(&report), [Kind::Lost]);
}

#[test]
fn a_duplicate_is_never_allowed() {
    let report = run(&format!(
        "{PEACE}
        20000 published p fan.p 0
        20005 received a fan.> fan.p p 0
        20006 received a fan.> fan.p p 0
        20007 disconnected p
        20008 connected p s1"
    ));
    assert_eq!(kinds(&report), [Kind::Duplicated]);
}

#[test]
fn two_members_of_a_queue_group_must_not_get_the_same_message() {
    let report = run(&format!(
        "{PEACE}
        20000 published p work.p 0
        20005 received a work.> work.p p 0
        20006 received b work.> work.p p 0"
    ));
    assert_eq!(kinds(&report), [Kind::Duplicated]);
}

#[test]
fn a_message_that_no_member_gets_is_lost_unless_one_lost_its_connection() {
    let report = run(&format!("{PEACE}\n20000 published p work.p 0"));
    assert_eq!(kinds(&report), [Kind::Lost]);
    let report =
        run(&format!("{PEACE}\n20000 published p work.p 0\n20100 disconnected b\n20200 connected b s1"));
    assert_eq!(kinds(&report), []);
}

const SWAPPED: &str = "
    20000 published p fan.p 0
    20001 published p fan.p 1
    20005 received a fan.> fan.p p 1
    20006 received a fan.> fan.p p 0";

#[test]
fn another_order_is_flagged_unless_the_publisher_moved() {
    assert_eq!(kinds(&run(&format!("{PEACE}{SWAPPED}"))), [Kind::Reordered]);
    let moved = run(&format!("{PEACE}{SWAPPED}\n20000 disconnected p\n20001 connected p s2"));
    assert_eq!(kinds(&moved), []);
    assert_eq!(moved.tally(0, 60_000_000).reordered_allowed, 1);
}

#[test]
fn a_message_that_nobody_published_is_flagged() {
    let report = run(&format!(
        "{PEACE}
        20000 published p fan.p 0
        20001 received a fan.> fan.p p 0
        20002 received a fan.> fan.p p 7
        20003 received a fan.> fan.q q 0"
    ));
    assert_eq!(kinds(&report), [Kind::Unknown, Kind::Unknown]);
}

#[test]
fn what_a_cut_network_keeps_apart_may_be_lost_and_nothing_else() {
    let cut = "
        19000 cut s1,x
        30000 healed
        20000 published p fan.p 0";
    assert_eq!(kinds(&run(&format!("{PEACE}{cut}"))), []);
    // The cut is elsewhere: publisher and subscriber are on the same side.
    assert_eq!(kinds(&run(&format!("{PEACE}{}", cut.replace("s1", "s2")))), [Kind::Lost]);
    // Routes had time to come back.
    assert_eq!(kinds(&run(&format!("{PEACE}{cut}\n40001 published p fan.p 1"))), [Kind::Lost]);
}

#[test]
fn a_request_is_answered_once() {
    let serves = "\n1 serves b serve.echo";
    let ask = "\n20000 requested p serve.echo 0";
    assert_eq!(kinds(&run(&format!("{PEACE}{serves}{ask}\n20001 answered p 0"))), []);
    assert_eq!(kinds(&run(&format!("{PEACE}{serves}{ask}\n25000 unanswered p 0"))), [Kind::Unanswered]);
    assert_eq!(kinds(&run(&format!("{PEACE}{serves}{ask}"))), [Kind::Unanswered], "it hangs");
    assert_eq!(kinds(&run(&format!("{PEACE}{serves}{ask}\n20001 refused p 0"))), [Kind::Refused]);
    let twice = run(&format!("{PEACE}{serves}{ask}\n20001 answered p 0\n20002 answered p 0"));
    assert_eq!(kinds(&twice), [Kind::Duplicated]);
}

#[test]
fn a_request_may_fail_when_a_responder_lost_its_connection() {
    let lost = "
        1 serves b serve.echo
        20000 requested p serve.echo 0
        20500 disconnected b
        21000 connected b s0";
    assert_eq!(kinds(&run(&format!("{PEACE}{lost}\n25000 unanswered p 0"))), []);
    // But not be refused while another responder is there.
    let other = "\n1 serves a serve.echo";
    assert_eq!(kinds(&run(&format!("{PEACE}{lost}{other}\n25000 refused p 0"))), [Kind::Refused]);
}

#[test]
fn a_client_has_another_connection_within_ten_seconds() {
    let slow = "\n20000 disconnected a\n30500 connected a s0";
    assert_eq!(kinds(&run(&format!("{PEACE}{slow}"))), [Kind::SlowReconnect]);
    let quick = "\n20000 disconnected a\n29500 connected a s0";
    let report = run(&format!("{PEACE}{quick}"));
    assert_eq!(kinds(&report), []);
    assert_eq!(report.tally(0, 60_000_000).reconnect_worst, 9_500_000);
    let never = PEACE.replace("60000 closed a", "60000 published a other 0");
    assert_eq!(kinds(&run(&format!("{never}\n20000 disconnected a"))), [Kind::SlowReconnect]);
    assert_eq!(kinds(&run(&format!("{PEACE}{slow}\n19000 cut a\n31000 healed"))), [], "behind a cut");
}

#[test]
fn a_list_of_servers_is_true_ten_seconds_after_a_change() {
    let start = "
        0 connected w s0
        1 truth s0,s1
        2 servers w s0,s1
        60000 closed w
        20000 truth s0,s1,s2";
    let seen = format!("{start}\n50000 truth s0,s1,s2");
    assert_eq!(kinds(&run(&format!("{seen}\n29000 servers w s0,s1,s2"))), []);
    assert_eq!(kinds(&run(&format!("{seen}\n31000 servers w s0,s1,s2"))), [Kind::WrongList]);
    assert_eq!(kinds(&run(&seen)), [Kind::WrongList]);
    // Before it was due nobody looked any more, or knew.
    assert_eq!(kinds(&run(start)), []);
    assert_eq!(kinds(&run(&format!("{start}\n25000 truth ?"))), []);
    // It was right, and became wrong, before and after the last look.
    let worse = "\n21000 servers w s0,s1,s2\n40000 servers w s0";
    assert_eq!(kinds(&run(&format!("{seen}{worse}"))), [Kind::WrongList]);
    assert_eq!(kinds(&run(&format!("{start}{worse}\n39000 truth s0,s1,s2"))), []);
}

#[test]
fn a_client_that_was_killed_excuses_what_it_could_not_get() {
    let killed = PEACE.replace("60000 closed a", "19000 received a fan.> fan.p p 0");
    let report = run(&format!("{killed}\n18000 published p fan.p 0\n20000 published p fan.p 1"));
    assert_eq!(kinds(&report), []);
}

#[test]
fn nothing_is_owed_to_a_client_that_was_killed() {
    let killed = PEACE.replace("60000 closed a", "30000 received a fan.> fan.p p 0");
    let lost = |at: u32| run(&format!("{killed}\n29999 published p fan.p 0\n{at} published p fan.p 1"));
    assert_eq!(lost(31000).tally(0, 60_000_000).lost_allowed, 1, "it was not known yet");
    assert_eq!(lost(41000).findings, []);
}

#[test]
fn the_worst_gap_is_the_longest_silence_that_overlaps_a_stretch() {
    let report = run(&format!(
        "{PEACE}
        20000 published p fan.p 0
        20010 published p fan.p 1
        20020 published p fan.p 2
        20001 received a fan.> fan.p p 0
        20301 received a fan.> fan.p p 1
        20302 received a fan.> fan.p p 2"
    ));
    assert_eq!(report.worst_gap(20_100_000, 20_200_000, |_| true), 300_000);
    assert_eq!(report.worst_gap(20_100_000, 20_200_000, |client| client != "a"), 0);
    assert_eq!(report.worst_gap(30_000_000, 31_000_000, |_| true), 0);
}

#[test]
fn numbers_are_counted_by_the_time_of_publishing() {
    let report = run(&format!("{PEACE}\n20000 published p fan.p 0\n30000 published p fan.p 1"));
    assert_eq!(report.tally(0, 25_000_000).lost, 1);
    assert_eq!(report.tally(25_000_000, 60_000_000).lost, 1);
    assert_eq!(report.tally(0, 25_000_000).published, 1);
    assert_eq!(report.tally(0, 60_000_000).violations(), 2);
}

/// The member `b` lost its server s2 to a cut and is elsewhere since.
const MOVED: &str = "
    20000 cut s2
    26000 disconnected b
    27000 connected b s1
    45000 healed";

#[test]
fn a_message_may_go_to_a_queue_member_that_was_behind_a_cut_as_long_as_it_lasts() {
    let lost = |at: u32| run(&format!("{PEACE}{MOVED}\n{at} published p work.p 0"));
    assert_eq!(kinds(&lost(40000)), [], "s0 cannot know that b has left s2");
    assert_eq!(kinds(&lost(54000)), [], "s2 tells it soon after");
    assert_eq!(kinds(&lost(56000)), [Kind::Lost]);
    let plain = run(&format!("{PEACE}{MOVED}\n40000 published p fan.p 0"));
    assert_eq!(kinds(&plain), [Kind::Lost], "a plain subscriber's way leads where it is");
}

#[test]
fn a_message_that_a_queue_member_could_not_take_may_come_late_to_another() {
    let order = "
        {} published p work.p 0
        {} published p work.p 1
        {} received a work.> work.p p 1
        {} received a work.> work.p p 0";
    let at = |time: u32| order.replace("{}", &time.to_string());
    let left = "30000 disconnected b\n30500 connected b s0";
    assert_eq!(kinds(&run(&format!("{PEACE}\n{left}{}", at(29999)))), []);
    assert_eq!(kinds(&run(&format!("{PEACE}\n{left}{}", at(10000)))), [Kind::Reordered]);
}
