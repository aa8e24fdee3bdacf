//! How are actions written?

use std::fmt::Write;
use std::net::Ipv4Addr;

use super::action_args::REASONS;
use super::match_show::{
    show_exact_flags, show_flags, show_hex, show_ip_mask, show_ipv6, show_mac,
};
use super::names::{CT_STATE, FRAGS, PortNames, TCP_FLAGS, TUN_FLAGS, show_port};
use super::subfield;
use crate::action::{
    Action, Controller, Ct, IcmpError, IcmpSays, Learn, LearnSpec, Nat, NatAddrs, NatChoice,
    NatKind, OfPort, Reason, SetField, SetForm, Zone,
};
use crate::flowmod::DEFAULT_PRIORITY;
use crate::mf::{Format, Mf, low128};

/// Write a list of actions; `drop` if it is empty.
pub fn show_actions(out: &mut String, actions: &[Action], ports: &dyn PortNames) {
    if actions.is_empty() {
        out.push_str("drop");
    }
    show_list(out, actions, ports);
}

fn show_list(out: &mut String, actions: &[Action], ports: &dyn PortNames) {
    for (i, action) in actions.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        show_action(out, action, ports);
    }
}

/// Write one action.
pub fn show_action(out: &mut String, action: &Action, ports: &dyn PortNames) {
    let _ = match action {
        Action::Output { port, max_len } => return show_output(out, *port, *max_len, ports),
        Action::OutputReg { src, .. } => {
            out.push_str("output:");
            return subfield::show(out, *src);
        }
        Action::OutputTrunc { port, max_len } => {
            out.push_str("output(port=");
            show_port(out, *port, ports);
            write!(out, ",max_len={max_len})")
        }
        Action::Controller(c) => return show_controller(out, c),
        Action::Group(id) => write!(out, "group:{}", id.0),
        Action::Resubmit { in_port, table, ct } => {
            return show_resubmit(out, *in_port, *table, *ct, ports);
        }
        Action::PushVlan(ty) => write!(out, "push_vlan:{ty:#06x}"),
        Action::StripVlan { pop: true } => write!(out, "pop_vlan"),
        Action::StripVlan { pop: false } => write!(out, "strip_vlan"),
        Action::SetVlanVid(vid) => write!(out, "mod_vlan_vid:{vid}"),
        Action::SetVlanPcp(pcp) => write!(out, "mod_vlan_pcp:{pcp}"),
        Action::Set(set) => return show_set(out, set, ports),
        Action::Move { src, dst } => {
            out.push_str("move:");
            subfield::show(out, *src);
            out.push_str("->");
            return subfield::show(out, *dst);
        }
        Action::DecTtl(None) => write!(out, "dec_ttl"),
        Action::DecTtl(Some(ids)) => {
            let ids: Vec<String> = ids.iter().map(u16::to_string).collect();
            write!(out, "dec_ttl({})", ids.join(","))
        }
        Action::FinTimeout { idle, hard } => {
            let mut args = Vec::new();
            for (name, seconds) in [("idle_timeout", idle), ("hard_timeout", hard)] {
                if *seconds != 0 {
                    args.push(format!("{name}={seconds}"));
                }
            }
            write!(out, "fin_timeout({})", args.join(","))
        }
        Action::Learn(learn) => return show_learn(out, learn, ports),
        Action::Conjunction { id, clause, n_clauses } => {
            write!(out, "conjunction({id},{}/{n_clauses})", clause + 1)
        }
        Action::Note(bytes) => {
            out.push_str("note:");
            return show_bytes(out, bytes);
        }
        Action::Clone(list) => {
            out.push_str("clone(");
            show_actions(out, list, ports);
            write!(out, ")")
        }
        Action::Exit => write!(out, "exit"),
        Action::Ct(ct) => return show_ct(out, ct, ports),
        Action::CtClear => write!(out, "ct_clear"),
        Action::ClearActions => write!(out, "clear_actions"),
        Action::WriteActions(list) => {
            out.push_str("write_actions(");
            show_actions(out, list, ports);
            write!(out, ")")
        }
        Action::WriteMetadata { value, mask } => {
            out.push_str("write_metadata:");
            show_hex(out, u128::from(*value));
            if *mask != u64::MAX {
                out.push('/');
                show_hex(out, u128::from(*mask));
            }
            Ok(())
        }
        Action::GotoTable(t) => write!(out, "goto_table:{t}"),
        Action::Refuse(why) => write!(out, "drop({})", why.name()),
        Action::IcmpError(e) => return show_icmp_error(out, e),
        Action::Fragment(mtu) => write!(out, "fragment({mtu})"),
    };
}

fn show_icmp_error(out: &mut String, e: &IcmpError) {
    let says = match e.says {
        IcmpSays::TimeExceeded => "time_exceeded",
        IcmpSays::NoRoute => "no_route",
        IcmpSays::NoHost => "no_host",
        IcmpSays::NoPort => "no_port",
        IcmpSays::TooBig(mtu) => {
            let _ = write!(out, "icmp_error(too_big,mtu={mtu},src={},table={})", e.from, e.table);
            return;
        }
    };
    let _ = write!(out, "icmp_error({says},src={},table={})", e.from, e.table);
}

fn show_output(out: &mut String, port: OfPort, max_len: u16, ports: &dyn PortNames) {
    if port == OfPort::CONTROLLER {
        let _ = write!(out, "CONTROLLER:{max_len}");
        return;
    }
    let is_reserved = port > OfPort::MAX;
    if !is_reserved {
        out.push_str("output:");
    }
    show_port(out, port, ports);
}

fn show_controller(out: &mut String, c: &Controller) {
    out.push_str("controller(");
    let start = out.len();
    if c.reason != Reason::Action {
        let name = REASONS.iter().find(|r| r.1 == c.reason).map_or("action", |r| r.0);
        let _ = write!(out, "reason={name},");
    }
    if c.max_len != u16::MAX {
        let _ = write!(out, "max_len={},", c.max_len);
    }
    if c.id != 0 {
        let _ = write!(out, "id={},", c.id);
    }
    if !c.userdata.is_empty() {
        out.push_str("userdata=");
        show_bytes(out, &c.userdata);
        out.push(',');
    }
    if c.pause {
        out.push_str("pause,");
    }
    close(out, start);
}

/// Take a last comma away and close the parenthesis.
fn close(out: &mut String, start: usize) {
    if out.len() > start && out.ends_with(',') {
        out.pop();
    }
    out.push(')');
}

fn show_bytes(out: &mut String, bytes: &[u8]) {
    for (i, b) in bytes.iter().enumerate() {
        let _ = write!(out, "{}{b:02x}", if i > 0 { "." } else { "" });
    }
}

fn show_resubmit(
    out: &mut String,
    in_port: Option<OfPort>,
    table: Option<u8>,
    ct: bool,
    ports: &dyn PortNames,
) {
    if let (Some(port), None, false) = (in_port, table, ct) {
        out.push_str("resubmit:");
        return show_port(out, port, ports);
    }
    out.push_str("resubmit(");
    if let Some(port) = in_port {
        show_port(out, port, ports);
    }
    out.push(',');
    if let Some(t) = table {
        let _ = write!(out, "{t}");
    }
    out.push_str(if ct { ",ct)" } else { ")" });
}

fn show_set(out: &mut String, set: &SetField, ports: &dyn PortNames) {
    let mf = set.field();
    match set.form() {
        SetForm::Mod => show_mod(out, mf, set.value()),
        SetForm::Load => {
            let (value, mask) = (set.value(), set.mask());
            let ofs = mask.trailing_zeros().min(127);
            let n_bits = mask.count_ones();
            out.push_str("load:");
            show_hex(out, value >> ofs);
            out.push_str("->");
            let sf = crate::mf::Subfield { field: mf, ofs: ofs as u8, n_bits: n_bits as u8 };
            subfield::show(out, sf);
        }
        SetForm::SetField => {
            out.push_str("set_field:");
            // A VLAN id is written with the bit that says that there is a tag.
            let present = if mf == Mf::VlanVid { 0x1000 } else { 0 };
            let mask = (set.mask() != mf.full()).then(|| set.mask() | present);
            show_value(out, mf, set.value() | present, mask, ports);
            let _ = write!(out, "->{}", mf.name());
        }
    }
}

/// One of the older actions.
fn show_mod(out: &mut String, mf: Mf, value: u128) {
    let name = match mf {
        Mf::EthSrc => "mod_dl_src",
        Mf::EthDst => "mod_dl_dst",
        Mf::IpSrc => "mod_nw_src",
        Mf::IpDst => "mod_nw_dst",
        Mf::NwTos => "mod_nw_tos",
        Mf::NwEcn => "mod_nw_ecn",
        Mf::NwTtl => "mod_nw_ttl",
        Mf::TcpSrc => "mod_tp_src",
        Mf::TcpDst => "mod_tp_dst",
        Mf::TunId if value > u128::from(u32::MAX) => "set_tunnel64",
        Mf::TunId => "set_tunnel",
        _ => "set_field",
    };
    let _ = write!(out, "{name}:");
    let _ = match mf.info().format {
        Format::Mac => return show_mac(out, value),
        Format::Ipv4 => write!(out, "{}", Ipv4Addr::from(value as u32)),
        Format::Hex => write!(out, "{value:#x}"),
        _ => write!(out, "{value}"),
    };
}

/// Write a field's value in its own notation, with its mask unless that is `None`.
pub(crate) fn show_value(
    out: &mut String,
    mf: Mf,
    value: u128,
    mask: Option<u128>,
    ports: &dyn PortNames,
) {
    let slash = |out: &mut String, show: fn(&mut String, u128)| {
        if let Some(m) = mask {
            out.push('/');
            show(out, m);
        }
    };
    match mf.info().format {
        Format::Decimal => {
            let _ = match mask {
                None => write!(out, "{value}"),
                Some(m) => write!(out, "{value:#x}/{m:#x}"),
            };
        }
        Format::Hex => {
            show_hex(out, value);
            slash(out, show_hex);
        }
        Format::Mac => {
            show_mac(out, value);
            slash(out, show_mac);
        }
        Format::Ipv4 => {
            let _ = write!(out, "{}", Ipv4Addr::from(value as u32));
            show_ip_mask(out, mask.unwrap_or(u32::MAX.into()), 32, |m| Ipv4Addr::from(m as u32));
        }
        Format::Ipv6 => {
            show_ipv6(out, value);
            show_ip_mask(out, mask.unwrap_or(u128::MAX), 128, std::net::Ipv6Addr::from);
        }
        Format::Port => {
            let port =
                if mf.bits() == 16 { OfPort::from_16(value as u16) } else { OfPort(value as u32) };
            show_port(out, port, ports);
        }
        Format::Frag => {
            let mask = mask.unwrap_or(3);
            let name = FRAGS.iter().find(|f| (f.1, f.2) == (value & mask, mask));
            out.push_str(name.map_or("no", |f| f.0));
        }
        Format::CtState => show_flag_value(out, value, mask, 0xff, CT_STATE),
        Format::TcpFlags => show_flag_value(out, value, mask, 0xfff, TCP_FLAGS),
        Format::TunnelFlags => show_flag_value(out, value, mask, 1, TUN_FLAGS),
        Format::PacketType => {
            let _ = write!(out, "({},{:#x})", value >> 16, value & 0xffff);
        }
    }
}

fn show_flag_value(out: &mut String, v: u128, mask: Option<u128>, all: u128, names: &[&str]) {
    match mask {
        None => show_exact_flags(out, v, names),
        Some(m) => show_flags(out, v, m, all, names),
    }
}

fn show_learn(out: &mut String, l: &Learn, ports: &dyn PortNames) {
    let _ = write!(out, "learn(table={}", l.table);
    let timeouts = [
        ("idle_timeout", l.idle_timeout),
        ("hard_timeout", l.hard_timeout),
        ("fin_idle_timeout", l.fin_idle_timeout),
        ("fin_hard_timeout", l.fin_hard_timeout),
    ];
    for (name, seconds) in timeouts.iter().filter(|t| t.1 != 0) {
        let _ = write!(out, ",{name}={seconds}");
    }
    if l.priority != DEFAULT_PRIORITY {
        let _ = write!(out, ",priority={}", l.priority);
    }
    for (word, _) in [("send_flow_rem", l.send_flow_rem), ("delete_learned", l.delete_learned)]
        .iter()
        .filter(|f| f.1)
    {
        let _ = write!(out, ",{word}");
    }
    if l.cookie != 0 {
        let _ = write!(out, ",cookie={:#x}", l.cookie);
    }
    if l.limit != 0 {
        let _ = write!(out, ",limit={}", l.limit);
    }
    if let Some(dst) = l.result_dst {
        out.push_str(",result_dst=");
        subfield::show(out, dst);
    }
    for spec in &l.specs {
        out.push(',');
        show_learn_spec(out, spec, ports);
    }
    out.push(')');
}

fn show_learn_spec(out: &mut String, spec: &LearnSpec, ports: &dyn PortNames) {
    match spec {
        LearnSpec::MatchValue { dst, value } if dst.is_whole() => {
            let _ = write!(out, "{}=", dst.field.name());
            show_value(out, dst.field, *value, None, ports);
        }
        LearnSpec::MatchValue { dst, value } => {
            subfield::show(out, *dst);
            let _ = write!(out, "={value:#x}");
        }
        LearnSpec::MatchField { dst, src } => {
            subfield::show(out, *dst);
            if src != dst {
                out.push('=');
                subfield::show(out, *src);
            }
        }
        LearnSpec::LoadValue { dst, value } => {
            out.push_str("load:");
            show_hex(out, *value & low128(u32::from(dst.n_bits)));
            out.push_str("->");
            subfield::show(out, *dst);
        }
        LearnSpec::LoadField { dst, src } => {
            out.push_str("load:");
            subfield::show(out, *src);
            out.push_str("->");
            subfield::show(out, *dst);
        }
        LearnSpec::Output { src } => {
            out.push_str("output:");
            subfield::show(out, *src);
        }
    }
}

fn show_ct(out: &mut String, ct: &Ct, ports: &dyn PortNames) {
    out.push_str("ct(");
    let start = out.len();
    if ct.commit {
        out.push_str("commit,");
    }
    if ct.force {
        out.push_str("force,");
    }
    if let Some(t) = ct.table {
        let _ = write!(out, "table={t},");
    }
    match ct.zone {
        Zone::Number(0) => {}
        Zone::Number(n) => {
            let _ = write!(out, "zone={n},");
        }
        Zone::Field(sf) => {
            out.push_str("zone=");
            subfield::show(out, sf);
            out.push(',');
        }
    }
    if let Some(nat) = &ct.nat {
        show_nat(out, nat);
        out.push(',');
    }
    if !ct.exec.is_empty() {
        out.push_str("exec(");
        show_list(out, &ct.exec, ports);
        out.push_str("),");
    }
    close(out, start);
}

fn show_nat(out: &mut String, nat: &Nat) {
    out.push_str("nat");
    let Some(kind) = nat.kind else { return };
    out.push_str(if kind == NatKind::Src { "(src" } else { "(dst" });
    let bracket = nat.ports.is_some();
    match nat.addrs {
        NatAddrs::None => {}
        NatAddrs::V4(a, b) => {
            let _ = write!(out, "={}", Ipv4Addr::from(a));
            if a != b {
                let _ = write!(out, "-{}", Ipv4Addr::from(b));
            }
        }
        NatAddrs::V6(a, b) => {
            out.push('=');
            show_bracketed(out, a, bracket);
            if a != b {
                out.push('-');
                show_bracketed(out, b, bracket);
            }
        }
    }
    if let Some((a, b)) = nat.ports {
        let _ = write!(out, ":{a}");
        if a != b {
            let _ = write!(out, "-{b}");
        }
    }
    if nat.persistent {
        out.push_str(",persistent");
    }
    match nat.choice {
        NatChoice::Any => {}
        NatChoice::Hash => out.push_str(",hash"),
        NatChoice::Random => out.push_str(",random"),
    }
    out.push(')');
}

fn show_bracketed(out: &mut String, addr: u128, bracket: bool) {
    if bracket {
        out.push('[');
    }
    show_ipv6(out, addr);
    if bracket {
        out.push(']');
    }
}
