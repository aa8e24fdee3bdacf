//! OpenFlow rules, actions, tables, bridges and their translation to action programs.
//!
//! [`switch::Switch`] is the control side's hold on the configuration, [`snapshot::Snapshot`] a
//! published version of it, [`xlate::translate`] the one slow path from a packet's key to an
//! action program.
pub mod action;
pub mod check;
pub mod fdb;
pub mod flow_table;
pub mod flowmod;
pub mod group;
pub mod group_table;
pub mod matching;
pub mod mf;
pub mod program;
pub mod recirc;
pub mod rule;
pub mod rules;
pub mod snapshot;
pub mod switch;
pub mod text;
pub mod underlay;
pub mod vlan;
pub mod xlate;
