//! Megaflows and their programs as text.

use flow::Match;
use ofproto::program::DpAction;

/// What a megaflow matches.
pub fn megaflow(m: &Match) -> String {
    format!("{m:?}")
}

/// What a program does.
pub fn program(steps: &[DpAction]) -> String {
    let step = |a: &DpAction| match a {
        DpAction::Output(p) => p.0.to_string(),
        DpAction::PushVlan { tpid, tci } => {
            format!("push_vlan(tpid={tpid:#06x},vid={},pcp={})", tci & 0xfff, tci >> 13)
        }
        DpAction::PopVlan => "pop_vlan".to_owned(),
        DpAction::Set(m) => format!("set({})", megaflow(m)),
        DpAction::Truncate(n) => format!("trunc({n})"),
        DpAction::Clone(steps) => format!("clone({})", program(steps)),
        DpAction::Controller(c) => format!("userspace(controller(reason={}))", c.reason),
        DpAction::Drop(why) => format!("drop({})", why.name()),
    };
    steps.iter().map(step).collect::<Vec<_>>().join(",")
}
