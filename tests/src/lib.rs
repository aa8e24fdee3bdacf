//! End-to-end tests: the programs `vswitchd` and `vswitchctl` as a user runs them, real interfaces,
//! and a kernel at every end.
//!
//! Each test runs alone in network, mount and pid namespaces of its own ([`sandbox`]), so that nothing
//! it makes survives it, whatever becomes of it. Inside, the sandbox's own network namespace is the
//! switch's host; the machines that talk through the switch are named namespaces ([`lab`]).
//! Tests wait for conditions and never for a time ([`wait`]); "this frame does not arrive" is shown by
//! a later frame that does.
//!
//! This crate knows the programs' command lines and JSON output, and nothing of their inside.

pub mod bpf;
pub mod cases;
pub mod cloud;
pub mod cmd;
pub mod daemon;
pub mod demo;
pub mod frame;
pub mod http;
pub mod lab;
pub mod monitor;
pub mod ovs;
pub mod pcap;
pub mod raw;
pub mod report;
pub mod runner;
pub mod sandbox;
pub mod wait;

pub use anyhow::{Context, Result, bail, ensure};
