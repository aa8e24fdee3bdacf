//! What can be set and asked while the tracker runs?
//!
//! Each setting is an atomic of its own, in force for the next packet that looks at it.

use crate::input::Invalid;
use crate::stats::Event;
use crate::timeout::Policy;
use crate::tracker::Tracker;

impl Tracker {
    /// How many connections there are, those included whose time is over but which are not swept
    /// yet.
    pub fn len(&self) -> usize {
        self.pool.used()
    }
    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The most connections that memory is set aside for.
    pub fn capacity(&self) -> usize {
        self.pool.capacity()
    }

    /// The most connections that there may be.
    pub fn limit(&self) -> usize {
        self.pool.limit()
    }
    /// Set the most connections that there may be, capped at [`Tracker::capacity`]. Those there
    /// are beyond it stay until they end.
    pub fn set_limit(&self, limit: usize) {
        self.pool.set_limit(limit);
    }

    /// The limit of zones that have none of their own; `None` is no limit.
    pub fn default_zone_limit(&self) -> Option<u32> {
        self.zones.default_limit()
    }
    /// Set the limit of zones that have none of their own.
    pub fn set_default_zone_limit(&self, limit: Option<u32>) {
        self.zones.set_default_limit(limit);
    }
    /// A zone's own limit; `None` if the default holds.
    pub fn zone_limit(&self, zone: u16) -> Option<u32> {
        self.zones.own_limit(zone)
    }
    /// Set a zone's own limit (0 admits none), or with `None` let the default hold again.
    pub fn set_zone_limit(&self, zone: u16, limit: Option<u32>) {
        self.zones.set_limit(zone, limit);
    }
    /// How many connections a zone has, and how many it may have (`None`: no limit).
    pub fn zone_use(&self, zone: u16) -> (u32, Option<u32>) {
        (self.zones.count(zone), self.zones.limit(zone))
    }
    /// Zones that have connections, and how many.
    pub fn zones_in_use(&self) -> impl Iterator<Item = (u16, u32)> {
        self.zones.in_use()
    }

    /// A timeout policy; 0 is the default one.
    pub fn policy(&self, number: u8) -> Policy {
        self.timeouts.get(number)
    }
    /// Set a timeout policy, for connections made under it before too, from their next packet on.
    pub fn set_policy(&self, number: u8, policy: &Policy) {
        self.timeouts.set(number, policy);
    }
    /// The policy under which connections of a zone are made.
    pub fn zone_policy(&self, zone: u16) -> u8 {
        self.timeouts.policy_of(zone)
    }
    /// Set the policy under which connections of a zone are made from now on.
    pub fn set_zone_policy(&self, zone: u16, policy: u8) {
        self.timeouts.set_zone(zone, policy);
    }

    /// How often something has happened since the start.
    pub fn count(&self, event: Event) -> u64 {
        self.counters.get(event)
    }
    /// How many packets were invalid for that reason since the start.
    pub fn count_invalid(&self, why: Invalid) -> u64 {
        self.counters.get_invalid(why)
    }
}
