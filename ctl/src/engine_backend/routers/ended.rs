//! Connections of translations that are not there any more.
//!
//! They end once the flows without the translation are in force: until then packets make connections anew.

use conntrack::{Cursor, Filter, Millis};

use crate::config::Router;
use crate::engine_backend::EngineBackend;

/// The connections that a router's old translations made and its new ones would not.
pub(super) fn filters(old: &Router, new: Option<&Router>) -> Vec<Filter> {
    let base = |zone| Filter { zone: Some(zone), ..Filter::default() };
    let zones = [old.zone(), old.hairpin_zone()];
    let Some(new) = new else { return zones.map(base).into() };
    let mut filters = Vec::new();
    for zone in zones {
        for (outside, instance) in &old.floating {
            if new.floating.get(outside) != Some(instance) {
                filters.push(Filter { dst: Some(*outside), ..base(zone) });
                filters.push(Filter { reply_dst: Some(*outside), ..base(zone) });
            }
        }
        for (network, outside) in &old.snat {
            if new.snat.get(network) != Some(outside) {
                filters.push(Filter { reply_dst: Some(*outside), ..base(zone) });
            }
        }
        for d in old.dnat.iter().filter(|d| !new.dnat.contains(d)) {
            let (dst, dport) = (Some(d.external.ip()), Some(d.external.port()));
            filters.push(Filter { dst, dport, ..base(zone) });
        }
    }
    filters
}

impl EngineBackend {
    /// End what is to end, now that the flows are in force.
    pub(in crate::engine_backend) fn end_translated(&mut self) {
        let ending = std::mem::take(&mut self.routers.ending);
        let Some(engine) = &self.engine else { return };
        let now = Millis(self.now());
        for filter in &ending {
            engine.shared().tracker.flush(now, filter, Cursor::default(), usize::MAX);
        }
    }
}
