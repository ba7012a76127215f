//! What the operating system knows of this process: memory and processor time.

use parking_lot::Mutex;
use std::time::Instant;

/// A look at the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Resident memory in bytes; 0 where the system does not tell.
    pub memory_bytes: i64,
    /// Processors that the process may use.
    pub cores: usize,
    /// Processor time in percent of one core since the last look, at least half a second ago.
    pub cpu_percent: f64,
}

struct LastLook {
    at: Instant,
    ticks: u64,
    percent: f64,
}

static LAST: Mutex<Option<LastLook>> = Mutex::new(None);

/// Ticks of processor time a second; Linux shows 100 to every program (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Looks at the process. Zeros on systems without `/proc`.
pub fn usage() -> Usage {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory_bytes = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| resident(&status));
    let ticks = std::fs::read_to_string("/proc/self/stat").ok().and_then(|stat| processor_ticks(&stat));
    Usage { memory_bytes: memory_bytes.unwrap_or(0), cores, cpu_percent: ticks.map_or(0.0, percent) }
}

fn percent(ticks: u64) -> f64 {
    let mut last = LAST.lock();
    let now = Instant::now();
    match &mut *last {
        Some(look) => {
            let seconds = now.duration_since(look.at).as_secs_f64();
            if seconds >= 0.5 {
                let percent = ticks.saturating_sub(look.ticks) as f64 / TICKS_PER_SECOND / seconds * 100.0;
                *look = LastLook { at: now, ticks, percent: (percent * 10.0).round() / 10.0 };
            }
            look.percent
        }
        None => {
            *last = Some(LastLook { at: now, ticks, percent: 0.0 });
            0.0
        }
    }
}

fn resident(status: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<i64>().ok()? * 1024)
}

/// User and system time: the 14th and 15th fields, counted behind the program's name in parentheses.
fn processor_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_whatever_the_program_is_called() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 100 1 1";
        assert_eq!(processor_ticks(stat), Some(300));
        assert_eq!(resident("Name:\tx\nVmRSS:\t  2048 kB\n"), Some(2 << 20));
    }
}
