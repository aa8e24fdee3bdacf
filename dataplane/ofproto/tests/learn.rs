//! Flows that packets make: limits and what a limit says, FIN, what goes with the rule that learned.

use flow::{Field, FlowKey};
use ofproto::action::OfPort;
use ofproto::flowmod::Command;
use ofproto::program::{DpAction, DpPort};
use ofproto::snapshot::{BridgeId, BridgeSettings, Dep, Port, PortKind};
use ofproto::switch::Switch;
use ofproto::text::{NoNames, parse_flow, parse_packet, show_actions, show_match};
use ofproto::xlate::{Effect, Translation, translate_in};

struct Rig {
    switch: Switch,
    bridge: BridgeId,
}

impl Rig {
    fn new(flows: &[&str]) -> Rig {
        let mut switch = Switch::default();
        let bridge = switch.add_bridge("b", BridgeSettings::default()).unwrap();
        for n in 1..=3 {
            switch.set_port(bridge, port(n));
        }
        let mut rig = Rig { switch, bridge };
        for flow in flows {
            rig.apply(Command::Add, flow);
        }
        rig
    }

    fn apply(&mut self, command: Command, flow: &str) {
        let m = parse_flow(flow, command, &NoNames).unwrap_or_else(|e| panic!("{flow}: {e}"));
        self.switch.apply_flow_mods(self.bridge, &[m], 1).unwrap();
    }

    /// Translate a packet and let what it learns be learned; what the datapath does with it, and the
    /// effects.
    fn pass(&mut self, packet: &str) -> (Vec<DpAction>, Vec<Effect>, Vec<Dep>) {
        let key: FlowKey = parse_packet(packet, &NoNames).unwrap();
        let in_port = OfPort(key.get(Field::InPort) as u32);
        let mut out = Translation::default();
        let snapshot = self.switch.preview().clone();
        translate_in(&snapshot, (self.bridge, in_port), &key, None, None, &mut out);
        for effect in &out.effects {
            if let Effect::LearnFlow { bridge, flow } = effect {
                self.switch.learn_flow(*bridge, flow, 10);
            }
        }
        (out.program, out.effects, out.depends)
    }

    /// The flows of a table as text.
    fn table(&self, table: u8) -> Vec<String> {
        let bridge = self.switch.bridge(self.bridge).unwrap();
        let rules = bridge.tables.get(table).into_iter().flat_map(|t| t.iter());
        let mut all: Vec<String> = rules
            .map(|r| {
                let mut text = String::new();
                show_match(&mut text, &r.matches, &NoNames);
                text += " ";
                show_actions(&mut text, &r.actions, &NoNames);
                text
            })
            .collect();
        all.sort();
        all
    }
}

fn port(n: u32) -> Port {
    Port::new(OfPort(n), format!("p{n}"), PortKind::Datapath(DpPort(n)))
}

const LIMITED: &str = "in_port=1,actions=learn(table=9,cookie=0x5,limit=2,result_dst=reg0[3],\
                       NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],output:NXM_OF_IN_PORT[]),resubmit(,1)";

fn from(mac: u8) -> String {
    format!("in_port=1,dl_src=02:00:00:00:00:{mac:02x},dl_dst=02:00:00:00:00:ff,dl_type=0x1234")
}

#[test]
fn a_limit_holds_at_translation_and_says_so() {
    let results = ["table=1,reg0=0x8/0x8,actions=2", "table=1,reg0=0/0x8,actions=3"];
    let mut rig = Rig::new(&[LIMITED, results[0], results[1]]);
    let to = |n| vec![DpAction::Output(DpPort(n))];
    for (mac, port) in [(1, 2), (2, 2), (3, 3), (1, 2), (4, 3)] {
        let (program, _, depends) = rig.pass(&from(mac));
        assert_eq!(program, to(port), "MAC {mac}");
        assert!(depends.contains(&Dep::Limited(rig.bridge, 9, 5)));
    }
    assert_eq!(rig.table(9).len(), 2);
    // One goes, by hand, and there is room for one.
    rig.apply(Command::Delete, "table=9,dl_dst=02:00:00:00:00:01");
    assert_eq!(rig.pass(&from(3)).0, to(2));
    assert_eq!(rig.pass(&from(4)).0, to(3));
    // A flow that a controller put there with the cookie counts too.
    rig.apply(Command::Delete, "table=9");
    rig.apply(Command::Add, "table=9,cookie=5,priority=1,actions=drop");
    assert_eq!(rig.pass(&from(5)).0, to(2));
    assert_eq!(rig.pass(&from(6)).0, to(3));
}

#[test]
fn crossing_the_limit_is_a_change() {
    let mut rig = Rig::new(&[LIMITED]);
    rig.pass(&from(1));
    let touches = |rig: &mut Rig| {
        let dep = Dep::Limited(rig.bridge, 9, 5);
        let changes = rig.switch.commit().map(|s| format!("{:?}", s.log.changes));
        changes.is_some_and(|c| c.contains(&format!("{dep:?}")))
    };
    touches(&mut rig);
    rig.pass(&from(1));
    assert!(!touches(&mut rig), "what is known was learned again");
    rig.pass(&from(2));
    assert!(touches(&mut rig), "the second reached the limit");
    rig.apply(Command::Delete, "table=9,dl_dst=02:00:00:00:00:02");
    assert!(touches(&mut rig), "there is room again");
}

#[test]
fn counts_go_with_the_last_rule_that_learns() {
    let mut rig = Rig::new(&[
        LIMITED,
        "priority=7,in_port=2,actions=clone(learn(table=9,cookie=5,limit=3,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[]))",
    ]);
    let counts = |rig: &Rig| rig.switch.bridge(rig.bridge).unwrap().limited.len();
    assert_eq!(counts(&rig), 1);
    rig.apply(Command::Delete, "in_port=1");
    assert_eq!(counts(&rig), 1);
    rig.apply(Command::Modify, "in_port=2,actions=drop");
    assert_eq!(counts(&rig), 0);
}

#[test]
fn fin_shortens_what_was_learned() {
    let flow = "tcp,actions=learn(table=9,idle_timeout=100,fin_idle_timeout=5,fin_hard_timeout=7,\
                dl_type=0x0800,nw_proto=6,NXM_OF_IP_SRC[]=NXM_OF_IP_DST[])";
    let mut rig = Rig::new(&[flow, "table=0,priority=40000,in_port=2,actions=resubmit(,9)"]);
    rig.pass("in_port=1,tcp,nw_src=10.0.0.1,nw_dst=10.0.0.2");
    let learned = rig.table(9);
    assert_eq!(learned, ["tcp,nw_src=10.0.0.2 fin_timeout(idle_timeout=5,hard_timeout=7)"]);
    let (_, effects, _) = rig.pass("in_port=2,tcp,nw_src=10.0.0.2,nw_dst=10.0.0.1");
    let rule = effects.iter().find_map(|e| match e {
        Effect::FinTimeout { rule, idle: 5, hard: 7 } => Some(rule.clone()),
        _ => None,
    });
    let rule = rule.expect("an effect");
    assert_eq!((rule.idle_timeout(), rule.hard_timeout()), (100, 0));
    rule.shorten(5, 7);
    assert_eq!((rule.idle_timeout(), rule.hard_timeout()), (5, 7));
    rule.shorten(50, 0);
    assert_eq!((rule.idle_timeout(), rule.hard_timeout()), (5, 7), "only ever shorter");
    assert!(rig.switch.expire_rules(7_009).is_empty() || rig.table(9).is_empty());
    rig.switch.expire_rules(7_100);
    assert!(rig.table(9).is_empty(), "it outlived its hard timeout");
}

#[test]
fn what_was_learned_goes_with_the_last_rule_that_learned_it() {
    let learn = "learn(table=9,cookie=7,delete_learned,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[])";
    let one = format!("in_port=1,actions={learn}");
    let two = format!("in_port=2,actions=clone({learn})");
    for gone in ["delete", "modify", "add"] {
        let mut rig = Rig::new(&[&one, &two, "table=9,cookie=8,priority=1,actions=drop"]);
        rig.pass(&from(1));
        assert_eq!(rig.table(9).len(), 2);
        rig.apply(Command::Delete, "in_port=1");
        assert_eq!(rig.table(9).len(), 2, "another rule still learns");
        match gone {
            "delete" => rig.apply(Command::Delete, "in_port=2"),
            "modify" => rig.apply(Command::Modify, "in_port=2,actions=drop"),
            _ => rig.apply(Command::Add, "in_port=2,actions=drop"),
        }
        assert_eq!(rig.table(9), [" drop"], "{gone}");
    }
}

#[test]
fn a_search_by_the_connections_first_packet() {
    let flows = [
        "ct_state=+trk-inv,ip,actions=resubmit(,1,ct),2",
        "table=1,udp,nw_src=10.0.0.1,tp_src=1000,actions=3",
        "table=1,priority=1,actions=drop",
    ];
    let mut rig = Rig::new(&flows);
    let to = |n| DpAction::Output(DpPort(n));
    let reply =
        "in_port=1,udp,nw_src=10.9.9.9,nw_dst=10.0.0.1,tp_src=53,tp_dst=1000,ct_state=trk|est|rpl";
    let first = "ct_nw_proto=17,ct_nw_src=10.0.0.1,ct_nw_dst=10.9.9.9,ct_tp_src=1000,ct_tp_dst=53";
    assert_eq!(rig.pass(&format!("{reply},{first}")).0, [to(3), to(2)]);
    // Not known: the table is left out.
    assert_eq!(rig.pass(reply).0, [to(2)]);
}
