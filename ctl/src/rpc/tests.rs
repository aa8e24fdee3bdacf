//! The socket's thread under good and bad clients, with small limits and an echo for a control thread.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde_json::json;

use super::*;

/// Longer than anything here takes unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server whose requests are answered by a thread: `echo` gives its params back, `big` gives as many
/// bytes as asked for, `events` sends three events first, `never` is not answered.
struct Rig {
    path: PathBuf,
    gone: Receiver<ClientId>,
    /// One message for each request `never`.
    never: Receiver<()>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new(limits: Limits) -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("sock");
        let (bell, rung) = mpsc::channel();
        let server = Server::start(&path, limits, move || {
            let _ = bell.send(());
        })
        .expect("start");
        let stop = Arc::new(AtomicBool::new(false));
        let (gone_sender, gone) = mpsc::channel();
        let (never_sender, never) = mpsc::channel();
        let flag = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !flag.load(Ordering::Acquire) {
                let _ = rung.recv_timeout(Duration::from_millis(20));
                while let Some(incoming) = server.try_recv() {
                    match incoming {
                        Incoming::Request(request) if request.method == "never" => {
                            let _ = never_sender.send(());
                        }
                        Incoming::Request(request) => answer_one(&server, request),
                        Incoming::Gone(client) => drop(gone_sender.send(client)),
                    }
                }
            }
        });
        Self { path, gone, never, stop, thread: Some(thread), _dir: dir }
    }

    fn connect(&self) -> Peer {
        let stream = UnixStream::connect(&self.path).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
        Peer { reader: BufReader::new(stream) }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("control thread");
        }
    }
}

fn answer_one(server: &Server, request: Request) {
    let raw = |json: Json| serde_json::value::to_raw_value(&json).expect("raw");
    let Request { client, id, method, params } = request;
    let result = match method.as_str() {
        "big" => {
            let bytes = params["bytes"].as_u64().unwrap_or(0);
            Ok(raw(json!("x".repeat(usize::try_from(bytes).expect("fits")))))
        }
        "flood" => {
            for n in 0..4000 {
                server.outbox().event(client, id.clone(), raw(json!([n, "x".repeat(1000)])));
            }
            Ok(raw(json!("done")))
        }
        "events" => {
            for n in 0..3 {
                server.outbox().event(client, id.clone(), raw(json!({"n": n})));
            }
            Ok(raw(json!("done")))
        }
        _ => Ok(raw(params)),
    };
    server.outbox().reply(client, id, result);
}

struct Peer {
    reader: BufReader<UnixStream>,
}

impl Peer {
    fn send(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).expect("send");
    }

    fn request(&mut self, id: u64, method: &str, params: &Json) {
        let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.send(format!("{request}\n").as_bytes());
    }

    /// The next document; None when the server has closed.
    fn receive(&mut self) -> Option<Json> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).expect("a document")),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(e) => panic!("receive: {e}"),
        }
    }

    fn echo(&mut self, n: u64) {
        self.request(n, "echo", &json!({"n": n}));
        assert_eq!(self.receive(), Some(json!({"jsonrpc": "2.0", "id": n, "result": {"n": n}})));
    }
}

fn small() -> Limits {
    Limits { request_bytes: 4096, clients: 4, ..Limits::default() }
}

#[test]
fn the_socket_is_for_owner_and_group_and_goes_with_the_server() {
    let rig = Rig::new(small());
    let mode = std::fs::metadata(&rig.path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let path = rig.path.clone();
    drop(rig);
    assert!(!path.exists());
}

#[test]
fn requests_are_answered_in_order_in_whatever_pieces_they_come() {
    let rig = Rig::new(small());
    let mut peer = rig.connect();
    peer.echo(1);
    let mut three = String::from("\n\r\n");
    for n in 2..5 {
        three.push_str(&format!(
            "{}\r\n",
            json!({"jsonrpc": "2.0", "id": n, "method": "echo", "params": {}})
        ));
    }
    for byte in three.as_bytes() {
        peer.send(&[*byte]);
    }
    for n in 2..5 {
        assert_eq!(peer.receive().expect("a reply")["id"], n);
    }
    // A peer that has sent its last request still gets the reply.
    peer.request(9, "echo", &json!({}));
    peer.reader.get_mut().shutdown(std::net::Shutdown::Write).expect("shutdown");
    assert_eq!(peer.receive().expect("a reply")["id"], 9);
    assert_eq!(peer.receive(), None);
}

#[test]
fn broken_documents_are_answered_and_do_not_end_the_connection() {
    let rig = Rig::new(small());
    let mut peer = rig.connect();
    for broken in ["{", "[]", "\u{0}\u{1}", "{\"id\":1}", "[[[[[[[["] {
        peer.send(format!("{broken}\n").as_bytes());
        let code = peer.receive().expect("an answer")["error"]["code"].as_i64();
        assert!(code == Some(-32700) || code == Some(-32600), "{broken}: {code:?}");
    }
    peer.send(&[b"\xff\xfe{".as_slice(), b"\n"].concat());
    assert_eq!(peer.receive().expect("an answer")["error"]["code"], -32700);
    peer.echo(5);
}

#[test]
fn too_long_and_endless_requests_are_answered_and_closed() {
    let rig = Rig::new(small());
    for newline in [true, false] {
        let mut peer = rig.connect();
        let mut bytes = vec![b'x'; 5000];
        if newline {
            bytes.push(b'\n');
        }
        peer.send(&bytes);
        let answer = peer.receive().expect("an answer");
        let message = answer["error"]["message"].as_str().expect("text").to_owned();
        assert_eq!(message, "the request is longer than 4096 bytes");
        assert_eq!(peer.receive(), None);
    }
    rig.connect().echo(1);
}

#[test]
fn an_endless_sender_holds_no_memory_and_nobody_up() {
    let rig = Rig::new(small());
    let mut endless = rig.connect();
    let writer = std::thread::spawn(move || {
        let chunk = [b'y'; 1 << 16];
        let mut sent = 0usize;
        // Ends by an error when the server closes.
        while sent < 1 << 30 && endless.reader.get_mut().write_all(&chunk).is_ok() {
            sent += chunk.len();
        }
        sent
    });
    let mut peer = rig.connect();
    for n in 0..100 {
        peer.echo(n);
    }
    let sent = writer.join().expect("writer");
    assert!(sent < 16 << 20, "the server took {sent} bytes of one request");
}

#[test]
fn half_a_request_is_closed_after_its_time() {
    let limits = Limits { request_time: Duration::from_millis(50), ..small() };
    let rig = Rig::new(limits);
    let mut idle = rig.connect();
    let mut half = rig.connect();
    half.send(b"{\"jsonrpc\":");
    assert_eq!(half.receive(), None);
    // Who has sent nothing at all is not late.
    idle.echo(1);
}

#[test]
fn who_does_not_read_is_closed_and_others_are_served() {
    let limits = Limits { stall_time: Duration::from_millis(200), ..small() };
    let rig = Rig::new(limits);
    let mut slow = rig.connect();
    slow.request(1, "big", &json!({"bytes": 8 << 20}));
    let mut peer = rig.connect();
    for n in 0..100 {
        peer.echo(n);
    }
    // Nothing is read until the server has hung up; then what was written before is all there is.
    let mut fds =
        [rustix::event::PollFd::new(slow.reader.get_ref(), rustix::event::PollFlags::empty())];
    let patience = rustix::event::Timespec::try_from(PATIENCE).expect("a time");
    rustix::event::poll(&mut fds, Some(&patience)).expect("poll");
    let mut got = Vec::new();
    let _ = slow.reader.read_to_end(&mut got);
    assert!(got.len() < 8 << 20, "{}", got.len());
}

#[test]
fn a_slow_reader_gets_everything_as_long_as_it_reads() {
    let limits = Limits { stall_time: Duration::from_secs(5), ..small() };
    let rig = Rig::new(limits);
    let mut slow = rig.connect();
    slow.request(1, "big", &json!({"bytes": 4 << 20}));
    let mut total = 0;
    let mut buffer = vec![0; 256 << 10];
    while total < (4 << 20) {
        total += slow.reader.get_mut().read(&mut buffer).expect("read");
        std::thread::sleep(Duration::from_millis(2));
    }
    slow.reader.get_mut().set_read_timeout(Some(PATIENCE)).expect("timeout");
}

#[test]
fn a_reply_that_is_too_long_becomes_an_error() {
    let rig = Rig::new(Limits { reply_bytes: 1000, ..small() });
    let mut peer = rig.connect();
    peer.request(1, "big", &json!({"bytes": 2000}));
    let answer = peer.receive().expect("an answer");
    assert!(answer["error"]["message"].as_str().expect("text").contains("more than 1000"));
    peer.echo(2);
}

#[test]
fn replies_together_have_a_limit_and_the_slowest_reader_pays() {
    let limits = Limits { clients: 8, replies_bytes: 8 << 20, ..small() };
    let rig = Rig::new(limits);
    let mut slow: Vec<Peer> = (0..4).map(|_| rig.connect()).collect();
    for peer in &mut slow {
        peer.request(1, "big", &json!({"bytes": 3 << 20}));
        // The reply is on its way, and none comes after the one below.
        peer.reader.fill_buf().expect("the beginning of a reply");
    }
    let mut peer = rig.connect();
    peer.request(2, "big", &json!({"bytes": 3 << 20}));
    assert_eq!(peer.receive().expect("an answer")["id"], 2);
}

#[test]
fn unfinished_requests_together_have_a_limit() {
    let limits = Limits {
        clients: 64,
        request_bytes: 1 << 20,
        requests_bytes: 2 << 20,
        ..Limits::default()
    };
    let rig = Rig::new(limits);
    let mut half: Vec<Peer> = (0..16).map(|_| rig.connect()).collect();
    for peer in &mut half {
        // Closed by the server at some point: then writing fails.
        let _ = peer.reader.get_mut().write_all(&vec![b'z'; 900_000]);
    }
    let mut peer = rig.connect();
    peer.echo(1);
    let closed = half.into_iter().filter(|p| {
        let mut stream = p.reader.get_ref();
        stream.set_read_timeout(Some(Duration::from_millis(1))).expect("timeout");
        match stream.read(&mut [0]) {
            Ok(n) => n == 0,
            Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
        }
    });
    assert!(closed.count() >= 10);
}

#[test]
fn a_thousand_idle_clients_lock_nobody_out() {
    let rig = Rig::new(Limits { clients: 256, ..Limits::default() });
    let idle: Vec<Peer> = (0..1000).map(|_| rig.connect()).collect();
    for n in 0..10 {
        rig.connect().echo(n);
    }
    // The latest of the idle ones are still welcome, the first ones gave way.
    let mut idle = idle;
    idle.last_mut().expect("last").echo(7);
    assert_eq!(idle[0].receive(), None);
}

#[test]
fn clients_that_wait_for_replies_are_not_evicted() {
    let rig = Rig::new(small());
    let mut waiting: Vec<Peer> = (0..4).map(|_| rig.connect()).collect();
    for (peer, n) in waiting.iter_mut().zip(0..) {
        peer.echo(n);
        peer.request(1, "never", &json!({}));
    }
    for _ in 0..4 {
        rig.never.recv_timeout(PATIENCE).expect("taken");
    }
    let answer = rig.connect().receive().expect("a refusal");
    let message = answer["error"]["message"].as_str().expect("text").to_owned();
    assert!(message.contains("4 clients are waiting"), "{message}");
    // One leaves: control hears of it, and there is room again.
    drop(waiting.pop());
    rig.gone.recv_timeout(PATIENCE).expect("gone");
    rig.connect().echo(1);
}

#[test]
fn events_come_before_the_reply() {
    let rig = Rig::new(small());
    let mut peer = rig.connect();
    peer.request(4, "events", &json!({}));
    for n in 0..3 {
        let event = peer.receive().expect("an event");
        let params = json!({"id": 4, "lost": 0, "event": {"n": n}});
        assert_eq!(event, json!({"jsonrpc": "2.0", "method": "event", "params": params}));
    }
    assert_eq!(peer.receive().expect("the reply")["result"], "done");
}

#[test]
fn events_that_do_not_fit_are_counted() {
    let rig = Rig::new(Limits { events_bytes: 100_000, ..small() });
    let mut flooded = rig.connect();
    flooded.request(1, "flood", &json!({}));
    // Its reply is queued behind the flood: when it is here, all events were queued or lost.
    loop {
        let mut other = rig.connect();
        other.request(2, "echo", &json!({}));
        assert_eq!(other.receive().expect("a reply")["id"], 2);
        let mut fds =
            [rustix::event::PollFd::new(flooded.reader.get_ref(), rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        if rustix::event::poll(&mut fds, Some(&now)).expect("poll") > 0 {
            break;
        }
    }
    let (mut received, mut lost, mut next) = (0, 0, 0);
    loop {
        let document = flooded.receive().expect("a document");
        if document.get("result").is_some() {
            break;
        }
        let params = &document["params"];
        lost += params["lost"].as_u64().expect("a number");
        received += 1;
        let n = params["event"][0].as_u64().expect("a number");
        assert!(n >= next, "out of order");
        next = n + 1;
        assert_eq!(next, received + lost, "an event is neither here nor counted");
    }
    assert!((1..4000).contains(&received));
}

#[test]
fn a_stale_socket_is_replaced() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("bind"));
    assert!(path.exists() && UnixStream::connect(&path).is_err());
    let server = Server::start(&path, small(), || {}).expect("start");
    UnixStream::connect(&path).expect("answers");
    drop(server);
}
