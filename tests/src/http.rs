//! A web server that tells every client the address it came from.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use anyhow::{Context, Result, bail};

use crate::lab::Node;
use crate::raw::enter_network;

/// Serve on a port of a machine, until the test's end.
pub fn serve(node: &Node, port: u16) -> Result<()> {
    let name = node.name.clone();
    // Only the thread that binds enters the namespace; the socket stays in it.
    let bound = std::thread::spawn(move || -> Result<TcpListener> {
        enter_network(&name)?;
        Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?)
    });
    let listener = match bound.join() {
        Ok(listener) => listener.with_context(|| format!("a web server on {}", node.name))?,
        Err(_) => bail!("a web server on {} panicked", node.name),
    };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away is no concern of the server's.
            let _ = answer(&stream);
        }
    });
    Ok(())
}

fn answer(stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(crate::wait::SOON))?;
    let mut lines = BufReader::new(stream).lines();
    while !lines.next().transpose()?.unwrap_or_default().is_empty() {}
    let body = stream.peer_addr()?.ip().to_string();
    let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut writer = stream;
    writer.write_all(head.as_bytes())?;
    writer.write_all(body.as_bytes())?;
    Ok(())
}

/// What the server at an address says to a machine.
pub fn get(from: &Node, at: &str) -> Result<String> {
    from.run(&["curl", "-s", "-S", "--fail", "--max-time", "10", &format!("http://{at}/")])
}
