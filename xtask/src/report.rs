//! What happened, as a table for people, a line of totals for machines, and an exit code for both.
//!
//! A part that was skipped never looks like one that passed: it has its reason beside it and its own number in the
//! totals. The totals are the last line of the output and have one form, `N passed, N failed, N skipped`.

use std::fmt::Write;
use std::time::Duration;

/// How one part ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// Everything in it succeeded.
    Passed,
    /// Something in it did not, or it took too long: what.
    Failed(String),
    /// It could not be tried: why.
    Skipped(String),
}

/// One part that was run.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) took: Duration,
    pub(crate) budget_minutes: u32,
    pub(crate) outcome: Outcome,
}

/// One line for each part and one for the sum, aligned.
pub(crate) fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max("part".len());
    let mut out = format!("{:<width$}  minutes  budget  result\n", "part");
    for row in rows {
        let late = row.took > Duration::from_secs(60 * u64::from(row.budget_minutes));
        let late = if late { " (over its budget)" } else { "" };
        let result = match &row.outcome {
            Outcome::Passed => format!("passed{late}"),
            Outcome::Failed(what) => format!("FAILED: {what}{late}"),
            Outcome::Skipped(why) => format!("skipped: {why}"),
        };
        line(&mut out, width, row.name, row.took, row.budget_minutes, &result);
    }
    let took = rows.iter().map(|row| row.took).sum();
    line(&mut out, width, "all", took, rows.iter().map(|row| row.budget_minutes).sum(), "");
    out
}

fn line(out: &mut String, width: usize, name: &str, took: Duration, budget: u32, result: &str) {
    let minutes = took.as_secs_f64() / 60.0;
    let text = format!("{name:<width$}  {minutes:>7.1}  {budget:>6}  {result}");
    writeln!(out, "{}", text.trim_end()).expect("writing to a string does not fail");
}

/// `N passed, N failed, N skipped`, counting parts.
pub(crate) fn totals(rows: &[Row]) -> String {
    let count = |wanted: fn(&Outcome) -> bool| rows.iter().filter(|row| wanted(&row.outcome)).count();
    format!(
        "{} passed, {} failed, {} skipped",
        count(|outcome| matches!(outcome, Outcome::Passed)),
        count(|outcome| matches!(outcome, Outcome::Failed(_))),
        count(|outcome| matches!(outcome, Outcome::Skipped(_))),
    )
}

/// 1 when any part failed, otherwise 0.
pub(crate) fn exit_code(rows: &[Row]) -> u8 {
    u8::from(rows.iter().any(|row| matches!(row.outcome, Outcome::Failed(_))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &'static str, seconds: u64, outcome: Outcome) -> Row {
        Row { name, took: Duration::from_secs(seconds), budget_minutes: 2, outcome }
    }

    #[test]
    fn the_table_says_what_happened_to_each_part() {
        let rows = [
            row("fmt", 6, Outcome::Passed),
            row("unit-tests", 150, Outcome::Passed),
            row("docs", 30, Outcome::Failed("`cargo doc` ended with code 101".to_owned())),
            row("loom", 0, Outcome::Skipped("no model".to_owned())),
        ];
        assert_eq!(
            table(&rows),
            "part        minutes  budget  result\n\
             fmt             0.1       2  passed\n\
             unit-tests      2.5       2  passed (over its budget)\n\
             docs            0.5       2  FAILED: `cargo doc` ended with code 101\n\
             loom            0.0       2  skipped: no model\n\
             all             3.1       8\n"
        );
        assert_eq!(totals(&rows), "2 passed, 1 failed, 1 skipped");
    }

    #[test]
    fn only_a_failure_makes_the_exit_code_1() {
        let passed = row("a", 1, Outcome::Passed);
        let skipped = row("b", 1, Outcome::Skipped("x".to_owned()));
        let failed = row("c", 1, Outcome::Failed("x".to_owned()));
        assert_eq!(exit_code(&[passed.clone(), skipped.clone()]), 0);
        assert_eq!(exit_code(&[passed, failed, skipped]), 1);
        assert_eq!(exit_code(&[]), 0);
    }
}
