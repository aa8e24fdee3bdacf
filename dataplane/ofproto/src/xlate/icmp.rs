//! ICMP errors in the place of packets that a router does not deliver.
//!
//! The datapath makes the error, as only it has the bytes to quote; the error then is looked up as a
//! packet of its own, so that it is routed and translated as any other.

use super::Ctx;
use crate::action::{IcmpError, IcmpSays};
use crate::program::{DpAction, IcmpStep};

impl Ctx<'_> {
    /// `icmp_error(...)`; whether the list goes on.
    pub(super) fn icmp_error(&mut self, error: &IcmpError) -> bool {
        self.commit();
        let step = IcmpStep { says: error.says, from: error.from, why: error.why };
        let IcmpSays::TooBig(mtu) = error.says else {
            self.out.program.push(DpAction::IcmpError(Box::new(step)));
            self.freeze(error.table);
            return false;
        };
        let used = self.used;
        let program = std::mem::take(&mut self.out.program);
        self.out.program.push(DpAction::IcmpError(Box::new(step)));
        self.freeze(error.table);
        let steps = std::mem::replace(&mut self.out.program, program);
        self.out.program.push(DpAction::IfTooBig(mtu, steps.into()));
        self.used = used;
        true
    }
}
