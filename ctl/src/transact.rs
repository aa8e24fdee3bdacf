//! A transaction: a list of commands that happens whole or not at all.
//!
//! Order of events: every command is checked, configuration commands on a copy, in order; the copy is
//! completed and checked whole; the running switch is changed to it; runtime commands are carried out,
//! in order, and what they changed of flows and groups comes into force at once; the copy is stored
//! durably; then, and only then, it is the configuration and the client hears of it. A failure anywhere
//! takes the running switch back to where it was. (Of what a runtime command before the failing one did
//! to runtime state, flows and groups are put back; a flushed MAC table is not.)

use std::collections::BTreeSet;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use serde_json::value::RawValue;

use crate::backend::{Backend, answer};
use crate::command::{COMMANDS_LIMIT, Command, Kind};
use crate::config::{Config, apply};
use crate::engine_backend::Request;
use crate::error::{CtlError, ErrorKind, quoted};
use crate::logging::LogLevel;
use crate::report::{LogLevelReport, Running, ShowReport, VersionReport};
use crate::rpc::{ErrorBody, proto};
use crate::store::Store;

/// The method that takes a transaction.
pub const TRANSACT: &str = "transact";

/// The result of a transaction: one answer a command, and what the user should know.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub results: Vec<Box<RawValue>>,
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Where one command of a transaction stands.
enum Step {
    /// Carried out on the copy of the configuration.
    Done(Box<RawValue>),
    /// To be carried out by the running switch, or the daemon.
    Run(Request),
}

/// What the control thread owns: the configuration, its store, and the running switch.
pub struct Control {
    config: Config,
    store: Store,
    backend: Box<dyn Backend>,
    log_level: LogLevel,
    started: Instant,
    /// Warnings about the configuration that were given before.
    known_warnings: BTreeSet<String>,
}

impl Control {
    /// Takes over the stored configuration: makes it real, with interfaces that are missing kept.
    pub fn restore(
        mut config: Config,
        store: Store,
        mut backend: Box<dyn Backend>,
        log_level: LogLevel,
    ) -> Result<Self, CtlError> {
        let known_warnings = config.finish()?.into_iter().collect();
        for warning in backend.reconfigure(&Config::default(), &config, true)? {
            tracing::warn!("{warning}");
        }
        let started = Instant::now();
        Ok(Self { config, store, backend, log_level, started, known_warnings })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The running switch, with the configuration that it runs.
    pub fn backend(&mut self) -> (&mut dyn Backend, &Config) {
        (self.backend.as_mut(), &self.config)
    }

    /// Answers one request of the socket. (Requests that listen are [`crate::streams`]'s.)
    pub fn handle(&mut self, method: &str, params: Json) -> Result<Box<RawValue>, ErrorBody> {
        if method != TRANSACT {
            let error = CtlError::protocol(format!("unknown method {}", quoted(method)))
                .with_hint("the method is \"transact\", with {\"commands\": [...]}");
            return Err(ErrorBody::new(proto::code::METHOD, error));
        }
        let commands = read_commands(params)?;
        let outcome = self.transact(&commands)?;
        Ok(answer(&outcome)?)
    }

    /// Carries out `commands`, all or none.
    pub fn transact(&mut self, commands: &[Command]) -> Result<Outcome, ErrorBody> {
        let at = |index: usize, error: CtlError| at_command(commands, index, error);
        let mut new = self.config.clone();
        let mut steps: Vec<Step> = Vec::with_capacity(commands.len());
        for (index, command) in commands.iter().enumerate() {
            steps.push(match command.kind() {
                Kind::Change | Kind::Read => {
                    let json = apply(&mut new, command).map_err(|e| at(index, e))?;
                    Step::Done(answer(&json).map_err(|e| at(index, e))?)
                }
                Kind::Daemon | Kind::Runtime => {
                    Step::Run(self.check(&mut new, command).map_err(|e| at(index, e))?)
                }
            });
        }
        let about_config = new.finish()?;
        let mut warnings: Vec<String> =
            about_config.iter().filter(|w| !self.known_warnings.contains(*w)).cloned().collect();

        let changed = new != self.config;
        if changed {
            warnings.extend(self.backend.reconfigure(&self.config, &new, false)?);
        }
        let results = match self.finish(commands, &new, changed, steps) {
            Ok(results) => results,
            Err(failure) => {
                if changed && let Err(e) = self.backend.reconfigure(&new, &self.config, false) {
                    tracing::error!("cannot take back a change that failed: {e}");
                }
                return Err(failure);
            }
        };
        self.config = new;
        self.known_warnings = about_config.into_iter().collect();
        if changed {
            tracing::info!("{}", summary(commands));
        }
        Ok(Outcome { results, warnings })
    }

    /// Runtime commands, then the store: everything that can still fail once the switch runs `new`.
    fn finish(
        &mut self,
        commands: &[Command],
        new: &Config,
        changed: bool,
        steps: Vec<Step>,
    ) -> Result<Vec<Box<RawValue>>, ErrorBody> {
        let runs = steps.iter().any(|s| matches!(s, Step::Run(_)));
        if runs {
            self.backend.begin();
        }
        let done = self.run_all(commands, new, steps);
        let ended = if runs { self.backend.end(done.is_ok()) } else { Ok(()) };
        let results = done?;
        ended?;
        if !changed {
            return Ok(results);
        }
        self.store.save(new).map_err(|mut error| {
            error.message.push_str("; nothing was changed");
            // A save that failed after its rename may have left the new file: put the old one back.
            if let Err(e) = self.store.save(&self.config) {
                tracing::error!("the stored configuration may be newer than the running one: {e}");
            }
            ErrorBody::from(error)
        })?;
        Ok(results)
    }

    fn run_all(
        &mut self,
        commands: &[Command],
        new: &Config,
        steps: Vec<Step>,
    ) -> Result<Vec<Box<RawValue>>, ErrorBody> {
        let one = |(index, (command, step)): (usize, (&Command, Step))| match step {
            Step::Done(result) => Ok(result),
            Step::Run(request) => {
                self.run(new, command, request).map_err(|e| at_command(commands, index, e))
            }
        };
        commands.iter().zip(steps).enumerate().map(one).collect()
    }

    fn check(&self, new: &mut Config, command: &Command) -> Result<Request, CtlError> {
        if let Some(bridge) = command.runtime_bridge() {
            new.bridge(bridge)?;
        }
        match command {
            Command::LogLevel { level: Some(level) } => {
                crate::logging::parse(level).map(|_| Request::default())
            }
            Command::LogLevel { level: None } | Command::Version {} | Command::Show { .. } => {
                Ok(Request::default())
            }
            Command::DumpPorts { bridge, port: Some(port) } => {
                let found = new.bridge(bridge)?.ports.contains_key(port) || port == bridge;
                if found {
                    return Ok(Request::default());
                }
                let ports = new.bridge(bridge)?.ports.keys().map(String::as_str);
                let message = format!("bridge \"{bridge}\" has no port {}", quoted(port));
                Err(CtlError::not_found(message).suggest(port, ports))
            }
            runtime => {
                new.assign_ofports()?;
                self.backend.check(new, runtime)
            }
        }
    }

    fn run(
        &mut self,
        new: &Config,
        command: &Command,
        request: Request,
    ) -> Result<Box<RawValue>, CtlError> {
        match command {
            Command::Version {} => answer(&VersionReport {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                uptime: self.started.elapsed().as_secs(),
            }),
            Command::LogLevel { level } => {
                if let Some(level) = level {
                    self.log_level.set(level)?;
                    tracing::info!("log level is {level} now");
                }
                answer(&LogLevelReport { level: self.log_level.get() })
            }
            Command::Show { bridge } => {
                let raw = self.backend.call(new, command, request)?;
                let running: Running = serde_json::from_str(raw.get())
                    .map_err(|e| CtlError::internal(format!("the switch's part of show: {e}")))?;
                answer(&ShowReport::new(new, running, bridge.as_deref()))
            }
            runtime => self.backend.call(new, runtime, request),
        }
    }
}

/// Reads `{"commands": [{"command": …}, …]}`.
fn read_commands(params: Json) -> Result<Vec<Command>, ErrorBody> {
    let expected =
        || CtlError::protocol("transact: expected {\"commands\": [{\"command\": ...}, ...]}");
    let Json::Object(mut fields) = params else { return Err(expected().into()) };
    let Some(Json::Array(list)) = fields.remove("commands") else { return Err(expected().into()) };
    if let Some(name) = fields.keys().next() {
        let message = format!("transact: unknown member {}", quoted(name));
        return Err(CtlError::protocol(message).into());
    }
    if list.is_empty() || list.len() > COMMANDS_LIMIT {
        let message =
            format!("transact: expected 1 to {COMMANDS_LIMIT} commands, got {}", list.len());
        return Err(CtlError::protocol(message).into());
    }
    let read = |(index, json): (usize, Json)| {
        Command::from_json(json).map_err(|error| {
            // An unknown command in a good document is not a broken request.
            let mut body = ErrorBody::from(error);
            body.data.index = Some(index);
            body
        })
    };
    list.into_iter().enumerate().map(read).collect()
}

/// The changes of a transaction for the log, cut where it is long.
fn summary(commands: &[Command]) -> String {
    const SHOWN: usize = 8;
    let changes: Vec<_> = commands.iter().filter(|c| c.kind() == Kind::Change).collect();
    let texts: Vec<_> = changes.iter().take(SHOWN).map(|c| c.text()).collect();
    match changes.len().saturating_sub(SHOWN) {
        0 => texts.join(" -- "),
        more => format!("{} -- and {more} more changes", texts.join(" -- ")),
    }
}

/// The failure of one command: which one it was, and that the others were not carried out either.
fn at_command(commands: &[Command], index: usize, mut error: CtlError) -> ErrorBody {
    let text = commands.get(index).map(Command::text).unwrap_or_default();
    if commands.len() > 1 {
        error.message =
            format!("command {} ({text}): {}; nothing was changed", index + 1, error.message);
    }
    if error.kind == ErrorKind::Internal {
        tracing::error!("{text}: {error}");
    }
    let mut body = ErrorBody::from(error);
    body.data.index = Some(index);
    body.data.command = Some(text);
    body
}

#[cfg(test)]
mod tests;
