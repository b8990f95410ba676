//! Hostile files: stores forged with checksums that fit, opened, read, searched, verified, written to, compacted,
//! backed up and salvaged. Each gives a right answer or a typed error that names a file: no panic, no endless loop, no
//! memory beyond what the files justify.
//!
//! The cases run one after the other in a child process with little memory (`RLIMIT_DATA`), so that an allocation on
//! the word of a forged number ends the child; the parent knows which case that was, says so, and starts a new child
//! behind it. A case that takes longer than [`LIMIT`] fails as well. `NEARSTONE_HOSTILE=part of a name` runs some.

mod catalogs;
mod judge;
mod logs;
mod rows;
mod segments;

use judge::judge;
use nearstone_tests::forge::Forger;
use std::io::{BufRead, BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

const CHILD: &str = "NEARSTONE_TEST_HOSTILE_CHILD";
/// One case, all of its openings together; they take milliseconds.
const LIMIT: Duration = Duration::from_secs(60);
/// What a case may allocate at once, in bytes, beside what the child holds before the first one. The forged stores
/// have less than three megabytes and lie in memory a few times.
const MEMORY_BYTES: u64 = 96 << 20;

/// What must become of a forged store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// It opens, verifies, and has all of its rows: what was forged means nothing.
    Right,
    /// It does not open.
    Refused,
    /// It opens, and verifying it finds the forgery.
    Noticed,
    /// It opens only for reading, or verifies with other rows: whatever it says is as good as anything.
    Safe,
}

/// One forgery.
struct Case {
    name: &'static str,
    fate: Fate,
    forge: fn(&mut Forger),
}

const fn case(fate: Fate, name: &'static str, forge: fn(&mut Forger)) -> Case {
    Case { name, fate, forge }
}

fn cases() -> Vec<&'static Case> {
    let wanted = std::env::var("NEARSTONE_HOSTILE").unwrap_or_default();
    let all = [segments::CASES, rows::CASES, logs::CASES, catalogs::CASES].into_iter().flatten();
    all.filter(|case| case.name.contains(&wanted)).collect()
}

/// Not a test of its own: the child, when the environment says so.
#[test]
fn child() {
    let Some(first) = std::env::var(CHILD).ok().and_then(|first| first.parse::<usize>().ok()) else { return };
    let (forger, contents) = Forger::new();
    limit_memory();
    let say = |text: String| {
        println!("{text}");
        std::io::stdout().flush().unwrap();
    };
    for (number, case) in cases().iter().enumerate().skip(first) {
        say(format!("\n@begin {number}"));
        let judged = catch_unwind(AssertUnwindSafe(|| {
            let mut forged = forger.clone();
            (case.forge)(&mut forged);
            judge(&forged, &contents, case.fate)
        }));
        match judged {
            Ok(Ok(())) => say("@fine".into()),
            Ok(Err(text)) => say(format!("@wrong {}", text.replace('\n', " "))),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
                say(format!("@wrong it panicked: {}", text.replace('\n', " ")));
            }
        }
    }
    say("\n@end".into());
}

#[cfg(target_os = "linux")]
fn limit_memory() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmData:")).unwrap();
    let held: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    let limit = Some(held * 1024 + MEMORY_BYTES);
    setrlimit(Resource::Data, Rlimit { current: limit, maximum: limit }).unwrap();
}

#[cfg(not(target_os = "linux"))]
fn limit_memory() {
    eprintln!("memory is not limited: only Linux can limit the {MEMORY_BYTES} bytes of a process's data");
}

/// Runs the cases from `first` on in a child; what went wrong, and where to go on.
fn run_child(first: usize, names: &[&str]) -> (Vec<String>, usize) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (lines, received) = channel();
    let output = child.stdout.take().unwrap();
    std::thread::spawn(move || {
        BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| lines.send(line))
    });
    let mut errors = child.stderr.take().unwrap();
    let errors = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // The tail is enough, and whatever was read before a failure is all there is.
        let _ = errors.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let tail = text.lines().rev().take(3).collect::<Vec<_>>();
        tail.into_iter().rev().collect::<Vec<_>>().join(" | ")
    });
    let (mut failures, mut at) = (Vec::new(), None);
    let end = loop {
        let line = match received.recv_timeout(LIMIT) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                child.kill().unwrap();
                break format!("it did not end within {LIMIT:?}");
            }
            Err(RecvTimeoutError::Disconnected) => break "its process died".to_owned(),
        };
        match line.split_once(' ') {
            Some(("@begin", number)) => at = number.parse::<usize>().ok(),
            Some(("@wrong", text)) => failures.push(format!("{}: {text}", names[at.unwrap()])),
            _ if line == "@end" => {
                child.wait().unwrap();
                return (failures, names.len());
            }
            _ => {}
        }
    };
    let status = child.wait().unwrap();
    let at = at.unwrap_or_else(|| panic!("the child did not begin: {end}, {status}"));
    failures.push(format!("{}: {end} ({status}): {}", names[at], errors.join().unwrap()));
    (failures, at + 1)
}

#[test]
fn forged_stores_are_refused_or_harmless() {
    if std::env::var(CHILD).is_ok() {
        return;
    }
    let names: Vec<&str> = cases().iter().map(|case| case.name).collect();
    let (mut failures, mut next) = (Vec::new(), 0);
    while next < names.len() {
        let (found, from) = run_child(next, &names);
        failures.extend(found);
        next = from;
    }
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), names.len(), failures.join("\n"));
}

#[test]
fn every_case_has_a_name_of_its_own_and_there_are_many() {
    let mut names: Vec<&str> = cases().iter().map(|case| case.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(count >= 150 || std::env::var("NEARSTONE_HOSTILE").is_ok(), "{count} cases");
}
