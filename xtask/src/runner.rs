//! Runs the parts of `cargo xtask test`, one after the other, each against a clock.
//!
//! A part has a budget in minutes, and [`GUARD`] times that budget is where patience ends: the program that then runs
//! is killed with everything it started, and the part counts as failed. A part that is merely over its budget
//! passes and is marked in the table. What the parts print goes straight through.
//!
//! Programs stay in the process group of the terminal, so that Ctrl-C reaches all of them; killing a whole tree
//! therefore means finding it. Every process found is first stopped, so that it cannot start another one behind
//! the search, and all are killed when the search finds nothing new.

use crate::report::{Outcome, Row};
use crate::workspace::{Workspace, room};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A part is killed when it has taken this many times its budget.
pub(crate) const GUARD: u32 = 3;

/// A failure with fewer bytes free than this may be the disk's: the largest link step and the tests' own files take less.
const ROOM_WANTED: u64 = 2_000_000_000;

/// One thing that `cargo xtask test` proves.
pub(crate) struct Part {
    /// As `--only` takes it.
    pub(crate) name: &'static str,
    /// How long it is meant to take on two cores with nothing built before.
    pub(crate) budget_minutes: u32,
    /// What it proves, for `--list`.
    pub(crate) what: &'static str,
    /// Does it.
    pub(crate) run: fn(&Workspace, &Watch) -> Result<(), End>,
}

/// Why a part ended early.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// It failed: what.
    Failed(String),
    /// It cannot be tried here: why.
    Skipped(String),
}

impl End {
    /// The text alone.
    pub(crate) fn into_text(self) -> String {
        match self {
            End::Failed(text) | End::Skipped(text) => text,
        }
    }
}

/// Runs one part and says aloud how it ended.
pub(crate) fn run_part(part: &Part, workspace: &Workspace) -> Row {
    println!("\n==> {}: {} (budget {} min)", part.name, part.what, part.budget_minutes);
    let started = Instant::now();
    let watch = Watch::new(Duration::from_secs(60 * u64::from(part.budget_minutes * GUARD)));
    let outcome = match (part.run)(workspace, &watch) {
        Ok(()) => Outcome::Passed,
        Err(End::Failed(what)) => Outcome::Failed(what + &short_of_room(room(&workspace.target))),
        Err(End::Skipped(why)) => Outcome::Skipped(why),
    };
    let took = started.elapsed();
    match &outcome {
        Outcome::Passed => println!("==> {} passed in {:.0} s", part.name, took.as_secs_f64()),
        Outcome::Failed(what) => println!("==> {} FAILED: {what}", part.name),
        Outcome::Skipped(why) => println!("==> {} SKIPPED: {why}", part.name),
    }
    Row { name: part.name, took, budget_minutes: part.budget_minutes, outcome }
}

/// What to add to a failure: programs say all sorts of things when a disk is full.
fn short_of_room(room: Option<u64>) -> String {
    let room = room.filter(|&bytes| bytes < ROOM_WANTED);
    room.map(|bytes| format!(" (the disk has only {} MB left)", bytes / 1_000_000)).unwrap_or_default()
}

/// The time a part has left, and the only way it runs programs.
pub(crate) struct Watch {
    deadline: Instant,
    limit: Duration,
}

impl Watch {
    /// From now on, this long.
    pub(crate) fn new(limit: Duration) -> Watch {
        Watch { deadline: Instant::now() + limit, limit }
    }

    /// Runs a program to its end. Anything but success within the time that is left ends the part.
    pub(crate) fn run(&self, command: &mut Command) -> Result<(), End> {
        println!("    $ {}", spoken(command));
        self.finish(command, self.deadline)
    }

    /// As [`Watch::run`], with a shorter time of its own.
    pub(crate) fn run_within(&self, command: &mut Command, limit: Duration) -> Result<(), End> {
        println!("    $ {}", spoken(command));
        self.finish(command, self.deadline.min(Instant::now() + limit))
    }

    fn finish(&self, command: &mut Command, deadline: Instant) -> Result<(), End> {
        let name = spoken(command);
        let mut child = command
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| End::Failed(format!("`{name}` cannot be started: {error}")))?;
        let status = wait_until(&mut child, deadline)
            .map_err(|error| End::Failed(format!("`{name}` cannot be waited for: {error}")))?;
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(End::Failed(format!("`{name}` ended with {status}"))),
            None => {
                kill_tree(&mut child);
                let minutes = self.limit.as_secs_f64() / 60.0;
                Err(End::Failed(format!(
                    "`{name}` was killed: the limit is {minutes:.1} min for the whole part"
                )))
            }
        }
    }
}

/// Runs a program for so long at most; `None` when it was killed then, with everything it started.
pub(crate) fn status_within(command: &mut Command, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let mut child = command.stdin(Stdio::null()).spawn()?;
    let status = wait_until(&mut child, Instant::now() + limit)?;
    if status.is_none() {
        kill_tree(&mut child);
    }
    Ok(status)
}

/// `None` when the deadline came first.
fn wait_until(child: &mut Child, deadline: Instant) -> std::io::Result<Option<ExitStatus>> {
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        sleep(pause.min(left));
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Kills a child and everything it started.
#[cfg(target_os = "linux")]
fn kill_tree(child: &mut Child) {
    use rustix::process::{Pid, Signal, kill_process};
    // A process that is already gone needs no signal, hence the ignored results.
    let send = |pid: i32, signal: Signal| Pid::from_raw(pid).map(|pid| kill_process(pid, signal));
    let mut tree = vec![child.id() as i32];
    let mut stopped = 0;
    while stopped < tree.len() {
        for pid in &tree[stopped..] {
            let _ = send(*pid, Signal::STOP);
        }
        stopped = tree.len();
        let new = parents().into_iter().filter(|(pid, parent)| tree.contains(parent) && !tree.contains(pid));
        let new: Vec<i32> = new.map(|(pid, _)| pid).collect();
        tree.extend(new);
    }
    for pid in tree {
        let _ = send(pid, Signal::KILL);
    }
    let _ = child.wait();
}

/// Every process with its parent.
#[cfg(target_os = "linux")]
fn parents() -> Vec<(i32, i32)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let read = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // pid (name) state parent ...: the name may hold anything, also parentheses.
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        Some((pid, parent))
    };
    entries.filter_map(|entry| read(entry.ok()?)).collect()
}

/// Kills the child; what it started ends by itself or stays.
#[cfg(not(target_os = "linux"))]
fn kill_tree(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// A command as one would type it.
fn spoken(command: &Command) -> String {
    let name = std::path::Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(name).chain(command.get_args());
    let words = words.map(|word| word.to_string_lossy().into_owned());
    let environment = command.get_envs().filter_map(|(key, value)| {
        let key = key.to_str().filter(|key| key.ends_with("FLAGS"))?;
        Some(format!("{key}={:?}", value?.to_string_lossy()))
    });
    environment.chain(words).collect::<Vec<_>>().join(" ")
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn success_passes_and_a_code_fails_by_name() {
        let watch = Watch::new(Duration::from_secs(60));
        assert_eq!(watch.run(&mut shell("exit 0")), Ok(()));
        let Err(End::Failed(text)) = watch.run(&mut shell("exit 3")) else { panic!("it must fail") };
        assert!(text.contains("sh -c exit 3") && text.contains('3'), "{text}");
        let Err(End::Failed(text)) = watch.run(&mut Command::new("no-such-program-here")) else { panic!() };
        assert!(text.contains("cannot be started"), "{text}");
    }

    #[test]
    fn a_program_that_takes_too_long_is_killed() {
        let started = Instant::now();
        let ended = Watch::new(Duration::from_millis(200)).run(&mut shell("sleep 600"));
        let Err(End::Failed(text)) = ended else { panic!("it must fail") };
        assert!(text.contains("was killed"), "{text}");
        assert!(started.elapsed() < Duration::from_secs(30));

        let watch = Watch::new(Duration::from_secs(600));
        assert!(watch.run_within(&mut shell("sleep 600"), Duration::from_millis(100)).is_err());
        assert!(started.elapsed() < Duration::from_secs(60));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_a_killed_program_started_dies_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script =
            format!("sh -c 'sleep 600 & echo $! > {0}.new; mv {0}.new {0}; wait'; :", file.display());
        assert!(Watch::new(Duration::from_secs(2)).run(&mut shell(&script)).is_err());
        let pid: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        let gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim().chars().next());
            matches!(state, None | Some('Z'))
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !gone() && Instant::now() < deadline {
            sleep(Duration::from_millis(10));
        }
        assert!(gone(), "process {pid} still runs");
    }

    #[test]
    fn a_part_becomes_a_row() {
        let workspace = Workspace::empty();
        let part = |run| Part { name: "p", budget_minutes: 1, what: "proves nothing", run };
        assert_eq!(run_part(&part(|_, _| Ok(())), &workspace).outcome, Outcome::Passed);
        let skip = part(|_, _| Err(End::Skipped("no tool".to_owned())));
        assert_eq!(run_part(&skip, &workspace).outcome, Outcome::Skipped("no tool".to_owned()));
        let fail = part(|_, watch| watch.run(&mut shell("exit 1")));
        assert!(matches!(run_part(&fail, &workspace).outcome, Outcome::Failed(_)));
    }

    #[test]
    fn a_failure_on_a_full_disk_says_so() {
        assert_eq!(short_of_room(Some(37_000_000)), " (the disk has only 37 MB left)");
        assert_eq!(short_of_room(Some(ROOM_WANTED)), "");
        assert_eq!(short_of_room(None), "");
    }

    #[test]
    fn a_command_is_spoken_with_its_flags() {
        let mut command = Command::new("/somewhere/bin/cargo");
        command.args(["doc", "--lib"]).env("RUSTDOCFLAGS", "-D warnings").env("OTHER", "1");
        assert_eq!(spoken(&command), "RUSTDOCFLAGS=\"-D warnings\" cargo doc --lib");
    }
}
