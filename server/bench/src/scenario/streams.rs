//! Owns the throughput scenarios: who publishes what to whom on a plain server.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::{Bench, Goal, Metrics, Scenario, ahead, faster, figures};
use crate::Error;
use crate::block::{Block, payload, publish};
use crate::process::Launch;
use crate::scenario::Target;
use crate::traffic::{Delivery, Party, Traffic};

pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = vec![
        Scenario::new("pub-1-16", "1 publisher, no subscriber, 16 B", "msg", faster(6.0, 0.15), |bench| {
            publish_only(bench, 1, 16)
        }),
        Scenario::new("pub-20-1", "20 publishers, no subscriber, 1 B", "msg", faster(8.0, 0.10), |bench| {
            publish_only(bench, 20, 1)
        }),
    ];
    for (name, title, bytes, goals) in [
        ("p1s1-1", "1 to 1, 1 B", 1, ahead()),
        ("p1s1-16", "1 to 1, 16 B", 16, faster(7.0, 0.12)),
        ("p1s1-128", "1 to 1, 128 B", 128, ahead()),
        ("p1s1-1k", "1 to 1, 1 KB", 1 << 10, faster(1.6, 0.45)),
        ("p1s1-64k", "1 to 1, 64 KB", 64 << 10, faster(1.6, 0.40)),
        ("p1s1-1m", "1 to 1, 1 MB", 1 << 20, ahead()),
    ] {
        all.push(stream(name, title, goals, move || pairs(1, bytes)));
    }
    all.push(stream("pairs-4x4-128", "4 to 4 pairs, 128 B", faster(3.5, 0.20), || pairs(4, 128)));
    all.push(stream("p20s1-128", "20 to 1, 128 B", faster(3.0, 0.25), many_to_one));
    for (name, title, readers, goals) in [
        ("fanout-10", "1 to 10 fan-out, 128 B", 10, faster(3.5, 0.20)),
        ("fanout-100", "1 to 100 fan-out, 128 B", 100, ahead()),
        ("fanout-1000", "1 to 1,000 fan-out, 128 B, distinct sids", 1_000, faster(8.0, 0.10)),
    ] {
        all.push(stream(name, title, goals, move || fan_out(readers, 128)));
    }
    all.push(stream(
        "scatter-1000",
        "1 to 1,000 subscribers of distinct subjects, 128 B",
        faster(3.0, 0.20),
        scatter,
    ));
    all.push(stream("queue-4x8", "4 to a queue of 8, 128 B", faster(4.0, 0.22), queue));
    all.push(stream(
        "cold-4x4-50k",
        "4 to 4 pairs, 50k subjects each, 128 B",
        faster(10.0, 0.12),
        cold_pairs,
    ));
    all.push(stream("hot-cold", "1 hot and 50k cold subjects, 128 B", ahead(), hot_and_cold));
    all.push(stream("inboxes", "unique inboxes under 64 wildcards, 16 B", ahead(), inboxes));
    all.push(stream(
        "inbox-churn",
        "SUB, UNSUB 1 and PUB for each of 4 clients' messages, 16 B",
        ahead(),
        inbox_churn,
    ));
    all.push(stream("headers", "1 to 1 with headers, 128 B", ahead(), || Traffic {
        parties: vec![
            Party::subscriber(0, "bench.h", 1),
            Party::publisher(0, Block::with_header("bench.h", 128)),
        ],
        ..Traffic::default()
    }));
    all
}

fn stream(
    name: &'static str,
    title: &'static str,
    goals: Vec<Goal>,
    traffic: impl Fn() -> Traffic + 'static,
) -> Scenario {
    Scenario::new(name, title, "msg", goals, move |bench| {
        let servers = bench.server()?;
        let flow = servers.stream(&traffic(), bench.timing)?;
        Ok(figures(&servers, &flow.spent))
    })
}

/// Without subscribers nothing comes back but the PONG behind the last message, so the server's own
/// count is asked for where it has a monitoring port.
fn publish_only(bench: &Bench<'_>, publishers: usize, bytes: usize) -> Result<Metrics, Error> {
    let servers = match bench.target {
        Target::Running(_) => bench.server()?,
        Target::Binary(_) => bench.configured(&Launch { monitor: true, ..Launch::default() })?,
    };
    let traffic = Traffic {
        parties: (0..publishers)
            .map(|index| Party::publisher(index, Block::one_subject("bench.p", bytes)))
            .collect(),
        ..Traffic::default()
    };
    let flow = servers.stream(&traffic, bench.timing)?;
    match servers.processes.first().map(|process| {
        let end = Instant::now() + Duration::from_secs(2);
        loop {
            let counted = process.messages_in();
            if counted.is_none() || counted >= Some(flow.published_in_all) || Instant::now() > end {
                return counted;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }) {
        Some(Some(counted)) if counted != flow.published_in_all => {
            return Err(Error::NotDelivered {
                what: "in_msgs of /varz".to_owned(),
                received: counted,
                expected: flow.published_in_all,
            });
        }
        Some(Some(_)) => {}
        Some(None) => bench.note("no in_msgs in /varz: only the last PONG was verified"),
        None => bench.note("only the last PONG was verified"),
    }
    Ok(figures(&servers, &flow.spent))
}

/// `count` publishers, each with a subscriber of its own.
pub(crate) fn pairs(count: usize, bytes: usize) -> Traffic {
    let mut parties = Vec::new();
    for pair in 0..count {
        parties.push(Party::subscriber(pair, &format!("bench.{pair}"), pair + 1));
    }
    for pair in 0..count {
        let block = Block::one_subject(&format!("bench.{pair}"), bytes);
        parties.push(Party::publisher(pair, block));
    }
    Traffic { parties, ..Traffic::default() }
}

fn many_to_one() -> Traffic {
    let mut parties = vec![Party::subscriber(0, "bench.all", 1)];
    for _ in 0..20 {
        parties.push(Party::publisher(0, Block::one_subject("bench.all", 128)));
    }
    Traffic { parties, ..Traffic::default() }
}

/// One publisher, `readers` subscribers, each on a connection of its own with a sid of its own.
pub(crate) fn fan_out(readers: usize, bytes: usize) -> Traffic {
    let mut parties: Vec<Party> =
        (0..readers).map(|index| Party::subscriber(0, "bench.fan", 1_000 + index)).collect();
    parties.push(Party::publisher(0, Block::one_subject("bench.fan", bytes)));
    Traffic { parties, ..Traffic::default() }
}

fn scatter() -> Traffic {
    let mut parties: Vec<Party> =
        (0..1_000).map(|index| Party::subscriber(0, &format!("bench.s.{index:04}"), 1_000 + index)).collect();
    let block = Block::many_subjects(1_000, 128, |index, out| {
        let _ = write!(out, "bench.s.{index:04}");
    });
    parties.push(Party::publisher(0, block));
    Traffic { parties, deliveries: vec![Delivery::Spread], ..Traffic::default() }
}

fn queue() -> Traffic {
    let mut parties: Vec<Party> = (1..=8).map(|sid| Party::subscriber(0, "bench.q workers", sid)).collect();
    for _ in 0..4 {
        parties.push(Party::publisher(0, Block::one_subject("bench.q", 128)));
    }
    Traffic { parties, deliveries: vec![Delivery::One], ..Traffic::default() }
}

fn cold_pairs() -> Traffic {
    let mut parties = Vec::new();
    for pair in 0..4 {
        parties.push(Party::subscriber(pair, &format!("bench.{pair}.*"), pair + 1));
    }
    for pair in 0..4 {
        let block = Block::many_subjects(50_000, 128, |index, out| {
            let _ = write!(out, "bench.{pair}.{index:05}");
        });
        parties.push(Party::publisher(pair, block));
    }
    Traffic { parties, ..Traffic::default() }
}

/// Every other message goes to the hot subject.
fn hot_and_cold() -> Traffic {
    let block = Block::of(100_000, |index, out| {
        let subject = if index % 2 == 0 {
            "hot.00000".to_owned()
        } else {
            format!("cld.{:05}", (index / 2 * 7_919) % 50_000)
        };
        publish(out, &subject, 128);
    });
    Traffic {
        parties: vec![
            Party::subscriber(0, "hot.*", 1),
            Party::subscriber(0, "cld.*", 2),
            Party::publisher(0, block),
        ],
        deliveries: vec![Delivery::Spread],
        ..Traffic::default()
    }
}

/// Replies to clients that have one wildcard inbox each: no subject comes twice in half a million.
fn inboxes() -> Traffic {
    let mut parties: Vec<Party> = (0..64)
        .map(|client| Party::subscriber(0, &format!("_INBOX.Cl13ntN4m3x{client:02}.*"), client + 1))
        .collect();
    let block = Block::many_subjects(500_000, 16, |index, out| {
        let _ = write!(out, "_INBOX.Cl13ntN4m3x{:02}.{index:08}", index % 64);
    });
    parties.push(Party::publisher(0, block));
    Traffic { parties, deliveries: vec![Delivery::Spread], ..Traffic::default() }
}

/// Old-style requests: a subscription for each message, gone after it.
fn inbox_churn() -> Traffic {
    let mut parties = Vec::new();
    for client in 0..4 {
        let block = Block::of(50_000, |index, out| {
            let subject = format!("_INBOX.churn{client}.{index:06}");
            let sid = 100_000 + index;
            out.extend_from_slice(format!("SUB {subject} {sid}\r\nUNSUB {sid} 1\r\n").as_bytes());
            out.extend_from_slice(format!("PUB {subject} 16\r\n").as_bytes());
            payload(out, 16);
        });
        let mut party = Party::subscriber(client, &format!("bench.unused.{client}"), 1);
        party.publishes = Some(block);
        parties.push(party);
    }
    Traffic { parties, ..Traffic::default() }
}
