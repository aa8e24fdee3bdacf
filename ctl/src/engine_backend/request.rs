//! What does a command want of the running switch? Its text is read once, before anything is changed, with
//! the ports that there are where the command stands; what was read is carried out later.

use super::{conntrack, flows, groups, trace};
use crate::command::Command;
use crate::config::Config;
use crate::error::CtlError;

/// What was read of a command by [`crate::backend::Backend::check`].
#[derive(Default)]
pub struct Request(pub(super) About);

#[derive(Default)]
pub(super) enum About {
    Flows(flows::Wanted),
    Groups(groups::Wanted),
    Packets(trace::Wanted),
    /// The command says it all.
    #[default]
    Other,
}

impl Request {
    /// Read a command.
    ///
    /// # Errors
    /// It says what cannot be understood, or names what does not exist.
    pub(crate) fn read(config: &Config, command: &Command) -> Result<Request, CtlError> {
        if let Some(wanted) = flows::read(config, command)? {
            return Ok(Request(About::Flows(wanted)));
        }
        if let Some(wanted) = groups::read(config, command)? {
            return Ok(Request(About::Groups(wanted)));
        }
        if let Some(wanted) = trace::read(config, command)? {
            return Ok(Request(About::Packets(wanted)));
        }
        if let Some(router) = command.router() {
            config.router(router)?;
        }
        conntrack::check(command)?;
        Ok(Request::default())
    }
}
