//! TCP of real programs through translated addresses, where nothing but the connection lets a packet
//! through: while all else is changed around it, and with its two directions on two workers.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use super::conntrack::connections;
use super::nat::{INSIDE, Net, PUBLIC, SERVER, net_with};
use super::{tcp, workers};
use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::runner::Case;
use crate::{Context, Result, bail, ensure, report, wait};

pub const CASES: &[Case] = &[
    Case::new(
        "connections-survive",
        "a translated connection outlives its flows, ports and bridge, and changes of others",
        survive,
    )
    .limit(180),
    Case::new(
        "connections-two-workers",
        "the two directions of translated connections come to different workers",
        two_workers,
    ),
];

const PORT: u16 = 7777;
/// How long TCP may take to send again what was lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// Packets of the connections that are there pass, nothing else; priorities differ from call to call.
fn established_only(priority: u16) -> Vec<String> {
    [
        "in_port=inside,ip,actions=ct(table=1,zone=1,nat)",
        "in_port=router,ip,actions=ct(table=2,zone=1,nat)",
        "table=1,ip,ct_state=+trk+est,actions=router",
        "table=2,ip,ct_state=+trk+est,actions=inside",
    ]
    .map(|flow| format!("priority={priority},{flow}"))
    .into()
}

/// Lets connections begin, with a mark that tells them from any that came later.
const BEGIN: &str = "table=1,tcp,ct_state=+trk+new,tcp_flags=+syn-ack,\
    actions=ct(commit,zone=1,nat(src=203.0.113.1),exec(set_field:0x7->ct_mark)),router";

/// A program that says something every few milliseconds and waits for the answer.
struct Talk {
    /// How often it was answered.
    answers: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    client: JoinHandle<Result<()>>,
    server: JoinHandle<Result<()>>,
}

impl Talk {
    fn start(net: &Net) -> Result<Talk> {
        let (ready, is_ready) = std::sync::mpsc::channel();
        let server = net.server.node.inside(move || {
            let listener = TcpListener::bind(("0.0.0.0", PORT))?;
            let _ = ready.send(());
            let (mut stream, _) = listener.accept()?;
            let mut some = [0; 64];
            while stream.read_exact(&mut some).is_ok() {
                stream.write_all(&some)?;
            }
            Ok(())
        });
        is_ready.recv().context("the server did not start")?;
        let (answers, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (count, ends) = (answers.clone(), stop.clone());
        let client = net.inside.node.inside(move || {
            let mut stream = TcpStream::connect((SERVER, PORT))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            for n in 0u64.. {
                let (said, mut heard) = ([n as u8; 64], [0; 64]);
                stream.write_all(&said)?;
                stream.read_exact(&mut heard).with_context(|| format!("answer {n}"))?;
                ensure!(said == heard, "answer {n} is another one's");
                count.fetch_add(1, Ordering::Relaxed);
                if ends.load(Ordering::Relaxed) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        });
        Ok(Talk { answers, stop, client, server })
    }

    /// Wait for a few more answers.
    fn goes_on(&self, after: &str) -> Result<()> {
        let before = self.answers.load(Ordering::Relaxed);
        wait::until_for(PATIENCE, &format!("the program is answered after {after}"), || {
            if self.client.is_finished() {
                bail!("the program ended after {after}");
            }
            Ok((self.answers.load(Ordering::Relaxed) >= before + 5).then_some(()))
        })
    }

    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in [self.client, self.server] {
            thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        Ok(())
    }
}

/// The connection of [`Talk`] as it is listed: what must not change, and its age.
fn listed(daemon: &Daemon) -> Result<(Value, f64)> {
    let all = connections(daemon, &format!("zone=1 proto=tcp dport={PORT}"))?;
    let [c] = &all[..] else { bail!("{} connections instead of one: {all:?}", all.len()) };
    ensure!(c["orig"]["src"] == INSIDE && c["reply"]["dst"] == PUBLIC, "not translated: {c}");
    ensure!(c["state"] == "established" && c["mark"] == 7, "{c}");
    let fixed = serde_json::json!([c["orig"], c["reply"], c["mark"], c["answered"], c["assured"]]);
    Ok((fixed, c["age"].as_f64().context("no age")?))
}

fn add_flows(daemon: &Daemon, flows: &[String]) -> Result<()> {
    flows.iter().try_for_each(|flow| daemon.run(&format!("add-flow br0 {flow}")).map(drop))
}

fn survive(lab: &Lab) -> Result<()> {
    let net = net_with(lab, &[])?;
    let daemon = &net.daemon;
    for name in ["second", "third"] {
        lab.host(name, "")?;
    }
    daemon.run("add-port br0 second -- add-br br1 -- add-port br1 third -- del-flows br0")?;
    add_flows(daemon, &established_only(10))?;
    daemon.run(&format!("add-flow br0 {BEGIN}"))?;
    let talk = Talk::start(&net)?;
    talk.goes_on("it began")?;
    daemon.run("del-flows br0 table=1,tcp,ct_state=+trk+new")?;
    let (before, mut age) = listed(daemon)?;
    let mut same = |change: &str| -> Result<()> {
        talk.goes_on(change)?;
        let (now, older) = listed(daemon)?;
        ensure!(now == before, "{change} made {now} of {before}");
        ensure!(older >= age, "after {change} it is {older} s old, and was {age} s");
        age = older;
        Ok(())
    };

    let file = lab.dir().join("flows");
    std::fs::write(&file, established_only(20).join("\n"))?;
    daemon.run(&format!("replace-flows br0 {}", file.display()))?;
    same("replace-flows")?;
    daemon.run("del-flows br0")?;
    add_flows(daemon, &established_only(30))?;
    same("its flows went and came")?;
    for (line, change) in [
        ("del-port br0 second", "another port went"),
        ("add-port br0 second tag=5", "another port came"),
        ("del-br br1", "another bridge went"),
        ("add-br br1 -- add-port br1 third", "another bridge came"),
        ("set bridge br0 other_config:mac-aging-time=77", "a setting of its bridge"),
        ("set port inside tag=7", "a setting of its port"),
        ("fdb flush br0", "addresses were forgotten"),
        ("conntrack limit total=100000 zone=1000", "limits"),
        ("conntrack timeout --zone 1 tcp_established=600", "timeouts"),
        ("conntrack flush zone=2", "a flush of another zone"),
    ] {
        daemon.run(line)?;
        same(change)?;
    }
    daemon.run("del-port br0 inside -- del-port br0 router")?;
    ensure!(listed(daemon)?.0 == before, "it went with its ports");
    daemon.run("add-port br0 inside -- add-port br0 router")?;
    // Ports may have other numbers now; flows name them anew.
    std::fs::write(&file, established_only(40).join("\n"))?;
    daemon.run(&format!("replace-flows br0 {}", file.display()))?;
    same("its ports went and came")?;
    daemon.run("del-br br0")?;
    ensure!(listed(daemon)?.0 == before, "it went with its bridge");
    daemon.run("add-br br0 fail_mode=secure -- add-port br0 inside -- add-port br0 router")?;
    add_flows(daemon, &established_only(50))?;
    same("its bridge went and came")?;
    talk.end()
}

/// Which worker polls each port's only queue.
fn workers_of(daemon: &Daemon) -> Result<Vec<(String, u64)>> {
    let show = daemon.json("show br0")?;
    let ports = report::objects(&show).into_iter().filter(|p| p.contains_key("workers"));
    let one = |p: &serde_json::Map<String, Value>| {
        Some((report::text(p, "name").to_owned(), p["workers"].as_array()?.first()?.as_u64()?))
    };
    Ok(ports.filter_map(one).collect())
}

/// What a worker has received, and its cycles a packet for connections.
fn work_of(daemon: &Daemon, worker: u64) -> Result<(u64, f64)> {
    let document = daemon.json("workers --stages")?;
    let all = document["workers"].as_array().context("no workers")?;
    let w = all.iter().find(|w| w["worker"] == worker).context("no such worker")?;
    let cycles = w["stages"]["cycles_per_packet"]["conntrack"].as_f64();
    Ok((w["packets"].as_u64().context("no packets")?, cycles.context("no stages")?))
}

fn two_workers(lab: &Lab) -> Result<()> {
    workers::two_cores()?;
    let net = net_with(lab, &["--workers", "2"])?;
    let daemon = &net.daemon;
    let on = workers_of(daemon)?;
    let of = |port: &str| on.iter().find(|(name, _)| name == port).map(|(_, worker)| *worker);
    let (inside, outside) = (of("inside").context("no port")?, of("router").context("no port")?);
    ensure!(inside != outside, "both ports are worker {inside}'s");
    let came_by =
        |port: &str| report::port_counter(&daemon.json("dump-ports br0")?, port, "rx_packets");

    let talk = Talk::start(&net)?;
    talk.goes_on("it began")?;
    for direction in [&["-n", "16M"][..], &["-n", "16M", "-R"]] {
        let _server = tcp::serve(&net.server)?;
        ensure!(tcp::measure(&net.inside, SERVER, direction)? >= 8 << 20, "iperf3 {direction:?}");
    }
    talk.goes_on("transfers both ways")?;
    let all = connections(daemon, "zone=1 proto=tcp")?;
    let talks = |c: &&Value| c["orig"]["dport"] == PORT && c["state"] == "established";
    ensure!(all.iter().filter(talks).count() == 1, "{all:?}");
    let translated = |c: &Value| c["orig"]["src"] == INSIDE && c["reply"]["dst"] == PUBLIC;
    ensure!(all.len() >= 5 && all.iter().all(translated), "{all:?}");
    talk.end()?;

    // Each worker has tracked, and had no other packets than its ports': by the inside one those of the
    // original direction, by the other one the answers.
    for (port, worker) in [("inside", inside), ("router", outside)] {
        wait::until(&format!("worker {worker} counts what came by its ports"), || {
            let mut came = 0;
            for (name, _) in on.iter().filter(|(_, w)| *w == worker) {
                came += came_by(name)?;
            }
            Ok(work_of(daemon, worker)?.0 == came)
        })?;
        let (packets, cycles) = work_of(daemon, worker)?;
        ensure!(came_by(port)? > 1000, "only {} packets by {port}", came_by(port)?);
        ensure!(cycles > 0.0, "worker {worker} tracked nothing");
        println!("worker {worker}: {packets} packets by {port}, {cycles:.0} cycles each to track");
    }
    Ok(())
}
