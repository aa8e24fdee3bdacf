//! `pktgen`: how much does a device between two ports carry, how late, and what becomes of the rest?
//!
//! A [`profile`] says which traffic; [`frames`] makes packet number N of it, a function of the profile and
//! N alone, so that the same seed gives the same packets. A [`rig`] is the device's two ends: interfaces by
//! AF_XDP, or memory ports of a switch inside this process. A [`trial`] sends at a rate for a time and
//! follows every packet by the stamp in its last bytes ([`stamp`], [`tracker`]). On trials are built the
//! search for the highest rate without loss ([`search`], [`rfc2544`]), the sweep over numbers of flows
//! ([`sweep`]) and the opening of TCP connections ([`connections`]). [`progress`] shows how they go on, [`report`] what
//! came out, for people and programs; [`plots`] draws it.
//!
//! Must not know: how the device forwards.

pub mod cli;
pub mod connections;
pub mod cpu;
pub mod frames;
pub mod plots;
pub mod profile;
pub mod progress;
pub mod rate;
pub mod report;
pub mod rfc2544;
pub mod rig;
pub mod search;
pub mod sizes;
pub mod stamp;
pub mod sweep;
pub mod template;
pub mod tracker;
pub mod trial;
