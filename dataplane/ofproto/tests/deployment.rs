//! The flows of a real deployment: each is read, written and read again without a change.

use std::fs;

use ofproto::flowmod::{Command, FlowMod};
use ofproto::text::{FlowTimes, NoNames, ShownFlow, parse_flow, parse_flows, show_flow};

fn show(f: &FlowMod, times: Option<FlowTimes>) -> String {
    let mut out = String::new();
    let flow = ShownFlow { times, ..ShownFlow::from(f) };
    show_flow(&mut out, &flow, &NoNames);
    out
}

fn data() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/deployment.flows");
    fs::read_to_string(path).unwrap()
}

#[test]
fn every_flow_is_written_as_it_was_read() {
    let text = data();
    let lines: Vec<&str> = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
    assert!(lines.len() > 100);
    for line in lines {
        let flow =
            parse_flow(line, Command::Add, &NoNames).unwrap_or_else(|e| panic!("{line}: {e}"));
        assert_eq!(show(&flow, None), line);
    }
}

#[test]
fn a_listing_with_statistics_is_read_back() {
    let flows = parse_flows(&data(), Command::Add, &NoNames).unwrap();
    let times = FlowTimes {
        duration: 12_345,
        packets: 7,
        bytes: 800,
        idle_age: Some(3),
        hard_age: Some(2),
    };
    let mut listing = String::from("NXST_FLOW reply (xid=0x4):\n");
    for f in &flows {
        listing.push(' ');
        listing.push_str(&show(f, Some(times)));
        listing.push('\n');
    }
    assert!(listing.contains("cookie=0x0, duration=12.345s, table=60, n_packets=7, n_bytes=800, "));
    let again = parse_flows(&listing, Command::Add, &NoNames).unwrap();
    assert_eq!(again.len(), flows.len());
    for (a, b) in again.iter().zip(&flows) {
        assert_eq!((&a.matches, &a.actions, a.priority), (&b.matches, &b.actions, b.priority));
        assert_eq!(a.table, Some(b.table.unwrap_or(0)));
        assert_eq!((a.idle_timeout, a.hard_timeout), (b.idle_timeout, b.hard_timeout));
    }
}

#[test]
fn the_agents_deletions_are_read() {
    let lines = "delete cookie=0x5/-1,table=60,in_port=7\n\
                 delete cookie=0x5/-1,reg5=7 # all tables\n\
                 delete table=60,dl_dst=fa:16:3e:11:22:33,vlan_tci=0x0000/0x1fff\n\
                 delete dl_type=2048,table=82,nw_src=10.1.2.3/32,ct_state=+new-est,reg6=5\n\
                 delete_strict priority=2,in_port=7\n";
    let mods = parse_flows(lines, Command::Add, &NoNames).unwrap();
    assert_eq!(mods.len(), 5);
    assert_eq!((mods[0].table, mods[0].cookie, mods[0].cookie_mask), (Some(60), 5, u64::MAX));
    assert_eq!(mods[1].table, None);
    assert_eq!(mods[4].command, Command::DeleteStrict);
    assert_eq!(mods[4].priority, 2);
}
