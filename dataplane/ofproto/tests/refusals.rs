//! What do people read when a flow is wrong? The place, what stands there, what is the matter.

use ofproto::flowmod::Command;
use ofproto::group::GroupCommand;
use ofproto::text::{NoNames, parse_filter, parse_flow, parse_flows, parse_group, parse_packet};

fn refusal(text: &str) -> String {
    match parse_flow(text, Command::Add, &NoNames) {
        Err(e) => e.to_string(),
        Ok(_) => panic!("{text} was taken"),
    }
}

#[test]
fn refusals_name_place_and_reason() {
    let cases = [
        (
            "in_port=1,tpc,actions=drop",
            "line 1, column 11: `tpc`: unknown word (did you mean `tcp`?)",
        ),
        (
            "nw_scr=1.2.3.4,ip,actions=drop",
            "line 1, column 1: `nw_scr`: unknown field (did you mean `nw_src`?)",
        ),
        (
            "nw_src=1.2.3.4,actions=drop",
            "line 1, column 1: `nw_src=1.2.3.4`: nw_src can only be matched together with ip \
             (dl_type=0x0800)",
        ),
        (
            "ip,actions:drop",
            "line 1, column 4: `actions:drop`: `actions=` and a list of actions are expected here",
        ),
        (
            "ip,tp_dst=80,actions=drop",
            "line 1, column 4: `tp_dst=80`: tp_dst can only be matched together with tcp or tcp6 \
             (nw_proto=6), not nw_frag=later",
        ),
        (
            "tcp,udp,actions=drop",
            "line 1, column 5: `udp`: nw_proto is given twice, with different values",
        ),
        (
            "xreg0=5,reg1=6,actions=drop",
            "line 1, column 9: `reg1=6`: this contradicts what stands before it in the match",
        ),
        (
            "dl_vlan=4096,actions=drop",
            "line 1, column 9: `4096`: a VLAN id is 0 to 4095, or 0xffff for packets without a tag",
        ),
        (
            "tun_metadata0=1,actions=drop",
            "line 1, column 1: `tun_metadata0`: this field is not supported yet",
        ),
        (
            "in_port=1",
            "line 1, column 10: actions are missing (end the flow with actions=..., to drop packets with actions=drop)",
        ),
        ("actions=otput:1", "line 1, column 9: `otput`: unknown action (did you mean `output`?)"),
        ("actions=meter:1", "line 1, column 9: `meter:1`: meter is not supported yet"),
        (
            "ip,actions=ct(commit,alg=ftp)",
            "line 1, column 22: `alg=ftp`: alg (protocol helpers) is not supported yet",
        ),
        (
            "actions=output:1,clone(output:2",
            "line 1, column 23: `(output:2`: the closing parenthesis is missing",
        ),
        (
            "actions=set_field:1.2.3.4->ip_src",
            "line 1, column 9: `set_field:1.2.3.4->ip_src`: packets of this flow need not have \
             ip_src: match ip (dl_type=0x0800)",
        ),
        (
            "actions=set_field:5->eth_type",
            "line 1, column 22: `eth_type`: eth_type cannot be changed",
        ),
        (
            "actions=load:9->NXM_NX_REG0[0..2]",
            "line 1, column 14: `9`: the number does not fit into 3 bits",
        ),
        (
            "table=3,actions=goto_table:2",
            "line 1, column 17: `goto_table:2`: goto_table leads to tables behind this one (3), \
             up to 254, only",
        ),
        (
            "actions=set_field:1->ct_mark",
            "line 1, column 9: `set_field:1->ct_mark`: ct_mark can only be changed inside ct(commit,exec(...))",
        ),
        (
            "actions=output:vif0",
            "line 1, column 16: `vif0`: no port of the bridge has this name (a number, a port's name, LOCAL, IN_PORT, NORMAL, FLOOD, ALL, CONTROLLER, ANY)",
        ),
        ("cookie=1/2,actions=drop", "line 1, column 8: `1/2`: a new flow's cookie has no mask"),
        (
            "recirc_id=1,actions=drop",
            "line 1, column 1: `recirc_id=1`: rules cannot match recirc_id, the switch uses it itself",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(refusal(text), expected, "{text}");
    }
}

#[test]
fn what_comes_later_is_named_so() {
    for action in [
        "meter:1",
        "push_mpls:0x8847",
        "pop_mpls:0x0800",
        "multipath(eth_src,50,modulo_n,1,0,reg0[])",
        "bundle(eth_src,0,hrw,ofport,members:1,2)",
        "sample(probability=1)",
        "push:reg0",
        "pop:reg0",
        "set_queue:1",
        "enqueue:1:2",
        "check_pkt_larger(100)->reg0[0]",
    ] {
        let e = refusal(&format!("actions={action}"));
        assert!(e.contains("not supported yet"), "{action}: {e}");
    }
}

#[test]
fn places_count_lines_and_characters() {
    let text = "# flows\nip,actions=drop\n\n  é=1,actions=drop\n";
    let e = parse_flows(text, Command::Add, &NoNames).unwrap_err();
    assert_eq!((e.line, e.column, &*e.found), (4, 3, "é"));
    let text = "add ip,actions=drop\nmodify table=1,foo\n";
    let e = parse_flows(text, Command::Add, &NoNames).unwrap_err();
    assert_eq!((e.line, e.column, &*e.found), (2, 16, "foo"));
}

#[test]
fn filters_and_packets_have_their_own_rules() {
    let e = parse_filter("cookie=5", &NoNames).unwrap_err().to_string();
    assert!(e.contains("write cookie=5/-1"), "{e}");
    let e = parse_filter("priority=5,ip", &NoNames).unwrap_err().to_string();
    assert!(e.contains("only strict deletions have a priority"), "{e}");
    let e = parse_filter("ip actions=drop", &NoNames).unwrap_err().to_string();
    assert!(e.contains("takes no actions"), "{e}");
    let f = parse_filter("table=3,cookie=0x5/-1,out_port=7,out_group=9,ip", &NoNames).unwrap();
    assert_eq!((f.table, f.cookie, f.cookie_mask), (Some(3), 5, u64::MAX));
    let actions =
        parse_flow("actions=clone(output:7),group:9", Command::Add, &NoNames).unwrap().actions;
    assert!(f.admits(5, &actions) && !f.admits(6, &actions) && !f.admits(5, &actions[..1]));

    let e = parse_packet("ip,nw_src=10.0.0.0/8", &NoNames).unwrap_err().to_string();
    assert!(e.contains("one value, without a mask"), "{e}");
    let e = parse_packet("actions=drop", &NoNames).unwrap_err().to_string();
    assert!(e.contains("a packet has no actions"), "{e}");
}

#[test]
fn groups_are_refused_with_a_reason() {
    let cases = [
        ("type=all", "group_id=N is missing"),
        ("group_id=1", "type=all, select, indirect or ff is missing"),
        ("group_id=1,type=foo", "unknown type of group"),
        ("group_id=4294967041,type=all", "a group's number must be a number from 0 to 4294967040"),
        ("group_id=all,type=all", "for deletions only"),
        ("group_id=1,type=indirect,bucket=1,bucket=2", "exactly one bucket, this one has 2"),
        ("group_id=1,type=ff,bucket=output:1", "needs watch_port or watch_group"),
        ("group_id=1,type=all,bucket=weight:5,1", "for groups of type select only"),
        (
            "group_id=1,type=all,bucket=bucket_id:1,1,bucket=bucket_id:1,2",
            "two buckets have the id 1",
        ),
        ("group_id=1,type=all,bucket=group:1", "leads to its own group"),
        ("group_id=1,type=select,bucket=weight=5", "a bucket needs actions"),
        ("group_id=1,type=select,fields(ip_src),bucket=1", "fields needs selection_method=hash"),
        ("group_id=1,type=select,selection_method=hsh,bucket=1", "unknown selection method"),
        ("group_id=1,type=all,bucket=goto_table:5", "in a flow's own list only"),
        ("group_id=1,type=all,foo=1,bucket=1", "unknown setting of a group"),
    ];
    for (text, expected) in cases {
        let e = parse_group(text, GroupCommand::Add, &NoNames).unwrap_err().to_string();
        assert!(e.contains(expected), "{text}: {e}");
    }
}
