//! Golden cases: a directory of `tests/golden` each, with a configuration, the frames that go into every
//! port, and exactly the frames and counters that must come of it. Its README says what the files are.
//!
//! Ports take turns, `p1` first. Behind a port's frames the switch itself sends a frame to every port, by
//! which the end of what came out is known; counters are those without these frames.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::raw::Raw;
use crate::runner::Case;
use crate::{Context, Result, cmd, ensure, frame, pcap, report, wait};

macro_rules! golden {
    ($($name:literal: $about:literal,)*) => {
        pub const CASES: &[Case] =
            &[$(Case::new(concat!("golden-", $name), $about, |lab| compare(lab, $name)),)*];
    };
}

golden! {
    "normal-vlans": "access and trunk ports of a learning bridge: frames and counters to the byte",
    "push-pop": "tags pushed, changed and popped: frames and counters to the byte",
    "set-field": "IPv4, IPv6, TCP and UDP fields set: frames and counters to the byte",
    "groups": "groups of type all, select and indirect: frames and counters to the byte",
    "learn": "flows learned from packets: frames and counters to the byte",
    "conjunction": "conjunctive matches: frames and counters to the byte",
    "registers": "resubmit, registers and move: frames and counters to the byte",
    "clone": "clone and truncated output: frames and counters to the byte",
    "drops": "every packet that is dropped is counted under its reason",
}

/// Set to anything, a run writes what it sees as what is expected from then on.
const REGENERATE: &str = "GOLDEN_REGENERATE";

/// Ends what comes out of a port in one turn.
const END: &str = "<golden-end>";

struct Port {
    name: String,
    raw: Raw,
    input: Vec<Vec<u8>>,
    output: Vec<Vec<u8>>,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

fn compare(lab: &Lab, name: &str) -> Result<()> {
    let dir = directory().join(name);
    let mut ports = ports(lab, &dir)?;
    let daemon = Daemon::start(lab)?;
    let config = dir.join("config");
    let text = std::fs::read_to_string(&config).with_context(|| config.display().to_string())?;
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        daemon.run(line)?;
    }
    for turn in 0..ports.len() {
        take_turn(&daemon, &mut ports, turn)?;
    }
    if std::env::var_os(REGENERATE).is_some() {
        return regenerate(&daemon, &dir, &ports);
    }
    for port in &ports {
        let path = dir.join(format!("{}.out.pcap", port.name));
        let expected = std::fs::read(&path).with_context(|| path.display().to_string())?;
        if pcap::write(&port.output) != expected {
            let expected = pcap::read(&expected).with_context(|| path.display().to_string())?;
            same_frames(&port.output, &expected).context(path.display().to_string())?;
        }
    }
    let path = dir.join("counters.json");
    let expected: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    let mut seen = Value::Null;
    let equal = wait::until("the counters are those of the file", || {
        seen = counters(&daemon, &ports)?;
        Ok(seen == expected)
    });
    equal.with_context(|| format!("{} differs from {seen:#}", path.display()))
}

/// A machine for every file of input, in the order of their names.
fn ports(lab: &Lab, dir: &Path) -> Result<Vec<Port>> {
    let mut ports = Vec::new();
    for number in 1.. {
        let name = format!("p{number}");
        let path = dir.join(format!("{name}.in.pcap"));
        if !path.exists() {
            break;
        }
        let input = pcap::read(&std::fs::read(&path)?).context(path.display().to_string())?;
        let raw = lab.host(&name, "")?.raw()?;
        ports.push(Port { name, raw, input, output: Vec::new() });
    }
    ensure!(!ports.is_empty(), "no p1.in.pcap in {}", dir.display());
    Ok(ports)
}

/// Give a port its frames and add what comes of them to every port's output.
fn take_turn(daemon: &Daemon, ports: &mut [Port], turn: usize) -> Result<()> {
    let Port { name, raw, input, .. } = &ports[turn];
    input.iter().try_for_each(|frame| raw.send(frame))?;
    wait::until(&format!("{} frames are received from {name}", input.len()), || {
        let seen = report::port_counter(&daemon.json("dump-ports br0")?, name, "rx_packets")?;
        Ok(seen == input.len() as u64)
    })?;
    let end = frame::marked(frame::Mac::BROADCAST, frame::Mac([2, 0, 0, 0, 0, 0]), &[], END);
    let hex: String = end.iter().map(|byte| format!("{byte:02x}")).collect();
    let outputs: Vec<String> = ports.iter().map(|port| format!("output:{}", port.name)).collect();
    daemon.run(&format!("packet-out br0 none {} {hex}", outputs.join(",")))?;
    for port in ports {
        let mut frames = port.raw.until_mark(END).with_context(|| port.name.clone())?;
        frames.pop();
        port.output.append(&mut frames);
    }
    Ok(())
}

fn same_frames(seen: &[Vec<u8>], expected: &[Vec<u8>]) -> Result<()> {
    for (number, (seen, expected)) in seen.iter().zip(expected).enumerate() {
        ensure!(seen == expected, "frame {}: {seen:02x?}, not {expected:02x?}", number + 1);
    }
    ensure!(seen.len() == expected.len(), "{} frames, not {}", seen.len(), expected.len());
    anyhow::bail!("times or file header are not zero: write it again with {REGENERATE}=1")
}

/// Everything that the switch counted since its start.
fn counters(daemon: &Daemon, ports: &[Port]) -> Result<Value> {
    let document = daemon.json("dump-ports br0")?;
    let mut by_port = Map::new();
    let turns = ports.len() as u64;
    let end = frame::marked(frame::Mac::BROADCAST, frame::Mac([0; 6]), &[], END).len() as u64;
    for Port { name, .. } in ports {
        let object = report::object(&document, "name", name)?;
        let mut counts = Map::new();
        for (key, ends) in
            [("rx_packets", 0), ("rx_bytes", 0), ("tx_packets", turns), ("tx_bytes", turns * end)]
        {
            let count = object.get(key).and_then(Value::as_u64).context("a counter is missing")?;
            counts.insert(key.into(), json!(count.saturating_sub(ends)));
        }
        counts.insert("drops".into(), by_reason(&Value::Object(object.clone())));
        by_port.insert(name.clone(), Value::Object(counts));
    }
    // Texts without times and counters, beside the counters.
    let texts = daemon.run("dump-flows br0 --no-stats")?;
    let document = daemon.json("dump-flows br0")?;
    let counts = document["flows"].as_array().context("no flows")?;
    ensure!(texts.lines().count() == counts.len(), "flows came or went");
    let flows: Vec<Value> = texts
        .lines()
        .zip(counts)
        .map(|(text, of)| json!([text.trim(), of["packets"], of["bytes"]]))
        .collect();
    let mut groups = daemon.json("dump-group-stats br0")?["groups"].take();
    for group in groups.as_array_mut().context("no groups")? {
        group.as_object_mut().context("not a group")?.remove("duration");
    }
    let drops = by_reason(&daemon.json("drops")?);
    Ok(json!({"ports": by_port, "flows": flows, "groups": groups, "drops": drops}))
}

fn by_reason(document: &Value) -> Value {
    let counted = report::drops(document).into_iter().filter(|(_, packets)| *packets > 0);
    counted.map(|(reason, packets)| (reason, json!(packets))).collect::<Map<_, _>>().into()
}

/// Write what came out and what was counted, once nothing changes any more and tshark finds every
/// checksum right.
fn regenerate(daemon: &Daemon, dir: &Path, ports: &[Port]) -> Result<()> {
    for port in ports {
        let path = dir.join(format!("{}.out.pcap", port.name));
        std::fs::write(&path, pcap::write(&port.output))?;
        judge(&path)?;
    }
    let mut last = Value::Null;
    wait::until("the counters stay as they are", || {
        std::thread::sleep(Duration::from_secs(2));
        let seen = counters(daemon, ports)?;
        Ok(std::mem::replace(&mut last, seen) == last)
    })?;
    std::fs::write(dir.join("counters.json"), format!("{last:#}\n"))?;
    Ok(())
}

/// The checksums of a file as tshark sees them, that of a cut packet aside, which nobody can tell.
fn judge(path: &Path) -> Result<()> {
    let file = path.display().to_string();
    let mut words = vec!["tshark", "-n", "-r", &file];
    for on in ["ip.check_checksum:TRUE", "tcp.check_checksum:TRUE", "udp.check_checksum:TRUE"] {
        words.extend(["-o", on]);
    }
    let wrong = ["ip", "tcp", "udp", "icmp", "icmpv6"].map(|p| format!("{p}.checksum.status == 0"));
    let wrong = wrong.join(" || ");
    words.extend(["-Y", &wrong]);
    let found = cmd::run(&words)?;
    ensure!(found.is_empty(), "{file} has wrong checksums:\n{found}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_directory_is_a_case() {
        let entries = std::fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap());
        let mut found: Vec<String> = entries
            .filter(|entry| entry.path().is_dir())
            .map(|entry| format!("golden-{}", entry.file_name().display()))
            .collect();
        let mut known: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        found.sort();
        known.sort_unstable();
        assert_eq!(found, known);
    }
}
