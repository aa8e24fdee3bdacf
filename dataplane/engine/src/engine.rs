//! Control's handle on the workers: start, publish, give and take queues, ask.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use afxdp::Region;
use ofproto::program::{DpAction, DpPort};
use ofproto::snapshot::Snapshot;
use ports::Queue;

use crate::shared::Shared;
use crate::worker::command::{Command, MegaflowDump, Owners};
use crate::worker::{Poll, Worker, WorkerOptions};

/// How long a worker may take to reach a burst boundary before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(10);
/// Old versions kept for sleeping workers before those are woken to adopt the newest.
const MAX_RETIRED: usize = 1024;

/// A worker did not answer in time.
#[derive(Debug, Clone, Copy)]
pub struct Stuck {
    /// Its number.
    pub worker: usize,
}

impl std::fmt::Display for Stuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "worker {} did not answer within {} s", self.worker, PATIENCE.as_secs())
    }
}

impl std::error::Error for Stuck {}

/// A worker that panicked is a defect, and a switch that goes on without one of its workers drops
/// what that one should have carried, for ever. The process ends instead: the kernel takes the XDP
/// programs off with it, and whoever supervises it starts it again with its stored configuration.
struct EndOnPanic;

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a worker has panicked: the switch ends");
            std::process::abort();
        }
    }
}

/// The running workers.
pub struct Engine {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    started: Instant,
    owners: Vec<Option<u16>>,
    /// Queues that each worker has.
    load: Vec<usize>,
    /// The worker of each of a port's queues.
    assigned: HashMap<DpPort, Vec<u32>>,
    /// Versions that a worker may still hold, so that it never is the one to free them.
    retired: VecDeque<Arc<Snapshot>>,
}

impl Engine {
    /// Start one worker per entry of `cores` (`None`: not pinned).
    ///
    /// # Errors
    /// If descriptors or threads cannot be had.
    pub fn start(region: Arc<Region>, cores: &[Option<usize>], poll: Poll) -> io::Result<Engine> {
        let shared = Arc::new(Shared::new(region, cores)?);
        let started = Instant::now();
        let mut engine = Engine {
            shared: shared.clone(),
            threads: Vec::new(),
            started,
            owners: Vec::new(),
            load: vec![0; cores.len()],
            assigned: HashMap::new(),
            retired: VecDeque::new(),
        };
        for me in 0..cores.len() {
            let worker = Worker::new(shared.clone(), me, WorkerOptions { poll }, started)?;
            let run = move || {
                let _watch = EndOnPanic;
                worker.run();
            };
            let thread = std::thread::Builder::new().name(format!("worker-{me}")).spawn(run)?;
            engine.threads.push(thread);
        }
        Ok(engine)
    }

    /// What workers and control share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Milliseconds since the start, from 1; the workers' clock.
    pub fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64 + 1
    }

    /// Publish a version and wait until it is in force everywhere.
    ///
    /// # Errors
    /// [`Stuck`]; the version is published all the same.
    pub fn publish(&mut self, snapshot: Arc<Snapshot>) -> Result<(), Stuck> {
        let version = snapshot.version;
        self.retired.push_back(self.shared.snapshot.load_full());
        self.shared.publish(snapshot);
        let adopted = self.shared.wait_adopted(version, PATIENCE);
        self.retire();
        adopted.map_err(|worker| Stuck { worker })
    }

    fn retire(&mut self) {
        let adopted = self.shared.workers.iter().map(|w| w.handshake.adopted());
        let oldest = adopted.min().unwrap_or(u64::MAX);
        while self.retired.front().is_some_and(|s| s.version < oldest) {
            self.retired.pop_front();
        }
        if self.retired.len() > MAX_RETIRED {
            self.shared.workers.iter().for_each(|w| w.wake());
        }
    }

    /// Give a port's queues to the workers, those with the fewest first.
    ///
    /// # Errors
    /// [`Stuck`] if a mailbox stays full; queues that were given stay where they are.
    pub fn add_queues(&mut self, port: DpPort, queues: Vec<Queue>) -> Result<(), Stuck> {
        for queue in queues {
            let worker = (0..self.load.len()).min_by_key(|w| self.load[*w]).unwrap_or(0);
            self.load[worker] += 1;
            self.assigned.entry(port).or_default().push(worker as u32);
            if self.owner(port).is_none() {
                self.set_owner(port, Some(worker as u16));
            }
            self.send(worker, Command::AddQueue { port, queue: Box::new(queue) })?;
        }
        self.send_owners()
    }

    /// The workers of a port's queues, in the queues' order.
    pub fn workers_of(&self, port: DpPort) -> Vec<u32> {
        self.assigned.get(&port).cloned().unwrap_or_default()
    }

    /// The worker that transmits for a port.
    pub fn owner(&self, port: DpPort) -> Option<u16> {
        self.owners.get(port.0 as usize).copied().flatten()
    }

    fn set_owner(&mut self, port: DpPort, owner: Option<u16>) {
        if self.owners.len() <= port.0 as usize {
            self.owners.resize(port.0 as usize + 1, None);
        }
        self.owners[port.0 as usize] = owner;
    }

    fn send_owners(&self) -> Result<(), Stuck> {
        let owners: Owners = Arc::new(self.owners.clone());
        (0..self.load.len()).try_for_each(|w| self.send(w, Command::Owners(owners.clone())))
    }

    /// Take a port's queues from the workers. Their frames are the caller's to give back
    /// ([`Queue::close`]).
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn remove_port(&mut self, port: DpPort) -> Result<Vec<Queue>, Stuck> {
        self.set_owner(port, None);
        self.assigned.remove(&port);
        self.send_owners()?;
        let answers = self.ask(|reply| Command::RemovePort { port, reply })?;
        for (w, queues) in answers.iter().enumerate() {
            self.load[w] -= queues.len().min(self.load[w]);
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// List at most `max` megaflows of each worker.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn dump(&self, max: usize) -> Result<Vec<Vec<MegaflowDump>>, Stuck> {
        self.ask(|reply| Command::Dump { max, reply })
    }

    /// Add all that megaflows have counted to their rules.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn push_stats(&self) -> Result<(), Stuck> {
        self.ask(Command::PushStats).map(|_| ())
    }

    /// Let a worker do a program on a frame of control's own. `false`: there was no memory for it.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn execute(&self, program: Vec<DpAction>, frame: Vec<u8>) -> Result<bool, Stuck> {
        let (reply, answer) = sync_channel(1);
        self.send(0, Command::Execute { program, frame, reply })?;
        answer.recv_timeout(PATIENCE).map_err(|_| Stuck { worker: 0 })
    }

    /// Forget all megaflows.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn flush(&self) -> Result<(), Stuck> {
        self.ask(Command::Flush).map(|_| ())
    }

    /// Stop all workers; their queues.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn stop(mut self) -> Result<Vec<Queue>, Stuck> {
        let queues = self.ask(Command::Stop)?;
        for t in self.threads.drain(..) {
            if t.join().is_err() {
                tracing::error!("a worker had panicked");
            }
        }
        Ok(queues.into_iter().flatten().collect())
    }

    fn send(&self, worker: usize, mut command: Command) -> Result<(), Stuck> {
        let deadline = Instant::now() + PATIENCE;
        while let Err(back) = self.shared.command(worker, command) {
            command = back;
            if Instant::now() > deadline {
                return Err(Stuck { worker });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Ask every worker at once, then wait for all of the answers.
    fn ask<T>(&self, question: impl Fn(SyncSender<T>) -> Command) -> Result<Vec<T>, Stuck> {
        let mut answers: Vec<Receiver<T>> = Vec::new();
        for w in 0..self.load.len() {
            let (reply, answer) = sync_channel(1);
            self.send(w, question(reply))?;
            answers.push(answer);
        }
        let take = |(worker, a): (usize, Receiver<T>)| {
            a.recv_timeout(PATIENCE).map_err(|_| Stuck { worker })
        };
        answers.into_iter().enumerate().map(take).collect()
    }
}
