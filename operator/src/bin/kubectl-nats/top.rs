//! `top`: what each server does.

use std::time::{Duration, Instant};

use anyhow::Result;
use kube::ResourceExt as _;
use serde_json::Value;

use crate::actions::Cluster;
use crate::view::table;

/// What a server counted.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    messages_in: u64,
    messages_out: u64,
    bytes_in: u64,
    bytes_out: u64,
}

/// Prints a table at every interval.
pub async fn run(cluster: &Cluster, interval: Duration, count: Option<u64>) -> Result<()> {
    let mut before: Vec<(String, Counts, Instant)> = Vec::new();
    let mut printed = 0_u64;
    loop {
        let port = cluster.object().await?.spec.monitoring.port;
        let pods = cluster.pods().await?;
        let asked = pods.iter().map(|pod| async {
            let name = pod.name_any();
            let answer = cluster.monitor(&name, port, "/varz").await;
            (name, answer.ok().and_then(|text| serde_json::from_str::<Value>(&text).ok()), Instant::now())
        });
        let answers = futures::future::join_all(asked).await;
        let mut rows = vec![HEADER.map(str::to_owned).to_vec()];
        let mut now = Vec::new();
        for (name, answer, at) in answers {
            let Some(varz) = answer else {
                rows.push(vec![name, "does not answer".to_owned()]);
                continue;
            };
            let counts = counts(&varz);
            let former = before.iter().find(|(known, ..)| *known == name);
            let rates = former.map(|(_, former, then)| rates(*former, counts, at.duration_since(*then)));
            rows.push(line(&name, &varz, rates));
            now.push((name, counts, at));
        }
        before = now;
        println!("{}", table(&rows));
        printed += 1;
        if count.is_some_and(|count| printed >= count) {
            return Ok(());
        }
        tokio::time::sleep(interval).await;
    }
}

const HEADER: [&str; 10] = [
    "SERVER",
    "CLIENTS",
    "SUBS",
    "MSGS IN/S",
    "MSGS OUT/S",
    "BYTES IN/S",
    "BYTES OUT/S",
    "SLOW",
    "MEMORY",
    "UPTIME",
];

fn counts(varz: &Value) -> Counts {
    let number = |key: &str| varz[key].as_u64().unwrap_or_default();
    Counts {
        messages_in: number("in_msgs"),
        messages_out: number("out_msgs"),
        bytes_in: number("in_bytes"),
        bytes_out: number("out_bytes"),
    }
}

/// Per second; a server that started anew counts from zero again.
fn rates(before: Counts, now: Counts, time: Duration) -> [f64; 4] {
    let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / time.as_secs_f64().max(0.001);
    [
        rate(before.messages_in, now.messages_in),
        rate(before.messages_out, now.messages_out),
        rate(before.bytes_in, now.bytes_in),
        rate(before.bytes_out, now.bytes_out),
    ]
}

fn line(name: &str, varz: &Value, rates: Option<[f64; 4]>) -> Vec<String> {
    let number = |key: &str| varz[key].as_u64().unwrap_or_default();
    // The first look has nothing to compare with.
    let rate = |index: usize| rates.map_or_else(|| "-".to_owned(), |rates| short(rates[index]));
    vec![
        name.to_owned(),
        number("connections").to_string(),
        number("subscriptions").to_string(),
        rate(0),
        rate(1),
        rate(2),
        rate(3),
        number("slow_consumers").to_string(),
        format!("{}B", short(number("mem") as f64)),
        varz["uptime"].as_str().unwrap_or_default().to_owned(),
    ]
}

/// Three digits and a decimal unit.
fn short(value: f64) -> String {
    let units = ["", "k", "M", "G", "T"];
    let mut value = value;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0}") } else { format!("{value:.1}{}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_per_second_and_never_negative() {
        let counts = |messages_in| Counts { messages_in, ..Counts::default() };
        assert_eq!(rates(counts(100), counts(300), Duration::from_secs(2))[0], 100.0);
        assert_eq!(rates(counts(300), counts(5), Duration::from_secs(1))[0], 0.0);
    }

    #[test]
    fn large_numbers_stay_readable() {
        assert_eq!([short(0.0), short(999.0), short(1500.0), short(2.5e9)], ["0", "999", "1.5k", "2.5G"]);
    }
}
