//! The barest forwarder that AF_XDP allows: what comes in at one interface goes out at the other.
//!
//! `forward IF1 IF2 [--seconds N] [--generic] [--tx-metadata]`
//!
//! Each interface gets a program, and a socket for its first queue. Prints packets per second and
//! what was lost once a second, and the average at the end. For interfaces of one queue; set them
//! up first. Without `--seconds` it runs until it is killed.

use std::time::{Duration, Instant};

use afxdp::{
    AttachMode, AttachOptions, Attachment, FramePool, Kick, Packet, Region, Socket, SocketConfig,
    interface_index,
};

const USAGE: &str = "usage: forward IF1 IF2 [--seconds N] [--generic] [--tx-metadata]";
const BURST: usize = 64;
/// Rounds without a packet before it sleeps a moment in each.
const IDLE_ROUNDS: u32 = 10_000;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

struct Args {
    interfaces: [u32; 2],
    seconds: Option<u64>,
    mode: AttachMode,
    tx_metadata: bool,
}

fn args() -> Result<Args> {
    let mut names = Vec::new();
    let (mut seconds, mut mode, mut tx_metadata) = (None, AttachMode::Best, false);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--seconds" => seconds = Some(words.next().ok_or(USAGE)?.parse()?),
            "--generic" => mode = AttachMode::Generic,
            "--tx-metadata" => tx_metadata = true,
            _ if word.starts_with('-') => return Err(USAGE.into()),
            _ => names.push(word),
        }
    }
    let [a, b] = names.as_slice() else { return Err(USAGE.into()) };
    Ok(Args { interfaces: [interface_index(a)?, interface_index(b)?], seconds, mode, tx_metadata })
}

struct Port {
    // Detached before the socket closes.
    _attachment: Attachment,
    socket: Socket,
    received: u64,
    lost: u64,
}

impl Port {
    fn open(ifindex: u32, args: &Args, pool: &mut FramePool) -> Result<Port> {
        let options = AttachOptions { mode: args.mode, queues: 1, ..AttachOptions::default() };
        let attachment = Attachment::attach(ifindex, &options)?;
        let config = SocketConfig { tx_metadata: args.tx_metadata, ..SocketConfig::default() };
        let mut socket = Socket::open(ifindex, 0, pool.region().clone(), config)?;
        attachment.insert(0, &socket)?;
        socket.refill(pool);
        let copy = if socket.is_zero_copy() { "zero-copy" } else { "copy" };
        eprintln!("interface {ifindex}: {} XDP, {copy}", attachment.mode());
        Ok(Port { _attachment: attachment, socket, received: 0, lost: 0 })
    }
}

/// One burst from one port to the other; returns how many packets came.
fn forward(from: &mut Port, to: &mut Port, burst: &mut Vec<Packet>, pool: &mut FramePool) -> usize {
    let n = from.socket.rx_burst(pool, BURST, |packet| burst.push(packet));
    from.socket.refill(pool);
    if from.socket.needs_rx_wakeup() {
        from.socket.kick_rx();
    }
    from.received += n as u64;
    if n > 0 {
        let mut packets = burst.drain(..);
        let sent = to.socket.tx_burst(&mut packets, pool);
        to.lost += (n - sent) as u64;
        packets.for_each(|packet| pool.free_packet(packet));
    }
    n
}

fn main() -> Result<()> {
    let args = args()?;
    let region = Region::new(16 << 20)?;
    let mut pool = region.pool();
    let mut a = Port::open(args.interfaces[0], &args, &mut pool)?;
    let mut b = Port::open(args.interfaces[1], &args, &mut pool)?;
    let mut burst = Vec::with_capacity(BURST);
    let start = Instant::now();
    let (mut shown, mut shown_count, mut idle) = (start, 0, 0u32);
    loop {
        let mut n = forward(&mut a, &mut b, &mut burst, &mut pool);
        n += forward(&mut b, &mut a, &mut burst, &mut pool);
        for port in [&mut a, &mut b] {
            if let Kick::Gone | Kick::Stuck = port.socket.kick_tx() {
                return Err("an interface is gone".into());
            }
            port.socket.complete(&mut pool);
        }
        idle = if n > 0 { 0 } else { idle + 1 };
        if idle > IDLE_ROUNDS {
            std::thread::sleep(Duration::from_micros(200));
        }
        if shown.elapsed() >= Duration::from_secs(1) {
            let count = a.received + b.received;
            let rate = (count - shown_count) as f64 / shown.elapsed().as_secs_f64();
            println!("{rate:.0} pps, {} lost", a.lost + b.lost);
            (shown, shown_count) = (Instant::now(), count);
            if args.seconds.is_some_and(|s| start.elapsed().as_secs() >= s) {
                break;
            }
        }
    }
    let count = a.received + b.received;
    println!("average {:.0} pps", count as f64 / start.elapsed().as_secs_f64());
    for port in [a, b] {
        println!("{:?} {:?}", port.socket.counters(), port.socket.statistics()?);
    }
    Ok(())
}
