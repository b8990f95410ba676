//! `nearstone`: the command line of the Nearstone vector store.
//!
//! Every command opens the store, does one thing, and closes it. What it has to say goes to standard output, as text
//! or, with `--json`, as one JSON value with stable names; progress bars and errors go to standard error. Exit codes
//! say what went wrong ([`output::exit_code`]).
#![forbid(unsafe_code)]

mod args;
mod bars;
mod bench;
mod build;
mod demo;
mod export;
mod import;
mod inspect;
mod output;
mod rows;

use args::{Cli, Command};
use clap::Parser;
use output::Output;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let out = Output::new(cli.json);
    let result = match cli.command {
        Command::Create(args) => rows::create(&args, &out),
        Command::Import(args) => import::import(&args, &out),
        Command::Build(args) => build::build(&args, &out),
        Command::Attach(args) => build::attach(&args, &out),
        Command::Search(args) => rows::search(&args, &out),
        Command::Get(args) => rows::get(&args, &out),
        Command::Delete(args) => rows::delete(&args, &out),
        Command::Stats(args) => inspect::stats(&args, &out),
        Command::Verify(args) => inspect::verify(&args, &out),
        Command::Flush(args) => inspect::flush(&args, &out),
        Command::Compact(args) => inspect::compact(&args, &out),
        Command::Rebuild(args) => inspect::rebuild(&args, &out),
        Command::Backup(args) => inspect::backup(&args, &out),
        Command::Salvage(args) => inspect::salvage(&args, &out),
        Command::Export(args) => export::export(&args, &out),
        Command::Demo(args) => demo::demo(&args, &out),
        Command::Bench(args::BenchCommand::Recall(args)) => bench::recall(&args, &out),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => out.fail(&error),
    }
}
