//! What this process takes: memory and processor time. Zero where the system has no such files.

use std::time::Duration;

/// The kernel counts processor time in hundredths of a second, for programs that read it here, on every usual platform.
const TICKS_PER_SECOND: f64 = 100.0;

/// Memory that is the process's own, and pages of files that it has mapped, in bytes.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Resident {
    pub(crate) anonymous: u64,
    pub(crate) file: u64,
}

pub(crate) fn resident() -> Resident {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    Resident { anonymous: line(&status, "RssAnon:"), file: line(&status, "RssFile:") }
}

/// Processor time of all threads so far, ended ones included.
pub(crate) fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    Duration::from_secs_f64(ticks(&stat) as f64 / TICKS_PER_SECOND)
}

/// Time that the calling thread was on a processor: as little as there is, whoever else wants one.
pub(crate) fn thread_time() -> Duration {
    let said = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(first_number(&said))
}

/// Reads of files so far, by all threads.
pub(crate) fn reads() -> u64 {
    let said = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    said.lines().find_map(|line| line.strip_prefix("syscr:")).map_or(0, first_number)
}

fn first_number(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// A line of a process's status, in bytes.
fn line(status: &str, name: &str) -> u64 {
    let value = status
        .lines()
        .find_map(|text| text.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse().ok());
    value.map_or(0, |kib: u64| kib * 1024)
}

/// Ticks in user and in kernel mode. The name of the program, the second field, may hold blanks and brackets.
fn ticks(stat: &str) -> u64 {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_line_that_says_it() {
        let status = "Name:\tbench\nRssAnon:\t    1024 kB\nRssFile:\t       3 kB\n";
        assert_eq!(line(status, "RssAnon:"), 1 << 20);
        assert_eq!(line(status, "RssFile:"), 3072);
        assert_eq!(line(status, "RssShmem:"), 0);
    }

    #[test]
    fn numbers_are_read_from_what_begins_with_them() {
        assert_eq!(
            (first_number("184085 3432099 2\n"), first_number(" 10"), first_number("")),
            (184_085, 10, 0)
        );
    }

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "17 (a name) with) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0";
        assert_eq!(ticks(stat), 300);
        assert_eq!(ticks(""), 0);
    }
}
