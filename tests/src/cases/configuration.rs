//! The configuration as commands see it: set, get, clear, transactions, and that it is kept.

use std::fs;

use super::pair;
use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::runner::Case;
use crate::{Context, Result, cmd, ensure};

pub const CASES: &[Case] = &[
    Case::new("set-get-clear", "settings are read back as they were set", set_get_clear),
    Case::new("transaction", "several commands are done together or not at all", transaction),
    Case::new("may-exist", "--may-exist and --if-exists", may_exist),
    Case::new("ofport", "port numbers start at 1, can be asked for, and stay", ofport),
    Case::new("json-format", "every command answers with one JSON document", json_format),
    Case::new("restart", "a restart brings everything back", restart),
    Case::new("sigkill", "so does SIGKILL, in the middle of changes too", sigkill),
    Case::new("restore-missing", "an interface that is missing at start stays configured", missing),
    Case::new("damaged-state", "a damaged state file is set aside, not half applied", damaged),
];

fn trimmed(daemon: &Daemon, line: &str) -> Result<String> {
    Ok(daemon.run(line)?.trim().to_owned())
}

fn set_get_clear(lab: &Lab) -> Result<()> {
    let (daemon, _h1, _h2) = pair(lab)?;
    daemon.run("set port h1 tag=5")?;
    ensure!(trimmed(&daemon, "get port h1 tag")? == "5", "tag");
    daemon.run("set port h1 vlan_mode=native-untagged trunks=7,9")?;
    ensure!(trimmed(&daemon, "get port h1 vlan_mode")? == "native-untagged", "vlan_mode");
    let trunks = trimmed(&daemon, "get port h1 trunks")?;
    ensure!(trunks.contains('7') && trunks.contains('9'), "trunks are {trunks}");
    daemon.run("set bridge br0 other_config:mac-aging-time=60 external_ids:owner=me")?;
    let aging = trimmed(&daemon, "get bridge br0 other_config:mac-aging-time")?;
    ensure!(aging.trim_matches('"') == "60", "mac-aging-time is {aging}");
    let owner = trimmed(&daemon, "get bridge br0 external_ids:owner")?;
    ensure!(owner.trim_matches('"') == "me", "external_ids:owner is {owner}");
    daemon.run("clear port h1 tag -- clear port h1 trunks -- clear port h1 vlan_mode")?;
    ensure!(trimmed(&daemon, "get port h1 tag")? == "[]", "tag is not empty");
    daemon.refuses("set port h1 tag=4096", 1, &["tag", "4096"])?;
    ensure!(trimmed(&daemon, "get port h1 tag")? == "[]", "a refused value was stored");
    Ok(())
}

fn transaction(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    let before = daemon.run("show")?;
    daemon.refuses("set port h1 tag=5 -- add-br br1 -- add-port br1 nosuchif", 1, &["nosuchif"])?;
    ensure!(trimmed(&daemon, "list-br")? == "br0", "br1 was made");
    ensure!(trimmed(&daemon, "get port h1 tag")? == "[]", "the tag was set");
    ensure!(
        cmd::output(&["ip", "link", "show", "dev", "br1"])?.status != 0,
        "interface br1 is left"
    );
    let after = daemon.run("show")?;
    ensure!(before.lines().count() == after.lines().count(), "before\n{before}\nafter\n{after}");
    h1.ping(&h2.address, 5)?;
    // Reads inside see what stands before them.
    let out = daemon.run("add-br br1 -- list-br")?;
    ensure!(out.contains("br1"), "{out}");
    // From one bridge to another in one step.
    daemon.run("del-port br0 h2 -- add-port br1 h2")?;
    ensure!(trimmed(&daemon, "port-to-br h2")? == "br1", "h2 did not move");
    h1.cannot_reach(&h2.address)?;
    daemon.run("del-br br1 -- add-port br0 h2")?;
    h1.ping(&h2.address, 5)
}

fn may_exist(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    daemon.run("--may-exist add-br br0 -- --may-exist add-port br0 h1")?;
    daemon.run("add-br br0 --may-exist")?;
    daemon.refuses("add-br br0", 1, &["br0"])?;
    daemon.refuses("add-port br0 h1", 1, &["h1", "br0"])?;
    daemon.run("--if-exists del-port br0 h9 -- --if-exists del-br br9")?;
    daemon.refuses("del-port br0 h9", 1, &["h9"])?;
    daemon.refuses("del-br br9", 1, &["br9"])?;
    ensure!(daemon.ctl(&["br-exists", "br0"])?.status == 0, "br-exists br0");
    ensure!(daemon.ctl(&["br-exists", "br9"])?.status != 0, "br-exists br9");
    h1.ping(&h2.address, 1)
}

fn ofport(lab: &Lab) -> Result<()> {
    let (mut daemon, _h1, _h2) = pair(lab)?;
    for name in ["h3", "h4", "h5"] {
        lab.host(name, "")?;
    }
    let number = |daemon: &Daemon, port: &str| trimmed(daemon, &format!("get port {port} ofport"));
    ensure!(number(&daemon, "h1")? == "1" && number(&daemon, "h2")? == "2", "not 1 and 2");
    daemon.run("add-port br0 h3 ofport_request=17 -- add-port br0 h4")?;
    ensure!(number(&daemon, "h3")? == "17" && number(&daemon, "h4")? == "3", "not 17 and 3");
    daemon.run("del-port br0 h2")?;
    let before = (number(&daemon, "h1")?, number(&daemon, "h3")?, number(&daemon, "h4")?);
    daemon.terminate()?;
    let daemon = daemon.again()?;
    let after = (number(&daemon, "h1")?, number(&daemon, "h3")?, number(&daemon, "h4")?);
    ensure!(before == after, "before {before:?} after {after:?}");
    daemon.run("add-port br0 h5")?;
    let taken = [number(&daemon, "h1")?, number(&daemon, "h3")?, number(&daemon, "h4")?];
    ensure!(!taken.contains(&number(&daemon, "h5")?), "a number was given twice");
    Ok(())
}

fn json_format(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    h1.ping(&h2.address, 2)?;
    for line in [
        "list-br",
        "br-exists br0",
        "list-ports br0",
        "port-to-br h1",
        "get port h1 tag",
        "show",
        "fdb show br0",
        "fdb stats br0",
        "fdb flush br0",
        "dump-ports br0",
        "drops",
        "dump-megaflows",
        "workers",
        "version",
        "log-level",
        "set port h1 tag=3",
        "clear port h1 tag",
    ] {
        daemon.json(line)?;
    }
    // One document per command, one a line or pretty: both read as a stream.
    let text = daemon.run("--format json list-br -- list-ports br0 -- show")?;
    let documents: Vec<serde_json::Value> =
        serde_json::Deserializer::from_str(&text).into_iter().collect::<Result<_, _>>()?;
    ensure!(documents.len() == 3, "{} documents for 3 commands: {text}", documents.len());
    Ok(())
}

/// Everything that is configured, as text.
fn configuration(daemon: &Daemon) -> Result<String> {
    let mut text = String::new();
    for bridge in daemon.run("list-br")?.split_whitespace() {
        text += &daemon.run(&format!("get bridge {bridge}"))?;
        for port in daemon.run(&format!("list-ports {bridge}"))?.split_whitespace() {
            text += &daemon.run(&format!("get port {port}"))?;
        }
    }
    Ok(text)
}

fn settings(daemon: &Daemon) -> Result<()> {
    daemon.run("add-br br1 fail_mode=secure other_config:mac-aging-time=77 external_ids:a=b")?;
    daemon.run(
        "add-port br1 in1 type=internal tag=4 -- add-port br1 p1 type=patch options:peer=p0",
    )?;
    daemon.run("add-port br0 p0 type=patch options:peer=p1 trunks=3,4 ofport_request=40")?;
    Ok(())
}

fn restart(lab: &Lab) -> Result<()> {
    let (mut daemon, h1, h2) = pair(lab)?;
    settings(&daemon)?;
    let before = configuration(&daemon)?;
    daemon.terminate()?;
    let daemon = daemon.again()?;
    let after = configuration(&daemon)?;
    ensure!(before == after, "before\n{before}\nafter\n{after}");
    ensure!(cmd::output(&["ip", "link", "show", "dev", "in1"])?.status == 0, "in1 is not back");
    // It answered, so its ports are bound: the first ping may only wait for learning.
    h1.ping(&h2.address, 10)
}

fn sigkill(lab: &Lab) -> Result<()> {
    let (mut daemon, h1, h2) = pair(lab)?;
    settings(&daemon)?;
    for round in 0..5 {
        daemon.run(&format!("set bridge br0 external_ids:round={round}"))?;
        let before = configuration(&daemon)?;
        daemon.murder()?;
        ensure!(
            !cmd::run(&["ip", "link", "show", "dev", "h1"])?.contains("xdp"),
            "a program is left"
        );
        daemon = daemon.again()?;
        let after = configuration(&daemon)?;
        ensure!(before == after, "round {round}: before\n{before}\nafter\n{after}");
        h1.ping(&h2.address, 3)?;
    }
    Ok(())
}

fn missing(lab: &Lab) -> Result<()> {
    let (mut daemon, h1, h2) = pair(lab)?;
    let h3 = lab.host("h3", "10.0.0.3/24")?;
    daemon.run("add-port br0 h3")?;
    daemon.terminate()?;
    cmd::run(&["ip", "link", "del", "dev", "h2"])?;
    let daemon = daemon.again()?;
    h1.ping(&h3.address, 5)?;
    ensure!(daemon.run("list-ports br0")?.contains("h2"), "h2 is no longer configured");
    lab.cable("h2", &h2.node, "eth0")?;
    h2.node.run(&["ip", "addr", "add", "10.0.0.2/24", "dev", "eth0"])?;
    h1.ping(&h2.address, 5)
}

fn damaged(lab: &Lab) -> Result<()> {
    let (mut daemon, _h1, _h2) = pair(lab)?;
    for (round, spoil) in [truncate, overwrite, empty].into_iter().enumerate() {
        daemon.terminate()?;
        let file = state_file(&daemon)?;
        let good = fs::read(&file)?;
        let bad = spoil(&good);
        fs::write(&file, &bad)?;
        daemon = daemon.again()?;
        ensure!(trimmed(&daemon, "list-br")?.is_empty(), "round {round}: half applied");
        let aside = set_aside(&daemon, &bad)?;
        let log = daemon.log_text()?;
        let name = aside.file_name().and_then(|n| n.to_str()).context("name")?;
        ensure!(log.contains(name), "the log does not say where the damaged file is:\n{log}");
        // It is still there after changes and another restart.
        daemon.run("add-br br0 -- add-port br0 h1 -- add-port br0 h2")?;
        ensure!(fs::read(&aside)? == bad, "the damaged file was changed");
    }
    Ok(())
}

fn truncate(good: &[u8]) -> Vec<u8> {
    good[..good.len() / 2].to_vec()
}

fn overwrite(good: &[u8]) -> Vec<u8> {
    let mut bad = good.to_vec();
    let at = bad.len() / 2;
    bad[at] = 0xff;
    bad
}

fn empty(_good: &[u8]) -> Vec<u8> {
    Vec::new()
}

/// The one file in the state dir that holds the configuration.
fn state_file(daemon: &Daemon) -> Result<std::path::PathBuf> {
    let path = daemon.state_dir.join("config.json");
    ensure!(path.is_file(), "no state file {}", path.display());
    Ok(path)
}

/// The file beside the state file that holds the damaged bytes.
fn set_aside(daemon: &Daemon, bad: &[u8]) -> Result<std::path::PathBuf> {
    let own = daemon.state_dir.join("config.json");
    for entry in fs::read_dir(&daemon.state_dir)? {
        let path = entry?.path();
        if path != own && path.is_file() && fs::read(&path)? == bad {
            // An empty file could be a lock: the name has to say what it is.
            if path.to_string_lossy().contains("damaged") {
                return Ok(path);
            }
        }
    }
    crate::bail!("the damaged file was not set aside in {}", daemon.state_dir.display())
}
