//! `vswitchctl` as people and scripts use it: what it prints, what it refuses, how it exits.

mod support;

use std::process::{Command, Stdio};

use support::Rig;

#[test]
#[ignore = "the daemon that the other tests start"]
fn daemon_process() {
    support::daemon_process();
}

#[test]
fn bridges_and_ports() {
    let (rig, _daemon) = Rig::started();
    assert_eq!(rig.ok("add-br br0 fail_mode=secure"), "");
    assert_eq!(rig.ok("add-port br0 eth1 tag=5 -- add-port br0 eth2 trunks=1,2"), "");
    assert_eq!(rig.ok("--may-exist add-br br0"), "");
    assert_eq!(rig.ok("list-br"), "br0\n");
    assert_eq!(rig.ok("list-ports br0"), "eth1\neth2\n");
    assert_eq!(rig.ok("port-to-br eth2"), "br0\n");
    assert_eq!(rig.ok("br-exists br0"), "");
    assert_eq!(rig.fails(1, "br-exists br1"), "");
    assert_eq!(rig.ok("get bridge br0 fail_mode"), "secure\n");
    assert_eq!(rig.ok("get port eth2 trunks ofport tag"), "[1, 2]\n2\n[]\n");
    assert_eq!(rig.ok("set port eth1 tag=6 external_ids:iface-id=a-b"), "");
    assert_eq!(rig.ok("get port eth1"), "tag=6\nexternal_ids:iface-id=a-b\n");
    assert_eq!(rig.ok("clear port eth1 tag -- get port eth1 tag"), "[]\n");
    assert_eq!(rig.ok("--if-exists del-port br0 nothing"), "");
    assert_eq!(rig.ok("del-port eth1 -- list-ports br0"), "eth2\n");
    assert_eq!(rig.ok("del-br br0 -- list-br"), "");
}

#[test]
fn show_reads_well() {
    let (rig, _daemon) = Rig::started();
    rig.ok("add-br br0 -- add-br br1 fail_mode=secure");
    rig.ok("add-port br0 eth1 tag=5 -- add-port br0 pa type=patch options:peer=pb");
    rig.ok(
        "add-port br1 pb type=patch options:peer=pa -- add-port br1 pc type=patch options:peer=pd",
    );
    let want = "\
Bridge br0
  PORT  OFPORT  TYPE      STATE    DETAILS
  eth1       1  afxdp     up       tag=5
  pa         2  patch     up       peer pb (br1)
  br0    LOCAL  internal  unknown

Bridge br1  fail_mode=secure
  PORT  OFPORT  TYPE      STATE    DETAILS
  pb         1  patch     up       peer pa (br0)
  pc         2  patch     down     peer pd
  br1    LOCAL  internal  unknown
  error: pc: no port \"pd\" is configured
";
    assert_eq!(rig.ok("show"), want);
    assert!(rig.ok("show br1").starts_with("Bridge br1"));
}

#[test]
fn refusals_say_what_and_where_and_change_nothing() {
    let (rig, _daemon) = Rig::started();
    rig.ok("add-br br0 -- add-br br1 -- add-port br0 eth1");
    let before = rig.ok("show --format json");
    let cases = [
        ("add-port bro eth2", "vswitchctl: no bridge \"bro\"\n  did you mean \"br0\"?\n"),
        (
            "add-port br1 eth1",
            "vswitchctl: port \"eth1\" is in bridge \"br0\" already\n  remove it first: del-port br0 eth1\n",
        ),
        (
            "add-port br0 eth9",
            "vswitchctl: no network interface \"eth9\"\n  did you mean \"eth1\"?\n",
        ),
        (
            "add-port br0 eth2 tag=4096",
            "vswitchctl: port \"eth2\": tag=\"4096\": expected a VLAN id from 0 to 4095\n",
        ),
        (
            "add-port br0 eth2 tga=5",
            "vswitchctl: port \"eth2\": a port has no key \"tga\"\n  did you mean \"tag\"?\n",
        ),
        (
            "add-port br0 pa type=patch",
            "vswitchctl: patch port \"pa\" has no options:peer\n  name the other end: options:peer=PORT\n",
        ),
        (
            "add-br br2 -- add-port br2 eth2 -- del-port eth3",
            "vswitchctl: command 3 (del-port eth3): no port \"eth3\"; nothing was changed\n  did you mean \"eth1\"?\n",
        ),
        ("fdb show br9", "vswitchctl: no bridge \"br9\"\n  did you mean \"br0\"?\n"),
    ];
    for (line, want) in cases {
        assert_eq!(rig.fails(1, line), want, "{line}");
    }
    assert_eq!(rig.ok("show --format json"), before);
    let error = rig.fails(1, "--format json list-br -- add-port bro eth2");
    let error: serde_json::Value = serde_json::from_str(&error).expect("one document");
    assert_eq!(error["error"]["kind"], "not-found");
    assert_eq!(error["error"]["index"], 1);
    assert_eq!(error["error"]["command"], "add-port bro eth2");
}

#[test]
fn json_is_one_document_a_command() {
    let (rig, _daemon) = Rig::started();
    let text = rig.ok("--format json add-br br0 -- add-port br0 eth1 tag=5 -- list-br -- get port eth1 tag ofport -- fdb flush br0");
    let want = "\
{\"changed\":true}
{\"changed\":true}
{\"bridges\":[\"br0\"]}
{\"exists\":true,\"values\":[{\"column\":\"tag\",\"value\":5},{\"column\":\"ofport\",\"value\":1}]}
{\"bridge\":\"br0\",\"flushed\":2}
";
    assert_eq!(text, want);
}

#[test]
fn runtime_answers_are_tables() {
    let (rig, _daemon) = Rig::started();
    rig.ok("add-br br0");
    let want =
        "PORT  OFPORT  VLAN  MAC                AGE\neth1       1     5  02:00:00:00:00:01    7\n";
    assert_eq!(rig.ok("fdb show br0"), want);
    assert_eq!(rig.ok("fdb flush br0"), "2 entries flushed\n");
    assert!(rig.ok("drops").contains("No flow matched."));
    assert!(rig.ok("version").contains("vswitchd "));
    assert_eq!(rig.ok("log-level"), "info\n");
    assert_eq!(rig.ok("log-level debug -- log-level"), "debug\n");
    assert!(rig.fails(1, "log-level loud").contains("\"loud\""));
}

#[test]
fn warnings_go_to_standard_error() {
    let (rig, _daemon) = Rig::started();
    rig.ok("add-br br0");
    let output = rig.ctl(&["add-port", "br0", "eth1", "tag=5", "trunks=1"]);
    assert!(output.status.success() && output.stdout.is_empty());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.starts_with("vswitchctl: warning: port \"eth1\": trunks has no effect"), "{text}");
}

#[test]
fn no_daemon_is_status_1_with_the_socket_named() {
    let rig = Rig::new();
    let error = rig.fails(1, "version");
    assert!(error.contains(rig.socket().to_str().expect("text")), "{error}");
    assert!(error.contains("start one (vswitchd"), "{error}");
}

#[test]
fn a_daemon_that_does_not_answer_is_given_up() {
    let (rig, daemon) = Rig::started();
    daemon.signal(rustix::process::Signal::STOP);
    let error = rig.fails(1, "--timeout 0.2 list-br");
    daemon.signal(rustix::process::Signal::CONT);
    assert!(error.contains("within 0.2 s"), "{error}");
    assert_eq!(rig.ok("list-br"), "");
}

#[test]
fn usage_errors_are_status_2() {
    let rig = Rig::new();
    for line in
        ["add-bt br0", "add-br", "list-br --may-exist", "--format xml list-br", "list-br -- "]
    {
        let line = line.trim_end();
        rig.fails(2, line);
    }
    assert!(rig.fails(2, "add-bt br0").contains("add-br"));
    assert!(rig.ok("--help").contains("add-port"));
    assert!(rig.ok("help add-port").contains("type=patch"));
    assert!(rig.ok("completions bash").contains("vswitchctl"));
}

#[test]
fn a_reader_that_leaves_is_no_panic() {
    let (rig, _daemon) = Rig::started();
    let mut child = Command::new(env!("CARGO_BIN_EXE_vswitchctl"))
        .args(["--run-dir", rig.path().to_str().expect("text"), "dump-megaflows"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("vswitchctl");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("wait");
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn an_answer_that_cannot_be_written_is_a_failure() {
    let (rig, _daemon) = Rig::started();
    let output = Command::new(env!("CARGO_BIN_EXE_vswitchctl"))
        .args(["--run-dir", rig.path().to_str().expect("text"), "version"])
        .stdout(std::fs::File::create("/dev/full").expect("/dev/full"))
        .stderr(Stdio::piped())
        .output()
        .expect("vswitchctl");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write the answer"));
}

#[test]
fn a_thousand_ports_in_one_transaction() {
    let (rig, _daemon) = Rig::started();
    let mut words = vec!["add-br".to_owned(), "br0".to_owned()];
    for n in 0..1000 {
        let port = format!("p{n}");
        words.extend(["--", "add-port", "br0", &port, "type=internal"].map(str::to_owned));
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    assert!(rig.ctl(&words).status.success());
    assert_eq!(rig.ok("list-ports br0").lines().count(), 1000);
    assert!(rig.ok("get port p999 ofport").trim().parse::<u32>().expect("a number") > 0);
}
