//! Shows how far the demo is: a bar on a terminal; elsewhere a line for each step that differs from the one before.
//!
//! Main type: [`Reporter`].

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};

use crate::herd::Progress;

/// Tells of steps on standard output. Clones show the same bar.
#[derive(Debug, Clone)]
pub(super) struct Reporter {
    bar: Option<ProgressBar>,
    /// The step that a line was written for last.
    last: Arc<Mutex<String>>,
}

impl Reporter {
    pub(super) fn new() -> Self {
        let bar = std::io::stdout().is_terminal().then(|| {
            // a template of ours is right or wrong for ever; a wrong one shows indicatif's own
            let style = ProgressStyle::with_template("  {bar:30} {pos}/{len}  {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::with_draw_target(Some(0), indicatif::ProgressDrawTarget::stdout())
                .with_style(style)
        });
        Self {
            bar,
            last: Arc::default(),
        }
    }

    /// A step of the herd's start.
    pub(super) fn step(&self, progress: &Progress) {
        self.at(progress.done, progress.total, &progress.step);
    }

    /// So many of so many.
    pub(super) fn at(&self, done: usize, total: usize, what: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(u64::try_from(total).unwrap_or(u64::MAX));
                bar.set_position(u64::try_from(done).unwrap_or(u64::MAX));
                bar.set_message(what.to_owned());
            }
            None => {
                let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
                if *last != what {
                    println!("  [{done}/{total}] {what}");
                    what.clone_into(&mut last);
                }
            }
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
