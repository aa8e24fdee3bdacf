//! What the running switch must offer to control. Implemented over the engine; called by the control
//! thread alone, which holds it by itself: no method needs a lock against another.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use conntrack::Notice;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::command::Command;
use crate::config::Config;
use crate::engine_backend::Request;
use crate::error::CtlError;

/// The running switch.
pub trait Backend {
    /// Makes `new` real, starting from `old` (use [`crate::config::changes`] for the differences).
    ///
    /// Called before `new` is stored and acknowledged. An error means that nothing was changed: what
    /// was done is undone before it is returned. With `restore`, at the daemon's start, an interface
    /// that is missing or cannot be used is not an error: it is kept, reported in `show`, and taken when
    /// it comes. The other calls are also made to go back after a later step of a transaction failed,
    /// with `old` and `new` exchanged; then too the old interfaces are there, as they were a moment ago.
    ///
    /// Gives warnings for the user, such as an interface that carries IP addresses.
    fn reconfigure(
        &mut self,
        old: &Config,
        new: &Config,
        restore: bool,
    ) -> Result<Vec<String>, CtlError>;

    /// Would [`Backend::call`] take this? Asked of every runtime command of a transaction before
    /// anything is changed; `config` is what the configuration will be where the command stands. The
    /// bridge that a command names exists in `config`. Gives what was read of the command, for
    /// [`Backend::call`].
    fn check(&self, config: &Config, command: &Command) -> Result<Request, CtlError> {
        let _ = (config, command);
        Ok(Request::default())
    }

    /// The runtime commands of a transaction follow, then [`Backend::end`].
    fn begin(&mut self) {}

    /// Answers a runtime command (for `show` with a [`crate::report::Running`]) by one of
    /// [`crate::report`]'s types, through [`answer`]. What it changes of flows and groups may wait for
    /// [`Backend::end`] to be in force. `request` is what [`Backend::check`] gave for the command.
    fn call(
        &mut self,
        config: &Config,
        command: &Command,
        request: Request,
    ) -> Result<Box<RawValue>, CtlError>;

    /// The runtime commands are through: what they changed of flows and groups is in force when this
    /// returns, or, without `keep`, is as it was before [`Backend::begin`].
    fn end(&mut self, keep: bool) -> Result<(), CtlError> {
        let _ = keep;
        Ok(())
    }

    /// The bridges that somebody monitors, from now on.
    fn monitor(&mut self, bridges: &[String]) {
        let _ = bridges;
    }

    /// Events of monitored bridges, with the bridge's name, that came since the last call.
    fn take_events(&mut self) -> Vec<(String, Box<RawValue>)> {
        Vec::new()
    }

    /// Whether somebody wants to hear of connections that come and go, from now on.
    fn watch_connections(&mut self, on: bool) {
        let _ = on;
    }

    /// Connections that came or went since the last call, and how many more did that are not told of.
    fn take_notices(&mut self) -> (Vec<Notice>, u64) {
        (Vec::new(), 0)
    }

    /// Periodic work, and what the workers and the kernel have to tell. Called when one of
    /// [`Backend::wake_fds`] is readable, when the time that it gave is over, and after every change.
    /// Gives how long it may be until the next call; at most a minute is waited.
    fn tick(&mut self, config: &Config, now: Instant) -> Duration;

    /// Descriptors that become readable when [`Backend::tick`] should be called. Asked before each wait.
    fn wake_fds(&self) -> Vec<BorrowedFd<'_>>;

    /// Ends everything: workers, sockets, programs, interfaces. Must be done within 3 seconds.
    fn shutdown(&mut self);
}

/// An answer as the text that goes to the client.
pub fn answer<T: Serialize + ?Sized>(value: &T) -> Result<Box<RawValue>, CtlError> {
    to_raw_value(value).map_err(|e| CtlError::internal(format!("answer as text: {e}")))
}
