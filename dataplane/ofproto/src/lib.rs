//! OpenFlow tables.
pub mod action;
pub mod group;
pub mod mf;
