//! How is a packet described by a flow's text?
//!
//! `trace` takes `in_port=1,tcp,nw_src=192.0.2.1`: a match whose every field has one value. What
//! is not given is zero, as with `ofproto/trace`.

use flow::extract::VLAN_PRESENT;
use flow::{Field, FlowKey};

use super::error::{Fault, Parsed, TextError};
use super::match_read::{MatchReader, Purpose, not_known};
use super::names::PortNames;
use super::scan::Items;
use crate::action::OfPort;

/// Read the description of a packet. Without `in_port` it comes from no port
/// ([`OfPort::NONE`]).
///
/// # Errors
/// Where the text is wrong and why.
pub fn parse_packet(text: &str, ports: &dyn PortNames) -> Result<FlowKey, TextError> {
    packet(text, ports).map_err(|f| f.locate(text))
}

fn packet<'a>(text: &'a str, ports: &dyn PortNames) -> Parsed<'a, FlowKey> {
    let mut reader = MatchReader::new(ports, Purpose::Packet);
    let mut items = Items::new(text);
    while let Some(item) = items.next()? {
        if !reader.take(&item)? {
            if item.key.starts_with("action") {
                return Err(Fault::new(item.all, "a packet has no actions"));
            }
            return Err(not_known(&item, &[]));
        }
    }
    reader.check()?;
    let (mut key, mask) = reader.into_parts();
    if mask.get(Field::InPort) == 0 {
        key.set(Field::InPort, u128::from(OfPort::NONE.0));
    }
    let is_tagged = key.get(Field::VlanTci) & u128::from(VLAN_PRESENT) != 0;
    if !is_tagged && key.get(Field::VlanTci) != 0 {
        // Priority or id without the bit that says so still mean a tag.
        let tci = key.get(Field::VlanTci) | u128::from(VLAN_PRESENT);
        key.set(Field::VlanTci, tci);
    }
    if key.get(Field::VlanTci) != 0 && key.get(Field::VlanTpid) == 0 {
        key.set(Field::VlanTpid, 0x8100);
    }
    Ok(key)
}
