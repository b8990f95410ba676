//! Progress bars on standard error: silent when it is no terminal, when JSON was asked for, and in the first moments,
//! so that short work leaves no trace.

use crate::output::Output;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nearstone::Step;
use std::ops::ControlFlow;

/// A bar over `total` units; 0 when that is not known.
pub(crate) fn bar(out: &Output, what: &str, total: Option<u64>) -> ProgressBar {
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::no_length(),
    };
    if out.is_json() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let template = match total {
        Some(_) => "{prefix:>10} [{bar:30}] {human_pos}/{human_len} {per_sec} {eta}",
        None => "{prefix:>10} {spinner} {human_pos} {per_sec}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(what.to_owned());
    bar
}

/// Feeds the store's progress into a bar.
pub(crate) fn follow(bar: &ProgressBar) -> impl FnMut(Step) -> ControlFlow<()> + '_ {
    move |step| {
        bar.set_prefix(step.phase);
        bar.set_length(step.total);
        bar.set_position(step.done);
        ControlFlow::Continue(())
    }
}
