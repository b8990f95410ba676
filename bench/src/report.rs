//! Figures as they come, as text, and all of them at the end, as JSON.

use serde_json::{Map, Value};

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted {
    AtMost(f64),
    AtLeast(f64),
}

impl Wanted {
    fn holds(self, value: f64) -> bool {
        match self {
            Wanted::AtMost(most) => value <= most,
            Wanted::AtLeast(least) => value >= least,
        }
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Wanted::AtMost(most) => write!(f, "at most {most}"),
            Wanted::AtLeast(least) => write!(f, "at least {least}"),
        }
    }
}

pub(crate) struct Report {
    json: bool,
    figures: Map<String, Value>,
}

impl Report {
    pub(crate) fn new(json: bool) -> Report {
        Report { json, figures: Map::new() }
    }

    pub(crate) fn say(&self, text: &str) {
        if !self.json {
            println!("{text}");
        }
    }

    /// A figure under a stable name, with its unit in the name.
    pub(crate) fn figure(&mut self, name: &str, value: impl Into<Value>) {
        let value = value.into();
        if !self.json {
            match value.as_f64() {
                Some(number) if value.is_f64() => println!("  {name:<60} {number:>14.4}"),
                _ => println!("  {name:<60} {value:>14}"),
            }
        }
        self.figures.insert(name.to_owned(), value);
    }

    /// A figure with the bound that is wanted beside it. Whether it holds is said, and is no error: a bound is missed on
    /// a busy machine as well.
    pub(crate) fn figure_wanted(&mut self, name: &str, value: f64, wanted: Wanted) {
        self.figure(name, value);
        let verdict = if wanted.holds(value) { "holds" } else { "MISSED" };
        self.say(&format!("    wanted: {wanted}: {verdict}"));
        self.figures.insert(format!("{name}_wanted"), format!("{wanted}: {verdict}").into());
    }

    /// Which command makes the table of a part.
    pub(crate) fn command(&self, part: &str) {
        self.say(&format!("for its table: NEARSTONE_DATA=... cargo xtask bench {part}"));
    }

    #[cfg(test)]
    pub(crate) fn get(&self, name: &str) -> f64 {
        self.figures.get(name).and_then(Value::as_f64).unwrap_or_else(|| panic!("no figure {name}"))
    }

    pub(crate) fn finish(self) {
        if self.json {
            println!("{}", Value::Object(self.figures));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_met_at_its_very_value_and_missed_by_what_cannot_be_compared() {
        assert!(Wanted::AtMost(2.2).holds(2.2) && !Wanted::AtMost(2.2).holds(2.3));
        assert!(Wanted::AtLeast(200.0).holds(200.0) && !Wanted::AtLeast(200.0).holds(199.0));
        assert!(!Wanted::AtMost(1.0).holds(f64::NAN) && !Wanted::AtLeast(1.0).holds(f64::NAN));
    }

    #[test]
    fn a_wanted_figure_says_whether_it_holds() {
        let mut report = Report::new(true);
        report.figure_wanted("ratio", 2.5, Wanted::AtMost(2.2));
        assert_eq!(report.get("ratio"), 2.5);
        assert_eq!(report.figures["ratio_wanted"], "at most 2.2: MISSED");
    }
}
