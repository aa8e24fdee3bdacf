//! What the fuzz targets do, on generated and mutated inputs that repeat. The targets themselves, which
//! run without end, are in `fuzz/`.

#[path = "fuzz/body.rs"]
mod body;
mod common;

use common::{Rng, flow_text};

/// Lines of every kind, good ones and bad ones.
fn corpus() -> Vec<&'static str> {
    let files = [
        include_str!("data/deployment.flows"),
        include_str!("data/refused.flows"),
        include_str!("data/groups"),
    ];
    files
        .into_iter()
        .flat_map(str::lines)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .collect()
}

fn mutate(r: &mut Rng, line: &mut Vec<u8>, corpus: &[&str]) {
    let at = r.below(line.len() as u64 + 1) as usize;
    match r.below(6) {
        0 => line.truncate(at),
        1 => line.insert(at, *r.pick(b"=,()[]/->:|+0x9fX\xc3 \n.")),
        2 if at < line.len() => drop(line.remove(at)),
        3 if at < line.len() => line[at] ^= 1 << r.below(8),
        4 => {
            let other = r.pick(corpus).as_bytes();
            let from = r.below(other.len() as u64 + 1) as usize;
            line.truncate(at);
            line.extend(&other[from..]);
        }
        _ => {
            let again = line[..at.min(40)].to_vec();
            line.extend(again);
        }
    }
}

#[test]
fn any_text() {
    let (corpus, mut r) = (corpus(), Rng(11));
    for line in &corpus {
        body::text(line.as_bytes());
    }
    for _ in 0..30_000 {
        let mut line = match r.below(3) {
            0 => flow_text(&mut r).into_bytes(),
            _ => r.pick(&corpus).as_bytes().to_vec(),
        };
        for _ in 0..1 + r.below(4) {
            mutate(&mut r, &mut line, &corpus);
        }
        body::text(&line);
    }
    body::text(&b"actions=".repeat(4000));
    body::text(&[&b"actions="[..], &b"clone(".repeat(20_000)].concat());
    body::text(&[&b"actions="[..], &b"output:1,".repeat(20_000)].concat());
}

/// Flows of few tables that lead into each other, among them loops.
fn table_text(r: &mut Rng) -> String {
    let mut text = String::new();
    for group in [
        "group_id=1,type=all,bucket=output:1,bucket=group:2",
        "group_id=2,type=select,bucket=output:2,bucket=resubmit(,1)",
    ] {
        text += group;
        text.push('\n');
    }
    for _ in 0..24 {
        let matched = *r.pick(&[
            "",
            "ip,",
            "tcp,",
            "udp,tp_src=1/3,",
            "ipv6,",
            "icmp6,icmp_type=135,icmp_code=0,",
            "arp,",
            "dl_vlan=1,",
            "vlan_tci=0,",
            "in_port=2,",
            "reg0=1,",
            "ip,nw_src=10.0.0.0/30,",
            "tcp,tcp_flags=+syn,",
            "ip,nw_frag=yes,",
            "metadata=1/1,",
            "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00,",
        ]);
        let actions: Vec<String> = (0..1 + r.below(4))
            .map(|_| match r.below(16) {
                0 => format!("resubmit(,{})", r.below(4)),
                1 => format!("output:{}", 1 + r.below(4)),
                2 => "all".into(),
                3 => "normal".into(),
                4 => format!("group:{}", 1 + r.below(2)),
                5 => "mod_vlan_vid:1".into(),
                6 => "strip_vlan".into(),
                7 => format!("clone(load:1->NXM_NX_REG0[],resubmit(,{}))", r.below(4)),
                8 => "mod_nw_src:10.0.0.1".into(),
                9 => "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]".into(),
                10 => "push_vlan:0x88a8".into(),
                11 => "learn(table=3,limit=2,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],output:NXM_OF_IN_PORT[])".into(),
                12 => format!("resubmit({},{})", 1 + r.below(4), r.below(4)),
                13 => "exit".into(),
                14 => "mod_tp_dst:7".into(),
                _ => "controller".into(),
            })
            .collect();
        let (table, priority) = (r.below(4), r.below(8));
        text +=
            &format!("table={table},priority={priority},{matched}actions={}\n", actions.join(","));
        if r.chance(4) {
            text +=
                &format!("table={table},priority=9,ip,actions=ct(commit,table={})\n", r.below(4));
        }
    }
    text
}

/// A frame whose headers have few values.
fn frame(r: &mut Rng) -> Vec<u8> {
    let mut f = vec![if r.chance(4) { 1 } else { 2 }, 0, 0, 0, 0, r.below(3) as u8];
    f.extend([2, 0, 0, 0, 1, r.below(2) as u8]);
    for _ in 0..r.below(3) {
        f.extend([0x81, 0, 0, r.below(3) as u8]);
    }
    match r.below(4) {
        0 => f.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]),
        1 => {
            f.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, *r.pick(&[6, 17, 58, 44]), 64]);
            f.extend([0; 31]);
            f.push(r.below(3) as u8);
            f.extend([*r.pick(&[0, 135]), 0]);
        }
        _ => {
            let frag = *r.pick(&[0, 0, 0x20]);
            f.extend([0x08, 0, 0x45, 0, 0, 40, 0, 0, frag, 0, 64, *r.pick(&[6, 17, 1]), 0, 0]);
            f.extend([10, 0, 0, r.below(6) as u8, 10, 0, 0, 1, 0, r.below(4) as u8, 0, 2]);
        }
    }
    f.extend((0..r.below(24)).map(|_| r.below(4) as u8));
    if r.chance(6) {
        f.truncate(14 + r.below(f.len() as u64 - 13) as usize);
    }
    f
}

#[test]
fn any_tables() {
    let mut r = Rng(12);
    let mut pairs = 0;
    for round in 0..400 {
        let mut data = table_text(&mut r).into_bytes();
        if round % 4 == 0 {
            let corpus = corpus();
            mutate(&mut r, &mut data, &corpus);
        }
        data.push(b'\n');
        for _ in 0..24 {
            let frame = frame(&mut r);
            data.extend([r.below(3) as u8, frame.len() as u8]);
            data.extend(frame);
        }
        pairs += body::tables(&data);
    }
    assert!(pairs > 1000, "only {pairs} pairs of packets had one megaflow");
}
