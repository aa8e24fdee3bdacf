//! Clients that mean harm or do not know better: the switch goes on, and so do the others.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::pair;
use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::runner::Case;
use crate::{Context, Result, ensure};

pub const CASES: &[Case] = &[
    Case::new("idle-clients", "a thousand idle clients lock nobody out", idle_clients),
    Case::new("bad-requests", "malformed, half-sent, oversized and endless requests", bad_requests),
    Case::new("slow-reader", "a client that does not read its answers stalls nobody", slow_reader),
];

fn connect(daemon: &Daemon) -> Result<UnixStream> {
    let stream = UnixStream::connect(daemon.run_dir.join("vswitchd.sock")).context("connecting")?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

/// Resident memory of a process in KiB.
fn resident(pid: i32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    line.trim().trim_end_matches(" kB").parse().context("VmRSS")
}

fn idle_clients(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    let mut clients = Vec::new();
    for _ in 0..1000 {
        // One that was put out for another's sake may stay put out.
        clients.push(connect(&daemon)?);
    }
    let text = daemon.run("show")?;
    ensure!(text.contains("h1"), "{text}");
    daemon.run("set port h1 tag=5 -- clear port h1 tag")?;
    h1.ping(&h2.address, 10)?;
    drop(clients);
    daemon.run("show")?;
    Ok(())
}

fn bad_requests(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    let _load = h1.node.start(&["ping", "-q", "-i", "0.01", &h2.address])?;
    let before = daemon.run("list-ports br0")?;
    let deep = format!("{}{}\n", "[".repeat(100_000), "]".repeat(100_000));
    let deep_object = format!("{}1{}\n", "{\"a\":".repeat(50_000), "}".repeat(50_000));
    let requests: &[&[u8]] = &[
        b"\n",
        b"\0\n",
        b"{\n",
        b"hello\n",
        b"[]\n",
        b"{}\n",
        b"null\n",
        b"\xff\xfe\xfd\n",
        b"{\"jsonrpc\":\"2.0\",\"id\":1}\n",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":7}\n",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"no-such\",\"params\":[]}\n",
        b"{\"jsonrpc\":\"2.0\",\"id\":{\"a\":[]},\"method\":\"transact\",\"params\":{\"commands\":3}}\n",
        b"{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"show\",\"params\":{}} trailing\n",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"show\",\"params\":{\"bridge\":\"\\ud800\"}}\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        deep.as_bytes(),
        deep_object.as_bytes(),
    ];
    for request in requests {
        let mut client = connect(&daemon)?;
        // The daemon may put a client out before it has said all.
        let _ = client.write_all(request);
        let mut answer = [0; 4096];
        let _ = client.read(&mut answer);
        ensure!(daemon.ctl(&["version"])?.status == 0, "silent after {:?}", head(request));
    }
    // Half a request, and the client stays.
    let mut half = connect(&daemon)?;
    half.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"meth")?;
    daemon.run("show")?;
    endless(&daemon)?;
    drop(half);
    ensure!(daemon.run("list-ports br0")? == before, "something changed");
    h1.ping(&h2.address, 10)
}

fn head(request: &[u8]) -> String {
    String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned()
}

/// 256 MiB without an end: the client is put out, and memory stays bounded.
fn endless(daemon: &Daemon) -> Result<()> {
    let before = resident(daemon.pid())?;
    let mut client = connect(daemon)?;
    let chunk = vec![b' '; 1 << 20];
    let mut sent = 0;
    let mut text = vec![b'x'; 1 << 20];
    text[0] = b'"';
    let mut put_out = client.write_all(&text).is_err();
    while !put_out && sent < 256 {
        put_out = client.write_all(&chunk).is_err();
        sent += 1;
    }
    ensure!(put_out, "256 MiB of one request were taken");
    daemon.run("show")?;
    let after = resident(daemon.pid())?;
    ensure!(after < before + 200 * 1024, "memory grew from {before} to {after} KiB");
    Ok(())
}

fn slow_reader(lab: &Lab) -> Result<()> {
    let (daemon, h1, h2) = pair(lab)?;
    let mut client = connect(&daemon)?;
    client.set_write_timeout(Some(Duration::from_millis(200)))?;
    let request = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"show\",\"params\":{}}\n";
    for _ in 0..20_000 {
        if client.write_all(request).is_err() {
            break;
        }
    }
    for _ in 0..10 {
        daemon.run("show")?;
    }
    h1.ping(&h2.address, 10)
}
