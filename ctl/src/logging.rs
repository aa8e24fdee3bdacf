//! What the daemon says on standard error, and how much: a level for everything, others for single
//! modules (`info,engine=debug`), changed while it runs.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};

use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::error::{CtlError, quoted};

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// Longest directive that is taken, bytes.
const LENGTH_LIMIT: usize = 1024;

/// Changes the log level of the running process.
#[derive(Debug)]
pub struct LogLevel {
    text: Mutex<String>,
    handle: Option<reload::Handle<Targets, Registry>>,
}

impl LogLevel {
    /// Starts logging to standard error at `level`. Once per process.
    pub fn install(level: &str) -> Result<Self, CtlError> {
        let (filter, handle) = reload::Layer::new(parse(level)?);
        let format = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
        tracing_subscriber::registry()
            .with(filter)
            .with(format)
            .try_init()
            .map_err(|e| CtlError::internal(format!("logging: {e}")))?;
        Ok(Self { text: Mutex::new(level.to_owned()), handle: Some(handle) })
    }

    /// Keeps a level without logging anywhere.
    pub fn detached(level: &str) -> Self {
        Self { text: Mutex::new(level.to_owned()), handle: None }
    }

    pub fn get(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the level; an error names what is wrong with `level` and changes nothing.
    pub fn set(&self, level: &str) -> Result<(), CtlError> {
        let filter = parse(level)?;
        if let Some(handle) = &self.handle {
            handle
                .reload(filter)
                .map_err(|e| CtlError::internal(format!("log level not changed: {e}")))?;
        }
        level.clone_into(&mut self.text.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }
}

/// Reads `LEVEL` or `LEVEL,MODULE=LEVEL,…`.
pub fn parse(text: &str) -> Result<Targets, CtlError> {
    let wrong = |part: &str| {
        let error = CtlError::invalid(format!(
            "log level {}: expected off, error, warn, info, debug or trace, and MODULE=LEVEL for single \
             modules, between commas",
            quoted(part)
        ));
        error.suggest(part, LEVELS)
    };
    if text.len() > LENGTH_LIMIT {
        return Err(wrong(text));
    }
    for part in text.split(',') {
        let (module, level) = match part.split_once('=') {
            Some((module, level)) => (Some(module), level),
            None => (None, part),
        };
        let module_ok = |m: &str| {
            !m.is_empty() && m.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':'))
        };
        if !LEVELS.contains(&level) || !module.is_none_or(module_ok) {
            return Err(wrong(part));
        }
    }
    text.parse().map_err(|_| wrong(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        for good in ["info", "off", "warn,engine=debug", "error,ctl::rpc=trace"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["", "loud", "info,", "engine=loud", "=info", "info,a b=warn"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(
            parse("debgu").expect_err("slip").hint.as_deref(),
            Some("did you mean \"debug\"?")
        );
    }

    #[test]
    fn a_wrong_level_changes_nothing() {
        let level = LogLevel::detached("info");
        assert!(level.set("loud").is_err());
        assert_eq!(level.get(), "info");
        level.set("debug").expect("a level");
        assert_eq!(level.get(), "debug");
    }
}
