//! The switch's control side.
//!
//! One thread, the control thread ([`daemon`]), owns the configuration ([`config`]) and the running
//! switch ([`backend`]); another one ([`rpc`]) does the socket's input and output and passes whole
//! requests on. A change is checked whole, realised, stored durably ([`store`]) and only then
//! acknowledged. [`schema`] says which settings there are, [`command`] what can be asked, [`report`] how
//! the answers look, [`cli`] how people see them.

pub mod backend;
pub mod cli;
pub mod client;
pub mod command;
pub mod config;
pub mod conntrack;
pub mod daemon;
pub mod engine_backend;
pub mod error;
pub mod lock;
pub mod logging;
pub mod notify;
pub mod options;
pub mod preflight;
pub mod report;
pub mod rpc;
pub mod schema;
pub mod store;
pub mod streams;
pub mod suggest;
mod sys;
pub mod transact;

pub use command::Command;
pub use config::Config;
pub use error::{CtlError, ErrorKind};
pub use options::DaemonOptions;
