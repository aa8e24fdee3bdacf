//! What does a terminal show while trials run? One line that is written again and again, and lines that stay; nothing
//! where standard error is no terminal.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use super::rate::scaled;
use super::trial::Glance;

/// Time between two writings of the line.
const PAUSE: Duration = Duration::from_millis(500);

/// The line of a terminal.
#[derive(Debug)]
pub struct Progress {
    shown: bool,
    written: Option<Instant>,
    /// Of the trial that is running.
    last: Option<Glance>,
}

impl Progress {
    /// Where there is a terminal.
    pub fn on_terminal() -> Self {
        Self { shown: std::io::stderr().is_terminal(), written: None, last: None }
    }

    /// Nothing is shown.
    pub fn none() -> Self {
        Self { shown: false, written: None, last: None }
    }

    /// How a trial goes on; `what` is which.
    pub fn trial(&mut self, what: &str, glance: &Glance) {
        // Earlier than the last means that this is another trial.
        let last = self.last.filter(|last| last.seconds < glance.seconds);
        if self.line(|| trial_line(what, last.as_ref(), glance)) || last.is_none() {
            self.last = Some(*glance);
        }
    }

    /// Write the line again, not more than twice a second; whether it was time for that.
    pub fn line(&mut self, text: impl FnOnce() -> String) -> bool {
        if !self.shown || self.written.is_some_and(|at| at.elapsed() < PAUSE) {
            return false;
        }
        eprint!("\r\x1b[K{}", text());
        self.written = Some(Instant::now());
        true
    }

    /// A line that stays.
    pub fn say(&mut self, text: &str) {
        if self.shown {
            self.end();
            eprintln!("{text}");
        }
    }

    /// Take the line away.
    pub fn end(&mut self) {
        if self.written.take().is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

fn trial_line(what: &str, last: Option<&Glance>, glance: &Glance) -> String {
    let (seconds, sent, received) = last.map_or((0.0, 0, 0), |l| (l.seconds, l.sent, l.received));
    let since = (glance.seconds - seconds).max(1e-9);
    let rate = |now: u64, before: u64| scaled(now.saturating_sub(before) as f64 / since, "pps");
    let colon = if what.is_empty() { "" } else { ": " };
    format!(
        "{what}{colon}{:6.1} s  sent {}  received {}  on the way or lost {}  reordered {}  copies {}",
        glance.seconds,
        rate(glance.sent, sent),
        rate(glance.received, received),
        glance.sent.saturating_sub(glance.received),
        glance.reordered,
        glance.duplicated
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glance(seconds: f64, sent: u64, received: u64) -> Glance {
        Glance { seconds, sent, received, reordered: 1, duplicated: 2 }
    }

    #[test]
    fn rates_are_those_since_the_line_before() {
        let line = trial_line("64", None, &glance(2.0, 2_000_000, 1_000_000));
        assert!(line.starts_with("64:    2.0 s  sent 1.00 Mpps  received 500.00 kpps"), "{line}");
        let line = trial_line("", Some(&glance(1.0, 1000, 1000)), &glance(2.0, 4000, 3000));
        assert!(line.contains("sent 3.00 kpps  received 2.00 kpps"), "{line}");
        assert!(line.ends_with("lost 1000  reordered 1  copies 2"), "{line}");
    }

    #[test]
    fn where_there_is_no_terminal_nothing_is_made() {
        let mut progress = Progress::none();
        assert!(!progress.line(|| panic!("not shown")));
        progress.trial("", &glance(1.0, 1, 1));
        assert_eq!(progress.written, None);
    }
}
