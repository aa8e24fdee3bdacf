//! What does a packet that comes back to the tables continue with?
//!
//! A translation that has to wait for the datapath (for what connection tracking says of the
//! packet) freezes its state: where to go on, and the registers. The packet comes back with a
//! recirculation id that names the state. Equal states have one id. A state lives as long as a
//! program refers to it, so the number of ids follows the number of megaflows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use flow::Match;

use crate::action::{Action, OfPort};
use crate::snapshot::BridgeId;

/// States that there may be at a time.
pub const MAX_STATES: usize = 65_536;

/// Where a translation goes on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frozen {
    /// In this bridge.
    pub bridge: BridgeId,
    /// As if it had come by this port.
    pub in_port: OfPort,
    /// In this table, unless there is an `output`.
    pub table: u8,
    /// All that is left to do is to send the packet out of this port.
    pub output: Option<OfPort>,
    /// Registers and metadata, exact.
    pub metadata: Match,
    /// Actions written so far.
    pub action_set: Box<[Action]>,
}

/// A frozen state with its id.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Recirculation {
    /// The id; 0 as long as it has none.
    pub id: u32,
    /// The state.
    pub state: Frozen,
}

/// All states that have an id. Used on flow set-up only.
#[derive(Default)]
pub struct Recirculations {
    states: Mutex<States>,
}

#[derive(Default)]
struct States {
    by_state: HashMap<Frozen, Weak<Recirculation>>,
    last: u32,
}

impl Recirculations {
    /// The state with its id; `None` if there are [`MAX_STATES`] others.
    pub fn intern(&self, state: &Frozen) -> Option<Arc<Recirculation>> {
        let mut all = self.states.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(known) = all.by_state.get(state).and_then(Weak::upgrade) {
            return Some(known);
        }
        if all.by_state.len() >= MAX_STATES {
            all.by_state.retain(|_, s| s.strong_count() > 0);
            if all.by_state.len() >= MAX_STATES {
                return None;
            }
        }
        all.last = all.last.checked_add(1).unwrap_or(1);
        let fresh = Arc::new(Recirculation { id: all.last, state: state.clone() });
        all.by_state.insert(state.clone(), Arc::downgrade(&fresh));
        Some(fresh)
    }

    /// States that are in use, or were until lately.
    pub fn len(&self) -> usize {
        self.states.lock().unwrap_or_else(|e| e.into_inner()).by_state.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(table: u8) -> Frozen {
        Frozen {
            bridge: BridgeId(0),
            in_port: OfPort(1),
            table,
            output: None,
            metadata: Match::default(),
            action_set: Box::default(),
        }
    }

    #[test]
    fn equal_states_share_an_id_while_one_is_in_use() {
        let all = Recirculations::default();
        let a = all.intern(&state(1)).unwrap();
        let b = all.intern(&state(1)).unwrap();
        let c = all.intern(&state(2)).unwrap();
        assert_eq!(a.id, b.id);
        assert_ne!(a.id, c.id);
        let old = a.id;
        drop((a, b));
        assert_ne!(all.intern(&state(1)).unwrap().id, old);
    }
}
