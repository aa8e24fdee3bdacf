//! The daemon as a process: start, end, one per directory, several beside each other, at rest.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;

use super::pair;
use crate::daemon::{Daemon, program};
use crate::lab::Lab;
use crate::runner::Case;
use crate::{Context, Result, cmd, ensure, report, wait};

pub const CASES: &[Case] = &[
    Case::new("sigterm", "SIGTERM: gone within 5 s, no program and no interface left", sigterm),
    Case::new("sigint", "SIGINT does the same, under load too", sigint),
    Case::new("second-daemon", "a second daemon in the same run dir is refused", second),
    Case::new("two-daemons", "two daemons with other directories do not disturb each other", two),
    Case::new("socket-mode", "the socket is for root and the daemon's group", socket_mode),
    Case::new("no-daemon", "without a daemon: exit status 1 and a message with the socket", none),
    Case::new("readiness", "systemd is told READY=1 when the stored ports are bound", readiness),
    Case::new("daemon-usage", "wrong arguments: exit status 2 and a message", usage),
    Case::new("umem-refused", "a frame region that the kernel refuses: a clear message", umem),
    Case::new("idle", "an idle switch uses next to no CPU and wakes at once", idle),
    Case::new("log-level", "the log level is changed while it runs", log_level),
];

fn clean(ports: &[&str]) -> Result<()> {
    for port in ports {
        let link = cmd::run(&["ip", "link", "show", "dev", port])?;
        ensure!(!link.contains("xdp"), "an XDP program is left: {link}");
        ensure!(!link.contains("PROMISC"), "left promiscuous: {link}");
    }
    for gone in ["br0", "in0"] {
        ensure!(cmd::output(&["ip", "link", "show", "dev", gone])?.status != 0, "{gone} is left");
    }
    Ok(())
}

fn sigterm(lab: &Lab) -> Result<()> {
    let (mut daemon, h1, h2) = pair(lab)?;
    daemon.run("add-port br0 in0 type=internal")?;
    h1.ping(&h2.address, 2)?;
    daemon.terminate()?;
    clean(&["h1", "h2"])?;
    ensure!(!daemon.run_dir.join("vswitchd.sock").exists(), "the socket is left");
    Ok(())
}

fn sigint(lab: &Lab) -> Result<()> {
    let (mut daemon, h1, h2) = pair(lab)?;
    h1.ping(&h2.address, 1)?;
    let _load = h1.node.start(&["ping", "-q", "-f", &h2.address])?;
    let status = daemon.end(Signal::INT, Duration::from_secs(5))?;
    ensure!(status.success(), "after SIGINT it ended with {status}");
    clean(&["h1", "h2"])
}

fn second(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    let run = daemon.run_dir.to_str().context("path")?;
    let other_state = lab.dir().join("other-state");
    let vswitchd = program("vswitchd");
    let vswitchd = vswitchd.to_str().context("path")?;
    let state = other_state.to_str().context("path")?;
    let out = cmd::output(&[vswitchd, "--run-dir", run, "--state-dir", state])?;
    ensure!(out.status == 1, "it ended with {}: {}", out.status, out.stderr);
    ensure!(out.stderr.contains(&daemon.pid().to_string()), "it does not say who: {}", out.stderr);
    // Nor with another run dir on the same state.
    let own_state = daemon.state_dir.to_str().context("path")?;
    let other_run = lab.dir().join("other-run");
    let other_run = other_run.to_str().context("path")?;
    let out = cmd::output(&[vswitchd, "--run-dir", other_run, "--state-dir", own_state])?;
    ensure!(out.status == 1, "on the same state it ended with {}: {}", out.status, out.stderr);
    h1.ping(&h2.address, 5)?;
    daemon.run("show")?;
    Ok(())
}

fn two(lab: &Lab) -> Result<()> {
    let (one, h1, h2) = pair(lab)?;
    let h3 = lab.host("h3", "10.0.0.3/24")?;
    let h4 = lab.host("h4", "10.0.0.4/24")?;
    let mut two = Daemon::start_as(lab, "two", &[])?;
    two.run("add-br brx -- add-port brx h3 -- add-port brx h4")?;
    h1.ping(&h2.address, 5)?;
    h3.ping(&h4.address, 5)?;
    h1.cannot_reach(&h3.address)?;
    // An interface belongs to one of them.
    two.refuses("add-port brx h1", 1, &["h1"])?;
    ensure!(one.run("list-br")?.trim() == "br0" && two.run("list-br")?.trim() == "brx", "mixed up");
    two.terminate()?;
    h1.ping(&h2.address, 5)
}

fn socket_mode(lab: &Lab) -> Result<()> {
    let daemon = Daemon::start(lab)?;
    let data = std::fs::metadata(daemon.run_dir.join("vswitchd.sock"))?;
    ensure!(data.file_type().is_socket(), "not a socket");
    ensure!(data.permissions().mode() & 0o777 == 0o660, "mode {:o}", data.permissions().mode());
    Ok(())
}

fn none(lab: &Lab) -> Result<()> {
    let (mut daemon, _h1, _h2) = pair(lab)?;
    let socket = daemon.run_dir.join("vswitchd.sock");
    let text = daemon.run("version")?;
    ensure!(text.chars().any(|c| c.is_ascii_digit()), "version says {text:?}");
    daemon.terminate()?;
    daemon.refuses("version", 1, &[socket.to_str().context("path")?])?;
    daemon.refuses("show", 1, &[socket.to_str().context("path")?])?;
    // A socket that nobody listens on any more is no obstacle.
    let mut daemon = daemon.again()?;
    daemon.murder()?;
    daemon.refuses("show", 1, &[socket.to_str().context("path")?])?;
    daemon.again()?.run("show")?;
    Ok(())
}

fn readiness(lab: &Lab) -> Result<()> {
    let (mut first, h1, h2) = pair(lab)?;
    first.terminate()?;
    let notify = lab.dir().join("notify");
    let socket = UnixDatagram::bind(&notify)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut command = std::process::Command::new(program("vswitchd"));
    command.arg("--run-dir").arg(&first.run_dir).arg("--state-dir").arg(&first.state_dir);
    command.args(["--umem", "64M"]).env("NOTIFY_SOCKET", &notify);
    let log = std::fs::File::create(lab.dir().join("notified.log"))?;
    let mut child = command.stderr(log).spawn()?;
    let mut message = [0; 512];
    let n = socket.recv(&mut message).context("no readiness message")?;
    let text = String::from_utf8_lossy(&message[..n]).into_owned();
    ensure!(text.lines().any(|line| line == "READY=1"), "it said {text:?}");
    ensure!(first.ctl(&["list-ports", "br0"])?.stdout.contains("h2"), "ready without its ports");
    h1.ping(&h2.address, 2)?;
    let pid = rustix::process::Pid::from_raw(child.id() as i32).context("pid")?;
    rustix::process::kill_process(pid, Signal::TERM)?;
    let n = socket.recv(&mut message).context("no stopping message")?;
    let text = String::from_utf8_lossy(&message[..n]).into_owned();
    ensure!(text.lines().any(|line| line == "STOPPING=1"), "it said {text:?}");
    child.wait()?;
    Ok(())
}

fn usage(_lab: &Lab) -> Result<()> {
    let vswitchd = program("vswitchd");
    let vswitchd = vswitchd.to_str().context("path")?;
    for (args, word) in [
        (&["--workers", "many"][..], "workers"),
        (&["--workers", "0"], "workers"),
        (&["--workers", "cores:4095"], "4095"),
        (&["--poll", "sometimes"], "poll"),
        (&["--umem", "lots"], "umem"),
        (&["--umem", "0"], "umem"),
        (&["--log-level", "loud"], "log-level"),
        (&["--no-such-option"], "no-such-option"),
    ] {
        let mut words = vec![vswitchd];
        words.extend(args);
        let out = cmd::output(&words)?;
        ensure!(out.status == 1 || out.status == 2, "{args:?} ended with {}", out.status);
        ensure!(out.stderr.contains(word), "{args:?} says {}", out.stderr);
        ensure!(!out.stderr.contains("panicked"), "{args:?} panicked: {}", out.stderr);
    }
    let out = cmd::output(&[vswitchd, "--help"])?;
    ensure!(out.status == 0 && out.stdout.contains("--run-dir"), "--help: {}", out.stdout);
    let out = cmd::output(&[vswitchd, "--version"])?;
    ensure!(out.status == 0 && out.stdout.contains("vswitchd"), "--version: {}", out.stdout);
    Ok(())
}

fn umem(lab: &Lab) -> Result<()> {
    let vswitchd = program("vswitchd");
    let vswitchd = vswitchd.to_str().context("path")?;
    let (run, state) = (lab.dir().join("r"), lab.dir().join("s"));
    let (run, state) = (run.to_str().context("path")?, state.to_str().context("path")?);
    // More than the machine has.
    let out = cmd::output(&[vswitchd, "--run-dir", run, "--state-dir", state, "--umem", "1024G"])?;
    ensure!(out.status == 1 || out.status == 2, "it ended with {}: {}", out.status, out.stderr);
    ensure!(out.stderr.contains("umem"), "it does not name --umem: {}", out.stderr);
    ensure!(!out.stderr.contains("panicked"), "{}", out.stderr);
    Ok(())
}

/// CPU time a process has used, in clock ticks of 10 ms.
fn ticks(pid: i32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = stat.rsplit(") ").next().context("stat")?;
    let fields: Vec<&str> = after.split(' ').collect();
    let field = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok()).context("stat");
    Ok(field(11)? + field(12)?)
}

fn idle(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    h1.ping(&h2.address, 10)?;
    // It falls asleep once there is nothing to do; then a span in which it uses almost nothing comes.
    wait::until("two seconds with less than 5 % of a core", || {
        let before = ticks(daemon.pid())?;
        std::thread::sleep(Duration::from_secs(2));
        Ok(ticks(daemon.pid())? - before < 10)
    })?;
    // Single frames with pauses between them: each wakes it, none is lost.
    let text = h1.node.run(&["ping", "-q", "-c", "20", "-i", "0.1", "-W", "2", &h2.address])?;
    ensure!(text.contains(" 0% packet loss"), "{text}");
    Ok(())
}

fn log_level(lab: &Lab) -> Result<()> {
    let (daemon, _h1, _h2) = pair(lab)?;
    daemon.run("log-level debug")?;
    ensure!(daemon.run("log-level")?.contains("debug"), "it does not say debug");
    daemon
        .refuses("log-level loud", 2, &["loud"])
        .or_else(|_| daemon.refuses("log-level loud", 1, &["loud"]))?;
    daemon.run("log-level warn")?;
    let workers = daemon.json("workers")?;
    ensure!(!report::objects(&workers).is_empty(), "workers says nothing");
    Ok(())
}
