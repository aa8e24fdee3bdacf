//! The same tables and the same packets through this switch and through stock Open vSwitch: what both
//! say of a packet in a trace, and what really leaves by which port, byte for byte.
//!
//! Where they differ on purpose, `docs/differences.md` says so and the comparison here knows of it.

mod connections;
mod effects;
mod odd;
mod packets;
mod random;
mod tables;

use std::collections::BTreeMap;

use effects::{Effect, Headers};
use random::Rng;
use serde_json::Value;
use tables::{Flavour, PORTS};

use crate::daemon::Daemon;
use crate::lab::{Host, Lab};
use crate::ovs::Ovs;
use crate::raw::Raw;
use crate::runner::Case;
use crate::{Context, Result, bail, ensure, frame, wait};

pub const CASES: &[Case] = &[
    Case::new(
        "ovs-trace",
        "generated tables and packets: traces say what Open vSwitch's say",
        trace,
    )
    .limit(300),
    Case::new(
        "ovs-frames",
        "generated tables and packets: the same frames leave by the same ports as in Open vSwitch",
        frames,
    )
    .limit(300),
    Case::new(
        "ovs-connections",
        "tracked and translated conversations: state, mark and bytes as in Open vSwitch",
        connections::connections,
    )
    .limit(200),
    Case::new(
        "ovs-odd-tcp",
        "TCP that begins oddly, goes on oddly or begins again: as in Open vSwitch but where it is known",
        odd::odd,
    )
    .limit(200),
];

const BRIDGE: &str = "br0";
/// The other switch's; it makes an interface of that name.
const THEIRS: &str = "ovs0";
/// The bridge's own port.
const LOCAL: u64 = 0xfffe;
/// By default priority tags are left out here, as ovs-vswitchd.conf.db(5) has it, and kept there.
const TAGS: &str = "other_config:priority-tags=if-nonzero";
const OLD: &str = "OpenFlow10";
const NEW: &str = "OpenFlow15";
/// Flows of one set of tables.
const FLOWS: u64 = 45;
/// Frames that go through each.
const FRAMES: usize = 120;
/// The last frame by a port goes to this address, and by a flow of its own to every port.
const END: frame::Mac = frame::Mac([2, 0, 0, 0, 0xee, 0xee]);

/// Both switches, side by side, with machines at their ports.
struct Both {
    daemon: Daemon,
    ovs: Ovs,
    /// Port by port: ours, theirs.
    hosts: Vec<(Host, Host)>,
    /// OpenFlow port of a datapath port: ours, theirs.
    ports: (BTreeMap<u32, u64>, BTreeMap<u32, u64>),
}

impl Both {
    fn start(lab: &Lab) -> Result<Both> {
        let (daemon, ovs) = (Daemon::start(lab)?, Ovs::start(lab)?);
        let mut hosts = Vec::new();
        daemon.run(&format!("add-br {BRIDGE} fail_mode=secure"))?;
        let versions = "OpenFlow10,OpenFlow11,OpenFlow12,OpenFlow13,OpenFlow14,OpenFlow15";
        // Two tags, as here.
        ovs.vsctl("set Open_vSwitch . other_config:vlan-limit=0")?;
        ovs.vsctl(&format!(
            "add-br {THEIRS} -- set bridge {THEIRS} datapath_type=netdev fail_mode=secure protocols={versions}"
        ))?;
        for n in 1..=PORTS {
            let (a, b) = (format!("a{n}"), format!("b{n}"));
            hosts.push((lab.host(&a, "")?, lab.host(&b, "")?));
            daemon.run(&format!("add-port {BRIDGE} {a} ofport_request={n} {TAGS}"))?;
            ovs.vsctl(&format!(
                "add-port {THEIRS} {b} -- set interface {b} ofport_request={n} -- set port {b} {TAGS}"
            ))?;
        }
        daemon.run(&format!("set port {BRIDGE} {TAGS}"))?;
        ovs.vsctl(&format!("set port {THEIRS} {TAGS}"))?;
        for bridge in [BRIDGE, THEIRS] {
            crate::cmd::run(&["ip", "link", "set", "dev", bridge, "up"])?;
        }
        let mut both = Both { daemon, ovs, hosts, ports: Default::default() };
        both.ports = (both.our_ports()?, both.their_ports()?);
        Ok(both)
    }

    /// From traces of packets that go back where they came from.
    fn our_ports(&self) -> Result<BTreeMap<u32, u64>> {
        self.daemon.run(&format!("add-flow {BRIDGE} actions=in_port"))?;
        let mut ports = BTreeMap::new();
        for n in (1..=PORTS).chain([LOCAL]) {
            let traced = self.daemon.json(&format!("trace {BRIDGE} in_port={n}"))?;
            let actions = traced["passes"][0]["actions"].as_str().context("no actions")?;
            ports.insert(actions.parse().context(actions.to_owned())?, n);
        }
        self.daemon.run(&format!("del-flows {BRIDGE}"))?;
        Ok(ports)
    }

    fn their_ports(&self) -> Result<BTreeMap<u32, u64>> {
        self.ovs.ofctl(OLD, &["add-flow", THEIRS, "actions=in_port"])?;
        let mut ports = BTreeMap::new();
        for n in (1..=PORTS).chain([LOCAL]) {
            let text = self.ovs.appctl(&["ofproto/trace", THEIRS, &format!("in_port={n}")])?;
            let actions = text.lines().find_map(|l| l.strip_prefix("Datapath actions: "));
            let actions = actions.with_context(|| text.clone())?;
            ports.insert(actions.parse().context(actions.to_owned())?, n);
        }
        self.ovs.ofctl(OLD, &["del-flows", THEIRS])?;
        Ok(ports)
    }

    /// Empty tables, then the same groups and flows in both.
    fn load(&self, lab: &Lab, (old, new): &(Vec<String>, Vec<String>)) -> Result<()> {
        self.daemon.run(&format!("del-flows {BRIDGE} -- del-groups {BRIDGE}"))?;
        self.ovs.ofctl(NEW, &["del-flows", THEIRS])?;
        self.ovs.ofctl(NEW, &["del-groups", THEIRS])?;
        let file = |name: &str, lines: &[String]| -> Result<String> {
            let path = lab.dir().join(name);
            std::fs::write(&path, lines.join("\n") + "\n")?;
            Ok(path.display().to_string())
        };
        let groups: Vec<String> = tables::GROUPS.iter().map(|g| (*g).to_owned()).collect();
        let end = vec![format!("table=0,priority=65535,cookie=0xeeee,dl_dst={END},actions=all")];
        for (version, name, lines) in [(OLD, "end", &end), (OLD, "old", old), (NEW, "new", new)] {
            if version == NEW {
                for group in &groups {
                    self.daemon.ctl(&["add-group", BRIDGE, group]).and_then(good)?;
                }
                let groups = file("groups", &groups)?;
                self.ovs.ofctl(NEW, &["add-groups", THEIRS, &groups])?;
            }
            let path = file(name, lines)?;
            self.daemon.run(&format!("add-flows {BRIDGE} {path}"))?;
            let loaded = self.ovs.ofctl(version, &["add-flows", THEIRS, &path]);
            loaded.with_context(|| lines.join("\n"))?;
        }
        Ok(())
    }
}

impl Both {
    /// What both say of a frame, for people.
    fn ask(&self, port: u64, frame: &str) -> Result<String> {
        let port = format!("in_port={port}");
        let ours = self.daemon.run(&format!("trace {BRIDGE} {port} --packet {frame}"))?;
        let theirs = self.ovs.appctl(&["ofproto/trace", THEIRS, &port, frame])?;
        Ok(format!("{port} {frame}\nours:\n{ours}\ntheirs:\n{theirs}"))
    }
}

fn good(out: crate::cmd::Output) -> Result<()> {
    ensure!(out.status == 0, "{}{}", out.stdout, out.stderr);
    Ok(())
}

/// One way through the tables, as either switch tells it.
#[derive(Debug, PartialEq, Eq)]
struct Pass {
    end: String,
    effects: Vec<Effect>,
}

/// A pass with a packet's description before and after and the datapath's actions.
fn pass(
    (flow, end): (&str, &str),
    actions: &str,
    tags: &[(u16, u16)],
    ports: &BTreeMap<u32, u64>,
) -> Result<Pass> {
    let mut effects = effects::effects(actions, &Headers::of(flow, tags.to_vec())?)?;
    for effect in &mut effects {
        if let Effect::Sent(port, ..) = effect {
            let of = ports.get(port).with_context(|| format!("datapath port {port}"))?;
            *port = u32::try_from(*of)?;
        }
    }
    // In which order different ports get the packet is nobody's promise.
    effects.sort_by_key(|e| match e {
        Effect::Sent(port, ..) => Some(*port),
        Effect::Other(..) => None,
    });
    Ok(Pass { end: plain(end), effects })
}

/// A packet's description without what only one of the two writes.
fn plain(flow: &str) -> String {
    let skip = [
        "recirc_id=",
        "vlan_tci1=",
        "dl_vlan1=",
        "dl_vlan_pcp1=",
        "nd_options_type=",
        "nd_reserved=",
        "eth",
    ];
    let nothing = ["nd_sll=00:00:00:00:00:00", "nd_tll=00:00:00:00:00:00"];
    let mut items: Vec<&str> = flow
        .split(',')
        .map(str::trim)
        .filter(|i| !skip.iter().any(|s| i == s || s.ends_with('=') && i.starts_with(s)))
        .filter(|i| !nothing.contains(i))
        .collect();
    items.sort_unstable();
    items.join(",")
}

fn tags_of(frame: &[u8]) -> Vec<(u16, u16)> {
    let all = frame::tags(frame);
    all.iter().take(2).map(|t| (t.tpid, t.tci)).collect()
}

fn hex(frame: &[u8]) -> String {
    frame.iter().map(|b| format!("{b:02x}")).collect()
}

/// Ways of a frame through our tables; none if it would get a third tag, at which Open vSwitch loses
/// one (`docs/differences.md`).
fn our_passes(both: &Both, frame: &[u8], port: u64) -> Result<Vec<Pass>> {
    let line = format!("trace {BRIDGE} in_port={port} --packet {}", hex(frame));
    let text = both.daemon.run(&format!("--format json {line}"))?;
    if text.contains("a third tag") {
        return Ok(Vec::new());
    }
    let traced: Value = serde_json::from_str(&text)?;
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let passes = traced["passes"].as_array().context("no passes")?;
    let tags = tags_of(frame);
    passes
        .iter()
        .map(|p| {
            let flow = text(&p["flow"]);
            let end = p["final_flow"].as_str().unwrap_or(&flow);
            pass((&flow, end), &text(&p["actions"]), &tags, &both.ports.0)
        })
        .collect()
}

fn their_passes(both: &Both, frame: &[u8], port: u64) -> Result<Vec<Pass>> {
    let words = ["ofproto/trace", THEIRS, &format!("in_port={port}"), &hex(frame)];
    let text = both.ovs.appctl(&words)?;
    let (mut passes, mut flow, mut end) = (Vec::new(), String::new(), String::new());
    let tags = tags_of(frame);
    for line in text.lines() {
        if let Some(f) = line.strip_prefix("Flow: ") {
            flow = f.to_owned();
        } else if let Some(f) = line.strip_prefix("Final flow: ") {
            end = if f == "unchanged" { flow.clone() } else { f.to_owned() };
        } else if let Some(actions) = line.strip_prefix("Datapath actions: ") {
            passes.push(pass((&flow, &end), actions, &tags, &both.ports.1).context(text.clone())?);
        }
    }
    Ok(passes)
}

fn trace(lab: &Lab) -> Result<()> {
    let both = Both::start(lab)?;
    for seed in 0..12 {
        let mut r = Rng(seed);
        let flavour = [Flavour::Plain, Flavour::Learning, Flavour::Tracking][seed as usize % 3];
        both.load(lab, &tables::flows(&mut r, flavour, FLOWS))?;
        for frame in packets::frames(&mut r, FRAMES / 2) {
            let port = 1 + r.below(PORTS);
            let ours = our_passes(&both, &frame, port)?;
            if ours.is_empty() {
                continue;
            }
            let theirs = their_passes(&both, &frame, port)?;
            if ours != theirs {
                let told = both.ask(port, &hex(&frame))?;
                bail!("they differ, seed {seed}:\n{told}\nours   {ours:?}\ntheirs {theirs:?}");
            }
        }
    }
    Ok(())
}

/// Frames that left by a port, each with the port, in an order of their own.
type Left = Vec<(usize, Vec<u8>)>;

/// Send frames by the ports they come with, and gather what leaves. So few at a time, as a frame may
/// leave dozens of times and a socket's queue is short.
fn send(
    hosts: &[Host],
    raws: &[Raw],
    frames: &[(usize, Vec<u8>)],
    at_a_time: usize,
) -> Result<Left> {
    for raw in raws {
        raw.drain()?;
    }
    let mut left = Vec::new();
    // Packets of different flows in one burst may overtake each other; those of a later burst do not.
    for some in frames.chunks(at_a_time).chain([&[][..]]) {
        left.extend(send_some(hosts, raws, some)?);
    }
    left.sort();
    Ok(left)
}

fn send_some(hosts: &[Host], raws: &[Raw], frames: &[(usize, Vec<u8>)]) -> Result<Left> {
    for (port, frame) in frames {
        raws[*port].send(frame)?;
    }
    for (port, raw) in raws.iter().enumerate() {
        raw.send(&frame::marked(END, hosts[port].mac, &[], &format!("<end-{port}>")))?;
    }
    let mut left = Vec::new();
    for (port, raw) in raws.iter().enumerate() {
        let mut waiting: Vec<String> = (0..raws.len()).map(|n| format!("<end-{n}>")).collect();
        waiting.remove(port);
        while !waiting.is_empty() {
            let frame = raw.receive(wait::SOON)?;
            let frame =
                frame.with_context(|| format!("port {}: {waiting:?} never came", port + 1))?;
            match waiting.iter().position(|w| frame::has_mark(&frame, w)) {
                Some(found) => drop(waiting.remove(found)),
                None => left.push((port, frame)),
            }
        }
    }
    Ok(left)
}

/// Packets and bytes by cookie.
type Counters = BTreeMap<u64, (u64, u64)>;

fn our_counters(both: &Both) -> Result<Counters> {
    let dump = both.daemon.json(&format!("dump-flows {BRIDGE}"))?;
    let mut all = Counters::new();
    for flow in dump["flows"].as_array().context("no flows")? {
        let text = flow["flow"].as_str().unwrap_or_default();
        add_counters(&mut all, text, |_| {
            Some((flow["packets"].as_u64()?, flow["bytes"].as_u64()?))
        })?;
    }
    Ok(all)
}

fn their_counters(both: &Both) -> Result<Counters> {
    let mut all = Counters::new();
    for line in both.ovs.ofctl(NEW, &["dump-flows", THEIRS])?.lines() {
        let number = |name: &str| line.split(name).nth(1)?.split(',').next()?.parse().ok();
        if line.contains("cookie=") {
            add_counters(&mut all, line, |_| Some((number("n_packets=")?, number("n_bytes=")?)))?;
        }
    }
    Ok(all)
}

fn add_counters(
    all: &mut Counters,
    line: &str,
    counted: impl Fn(&str) -> Option<(u64, u64)>,
) -> Result<()> {
    let cookie = line.split("cookie=0x").nth(1).and_then(|t| t.split(',').next());
    let cookie = u64::from_str_radix(cookie.with_context(|| line.to_owned())?, 16)?;
    let (packets, bytes) = counted(line).with_context(|| line.to_owned())?;
    let sum = all.entry(cookie).or_default();
    (sum.0, sum.1) = (sum.0 + packets, sum.1 + bytes);
    Ok(())
}

fn frames(lab: &Lab) -> Result<()> {
    let both = Both::start(lab)?;
    let (ours, theirs): (Vec<Host>, Vec<Host>) = both.hosts.iter().cloned().unzip();
    let raws = |hosts: &[Host]| hosts.iter().map(Host::raw).collect::<Result<Vec<_>>>();
    let (our_raws, their_raws) = (raws(&ours)?, raws(&theirs)?);
    for seed in 100..116 {
        let mut r = Rng(seed);
        // Where one packet changes what becomes of the next, they go one by one.
        let (flavour, count, at_a_time) = match seed % 4 {
            3 => (Flavour::Learning, FRAMES / 2, 1),
            _ => (Flavour::Plain, FRAMES, 8),
        };
        both.load(lab, &tables::flows(&mut r, flavour, FLOWS))?;
        both.daemon.run(&format!("fdb flush {BRIDGE}"))?;
        both.ovs.appctl(&["fdb/flush", THEIRS])?;
        let mut corpus = Vec::new();
        for frame in packets::frames(&mut r, count) {
            let port = r.below(PORTS);
            if !our_passes(&both, &frame, port + 1)?.is_empty() {
                corpus.push((port as usize, frame));
            }
        }
        ensure!(corpus.len() > count / 3, "only {} frames are left", corpus.len());
        // Once through translation, once more by what was cached.
        for round in 0..2 {
            let a = send(&ours, &our_raws, &corpus, at_a_time)?;
            let b = send(&theirs, &their_raws, &corpus, at_a_time)?;
            if a != b {
                let (differ, first) = difference(&a, &b);
                let same = |f: &(usize, Vec<u8>)| payload_number(&f.1) == payload_number(&first);
                let asked = corpus.iter().find(|f| same(f) && payload_number(&first).is_some());
                let asked = asked.with_context(|| {
                    format!(
                        "{differ}{}",
                        both.daemon.run(&format!("dump-flows {BRIDGE}")).unwrap_or_default()
                    )
                })?;
                let port = asked.0 as u64 + 1;
                let told = both.ask(port, &hex(&asked.1))?;
                let same =
                    our_passes(&both, &asked.1, port)? == their_passes(&both, &asked.1, port)?;
                let same = if same { "of which the traces are the same" } else { "" };
                bail!("seed {seed}, round {round}:\n{differ}the first comes of {same}\n{told}");
            }
        }
        wait::until("both count the same", || Ok(our_counters(&both)? == their_counters(&both)?))
            .with_context(|| {
            format!("seed {seed}:\n{:x?}\n{:x?}", our_counters(&both), their_counters(&both))
        })?;
    }
    Ok(())
}

/// What only one of the two has, and the first of that.
fn difference(ours: &Left, theirs: &Left) -> (String, Vec<u8>) {
    let (mut text, mut first) = (String::new(), None);
    for (name, a, b) in [("only ours", ours, theirs), ("only theirs", theirs, ours)] {
        let mut rest = b.clone();
        for item in a {
            match rest.iter().position(|i| i == item) {
                Some(at) => drop(rest.remove(at)),
                None => {
                    text += &format!("{name}: port {} {}\n", item.0 + 1, hex(&item.1));
                    first.get_or_insert_with(|| item.1.clone());
                }
            }
        }
    }
    (text, first.unwrap_or_default())
}

/// `<123456>` in a frame's payload.
fn payload_number(frame: &[u8]) -> Option<&[u8]> {
    frame.windows(8).find(|w| w[0] == b'<' && w[7] == b'>')
}
