//! A process of the harness, watched from outside: what it says, and how it ends.

use super::child::MARK;
use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Environment variables: what to do, where, and further words.
pub(super) const ROLE: &str = "NEARSTONE_KILL_ROLE";
pub(super) const STORE: &str = "NEARSTONE_KILL_STORE";
pub(super) const WORDS: &str = "NEARSTONE_KILL_WORDS";
/// The test of the test program that does what the role says.
pub(super) const CHILD_TEST: &str = "a_process_of_the_harness";

/// What a process says that opens a store and then waits for its end.
pub(super) const OPEN: &str = "open";

/// A checker takes seconds at most; one that hangs must not hang the harness.
const CHECK_LIMIT: Duration = Duration::from_secs(120);

/// When a process is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Until {
    /// After so many lines.
    Lines(u64),
    /// So long after its start.
    Time(Duration),
    /// It dies by itself; when it does not, so long after its start.
    Failpoint(Duration),
    /// Not at all: it comes to an end.
    Ended,
}

/// How a process ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// It was killed.
    Killed,
    /// It died at its failpoint.
    AtFailpoint,
    /// By itself, with this status; what it said on its standard error.
    Ended(ExitStatus, String),
}

impl End {
    pub(super) fn is_success(&self) -> bool {
        matches!(self, End::Ended(status, _) if status.success())
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Killed => f.write_str("a kill"),
            End::AtFailpoint => f.write_str("its failpoint"),
            End::Ended(status, text) => write!(f, "{status}:\n{text}"),
        }
    }
}

pub(super) struct Running {
    child: Child,
    lines: Receiver<String>,
    errors: JoinHandle<String>,
    start: Instant,
}

impl Running {
    pub(super) fn start(role: &str, store: &Path, words: &str, failpoint: Option<&str>) -> Running {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args([CHILD_TEST, "--exact", "--nocapture"]);
        command.env(ROLE, role).env(STORE, store).env(WORDS, words);
        match failpoint {
            Some(failpoint) => command.env("NEARSTONE_FAILPOINT", failpoint),
            None => command.env_remove("NEARSTONE_FAILPOINT"),
        };
        let pipes = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().expect("a process");
        let start = Instant::now();
        let (output, mut errors) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // The test runner's own words come before the mark, or have none.
                let Some((_, words)) = line.split_once(MARK) else { continue };
                if send.send(words.to_owned()).is_err() {
                    break;
                }
            }
        });
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = errors.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Running { child, lines, errors, start }
    }

    /// Hears every line, those between the kill and the end of the pipe too, and returns when the process has ended.
    pub(super) fn watch(mut self, until: Until, hear: &mut dyn FnMut(&[&str])) -> End {
        let mut limit = match until {
            Until::Lines(_) | Until::Ended => CHECK_LIMIT,
            Until::Time(limit) | Until::Failpoint(limit) => limit,
        };
        let mut heard = 0;
        let mut killed = false;
        loop {
            let left = limit.saturating_sub(self.start.elapsed());
            // A killed process says no more than what is in the pipe.
            let next = match killed {
                false => self.lines.recv_timeout(left),
                true => self.lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match next {
                Ok(line) => {
                    heard += 1;
                    if line == OPEN && matches!(until, Until::Failpoint(_)) {
                        // It had nothing to do on the way past which it was to die.
                        limit = Duration::ZERO;
                    }
                    hear(&line.split(' ').collect::<Vec<_>>());
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if !killed && (self.start.elapsed() >= limit || until == Until::Lines(heard)) {
                self.child.kill().expect("a child can be killed");
                killed = true;
            }
        }
        let status = self.child.wait().expect("a child can be waited for");
        let errors = self.errors.join().expect("reading does not panic");
        if errors.lines().any(|line| line.starts_with("died at ")) {
            return End::AtFailpoint;
        }
        // What was killed after it had ended, ended.
        match killed && was_killed(status) && until != Until::Ended {
            true => End::Killed,
            false => End::Ended(status, errors),
        }
    }
}

#[cfg(unix)]
fn was_killed(status: ExitStatus) -> bool {
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(9)
}

#[cfg(not(unix))]
fn was_killed(status: ExitStatus) -> bool {
    !status.success()
}
