//! What do a list of datapath actions mean? The same packet can be changed by different steps in a
//! different order: what counts is with which headers it leaves by which port.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};

/// Headers as the datapath's grammar names them (`ipv4.src`), and tags, outermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    fields: BTreeMap<String, u128>,
    tags: Vec<(u16, u16)>,
}

/// Something that happens to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is sent: to this port, at most that many bytes of it, like this.
    Sent(u32, Option<u32>, Headers),
    /// Anything else, as text, with the headers that it has then.
    Other(String, Headers),
}

/// The items of a list, at commas outside of parentheses.
fn items(text: &str) -> Vec<&str> {
    let (mut out, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                out.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    out.push(&text[start..]);
    out.into_iter().map(str::trim).filter(|s| !s.is_empty()).collect()
}

/// `name(inside)`.
fn call(item: &str) -> Option<(&str, &str)> {
    let (name, rest) = item.split_once('(')?;
    Some((name, rest.strip_suffix(')')?))
}

fn number(text: &str) -> Result<u128> {
    let text = text.trim();
    if let Some(hex) = text.strip_prefix("0x") {
        return u128::from_str_radix(hex, 16).with_context(|| text.to_owned());
    }
    if let Ok(n) = text.parse() {
        return Ok(n);
    }
    if let Ok(a) = text.parse::<Ipv4Addr>() {
        return Ok(u32::from(a).into());
    }
    let parts: Vec<&str> = text.split(':').collect();
    if parts.len() == 6 && parts.iter().all(|p| p.len() == 2) {
        return u128::from_str_radix(&parts.concat(), 16).with_context(|| text.to_owned());
    }
    Ok(text.parse::<Ipv6Addr>().with_context(|| format!("what is {text}?"))?.into())
}

/// Fields of a flow's text under the names of the datapath's grammar.
impl Headers {
    /// From the description of a packet.
    pub fn of(flow: &str, tags: Vec<(u16, u16)>) -> Result<Headers> {
        let mut all = BTreeMap::new();
        for item in flow.split(',') {
            if let Some((name, value)) = item.trim().split_once('=') {
                all.insert(name, value);
            }
        }
        let words: Vec<&str> = flow.split(',').map(str::trim).collect();
        let has = |w: &str| words.contains(&w);
        let l3 = if has("arp") {
            "arp"
        } else if words.iter().any(|w| matches!(*w, "ipv6" | "tcp6" | "udp6" | "icmp6" | "sctp6")) {
            "ipv6"
        } else {
            "ipv4"
        };
        let l4 = ["tcp", "udp", "sctp"].into_iter().find(|p| has(p) || has(&format!("{p}6")));
        let mut headers = Headers { tags, ..Headers::default() };
        for (name, value) in &all {
            let name = match *name {
                "dl_src" => "eth.src".to_owned(),
                "dl_dst" => "eth.dst".to_owned(),
                "nw_src" | "ipv6_src" => format!("{l3}.src"),
                "nw_dst" | "ipv6_dst" => format!("{l3}.dst"),
                "ipv6_label" => "ipv6.label".to_owned(),
                "nw_ttl" if l3 == "ipv6" => "ipv6.hlimit".to_owned(),
                "nw_ttl" => "ipv4.ttl".to_owned(),
                "nw_proto" => format!("{l3}.proto"),
                "arp_spa" => "arp.sip".to_owned(),
                "arp_tpa" => "arp.tip".to_owned(),
                "arp_op" => "arp.op".to_owned(),
                "arp_sha" => "arp.sha".to_owned(),
                "arp_tha" => "arp.tha".to_owned(),
                "nd_target" => "nd.target".to_owned(),
                "nd_sll" => "nd.sll".to_owned(),
                "nd_tll" => "nd.tll".to_owned(),
                "tp_src" | "tp_dst" if l4.is_some() => {
                    format!("{}.{}", l4.unwrap_or_default(), name.trim_start_matches("tp_"))
                }
                _ => continue,
            };
            headers.put(name, number(value)?);
        }
        let part = |name: &str| all.get(name).map_or(Ok(0), |v| number(v));
        let tos = part("nw_tos")? | part("nw_ecn")?;
        headers.put(if l3 == "ipv6" { "ipv6.tclass" } else { "ipv4.tos" }.into(), tos);
        Ok(headers)
    }

    /// What is not there is zero.
    fn put(&mut self, name: String, value: u128) {
        match value {
            0 => drop(self.fields.remove(&name)),
            _ => drop(self.fields.insert(name, value)),
        }
    }

    fn set(&mut self, header: &str, inside: &str) -> Result<()> {
        for item in items(inside) {
            // Without a name the header is the field.
            let (name, value) = item.split_once('=').unwrap_or(("", item));
            if header == "eth_type" || matches!(name, "frag" | "proto") {
                continue;
            }
            let name = format!("{header}.{name}").trim_end_matches('.').to_owned();
            let (value, mask) = match value.split_once('/') {
                Some((v, m)) => (number(v)?, number(m)?),
                None => (number(value)?, u128::MAX),
            };
            let old = self.fields.get(&name).copied().unwrap_or(0);
            self.put(name, old & !mask | value & mask);
        }
        Ok(())
    }

    fn set_tag(&mut self, inside: &str) -> Result<()> {
        let Some((_, tci)) = self.tags.first_mut() else { bail!("a tag is set and there is none") };
        let (vid, pcp) = tag(inside)?;
        *tci = vid.map_or(*tci & 0xfff, |v| v) | pcp.map_or(*tci & 0xe000, |p| p << 13);
        Ok(())
    }
}

/// `vid=1,pcp=2`.
fn tag(inside: &str) -> Result<(Option<u16>, Option<u16>)> {
    let (mut vid, mut pcp) = (None, None);
    for item in items(inside) {
        match item.split_once('=') {
            Some(("vid", v)) => vid = Some(number(v)? as u16),
            Some(("pcp", v)) => pcp = Some(number(v)? as u16),
            _ => {}
        }
    }
    Ok((vid, pcp))
}

/// Do the actions on a packet with these headers.
pub fn effects(actions: &str, headers: &Headers) -> Result<Vec<Effect>> {
    let mut out = Vec::new();
    run(actions, &mut headers.clone(), &mut out).with_context(|| actions.to_owned())?;
    // To forget a state that nothing asks for any more is to do nothing.
    while matches!(out.last(), Some(Effect::Other(what, _)) if what == "ct_clear") {
        out.pop();
    }
    Ok(out)
}

fn run(actions: &str, h: &mut Headers, out: &mut Vec<Effect>) -> Result<()> {
    let mut cut = None;
    for item in items(actions) {
        if let Ok(port) = item.parse() {
            out.push(Effect::Sent(port, cut.take(), h.clone()));
            continue;
        }
        match call(item) {
            None if item == "pop_vlan" => {
                h.tags.remove(0);
            }
            None if item == "drop" => {}
            None => out.push(Effect::Other(item.to_owned(), h.clone())),
            Some(("drop", _)) => {}
            Some(("trunc", n)) => cut = Some(number(n)? as u32),
            Some(("clone", inside)) => run(inside, &mut h.clone(), out)?,
            Some(("push_vlan", inside)) => {
                let (vid, pcp) = tag(inside)?;
                let tpid = items(inside).into_iter().find_map(|i| i.strip_prefix("tpid="));
                let tpid = tpid.map_or(Ok(0x8100), number)? as u16;
                h.tags.insert(0, (tpid, vid.unwrap_or(0) | pcp.unwrap_or(0) << 13));
            }
            Some(("set", inside)) => match call(inside) {
                Some(("vlan", inside)) => h.set_tag(inside)?,
                Some((header, inside)) => h.set(header, inside)?,
                None => bail!("set({inside})"),
            },
            Some(("recirc", _)) => out.push(Effect::Other("recirc".into(), h.clone())),
            Some(("userspace", inside)) => {
                out.push(Effect::Other(userspace(inside), h.clone()));
            }
            Some(("ct", inside)) => {
                let mut parts: Vec<String> = items(inside).into_iter().map(str::to_owned).collect();
                // Zone 0 need not be named.
                parts.retain(|p| p != "zone=0");
                parts.sort();
                out.push(Effect::Other(format!("ct({})", parts.join(",")), h.clone()));
            }
            Some((name, _)) => bail!("an action {name}"),
        }
    }
    Ok(())
}

/// What both say of a packet for the controller.
fn userspace(inside: &str) -> String {
    let find = |name: &str| {
        let at = inside.find(&format!("{name}="))? + name.len() + 1;
        inside[at..].split([',', ')']).next()
    };
    let id = find("controller_id").or(find("id")).unwrap_or_default();
    let cookie = find("rule_cookie").unwrap_or_default().trim_start_matches("0x");
    let (reason, len) = (find("reason").unwrap_or_default(), find("max_len").unwrap_or_default());
    format!("controller(reason={reason},id={id},max_len={len},cookie={cookie})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_by_other_steps() {
        let flow = "tcp,in_port=1,dl_src=02:00:00:00:00:01,nw_src=10.0.0.1,nw_dst=10.0.0.2,nw_tos=4,\
                    nw_ecn=1,nw_ttl=64,tp_src=1,tp_dst=2";
        let start = Headers::of(flow, vec![(0x8100, 5)]).unwrap();
        let one = "set(ipv4(src=10.0.0.9,dst=10.0.0.2,proto=6,tos=0x5,ttl=64,frag=no)),pop_vlan,\
                   push_vlan(vid=7,pcp=1),trunc(20),2,3";
        let two = "set(vlan(vid=7,pcp=1)),set(ipv4(src=0.0.0.9/0.0.0.255)),trunc(20),2,3";
        assert_eq!(effects(one, &start).unwrap(), effects(two, &start).unwrap());
        assert_ne!(effects("2", &start).unwrap(), effects("set(tcp(src=7)),2", &start).unwrap());
        assert_ne!(effects("2,3", &start).unwrap(), effects("3,2", &start).unwrap());
        assert!(effects("unheard_of(1)", &start).is_err());
    }
}
