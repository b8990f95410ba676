//! Parts of a bench that need a process of their own: it is this program again, with a flag and an order.

use serde_json::Value;
use std::error::Error;
use std::process::{Command, ExitCode, Stdio};

/// The process that gets an order; what it writes is read.
pub(crate) fn ordered(flag: &str, order: &Value) -> std::io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([flag, &order.to_string()]).stdout(Stdio::piped());
    Ok(command)
}

/// In the process that got an order with this flag: does it. `None` in any other.
pub(crate) fn obeying(
    args: &[String],
    flag: &str,
    obey: impl FnOnce(&str) -> Result<(), Box<dyn Error>>,
) -> Option<ExitCode> {
    let [first, order] = args else { return None };
    (first == flag).then(|| match obey(order) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    })
}
