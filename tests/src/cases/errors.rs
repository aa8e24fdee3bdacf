//! What is refused: a message that says what and where, the right exit status, nothing changed.

use super::pair;
use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::runner::Case;
use crate::{Result, cmd, ensure};

pub const CASES: &[Case] = &[
    Case::new("errors", "every wrong command: exit status 1, a message, no change", errors),
    Case::new("usage-errors", "wrong usage: exit status 2", usage),
    Case::new("no-permission", "a user without rights is told so", permission),
];

/// (command, words that the message must contain)
const REFUSED: &[(&str, &[&str])] = &[
    ("add-br br0", &["br0"]),
    ("add-br h1", &["h1"]),
    ("add-br a-name-that-is-too-long", &["a-name-that-is-too-long"]),
    ("add-br br/1", &["br/1"]),
    ("add-br br2 fail_mode=open", &["fail_mode", "open"]),
    ("add-br br2 no_such_key=1", &["no_such_key"]),
    ("add-br br2 other_config:mac-aging-time=soon", &["mac-aging-time", "soon"]),
    ("add-br lo", &["lo"]),
    ("del-br br9", &["br9"]),
    ("list-ports br9", &["br9"]),
    ("port-to-br h9", &["h9"]),
    ("add-port br9 h3", &["br9"]),
    ("add-port br0 nosuchif", &["nosuchif"]),
    ("add-port br0 h1", &["h1", "br0"]),
    ("add-port br1 h1", &["h1", "br0"]),
    ("add-port br0 br1", &["br1"]),
    ("add-port br0 h3 tag=4096", &["tag", "4096"]),
    ("add-port br0 h3 tag=-1", &["tag", "-1"]),
    ("add-port br0 h3 tag=five", &["tag", "five"]),
    ("add-port br0 h3 trunks=1,5000", &["trunks", "5000"]),
    ("add-port br0 h3 vlan_mode=sideways", &["vlan_mode", "sideways"]),
    ("add-port br0 h3 type=nonsense", &["type", "nonsense"]),
    ("add-port br0 h3 ofport_request=0", &["ofport_request", "0"]),
    ("add-port br0 h3 ofport_request=70000", &["ofport_request", "70000"]),
    ("add-port br0 h3 options:no-such-option=1", &["no-such-option"]),
    ("add-port br0 h3 options:xdp-mode=fast", &["xdp-mode", "fast"]),
    ("add-port br0 h3 options:n_rxq=0", &["n_rxq"]),
    ("add-port br0 p0 type=patch", &["p0", "peer"]),
    ("add-port br0 p0 type=patch options:peer=p0", &["p0", "peer"]),
    ("add-port br0 h1x type=internal options:peer=p1", &["peer"]),
    ("add-port br0 eth-of-sixteen-letters type=internal", &["eth-of-sixteen-letters"]),
    ("add-port br0 h3 type=internal", &["h3"]),
    ("del-port br0 h9", &["h9"]),
    ("del-port br1 h1", &["h1", "br0"]),
    ("del-port br0 br0", &["br0"]),
    ("set port h9 tag=1", &["h9"]),
    ("set bridge br9 fail_mode=secure", &["br9"]),
    ("set port h1 tga=1", &["tga"]),
    ("set port h1 ofport=9", &["ofport"]),
    ("get port h1 colour", &["colour"]),
    ("clear port h1 colour", &["colour"]),
    ("fdb show br9", &["br9"]),
    ("fdb flush br9", &["br9"]),
    ("dump-ports br9", &["br9"]),
    ("add-br br2 -- add-port br2 nosuchif", &["nosuchif"]),
];

/// (command line) that is wrong by itself.
const USAGE: &[&str] = &[
    "",
    "no-such-command",
    "add-br",
    "add-port br0",
    "--no-such-option show",
    "--format xml show",
    "--timeout soon show",
    "fdb",
    "fdb eat br0",
    "set port h1",
];

fn errors(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    lab.host("h3", "")?;
    daemon.run("add-br br1")?;
    let before = state(&daemon)?;
    let mut wrong = Vec::new();
    for (line, words) in REFUSED {
        if let Err(error) = daemon.refuses(line, 1, words) {
            wrong.push(format!("{error:#}"));
        }
        let after = state(&daemon)?;
        if after != before {
            wrong.push(format!("`{line}` changed something: before\n{before}\nafter\n{after}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    h1.ping(&h2.address, 5)
}

/// Interfaces of the switch's host and what is configured.
fn state(daemon: &Daemon) -> Result<String> {
    let mut text = daemon.run("list-br")?;
    for bridge in ["br0", "br1"] {
        text += &daemon.run(&format!("list-ports {bridge} -- get bridge {bridge} fail_mode"))?;
    }
    text += &daemon.run("get port h1 tag trunks vlan_mode ofport")?;
    text += &cmd::run(&["ip", "-o", "link", "show"])?;
    text += &String::from_utf8_lossy(&std::fs::read(daemon.state_dir.join("config.json"))?);
    Ok(text)
}

fn usage(lab: &Lab) -> Result<()> {
    let (daemon, _h1, _h2) = pair(lab)?;
    let mut wrong = Vec::new();
    for line in USAGE {
        let words: Vec<&str> = line.split_whitespace().collect();
        let out = daemon.ctl(&words)?;
        if out.status != 2 || out.stderr.trim().is_empty() || out.stderr.contains("panicked") {
            wrong.push(format!("`{line}` ended with {}: {}{}", out.status, out.stdout, out.stderr));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    for line in ["--help", "help", "add-port --help", "help add-port", "completions bash"] {
        let text = daemon.run(line)?;
        ensure!(text.len() > 200, "`{line}` says little: {text}");
    }
    Ok(())
}

fn permission(lab: &Lab) -> Result<()> {
    let daemon = Daemon::start(lab)?;
    // The way to the socket is open, the socket is not.
    let vswitchctl = lab.dir().join("vswitchctl");
    std::fs::copy(crate::daemon::program("vswitchctl"), &vswitchctl)?;
    let line = format!(
        "exec setpriv --reuid 65534 --regid 65534 --clear-groups {} --run-dir {} show",
        vswitchctl.display(),
        daemon.run_dir.display()
    );
    let out = cmd::output(&["sh", "-c", &line])?;
    ensure!(out.status == 1, "it ended with {}: {}{}", out.status, out.stdout, out.stderr);
    ensure!(out.stderr.to_lowercase().contains("permission"), "it says: {}", out.stderr);
    Ok(())
}
