//! Colours for people: on a terminal only, and not where `NO_COLOR` is set.

use std::fmt::Display;

/// Colours text, or leaves it alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint {
    on: bool,
}

impl Paint {
    pub(super) fn for_stream(is_terminal: bool) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let able = std::env::var_os("TERM").is_some_and(|t| t != "dumb");
        Self { on: is_terminal && wanted && able }
    }

    #[cfg(test)]
    pub(super) const fn plain() -> Self {
        Self { on: false }
    }

    fn code(self, code: &str, text: impl Display) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    pub(super) fn bold(self, text: impl Display) -> String {
        self.code("1", text)
    }

    pub(super) fn dim(self, text: impl Display) -> String {
        self.code("2", text)
    }

    pub(super) fn red(self, text: impl Display) -> String {
        self.code("31", text)
    }

    pub(super) fn green(self, text: impl Display) -> String {
        self.code("32", text)
    }

    pub(super) fn yellow(self, text: impl Display) -> String {
        self.code("33", text)
    }
}
