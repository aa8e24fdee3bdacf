//! Golden texts: reports as a daemon sends them, and what a person then reads.

use serde_json::json;

use super::*;

fn rendered(command: &Command, report: &Json) -> String {
    let raw = serde_json::value::to_raw_value(report).expect("raw");
    render(command, &raw, Paint::plain()).expect("rendered")
}

#[test]
fn show_is_a_table_a_bridge() {
    let report = json!({"bridges": [{
    "name": "br0",
    "settings": {"fail_mode": "secure"},
    "ports": [
        {"name": "eth1", "ofport": 1, "type": "afxdp", "state": "up", "mode": "native",
         "zero_copy": false, "queues": 2, "workers": [0, 1], "mtu": 1500,
         "settings": {"tag": 5, "trunks": [1, 2]}, "warnings": ["carries 10.0.0.1/24"]},
        {"name": "gone", "ofport": 12, "type": "afxdp", "state": "missing",
         "error": "no such interface", "settings": {}},
        {"name": "pa", "ofport": 3, "type": "patch", "state": "up",
         "peer": {"port": "pb", "bridge": "br1"}, "settings": {}},
        {"name": "br0", "ofport": 65534, "type": "internal", "state": "down", "settings": {}},
    ]}]});
    let want = "\
Bridge br0  fail_mode=secure
  PORT  OFPORT  TYPE      STATE    DETAILS
  eth1       1  afxdp     up       native copy, 2 queues, worker 0,1, mtu 1500, tag=5, trunks=1,2
  gone      12  afxdp     missing
  pa         3  patch     up       peer pb (br1)
  br0    LOCAL  internal  down
  warning: eth1: carries 10.0.0.1/24
  error: gone: no such interface
";
    assert_eq!(rendered(&Command::Show { bridge: None }, &report), want);
}

#[test]
fn counters_and_drops() {
    let report = json!({"bridge": "br0", "ports": [
        {"name": "eth1", "ofport": 1, "rx_packets": 10, "rx_bytes": 600, "tx_packets": 3,
         "tx_bytes": 180, "drops": [{"reason": "vlan-mismatch", "packets": 2}]},
        {"name": "eth2", "ofport": 2, "rx_packets": 0, "rx_bytes": 0, "tx_packets": 8,
         "tx_bytes": 480, "drops": []}]});
    let want = "\
PORT  OFPORT  RX-PACKETS  RX-BYTES  TX-PACKETS  TX-BYTES  DROPPED
eth1       1          10       600           3       180        2
eth2       2           0         0           8       480        0
dropped, by reason:
  eth1: 2 vlan-mismatch
";
    let command = Command::DumpPorts { bridge: "br0".into(), port: None };
    assert_eq!(rendered(&command, &report), want);
    assert_eq!(
        rendered(&Command::Drops { why: false }, &json!({"reasons": []})),
        "nothing was dropped\n"
    );
    let report = json!({"reasons": [
        {"reason": "no-match", "packets": 7, "description": "No flow matched."}]});
    let want = "PACKETS  REASON    MEANING\n      7  no-match  No flow matched.\n";
    assert_eq!(rendered(&Command::Drops { why: false }, &report), want);
}

#[test]
fn stages_of_workers() {
    let cycles = json!({"receive": 31.04, "extract": 12.5, "actions": 40.0, "transmit": 20.0});
    let stages = json!({"packets": 4096, "cycles_per_packet": cycles});
    let report = json!({"workers": [{"worker": 0, "core": 3, "stages": stages}, {"worker": 1}]});
    let want = "\
WORKER  TIMED  RECEIVE  EXTRACT  CACHE  CLASSIFIER  UPCALL  ACTIONS  CONNTRACK  TRANSMIT    ALL
     0   4096     31.0     12.5    0.0         0.0     0.0     40.0        0.0      20.0  103.5
";
    assert_eq!(rendered(&Command::Workers { stages: true }, &report), want);
}

#[test]
fn fdb_and_its_counts() {
    let report = json!({"bridge": "br0", "entries": [
        {"port": "eth1", "ofport": 1, "vlan": 10, "mac": "02:00:00:00:00:01", "age": 3}]});
    let want =
        "PORT  OFPORT  VLAN  MAC                AGE\neth1       1    10  02:00:00:00:00:01    3\n";
    assert_eq!(rendered(&Command::FdbShow { bridge: "br0".into() }, &report), want);
    let report = json!({"entries": 1, "max_entries": 8192, "aging_time": 300, "learned": 4});
    let text = rendered(&Command::FdbStats { bridge: "br0".into() }, &report);
    assert!(
        text.starts_with("entries:    1 of 8192\naging time: 300 s\nlearned:    4\n"),
        "{text}"
    );
    let flushed = rendered(&Command::FdbFlush { bridge: "br0".into() }, &json!({"flushed": 4}));
    assert_eq!(flushed, "4 entries flushed\n");
}

#[test]
fn values_print_as_ovs_vsctl_prints_them() {
    let report = json!({"exists": true, "values": [
        {"column": "tag", "value": 5},
        {"column": "trunks", "value": [1, 2]},
        {"column": "fail_mode", "value": null},
        {"column": "other_config", "value": {"mac-aging-time": "60"}},
        {"column": "external_ids:x"}]});
    let get = |columns: &[&str]| Command::Get {
        record: crate::command::Record::Port,
        name: "p".into(),
        columns: columns.iter().map(|c| (*c).to_owned()).collect(),
        if_exists: true,
    };
    let want = "5\n[1, 2]\n[]\n{mac-aging-time=\"60\"}\n\n";
    assert_eq!(rendered(&get(&["tag"]), &report), want);
    assert!(rendered(&get(&[]), &report).starts_with("tag=5\ntrunks=[1, 2]\n"));
}

#[test]
fn megaflows_are_a_line_each() {
    let report = json!({"total": 2, "megaflows": [{"worker": 0, "match": "in_port=1,ip", "actions": "2",
        "packets": 3, "bytes": 180, "used": 0.25, "age": 9.0, "depends": ["br0 fdb 02:.. vlan 0"]}]});
    let want = "\
in_port=1,ip, packets:3, bytes:180, used:0.250s, age:9.000s, worker:0, actions:2
  depends on: br0 fdb 02:.. vlan 0
1 of 2 megaflows
";
    assert_eq!(rendered(&Command::DumpMegaflows { limit: Some(1) }, &report), want);
}

#[test]
fn workers_and_version() {
    let report = json!({"workers": [{"worker": 0, "core": 3, "packets": 1000, "cycles_per_packet": 151.4,
        "exact_hit_rate": 0.95, "idle": 0.5, "packets_per_burst": 8.25,
        "queues": ["eth1/0"], "burst_sizes": [{"packets": 1, "bursts": 5}]}]});
    let text = rendered(&Command::Workers { stages: false }, &report);
    assert!(text.contains("95.0%") && text.contains("151") && text.contains("50.0%"), "{text}");
    assert!(text.ends_with("worker 0 polls eth1/0\nworker 0 bursts by size 1:5\n"), "{text}");
    let report = json!({"version": "9.9.9", "pid": 7, "uptime": 90061});
    assert!(rendered(&Command::Version {}, &report).contains("vswitchd 9.9.9 (pid 7, up 1d 1h)"));
}

#[test]
fn an_answer_of_another_shape_is_an_error_not_a_panic() {
    let raw = serde_json::value::to_raw_value(&json!([1, "x"])).expect("raw");
    let workers = Command::Workers { stages: false };
    for command in [Command::Show { bridge: None }, workers, Command::Version {}] {
        assert!(render(&command, &raw, Paint::plain()).is_err(), "{}", command.text());
    }
    assert_eq!(rendered(&Command::ListBr {}, &json!([1])), "");
}

#[test]
fn connections_are_lines_as_of_dpctl() {
    let report = json!({"connections": [
        {"protocol": "tcp", "zone": 5, "mark": 7, "label": "0x10",
         "orig": {"src": "10.0.0.1", "dst": "192.0.2.9", "sport": 40000, "dport": 443},
         "reply": {"src": "192.0.2.9", "dst": "203.0.113.1", "sport": 443, "dport": 40000},
         "state": "established", "answered": true, "assured": true, "expires": 431_999.9, "age": 1.0},
        {"protocol": "icmp", "zone": 0, "mark": 0, "label": "0x0",
         "orig": {"src": "10.0.0.1", "dst": "10.0.0.2", "id": 3, "type": 8, "code": 0},
         "reply": {"src": "10.0.0.2", "dst": "10.0.0.1", "id": 3, "type": 0, "code": 0},
         "answered": false, "assured": false, "expires": 29.5, "age": 0.5},
    ]});
    let want = "\
tcp,orig=(src=10.0.0.1,dst=192.0.2.9,sport=40000,dport=443),reply=(src=192.0.2.9,dst=203.0.113.1,\
sport=443,dport=40000),zone=5,mark=0x7,labels=0x10,protoinfo=(state=ESTABLISHED),timeout=431999
icmp,orig=(src=10.0.0.1,dst=10.0.0.2,id=3,type=8,code=0),reply=(src=10.0.0.2,dst=10.0.0.1,id=3,\
type=0,code=0),timeout=29,unanswered
";
    let command = Command::ConntrackList { filter: Vec::new(), from: None };
    assert_eq!(rendered(&command, &report), want);
}

#[test]
fn stats_of_connections_are_short_where_nothing_happened() {
    let report = json!({"connections": 1, "limit": 100, "unanswered": 1, "translated": 0,
        "protocols": [{"name": "udp", "count": 1}],
        "zones": [{"zone": 5, "connections": 1, "limit": 10}],
        "events": [{"name": "inserted", "count": 4, "description": "A connection was made."}]});
    let want = "\
connections: 1 of 100, 1 unanswered, 0 translated
protocols: udp 1

ZONE  CONNECTIONS  LIMIT
   5            1     10

COUNT  EVENT     MEANING
    4  inserted  A connection was made.
";
    assert_eq!(rendered(&Command::ConntrackStats {}, &report), want);
}
