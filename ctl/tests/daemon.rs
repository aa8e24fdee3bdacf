//! The daemon's life: start, stop, death, restart, locks, damaged state, service manager.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};

use ctl::client::Connection;
use ctl::{Command, ErrorKind};
use rustix::process::Signal;
use support::{Daemon, PATIENCE, Rig};

#[test]
#[ignore = "the daemon that the other tests start"]
fn daemon_process() {
    support::daemon_process();
}

#[test]
fn each_ending_signal_ends_it_cleanly() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let (rig, mut daemon) = Rig::started();
        rig.ok("add-br br0");
        daemon.signal(signal);
        assert_eq!(daemon.wait(), Some(0));
        assert!(daemon.said.iter().any(|l| l.contains("backend: shut down")), "{signal:?}");
        assert!(!rig.socket().exists());
    }
}

#[test]
fn it_ends_in_time_even_when_the_switch_hangs() {
    let (rig, mut daemon) = Rig::started();
    rig.interfaces(&["hang"]);
    let mut stuck = UnixStream::connect(rig.socket()).expect("connect");
    let request = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"transact\",\"params\":{\"commands\":[\
                   {\"command\":\"add-br\",\"bridge\":\"br0\"}]}}\n";
    std::io::Write::write_all(&mut stuck, request.as_bytes()).expect("send");
    daemon.wait_for("backend: hanging");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(), Some(1));
    assert!(daemon.said.iter().any(|l| l.contains("still not stopped")));
    // Nothing of what was never acknowledged is there.
    rig.interfaces(&[]);
    let _daemon = rig.start();
    assert_eq!(rig.ok("list-br"), "");
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let rig = Rig::new();
    let mut expected = Vec::new();
    for round in 0..4 {
        let mut daemon = rig.start();
        let before: Vec<String> = rig.ok("list-br").lines().map(str::to_owned).collect();
        assert_eq!(before, expected, "round {round}");
        for n in 0..3 {
            let name = format!("b{round}-{n}");
            rig.ok(&format!("add-br {name} -- add-port {name} p{round}-{n} type=internal"));
            expected.push(name);
        }
        daemon.signal(Signal::KILL);
        assert_eq!(daemon.wait(), None);
    }
    let _daemon = rig.start();
    assert_eq!(rig.ok("list-br").lines().count(), 12);
    assert_eq!(rig.ok("get port p3-2 ofport"), "1\n");
}

/// Adds bridges by one connection until the daemon is gone; gives those that were acknowledged.
fn add_until_killed(rig: &Rig, prefix: &str) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let mut connection = Connection::open(&rig.socket(), PATIENCE).expect("connect");
    for n in 0.. {
        let name = format!("{prefix}{n}");
        let add = Command::AddBr { bridge: name.clone(), settings: Vec::new(), may_exist: false };
        match connection.transact(&[add]) {
            Ok(_) => acknowledged.push(name),
            Err(failure) => {
                assert_eq!(failure.error.kind, ErrorKind::Unreachable, "{failure:?}");
                break;
            }
        }
    }
    acknowledged
}

#[test]
fn a_kill_in_the_middle_of_changes_loses_nothing_acknowledged() {
    let rig = Rig::new();
    let mut expected: Vec<String> = Vec::new();
    for round in 0..5 {
        let mut daemon = rig.start();
        let acknowledged = std::thread::scope(|scope| {
            let adders: Vec<_> = (0..3)
                .map(|k| {
                    let (rig, prefix) = (&rig, format!("b{round}-{k}-"));
                    scope.spawn(move || add_until_killed(rig, &prefix))
                })
                .collect();
            // A different moment each time, somewhere among the changes.
            while rig.ok("list-br").lines().count() < expected.len() + 3 + round * 2 {}
            daemon.signal(Signal::KILL);
            let all = adders.into_iter().flat_map(|a| a.join().expect("adder"));
            all.collect::<Vec<String>>()
        });
        daemon.wait();
        let mut daemon = rig.start();
        assert!(!daemon.said.iter().any(|l| l.contains("damaged")), "{:?}", daemon.said);
        let there: Vec<String> = rig.ok("list-br").lines().map(str::to_owned).collect();
        expected.extend(acknowledged);
        for name in &expected {
            assert!(there.contains(name), "round {round}: {name} was acknowledged and is gone");
        }
        // A change may be stored whose acknowledgement the kill cut off: one of each adder at most.
        assert!(there.len() <= expected.len() + 3, "round {round}");
        expected = there;
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.wait(), Some(0));
    }
}

#[test]
fn changes_of_many_clients_at_once_are_all_made() {
    let (rig, _daemon) = Rig::started();
    std::thread::scope(|scope| {
        for k in 0..16 {
            let rig = &rig;
            scope.spawn(move || {
                let mut connection = Connection::open(&rig.socket(), PATIENCE).expect("connect");
                for n in 0..10 {
                    let bridge = format!("b{k}-{n}");
                    let add = Command::AddBr { bridge, settings: Vec::new(), may_exist: false };
                    connection.transact(&[add]).expect("added");
                }
            });
        }
    });
    assert_eq!(rig.ok("list-br").lines().count(), 160);
}

#[test]
fn an_interface_that_vanished_stays_configured() {
    let (rig, mut daemon) = Rig::started();
    rig.ok("add-br br0 -- add-port br0 eth1 tag=7");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(), Some(0));
    rig.interfaces(&[]);
    let mut daemon = rig.start();
    assert!(daemon.said.iter().any(|l| l.contains("\"eth1\" is missing")), "{:?}", daemon.said);
    assert_eq!(rig.ok("get port eth1 tag"), "7\n");
    assert!(rig.ok("show").contains("missing"));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(), Some(0));
}

#[test]
fn a_damaged_state_file_is_set_aside() {
    let (rig, mut daemon) = Rig::started();
    rig.ok("add-br br0");
    daemon.signal(Signal::KILL);
    daemon.wait();
    let file = rig.path().join("config.json");
    let text = std::fs::read_to_string(&file).expect("state");
    std::fs::write(&file, &text[..text.len() - 10]).expect("damage");
    let daemon = rig.start();
    let log = daemon.said.join("\n");
    assert!(log.contains("is damaged") && log.contains("config.json.damaged-1"), "{log}");
    assert_eq!(rig.ok("list-br"), "");
    rig.ok("add-br br9");
    let aside = std::fs::read_to_string(rig.path().join("config.json.damaged-1")).expect("aside");
    assert_eq!(aside, text[..text.len() - 10]);
}

#[test]
fn a_second_daemon_is_refused_and_disturbs_nothing() {
    let (rig, first) = Rig::started();
    rig.ok("add-br br0");
    let mut second = rig.spawn(&[]);
    assert_eq!(second.wait(), Some(1));
    let log = second.said.join("\n");
    assert!(log.contains(&format!("another vswitchd (pid {})", first.child.id())), "{log}");
    assert!(log.contains("run directory"), "{log}");
    // The same state directory from elsewhere is refused as well.
    let elsewhere = tempfile::tempdir().expect("dir");
    let (run, state) = (elsewhere.path().to_str(), rig.path().to_str());
    let words = ["--run-dir", run.expect("text"), "--state-dir", state.expect("text")];
    let mut third = Daemon::spawn(&words, &[]);
    assert_eq!(third.wait(), Some(1));
    assert!(third.said.join("\n").contains("state directory"));
    assert_eq!(rig.ok("list-br"), "br0\n");
}

#[test]
fn daemons_in_different_directories_run_side_by_side() {
    let (one, _first) = Rig::started();
    let (two, _second) = Rig::started();
    one.ok("add-br br1");
    two.ok("add-br br2");
    assert_eq!((one.ok("list-br"), two.ok("list-br")), ("br1\n".to_owned(), "br2\n".to_owned()));
}

#[test]
fn the_socket_of_a_dead_daemon_is_replaced() {
    let (rig, mut daemon) = Rig::started();
    daemon.signal(Signal::KILL);
    daemon.wait();
    assert!(rig.socket().exists());
    assert!(rig.fails(1, "list-br").contains("no vswitchd answers at"));
    let _daemon = rig.start();
    let mode = std::fs::metadata(rig.socket()).expect("socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    assert_eq!(rig.ok("list-br"), "");
}

#[test]
fn the_service_manager_is_told_when_it_is_ready_and_when_it_stops() {
    let rig = Rig::new();
    let path = rig.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bind");
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let receive = || {
        let mut buffer = [0; 64];
        let n = socket.recv(&mut buffer).expect("a datagram");
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    };
    let dir = rig.path().to_str().expect("text");
    let mut daemon = Daemon::spawn(
        &["--run-dir", dir, "--state-dir", dir],
        &[("NOTIFY_SOCKET", path.to_str().expect("text"))],
    );
    assert_eq!(receive(), "READY=1");
    UnixStream::connect(rig.socket()).expect("ready means that it answers");
    daemon.signal(Signal::TERM);
    assert_eq!(receive(), "STOPPING=1");
    assert_eq!(daemon.wait(), Some(0));
}

#[test]
fn directories_that_cannot_be_used_are_said() {
    let rig = Rig::new();
    let file = rig.path().join("file");
    std::fs::write(&file, "x").expect("file");
    let below = file.join("run");
    let (run, state) = (below.to_str().expect("text"), rig.path().to_str().expect("text"));
    let mut daemon = Daemon::spawn(&["--run-dir", run, "--state-dir", state], &[]);
    assert_eq!(daemon.wait(), Some(1));
    assert!(daemon.said.join("\n").contains(&format!("cannot use the run directory {run}")));
}

#[test]
fn a_flood_of_bad_clients_does_not_keep_a_good_one_waiting() {
    let (rig, _daemon) = Rig::started();
    let idle: Vec<_> =
        (0..1000).map(|_| UnixStream::connect(rig.socket()).expect("connect")).collect();
    for (n, stream) in idle.iter().enumerate() {
        // Evicted ones fail; that is their part.
        let bytes: &[u8] = if n % 2 == 0 { b"{\"jsonrpc\":" } else { b"[[[[\n" };
        let _ = std::io::Write::write_all(&mut &*stream, bytes);
    }
    for n in 0..5 {
        rig.ok(&format!("add-br br{n}"));
    }
    assert_eq!(rig.ok("list-br").lines().count(), 5);
    drop(idle);
}
