//! The text of flows, matches, actions and groups, as `ovs-ofctl(8)`, `ovs-fields(7)` and
//! `ovs-actions(7)` have it: read with a place for each refusal, written in their order and words.
//!
//! What differs from `ovs-ofctl` on purpose:
//! - A field whose prerequisite is not matched is refused; `ovs-ofctl` drops it with a note.
//! - What contradicts itself (`tcp,udp`) is refused; there the last one wins.
//! - Values that a field cannot have (`dl_vlan=4096`) are refused; there bits are cut off.
//! - Notes are kept at their length, and `write_metadata` without bits outside its mask.
//! - Actions that packets cannot have in an action set are refused; there some are left out.
//!
//! Must not know: what the tables hold, how packets are treated.

mod action_args;
mod action_read;
mod action_show;
mod ct_read;
mod datapath;
mod error;
mod flow_read;
mod flow_show;
mod group_text;
mod learn_read;
mod match_read;
mod match_show;
mod names;
mod packet_text;
mod scan;
mod subfield;
mod value;

pub use action_read::{MAX_ACTIONS, MAX_NESTING};
pub use action_show::{show_action, show_actions};
pub use datapath::{show_datapath, show_megaflow, show_program};
pub use error::TextError;
pub use flow_read::{MAX_LINE, line_of_flow, parse_actions, parse_filter, parse_flow, parse_flows};
pub use flow_show::{FlowTimes, ShownFlow, show_flow};
pub use group_text::{parse_group, parse_groups, show_group};
pub use match_show::{show_masked, show_match};
pub use names::{NoNames, PortNames, field_by_name, read_port};
pub use packet_text::{parse_packet, show_packet};
