//! Measures a store the way a program uses it: through the public API, on real embeddings when they are there
//! (`NEARSTONE_DATA`, or the usual place beside the workspace) and on generated ones otherwise.
//!
//! `cargo xtask bench` runs everything; `cargo xtask bench recall open` runs parts; `--rows N` makes it smaller;
//! `--keep FOLDER` leaves the store of `search` and the inputs of `merge` there for later runs, `--efs` says which beams it
//! measures, `--segments N` how many segments of one size the rows of `search` lie in, `--heap` has it read them into memory
//! instead of mapping them, `--alone` leaves out queries that are asked together; `--cycles N` says how many rounds `churn` goes
//! through and `--pause MS` how long it waits after each; `--logs N,N...` how long the logs of `recovery` are, in megabytes;
//! `--json` prints one JSON value at the end. Figures of one run are comparable with each other, not with those of another
//! machine or hour: where it matters they are ratios.
#![forbid(unsafe_code)]

mod build;
mod child;
mod churn;
mod codes;
mod data;
mod exact;
mod footprint;
mod ingest;
mod killed;
mod latency;
mod merge;
mod opening;
mod process;
mod recall;
mod recovery;
mod report;
mod residency;
mod script;
mod search;
mod slope;
mod watch;

use data::Data;
use report::Report;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

const PARTS: [&str; 13] = [
    "search",
    "exact",
    "recall",
    "latency",
    "open",
    "recovery",
    "ingest",
    "build",
    "merge",
    "churn",
    "footprint",
    "residency",
    "codes",
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(code) = killed::child(&args).or_else(|| residency::child(&args)) {
        return code;
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let mut rows = None;
    let (mut churned, mut logs) = (churn::Options::default(), recovery::LOGS.to_vec());
    let mut json = false;
    let mut searched = search::Options::default();
    let mut parts: Vec<&str> = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--json" => json = true,
            "--keep" => searched.keep = Some(Path::new(args.next().ok_or("--keep wants a folder")?)),
            "--heap" => searched.heap = true,
            "--alone" => searched.alone = true,
            "--segments" => {
                searched.segments = number("--segments", args.next().ok_or("--segments wants a number")?)?;
            }
            "--efs" => {
                let list = args.next().ok_or("--efs wants numbers, with commas between them")?;
                searched.widths = numbers("--efs", list)?;
            }
            "--logs" => {
                let list = args.next().ok_or("--logs wants numbers, with commas between them")?;
                logs = numbers("--logs", list)?;
            }
            "--cycles" => churned.cycles = number("--cycles", args.next().ok_or("--cycles wants a number")?)?,
            "--pause" => {
                let millis = number("--pause", args.next().ok_or("--pause wants milliseconds")?)?;
                churned.pause = Duration::from_millis(millis as u64);
            }
            "--rows" => rows = Some(number("--rows", args.next().ok_or("--rows wants a number")?)?),
            part if PARTS.contains(&part) => parts.push(part),
            other => {
                return Err(format!(
                    "{other:?} is none of {PARTS:?}, --rows N, --efs N,N..., --segments N, --keep FOLDER, --heap, \
                     --alone, --cycles N, --pause MS, --logs N,N..., --json"
                )
                .into());
            }
        }
    }
    if parts.is_empty() {
        parts = PARTS.to_vec();
    }
    let data = Data::load(rows.unwrap_or(usize::MAX))?;
    let mut report = Report::new(json);
    report.say(&format!(
        "{}: {} rows x {}, {} queries",
        data.name,
        data.rows(),
        data.dimension,
        data.queries.len()
    ));
    for part in parts {
        match part {
            "search" => search::run(&data, &searched, &mut report)?,
            "exact" => exact::run(&data, &mut report)?,
            "recall" => recall::run(&data, &mut report)?,
            "latency" => latency::run(&data, &mut report)?,
            "open" => opening::run(&data, &mut report)?,
            "recovery" => recovery::run(&data, &logs, &mut report)?,
            "build" => build::run(&data, rows, &mut report)?,
            "churn" => churn::run(&data, churned, &mut report)?,
            "ingest" => ingest::run(&data, &mut report)?,
            "codes" => codes::run(&data, &mut report)?,
            "residency" => residency::run(&data, rows, &mut report)?,
            "merge" => merge::run(&data, searched.keep, &mut report)?,
            _ => footprint::run(&data, &mut report)?,
        }
    }
    report.finish();
    Ok(())
}

fn number(option: &str, text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("{option} wants whole numbers, not {text:?}"))
}

fn numbers(option: &str, list: &str) -> Result<Vec<usize>, String> {
    list.split(',').map(|text| number(option, text)).collect()
}
